"""Options, checked where they are given and not where they are first used."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Iterable
from contextlib import suppress

from perdure.errors import InvalidOption


def check_number(option: str, value: object, least: float, most: float = math.inf, *, whole: bool = True) -> None:
    """
    Refuse what is no number of a range.

    Args:
        option: What to name in the error.
        least, most: Both are allowed.
        whole: Whether it must be an integer.

    Raises:
        InvalidOption: It is something else.
    """
    kind = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
        span = f"of {least} or more" if most == math.inf else f"from {least} to {most}"
        raise InvalidOption(option, f"{value!r} is not a {'whole ' if whole else ''}number {span}")


def check_kind(option: str, value: object, kind: type) -> None:
    """
    Refuse what is neither None nor an instance of a class.

    Raises:
        InvalidOption: It is something else.
    """
    if not (value is None or isinstance(value, kind)):
        raise InvalidOption(option, f"{value!r} is no {kind.__name__}")


def check_known(what: str, given: Collection[str], known: Collection[str]) -> None:
    """
    Refuse names of options that there are not.

    Raises:
        InvalidOption: One is not among those known.
    """
    if unknown := sorted(set(given).difference(known)):
        raise InvalidOption(what, f"there is no {', '.join(unknown)}; there are {', '.join(sorted(known))}")


def check_texts(option: str, value: object) -> tuple[str, ...]:
    """
    Return several texts, of which one may be given by itself.

    Raises:
        InvalidOption: It is something else.
    """
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(text, str) for text in texts):
        raise InvalidOption(option, f"{value!r} are not all texts")
    return tuple(str(text) for text in texts)


def check_classes(option: str, value: object) -> None:
    """
    Refuse what is no tuple of exception classes.

    Raises:
        InvalidOption: It is something else.
    """
    if not isinstance(value, tuple) or not all(
        isinstance(cls, type) and issubclass(cls, BaseException) for cls in value
    ):
        raise InvalidOption(option, f"{value!r} is not a tuple of exception classes, such as (OSError, ValueError)")


def must_take(what: str, fn: object, *offered: str) -> None:
    """
    Refuse what is no function that can be called with these arguments.

    Raises:
        InvalidOption: It is none, or cannot.
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
