"""Which step a piece of code runs in."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from perdure.errors import NotInWorkflow


@dataclass(frozen=True, slots=True)
class StepInfo:
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


running_step: ContextVar[StepInfo | None] = ContextVar("perdure_running_step", default=None)


def current_step() -> StepInfo:
    """
    The step that the calling code runs in.

    Raises:
        NotInWorkflow: The caller is not inside a step's body.
    """
    info = running_step.get()
    if info is None:
        problem = "current_step() was called outside the body of a step"
        raise NotInWorkflow(problem)
    return info
