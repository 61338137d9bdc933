"""Whether a declared workflow has what it needs: parts with names, functions that take what they will be given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from perdure.errors import InvalidOption

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def takes(what: str, fn: Callable[..., Any], *offered: str) -> int:
    """
    How many of the arguments that are offered a function takes, in their order.

    Raises:
        InvalidOption: It cannot be called with these.
    """
    if not callable(fn):
        raise InvalidOption(what, f"{fn!r} is not a function")
    try:
        kinds = [parameter.kind for parameter in inspect.signature(fn).parameters.values()]
    except ValueError:  # a builtin may not tell
        return len(offered)
    positional = sum(kind in _POSITIONAL for kind in kinds)
    most = len(offered) if inspect.Parameter.VAR_POSITIONAL in kinds else min(positional, len(offered))
    must_take(what, fn, *offered[:most])
    return most


def must_name(what: str, kind: str, parts: object) -> None:
    """
    Check that parts are given by their names.

    Args:
        kind: What they are called.

    Raises:
        InvalidOption: They are not, or there are none.
    """
    if not isinstance(parts, Mapping) or not parts:
        raise InvalidOption(what, f"it has no {kind} by name: write {{name: …}}, not {parts!r}")


def must_take(what: str, fn: Callable[..., Any], *offered: str) -> None:
    """
    Check that a function can be called with these arguments.

    Raises:
        InvalidOption: It cannot.
    """
    if not callable(fn):
        raise InvalidOption(what, f"{fn!r} is not a function")
    with suppress(ValueError):  # a builtin may not tell
        signature = inspect.signature(fn)
        try:
            signature.bind(*offered)
        except TypeError as error:
            name = getattr(fn, "__name__", repr(fn))
            problem = f"{name} would be called with ({', '.join(offered)}), but {error}"
            raise InvalidOption(what, problem) from None
