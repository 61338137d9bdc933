"""Which step a piece of code runs in."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple, Protocol

from perdure.errors import NotInWorkflow


class StepInfo(NamedTuple):
    """
    The step that is being run.

    Attributes:
        run_id: The run.
        workflow: Its workflow's name.
        key: The step's key in the run's journal.
        attempt: From 1.
    """

    run_id: str
    workflow: str
    key: str
    attempt: int

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this step and different for any other: pass it to services."""
        return f"{self.run_id}/{self.key}"

    @property
    def info(self) -> StepInfo:
        """Itself."""
        return self


class Running(Protocol):
    """A body that runs."""

    @property
    def info(self) -> StepInfo:
        """What it may know about itself; made when asked for."""


running_step: ContextVar[Running | None] = ContextVar("perdure_running_step", default=None)


def current_step() -> StepInfo:
    """
    The step that the calling code runs in.

    Raises:
        NotInWorkflow: The caller is not inside a step's body.
    """
    running = running_step.get()
    if running is None:
        problem = "current_step() was called outside the body of a step"
        raise NotInWorkflow(problem)
    return running.info
