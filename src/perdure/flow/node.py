"""The nodes of a flow: what it consists of, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from perdure.engine.definition import Step, Workflow
from perdure.engine.machine import MISSING

if TYPE_CHECKING:
    from perdure.flow.builder import Flow

Given = Callable[..., Any]
"""A pure function of the state: it runs again whenever the run is replayed."""


@dataclass(frozen=True, slots=True)
class Task:
    """
    Something to be done: a step, a child run or a sub-flow.

    Attributes:
        name: What its result is found under.
        step: For a function: the step it is run as.
        takes: How many arguments of those that are offered it takes.
        given: What it is called with instead; for a child or a sub-flow its input.
        workflow: For a child run: a workflow or its name.
        flow: For a sub-flow.
        compensate: What undoes it; a step has its own among its options.
    """

    name: str
    step: Step[..., Any] | None = None
    takes: int = 0
    given: Given | None = None
    workflow: Workflow[..., Any] | str | None = None
    flow: Flow | None = None
    compensate: Callable[..., Any] | None = None

    @property
    def target(self) -> str:
        """The name of what it does."""
        if self.step is not None:
            return str(getattr(self.step.fn, "__name__", self.step.name))
        if self.flow is not None:
            return self.flow.name
        return self.workflow.name if isinstance(self.workflow, Workflow) else str(self.workflow)

    @property
    def undone_by(self) -> Callable[..., Any] | None:
        """What undoes it."""
        return self.compensate if self.step is None else self.step.settings.compensate


@dataclass(frozen=True, slots=True)
class Node:
    """
    One node of a flow.

    Attributes:
        name: Unique in its flow; what its journal keys begin with.
        when: Whether to do it at all, decided when its turn comes.
    """

    kind: ClassVar[str] = ""
    name: str
    when: Given | None

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it gives results under."""
        return (self.name,)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What it may do."""
        return ()


@dataclass(frozen=True, slots=True)
class StepNode(Node):
    """One step; it may suspend the run until somebody resumes it."""

    kind = "step"
    task: Task

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What it does."""
        return (self.task,)


@dataclass(frozen=True, slots=True)
class ChildNode(StepNode):
    """One child run."""

    kind = "child"


@dataclass(frozen=True, slots=True)
class FlowNode(StepNode):
    """One sub-flow."""

    kind = "flow"


@dataclass(frozen=True, slots=True)
class ParallelNode(Node):
    """Entries that run at once; each gives a result of its own."""

    kind = "parallel"
    entries: tuple[Task, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Those of its entries."""
        return tuple(entry.name for entry in self.entries)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Its entries."""
        return self.entries


@dataclass(frozen=True, slots=True)
class RouteNode(Node):
    """One of several branches, chosen by a step."""

    kind = "route"
    choose: Task
    branches: Mapping[str, Task]
    otherwise: Task | None

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Its branches."""
        return (*self.branches.values(), *((self.otherwise,) if self.otherwise else ()))


@dataclass(frozen=True, slots=True)
class LoopNode(Node):
    """A step that is repeated."""

    kind = "loop"
    task: Task
    max_iterations: int
    first: Given | None
    until: tuple[Given, int] | None
    feedback: Given | None

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What is repeated."""
        return (self.task,)


@dataclass(frozen=True, slots=True)
class SleepNode(Node):
    """A durable sleep."""

    kind = "sleep"
    until: float | timedelta | datetime | Given

    @property
    def names(self) -> tuple[str, ...]:
        """None: it gives no result."""
        return ()


@dataclass(frozen=True, slots=True)
class SignalNode(Node):
    """A signal to wait for."""

    kind = "signal"
    signal: str
    type: Any
    timeout: float | timedelta | None
    default: Any = field(default=MISSING)
