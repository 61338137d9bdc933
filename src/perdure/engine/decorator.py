"""What `App.step` and `App.workflow` give when they get options, and what options there are."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from perdure.engine.context import Context
from perdure.engine.definition import AsyncStep, SyncStep, Workflow, WorkflowOptions
from perdure.engine.threaded import SyncContext
from perdure.model.check import check_known

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


def workflow_options(options: dict[str, Any], name: str = "") -> WorkflowOptions:
    """
    The options of a workflow, as a user gave them.

    Args:
        name: Of what has its name already, and so no option for it.

    Raises:
        InvalidOption: There is no such option, or it is wrong.
    """
    own: dict[str, Any] = {"name": name} if name else {}
    check_known("workflow options", options, WorkflowOptions.__dataclass_fields__.keys() - own.keys())
    return WorkflowOptions(**options, **own)
