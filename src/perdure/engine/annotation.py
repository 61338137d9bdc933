"""Whether a workflow function declares the context that it is going to get."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from perdure.engine.context import Context
from perdure.engine.threaded import SyncContext
from perdure.errors import InvalidOption

_KINDS: tuple[type, ...] = (Context, SyncContext)


def check_context(fn: Callable[..., Any]) -> None:
    """
    Refuse a function whose first parameter is annotated with the other kind's context.

    Raises:
        InvalidOption: A coroutine function that declares a SyncContext, or a plain one that declares a Context.
    """
    is_async = inspect.iscoroutinefunction(fn)
    wanted, other = (Context, SyncContext) if is_async else (SyncContext, Context)
    first = next(iter(inspect.signature(fn).parameters.values()))
    if _declares(first.annotation, fn) is not other:
        return
    kind, remedy = ("async", "make it a plain `def`") if is_async else ("plain", "make it `async def`")
    option = "workflow"
    problem = (
        f"{fn.__name__} is {kind}, so it gets a {wanted.__name__}, but declares a {other.__name__}; "
        f"write `{first.name}: {wanted.__name__}`, or {remedy}"
    )
    raise InvalidOption(option, problem)


def _declares(annotation: Any, fn: Callable[..., Any]) -> type | None:
    """
    Which context an annotation stands for, if any.

    One that is a string is looked up like any name of the function's module. Where there is nothing of this name, as
    when it was imported for type checkers only, the name itself has to do.
    """
    if isinstance(annotation, str):
        first, *rest = (part.strip() for part in annotation.strip("'\" ").split("."))
        found: Any = fn.__globals__.get(first)
        if found is None:
            return next((kind for kind in _KINDS if kind.__name__ == (rest or [first])[-1]), None)
        for name in rest:
            found = getattr(found, name, None)
        annotation = found
    if not isinstance(annotation, type):
        return None
    return next((kind for kind in _KINDS if issubclass(annotation, kind)), None)
