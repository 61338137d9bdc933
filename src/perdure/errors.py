"""
Every error that perdure raises, and its stable code.

PerdureError                     code, fields as attributes, a message that says what to do
├─ UsageError                    raised where something is defined or called
│  ├─ DuplicateName  UnknownWorkflow  InvalidName  InvalidOption  InvalidInput
│  ├─ NotSerializable  PayloadTooLarge  HistoryTooLong
│  └─ NotInWorkflow  BlockingCall  Stalled
├─ StateError                    what is stored forbids it
│  └─ RunNotFound  RunFinished  StartConflict  IllegalMove  StepNotFound  Divergence  Overloaded
├─ RunError                      what a waiter or a workflow sees
│  ├─ RunFailed  RunCancelled  RunTimedOut  ChildFailed  TooFewSucceeded
│  └─ StepTimedOut  StepInterrupted  ReceiveTimedOut  RecordedError
└─ StoreError                    the database (retryable says whether trying again can help)
└─ StoreUnavailable  StoreBusy  StoreFull  StoreReadOnly  StoreCorrupt  StoreClosed
SchemaTooNew  SchemaMissing  OperationRefused

Terminal, RetryAfter             raised by users, inside steps
EngineSignal (BaseException)     control flow of the engine: LeaseLost, ContinueAsNew; never stored
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar


def _rebuild(cls: type[PerdureError], args: tuple[Any, ...], fields: dict[str, Any]) -> PerdureError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(fields)
    return error


class PerdureError(Exception):
    """
    Base of all errors of perdure.

    Attributes:
        code: Stable snake_case name, the same in Python, JSON, HTTP and stored records.
        http_status: Status of the problem+json answer that stands for it.
        exit_code: Exit code of the command line.
    """

    code: ClassVar[str] = "perdure_error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, /, **fields: Any) -> None:
        super().__init__(message)
        self.__dict__.update(fields)

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild without calling ``__init__``, whose parameters differ from class to class."""
        return _rebuild, (type(self), self.args, dict(self.__dict__))


# ------------------------------------------------------------------------------------------- usage
class UsageError(PerdureError):
    """The call cannot be right, whatever is stored."""

    code = "usage_error"
    http_status = 400
    exit_code = 2


class DuplicateName(UsageError):
    """A workflow, step or worker of this name is there already."""

    code = "duplicate_name"

    def __init__(self, what: str, name: str) -> None:
        super().__init__(
            f"There is already a {what} named {name!r}. Give one of them another name=.", what=what, name=name
        )


class UnknownWorkflow(UsageError):
    """No workflow of this name is registered in this app."""

    code = "unknown_workflow"
    http_status = 404

    def __init__(self, name: str, known: list[str]) -> None:
        there = ", ".join(known) or "none"
        super().__init__(
            f"No workflow is named {name!r} in this app (registered: {there}). "
            "Import the module that defines it before the app starts.",
            name=name,
            known=known,
        )


class InvalidName(UsageError):
    """A name or id that cannot be stored or would make journal keys ambiguous."""

    code = "invalid_name"

    def __init__(self, what: str, name: str, problem: str) -> None:
        super().__init__(f"{name!r} cannot be a {what}: {problem}.", what=what, name=name, problem=problem)


class InvalidOption(UsageError):
    """An option is outside its range, or two options exclude each other."""

    code = "invalid_option"

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(f"{option}: {problem}.", option=option, problem=problem)


class InvalidInput(UsageError):
    """A value does not have the type that its receiver declares."""

    code = "invalid_input"
    http_status = 422

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(f"{what} does not have its declared type: {problem}", what=what, problem=problem)


class NotSerializable(UsageError):
    """A value cannot be written as JSON."""

    code = "not_serializable"

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(
            f"{what} cannot be stored as JSON: {problem}. Return plain data, a dataclass or a pydantic model.",
            what=what,
            problem=problem,
        )


class PayloadTooLarge(UsageError):
    """A value is larger than the limit for one payload."""

    code = "payload_too_large"
    http_status = 413

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(
            f"{what} takes {size:,} bytes, and the limit is {limit:,}. Store it elsewhere and pass a "
            "reference, or raise Limits(payload_bytes=…).",
            what=what,
            size=size,
            limit=limit,
        )


