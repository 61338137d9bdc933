"""What somebody who waits for a run, or a workflow that waits for a step, sees."""

from __future__ import annotations

from typing import Any

from perdure.errors.base import PerdureError


class RunError(PerdureError):
    """What somebody who waits for a run, or a workflow that waits for a step, sees."""

    code = "run_error"
    exit_code = 5


class RunFailed(RunError):
    """
    The run has failed.

    Attributes:
        run_id: The run.
        cause: The error that ended it, of its own class where that class is loaded here.
    """

    code = "run_failed"
    cause: BaseException
    run_id: str

    def __init__(self, run_id: str, cause: BaseException) -> None:
        super().__init__(f"Run {run_id!r} failed: {type(cause).__name__}: {cause}", run_id=run_id, cause=cause)
        self.__cause__ = cause


class RunCancelled(RunError):
    """The run was cancelled."""

    code = "run_cancelled"
    exit_code = 6
    run_id: str
    reason: str

    def __init__(self, run_id: str, reason: str = "") -> None:
        why = f": {reason}" if reason else ""
        super().__init__(f"Run {run_id!r} was cancelled{why}.", run_id=run_id, reason=reason)


class RunTimedOut(RunError, TimeoutError):
    """The run did not end before its deadline."""

    code = "run_timed_out"
    run_id: str

    def __init__(self, run_id: str) -> None:
        super().__init__(f"Run {run_id!r} did not end before its deadline.", run_id=run_id)


class ChildFailed(RunError):
    """
    A child run that this workflow waits for did not complete.

    Attributes:
        run_id: The child.
        status: failed or cancelled.
        cause: The child's own error.
    """

    code = "child_failed"
    cause: BaseException
    run_id: str
    status: str

    def __init__(self, run_id: str, status: str, cause: BaseException) -> None:
        super().__init__(
            f"Child run {run_id!r} {'was' if status == 'cancelled' else 'has'} {status}: "
            f"{type(cause).__name__}: {cause}",
            run_id=run_id,
            status=status,
            cause=cause,
        )
        self.__cause__ = cause


class TooFewSucceeded(RunError):
    """A map ended by its failure rules."""

    code = "too_few_succeeded"
    succeeded: int
    failed: int
    total: int

    def __init__(self, succeeded: int, failed: int, total: int) -> None:
        super().__init__(
            f"{failed} of {total} items failed and {succeeded} succeeded, which the map's limits do not allow.",
            succeeded=succeeded,
            failed=failed,
            total=total,
        )


class StepTimedOut(RunError, TimeoutError):
    """
    A step took longer than its timeout.

    Attributes:
        key: The step's key in the journal.
        seconds: The limit.
        scope: "attempt" or "total".
    """

    code = "step_timed_out"
    key: str
    seconds: float
    scope: str

    def __init__(self, key: str, seconds: float, scope: str) -> None:
        super().__init__(
            f"Step {key!r} exceeded its {scope} timeout of {seconds:g} s.", key=key, seconds=seconds, scope=scope
        )


class BatchTimedOut(RunError):
    """A batch was not ready at its deadline."""

    code = "batch_timed_out"
    http_status = 504
    stage: str
    seconds: float

    def __init__(self, stage: str, seconds: float) -> None:
        super().__init__(
            f"The batch of stage {stage!r} was not ready {seconds:g} s after its submission.",
            stage=stage,
            seconds=seconds,
        )


class StepInterrupted(RunError):
    """The worker died during an attempt that may run at most once."""

    code = "step_interrupted"
    key: str
    attempt: int

    def __init__(self, key: str, attempt: int) -> None:
        super().__init__(
            f"Attempt {attempt} of step {key!r} was begun by a worker that died; whether it took effect is "
            "unknown, and the step may run at most once per attempt.",
            key=key,
            attempt=attempt,
        )


class ReceiveTimedOut(RunError, TimeoutError):
    """No signal of this name came in time."""

    code = "receive_timed_out"
    name: str
    seconds: float

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(f"No signal {name!r} came within {seconds:g} s.", name=name, seconds=seconds)


class RecordedError(RunError):
    """
    A stored error whose class is not loaded in this process.

    Attributes:
        type_name: Module and qualified name of the class it had.
        message: Its text.
        fields: Its attributes, as plain data.
    """

    code = "recorded_error"
    type_name: str
    message: str
    fields: dict[str, Any]

    def __init__(self, type_name: str, message: str, fields: dict[str, Any]) -> None:
        super().__init__(f"{type_name}: {message}", type_name=type_name, message=message, fields=fields)
