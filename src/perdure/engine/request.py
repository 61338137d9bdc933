"""What a workflow waits for: one request per durable operation that is not settled yet."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from perdure.codec.value import TypeCodec
from perdure.engine.definition import Step
from perdure.engine.loop import RunFuture
from perdure.model.entry import Kind
from perdure.model.queue import NO_TERMS, Terms


class Request:
    """
    A durable operation that the workflow awaits.

    Attributes:
        key: Its key in the journal.
        future: Resolved when the outcome is delivered.
    """

    __slots__ = ("future", "key")
    word = "operation"
    outcomes: frozenset[str] = frozenset()

    def __init__(self, key: str, future: RunFuture) -> None:
        self.key = key
        self.future = future

    def __str__(self) -> str:
        return f"{self.word} {self.key!r}"


class StepRequest(Request):
    """
    A step to be run.

    Attributes:
        attempt: The attempt that is to run next, or runs.
        first_started_at: When the first attempt that is on record was begun; for the total timeout.
        retry_at: When the next attempt is due; None when it is due now.
        interrupted: An attempt that may run at most once was begun by a worker that died.
        returns: Encodes and decodes the result.
        compensation: It undoes another step: it never fails, but stops the run until an operator decides.
        forgiven: Attempts that do not count, as an operator has let the step be tried again since.
        last: The run is rolled back: what fails now is not tried again.
    """

    __slots__ = (
        "args", "attempt", "compensation", "fingerprint", "first_started_at", "forgiven", "interrupted", "kwargs",
        "last", "retry_at", "returns", "step", "transactional",
    )  # fmt: skip
    word = "step"
    outcomes = frozenset({Kind.STEP_COMPLETED, Kind.STEP_FAILED, Kind.STEP_RESOLVED})

    def __init__(
        self,
        key: str,
        future: RunFuture,
        step: Step[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        returns: TypeCodec,
        fingerprint: str | None,
        transactional: bool,
    ) -> None:
        self.key = key
        self.future = future
        self.step = step
        self.args = args
        self.kwargs = kwargs
        self.returns = returns
        self.fingerprint = fingerprint
        self.transactional = transactional
        self.attempt = 1
        self.first_started_at: int | None = None
        self.retry_at: int | None = None
        self.interrupted = False
        self.compensation = self.last = False
        self.forgiven = 0


class TimerRequest(Request):
    """A time to be reached. A timer of asyncio itself runs its handle; ctx.sleep resolves the future."""

    __slots__ = ("at", "handle")
    word = "timer"
    outcomes = frozenset({Kind.TIMER_FIRED})

    def __init__(self, key: str, future: RunFuture, at: int, handle: asyncio.TimerHandle | None = None) -> None:
        super().__init__(key, future)
        self.at = at
        self.handle = handle


class ReceiveRequest(Request):
    """A signal to be received, until a time or without end."""

    __slots__ = ("topic", "until")
    word = "signal"
    outcomes = frozenset({Kind.SIGNAL_RECEIVED, Kind.TIMER_FIRED})

    def __init__(self, key: str, future: RunFuture, name: str, until: int | None) -> None:
        super().__init__(key, future)
        self.topic = signal_topic(name)
        self.until = until


class ChildRequest(Request):
    """A child run whose end is awaited."""

    __slots__ = ("child_id", "workflow")
    word = "child"
    outcomes = frozenset({Kind.CHILD_COMPLETED, Kind.CHILD_FAILED})

    def __init__(self, key: str, future: RunFuture, child_id: str, workflow: str) -> None:
        super().__init__(key, future)
        self.child_id = child_id
        self.workflow = workflow

    @property
    def topic(self) -> str:
        """Where the child's end is announced."""
        return child_topic(self.child_id)


class ChildStart(NamedTuple):
    """
    A child run to be inserted with the next commit.

    Attributes:
        input: Sealed.
        deadline_at: Microseconds since 1970.
        detached: Whether it outlives a failed or cancelled parent.
        chosen: Whether the user chose its id, which may then be taken.
        terms: On which it goes through a queue.
        fingerprint: Of the input, where the id is chosen: another run of the parent's own may have been given it.
    """

    key: str
    child_id: str
    workflow: str
    input: str
    deadline_at: int | None
    detached: bool
    tags: tuple[str, ...]
    chosen: bool
    terms: Terms = NO_TERMS
    fingerprint: str | None = None


def signal_topic(name: str) -> str:
    """The inbox topic of a signal."""
    return f"signal:{name}"


def child_topic(child_id: str) -> str:
    """The inbox topic under which a child run's end is announced to its parent."""
    return f"child:{child_id}"
