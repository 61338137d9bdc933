"""The types of what `App.step` and `App.workflow` give when they get options."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from perdure.engine.context import Context
from perdure.engine.definition import AsyncStep, SyncStep, Workflow
from perdure.engine.threaded import SyncContext

P = ParamSpec("P")
R = TypeVar("R")


class StepDecorator(Protocol):
    """What ``@app.step(…)`` applies to the function."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncStep[P, R]: ...  # type: ignore[overload-overlap]  # the first one that fits counts
    @overload
    def __call__(self, fn: Callable[P, R], /) -> SyncStep[P, R]: ...


class WorkflowDecorator(Protocol):
    """What ``@app.workflow(…)`` applies to the function."""

    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[SyncContext, P], R], /) -> Workflow[P, R]: ...