class HistoryTooLong(UsageError):
    """A run has more journal entries than the limit."""

    code = "history_too_long"

    def __init__(self, run_id: str, limit: int) -> None:
        super().__init__(
            f"Run {run_id!r} has reached {limit:,} journal entries. Split the work into child runs, or "
            "end the run with ctx.continue_as_new(…) now and then.",
            run_id=run_id,
            limit=limit,
        )


class NotInWorkflow(UsageError):
    """The context was used where no workflow is being driven."""

    code = "not_in_workflow"

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"The workflow context cannot be used here: {problem}. Use it only from the workflow function "
            "and the tasks it starts, while the run is going on."
        )


class BlockingCall(UsageError):
    """A workflow asked its private event loop for I/O, a thread or a process."""

    code = "blocking_call"

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} is not available inside a workflow, whose code must be repeatable. Do it in a step: "
            "await ctx.step(fn, …).",
            what=what,
        )


class Stalled(UsageError):
    """A workflow waits for something that nobody will ever deliver."""

    code = "stalled"

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"Run {run_id!r} waits, but for no step, timer, signal or child: it would wait for ever. Look for "
            "an asyncio.Event, Queue or Future that nothing sets.",
            run_id=run_id,
        )


# ------------------------------------------------------------------------------------------- state
class StateError(PerdureError):
    """What is stored forbids it."""

    code = "state_error"
    http_status = 409
    exit_code = 3


class RunNotFound(StateError):
    """No run has this id."""

    code = "run_not_found"
    http_status = 404
    exit_code = 4

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"There is no run with the id {run_id!r}. `perdure run list` shows those there are.", run_id=run_id
        )


class RunFinished(StateError):
    """The run has ended; nothing can be sent to it or asked of it any more."""

    code = "run_finished"

    def __init__(self, run_id: str, status: str) -> None:
        super().__init__(
            f"Run {run_id!r} is {status} already. Rerun or fork it to go on from one of its steps.",
            run_id=run_id,
            status=status,
        )


class StartConflict(StateError):
    """A run with this id exists, and it is another one: other workflow or other input."""

    code = "start_conflict"

    def __init__(self, run_id: str, problem: str) -> None:
        super().__init__(
            f"A run with the id {run_id!r} exists, with {problem}. The same id means the same run; choose another id.",
            run_id=run_id,
            problem=problem,
        )


class IllegalMove(StateError):
    """The run's status does not allow this."""

    code = "illegal_move"

    def __init__(self, run_id: str, status: str, wanted: str) -> None:
        super().__init__(
            f"Run {run_id!r} is {status}; it cannot {wanted} now.", run_id=run_id, status=status, wanted=wanted
        )


class StepNotFound(StateError):
    """The run's journal has no outcome under this key."""

    code = "step_not_found"
    http_status = 404
    exit_code = 4

    def __init__(self, run_id: str, key: str) -> None:
        super().__init__(
            f"The journal of run {run_id!r} has no step with the key {key!r}. `perdure run show` lists the keys.",
            run_id=run_id,
            key=key,
        )


class Divergence(StateError):
    """
    The workflow's code no longer does what its journal says it did (I12).

    Attributes:
        seq: Position in the journal of the entry that does not fit; 0 when the journal is at its end.
        recorded: What the journal holds there.
        requested: What the code asks for instead.
    """

    code = "divergence"

    def __init__(self, run_id: str, seq: int, recorded: str, requested: list[str]) -> None:
        wanted = "\n".join(f"    + {item}" for item in requested) or "    + nothing"
        super().__init__(
            f"Run {run_id!r} and its workflow's code disagree at journal entry {seq}.\n"
            f"    - {recorded}\n{wanted}\n"
            "(- recorded, + asked for by the code now). Restore the old behaviour, guard the change with "
            "ctx.patched(…), or fork or rerun the run from an earlier step; then resume it.",
            run_id=run_id,
            seq=seq,
            recorded=recorded,
            requested=requested,
        )


