"""A step whose rows commit together with its outcome."""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import CancelledError, events
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from perdure.engine.attempt import own_signal, plain_call, tell_end
from perdure.engine.current import Silent, StepInfo, running_step
from perdure.engine.host import Host
from perdure.engine.machine import Machine
from perdure.engine.request import StepRequest
from perdure.errors import EngineSignal, PerdureError
from perdure.model.entry import Entry, Kind
from perdure.model.run import Claimed
from perdure.store.operation import AsyncBody, Line, Odd, Row, is_stale
from perdure.store.record import Record
from perdure.store.transaction import AsyncTransaction, Transaction

Transacted = Callable[[StepRequest, Entry | None, Any, BaseException | None], None]


class Transacting:
    """
    A function that runs inside its transaction.

    Attributes:
        given_up: Nobody wants it any more.
        result: Its entry and decoded value, of the last time that it ran.
    """

    __slots__ = ("_begun", "_done", "_host", "_request", "_run", "_task", "given_up", "result")

    def __init__(self, host: Host, run: Claimed, request: StepRequest, done: Transacted, begun: int) -> None:
        self._host, self._run, self._request, self._begun = host, run, request, begun
        self._done: Transacted | None = done
        self._task: asyncio.Task[Any] | None = None
        self.given_up = False
        self.result: tuple[Entry, Any] | None = None

    async def run(self, function: Coroutine[Any, Any, Any]) -> Any:
        """Await it; it may be given up meanwhile where it runs in a task, as it does if it may wait."""
        if self.given_up:  # and begun again, as the database was changed meanwhile
            function.close()
            raise CancelledError
        self._task = asyncio.current_task() if events._get_running_loop() else None  # noqa: SLF001 - in a thread there is none
        try:
            return await function
        finally:
            self._task = None

    def give_up(self) -> None:
        """Cancel a coroutine, so that what it did is undone; a function in a thread cannot be stopped."""
        self.given_up = True
        if self._task is not None:
            self._task.cancel()

    def answered(self, rows: list[Row], error: Exception | None) -> None:
        """It has been committed, or was undone."""
        host, run, request, observer = self._host, self._run, self._request, self._host.observer
        problem: BaseException | None = error.raised if isinstance(error, Odd) else error
        lost = error is None and is_stale(rows)
        if lost or (problem is not None and self.given_up):
            problem = CancelledError()
        if observer is not None:
            tell_end(observer, run, request, problem, self._begun, host.clock.now())
        # The one leads back to the driver, which keeps this, and the other may be large.
        done, result, self._done, self.result = self._done, self.result, None, None
        assert done is not None  # noqa: S101 - there is one answer
        if lost:
            done(request, None, None, None)
        elif problem is not None:
            done(request, None, None, problem)
        else:
            assert result is not None  # noqa: S101 - it was committed
            done(request, *result, None)


def transact(host: Host, machine: Machine, request: StepRequest, done: Transacted) -> Transacting:
    """
    Run a step's function inside the transaction that records its outcome.

    Args:
        machine: Nothing else may be appended to its journal meanwhile.
        done: Called on the loop with the durable entry and its decoded result, or with the error that rolled
            everything back, `CancelledError` if it was given up. A lost run is reported as neither.
    """
    run, seq, begun = machine.run, machine.length + 1, max(machine.time, host.clock.now())
    transacting = Transacting(host, run, request, done, begun)
    record = Record(run.number, run.id, run.epoch, host.limits.inline_bytes)
    observer, context = host.observer, contextvars.copy_context()
    if observer is not None:
        context.run(observer.attempt_begins, run, request, begun)

    step = StepInfo(run.id, run.workflow, request.key, request.attempt, run.generation, run.epoch)
    context.run(running_step.set, Silent(step))

    def body(transaction: Transaction) -> list[Line]:
        # A copy, as it is called again when the database was changed meanwhile.
        with ordinary():
            return settled(context.copy().run(plain_call, request.step.fn, transaction, *request.args))

    async def async_body(transaction: AsyncTransaction) -> list[Line]:
        with ordinary():
            return settled(await transacting.run(request.step.fn(transaction, *request.args)))

    def settled(value: Any) -> list[Line]:
        what = f"The result of step {request.key!r}"
        text, decoded = request.returns.settle(value, what)
        entry = Entry(
            seq, Kind.STEP_COMPLETED, request.key, max(begun, host.clock.now()), host.payloads.seal(text, what), begun,
            request.attempt, request.fingerprint,
        )  # fmt: skip
        more = Record(run.number, run.id, run.epoch, host.limits.inline_bytes)
        more.entries([entry])
        transacting.result = entry, decoded
        return more.lines[1:]

    record.body = AsyncBody(async_body, context) if request.step.is_async else body

    try:
        host.store.submit(record, transacting.answered)
    except PerdureError as error:
        host.soon(transacting.answered, [], error)
    return transacting


@contextmanager
def ordinary() -> Iterator[None]:
    """Inside, what asyncio or the engine would take for its own becomes an ordinary error, as in other steps."""
    try:
        yield
    except (CancelledError, EngineSignal, KeyboardInterrupt) as odd:
        raise own_signal(odd) from None
