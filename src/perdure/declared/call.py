"""Whether a declared workflow has what it needs: parts with names, functions that take what they will be given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from perdure.errors import InvalidOption
from perdure.model.check import must_take

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
