"""Which step a piece of code runs in."""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Awaitable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol, TypeVar

from perdure.codec.payload import Payloads
from perdure.engine.ledger import remarks, used
from perdure.errors import InvalidOption, NotInWorkflow
from perdure.model.ledger import Actor
from perdure.model.limits import Limits

if TYPE_CHECKING:
    from datetime import timedelta
    from decimal import Decimal

    from perdure.engine.artifact import Artifacts

T = TypeVar("T")


class StepInfo(NamedTuple):
    """
    The step that is being run.

    Attributes:
        run_id: The run.
        workflow: Its workflow's name.
        key: The step's key in the run's journal.
        attempt: From 1.
        generation: The run's: 1, and one more with each rerun.
        epoch: Greater whenever the run has passed to another owner, for whom attempts may count from 1 again.
    """

    run_id: str
    workflow: str
    key: str
    attempt: int
    generation: int = 1
    epoch: int = 0

    @property
    def idempotency_key(self) -> str:
        """
        The same for every attempt of this step and different for any other: pass it to services.

        It is different in each generation of the run, too: a rerun is to do anew what did not do. What must happen
        once in all generations has ``run_id`` and ``key`` for a key.
        """
        made = f"{self.run_id}/{self.key}"
        return made if self.generation == 1 else f"{made}@{self.generation}"


class Running(Protocol):
    """A body that runs."""

    @property
    def over(self) -> bool:
        """See `CurrentStep.cancelled`."""

    @property
    def info(self) -> StepInfo:
        """What it may know about itself; made when asked for."""

    def emit(self, topic: str, value: Any) -> None:
        """See `CurrentStep.emit`."""

    def record(self, statement: str, *values: Any) -> None:
        """Let a statement commit with what the run writes next, at the latest with the step's outcome."""

    @property
    def payloads(self) -> Payloads:
        """Seals what is recorded."""

    @property
    def now(self) -> int:
        """Microseconds since 1970."""

    async def flush(self) -> None:
        """See `CurrentStep.flush`."""

    def wait(self, awaitable: Awaitable[T]) -> T:
        """See `CurrentStep.wait`."""

    @property
    def artifacts(self) -> Artifacts:
        """See `CurrentStep.artifacts`."""

    async def emitted(self, key: str) -> list[Emission]:
        """What the bodies of the step under this key have emitted; see `CurrentStep.emitted`."""


class Emission(NamedTuple):
    """
    What a step's body has emitted.

    Attributes:
        seq: Its place in the run's journal.
        attempt: The attempt that emitted it.
    """

    seq: int
    attempt: int
    topic: str
    value: Any