class Overloaded(StateError):
    """A bounded queue is full; nothing was stored."""

    code = "overloaded"
    http_status = 503

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"{what} is full ({limit:,}). Slow down and try again.", what=what, limit=limit)


# --------------------------------------------------------------------------------------------- run
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

    def __init__(self, run_id: str, cause: BaseException) -> None:
        super().__init__(f"Run {run_id!r} failed: {type(cause).__name__}: {cause}", run_id=run_id, cause=cause)
        self.__cause__ = cause


class RunCancelled(RunError):
    """The run was cancelled."""

    code = "run_cancelled"
    exit_code = 6

    def __init__(self, run_id: str, reason: str = "") -> None:
        why = f": {reason}" if reason else ""
        super().__init__(f"Run {run_id!r} was cancelled{why}.", run_id=run_id, reason=reason)


class RunTimedOut(RunError, TimeoutError):
    """The run did not end before its deadline."""

    code = "run_timed_out"

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

    def __init__(self, key: str, seconds: float, scope: str) -> None:
        super().__init__(
            f"Step {key!r} exceeded its {scope} timeout of {seconds:g} s.", key=key, seconds=seconds, scope=scope
        )


class StepInterrupted(RunError):
    """The worker died during an attempt that may run at most once."""

    code = "step_interrupted"

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

    def __init__(self, type_name: str, message: str, fields: dict[str, Any]) -> None:
        super().__init__(f"{type_name}: {message}", type_name=type_name, message=message, fields=fields)


# ------------------------------------------------------------------------------------------- store
class StoreError(PerdureError):
    """
    The database refused or failed.

    Attributes:
        retryable: Whether the same operation can succeed later without a change.
    """

    code = "store_error"
    http_status = 503
    exit_code = 7
    retryable: ClassVar[bool] = False

    def __init__(self, problem: str) -> None:
        super().__init__(problem)


class StoreUnavailable(StoreError):
    """The database cannot be opened or reached."""

    code = "store_unavailable"
    retryable = True


class StoreBusy(StoreError):
    """Another process holds the database longer than we wait for it."""

    code = "store_busy"
    retryable = True


class StoreFull(StoreError):
    """There is no room on the disk; nothing of the operation was stored."""

    code = "store_full"
    retryable = True


class StoreReadOnly(StoreError):
    """The database or its folder cannot be written."""

    code = "store_read_only"
    retryable = True


class StoreCorrupt(StoreError):
    """The file is no database, is damaged, or holds a row that cannot be read."""

    code = "store_corrupt"


class StoreClosed(StoreError):
    """The store was closed."""

    code = "store_closed"


class SchemaTooNew(StoreError):
    """The database was migrated by a newer perdure."""

    code = "schema_too_new"


class SchemaMissing(StoreError):
    """The database has no schema of perdure, or an older one, and may not be migrated now."""

    code = "schema_missing"


class OperationRefused(StoreError):
    """One operation broke a rule of the schema; the others of its batch are stored."""

    code = "operation_refused"


# ------------------------------------------------------------------------------- raised by users
class Terminal(Exception):
    """Raise it in a step: the step fails now, without further attempts."""


class RetryAfter(Exception):
    """
    Raise it in a step: try again after this delay, instead of the policy's.

    The attempt counts; when none is left, the step fails with this error.

    Args:
        delay: Seconds, or a timedelta; 0 or more.
        reason: Shown in the journal.
    """

    def __init__(self, delay: float | timedelta, reason: str = "") -> None:
        self.delay_s = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
        if not 0 <= self.delay_s < float("inf"):
            option = "RetryAfter(delay)"
            raise InvalidOption(option, f"{self.delay_s!r} is not a number of seconds from 0")
        super().__init__(reason or f"retry after {self.delay_s:g} s")


# ---------------------------------------------------------------------------- engine's control flow
class EngineSignal(BaseException):
    """Control flow of the engine, which ``except Exception`` in a workflow cannot eat."""


class LeaseLost(EngineSignal):
    """Another worker owns the run now; what this one still holds of it is void (I1)."""


class ContinueAsNew(EngineSignal):
    """The run goes on with an empty history and this input."""

    def __init__(self, payload: str) -> None:
        super().__init__(payload)
        self.payload = payload