class CurrentStep(StepInfo):
    """The step that is being run, as its body sees it."""

    body: Running

    @property
    def cancelled(self) -> bool:
        """
        Whether the outcome counts no more: the run was cancelled, or the attempt has timed out.

        A coroutine function is cancelled then; a plain one, which nothing can stop, may look here and end.
        """
        return self.body.over

    def emit(self, topic: str, value: Any = None) -> None:
        """
        Put an entry into the run's journal while the step runs, for whoever watches the run.

        It is visible, and durable, a few milliseconds later, and in any case before the step's outcome. It stays
        when the attempt fails, and tells its attempt. Callable from any thread; a thread waits when too much has not
        been stored yet.

        Args:
            topic: What readers know it by.
            value: Any value that can be stored as JSON.

        Raises:
            NotSerializable, PayloadTooLarge: The value cannot be stored.
            Overloaded: Too much of this run has not been stored yet, and the caller is on the event loop, which
                must not wait: ``await current_step().flush()`` does.
            TooManyEntries: The run's steps have emitted ``Limits(emitted_entries=…)``.
            NotInWorkflow: The step is a transaction, which is visible as a whole or not at all.
            StepOver: The body's outcome no longer counts. It is no `Exception`, so that it ends the body.
        """
        self.body.emit(topic, value)

    async def flush(self) -> None:
        """
        Wait until everything that this run's steps have emitted so far is durable.

        Raises:
            StepOver: As for `emit`.
        """
        await self.body.flush()

    async def emitted(self) -> list[Emission]:
        """
        What this step has emitted and is durable: by earlier attempts, by a worker that has died, by this body.

        A body that can go on where another one stopped learns from it where that is. A rerun begins with nothing, but
        that of a run that has failed goes on with what there is.
        """
        return await self.body.emitted(self.key)

    def usage(
        self,
        model: str = "",
        *,
        provider: str = "",
        kind: str = "text",
        topic: str = "",
        input_tokens: int = 0,
        output_tokens: int = 0,
        cached_tokens: int = 0,
        cost: Decimal | str | float = 0,
        seconds: float | timedelta = 0,
        dedupe: str | None = None,
    ) -> None:
        """
        Record what a call has used.

        It is durable with what the run writes next, at the latest with the step's outcome, and stays when the attempt
        fails: the call was made. Callable from any thread. `Client.usage` sums it up.

        Args:
            kind: Of the call, such as "text", "embed" or "batch".
            topic: What it was for: names joined by dots, such as "research.search".
            cost: In the unit that you count in, exact to nine places: Decimal("0.0125").
            seconds: How long it took; seconds or timedelta.
            dedupe: Of several records of a run under this only the first counts, such as a batch's id.

        Raises:
            InvalidOption: A count is negative, the cost no amount, a topic not names joined by dots.
            NotInWorkflow: The step is a transaction.
            StepOver: As for `emit`.
        """
        *columns, once = used(
            model=model, provider=provider, kind=kind, topic=topic, input_tokens=input_tokens,
            output_tokens=output_tokens, cached_tokens=cached_tokens, cost=cost, seconds=seconds, dedupe=dedupe,
        )  # fmt: skip
        body = self.body
        body.record("add_usage", self.key, self.generation, self.attempt, *columns, once, body.now)

    def annotate(
        self,
        key: str | Mapping[str, Any],
        value: Any = None,
        *,
        payload: Any = None,
        actor: Actor | str | None = None,
        scope: str = "step",
        scope_id: str | None = None,
        dedupe: str | None = None,
    ) -> None:
        """
        Make a remark about the run; durable like `usage`, and kept when the attempt fails.

        Args:
            key, value, payload, actor, dedupe: As for `Client.annotate`.
            scope, scope_id: What it is about: this step when left out; "call" and an id, "run", or what you like.

        Raises:
            InvalidOption, NotSerializable: It cannot be stored.
            NotInWorkflow, StepOver: As for `usage`.
        """
        body = self.body
        where = self.key if scope == "step" and scope_id is None else scope_id
        rows, once = remarks(body.payloads, key, value, payload, actor, scope, where, dedupe)
        for row in rows:
            body.record("annotate", *row, self.generation, self.attempt, once, body.now)

    @property
    def artifacts(self) -> Artifacts:
        """
        What the run keeps beside its journal, under names: files, large texts, anything that a result is not made for.

        Raises:
            NotInWorkflow: The step is a transaction.
        """
        return self.body.artifacts

    def wait(self, awaitable: Awaitable[T]) -> T:
        """
        In a plain function, wait for what a coroutine function would await, such as ``flush()`` or `artifacts`.

        Raises:
            InvalidOption: It was called from a coroutine function, which has to `await`.
            NotInWorkflow: The step is a transaction.
        """
        return self.body.wait(awaitable)


class Silent:
    """
    A body of which the journal hears nothing but its outcome: a transaction, or a step on another engine.

    Attributes:
        why: Why it can neither emit nor record, for the error that says so.
    """

    why = "a transaction is visible as a whole or not at all, and has rows of its own"
    over = False

    def __init__(self, info: StepInfo) -> None:
        self.info = info

    def emit(self, topic: str, _value: Any) -> None:
        """Refuse, with NotInWorkflow."""
        self._refuse(f"emit({topic!r})")

    def record(self, statement: str, *_values: Any) -> None:
        """Refuse, with NotInWorkflow."""
        self._refuse(statement)

    @property
    def payloads(self) -> Payloads:
        """Nothing is sealed by it."""
        return Payloads(None, Limits())

    @property
    def now(self) -> int:
        """Nothing is recorded."""
        return 0

    async def flush(self) -> None:
        """There is nothing to wait for."""

    async def emitted(self, _key: str) -> list[Emission]:
        """Nothing."""
        return []

    def wait(self, awaitable: Awaitable[T]) -> T:
        """Refuse, with NotInWorkflow: a transaction keeps others waiting."""
        self._refuse(f"wait({awaitable!r})")

    @property
    def artifacts(self) -> Artifacts:
        """Refuse, with NotInWorkflow."""
        self._refuse("no artifacts")

    def _refuse(self, what: str) -> NoReturn:
        problem = f"{what}: {self.why}"
        raise NotInWorkflow(problem)


def wait_in_thread(awaitable: Awaitable[T], loop: asyncio.AbstractEventLoop) -> T:
    """
    Wait in a thread for what is awaited on a loop.

    Raises:
        InvalidOption: This thread has a loop itself, which must not wait.
    """
    if events._get_running_loop() is not None:  # noqa: SLF001 - get_running_loop() raises where there is none
        option = "wait"
        raise InvalidOption(option, "it is for plain functions; a coroutine function writes `await`")

    async def awaited() -> T:
        return await awaitable

    return asyncio.run_coroutine_threadsafe(awaited(), loop).result()


running_step: ContextVar[Running | None] = ContextVar("perdure_running_step", default=None)


def current_step() -> CurrentStep:
    """
    The step that the calling code runs in.

    Raises:
        NotInWorkflow: The caller is not inside a step's body.
    """
    running = running_step.get()
    if running is None:
        problem = "current_step() was called outside the body of a step"
        raise NotInWorkflow(problem)
    found = CurrentStep(*running.info)
    found.body = running
    return found
