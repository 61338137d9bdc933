"""A step whose rows commit together with its outcome."""

from __future__ import annotations

import contextvars
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from perdure.engine.attempt import own_signal, plain_call, tell_end
from perdure.engine.current import Silent, StepInfo, running_step
from perdure.engine.host import Host
from perdure.engine.request import StepRequest
from perdure.errors import EngineSignal, PerdureError
from perdure.model.entry import Entry, Kind
from perdure.model.run import Claimed
from perdure.store.operation import AsyncBody, Line, Row
from perdure.store.record import Record
from perdure.store.transaction import AsyncTransaction, Transaction

Transacted = Callable[[StepRequest, Entry | None, Any, BaseException | None], None]


def transact(host: Host, run: Claimed, request: StepRequest, seq: int, done: Transacted, *, begun: int) -> None:
    """
    Run a step's function inside the transaction that records its outcome.

    Args:
        seq: The place of its entry; nothing else may be appended meanwhile.
        done: Called on the loop with the durable entry and its decoded result, or with the error that rolled
            everything back. A lost run is reported as neither.
        begun: The run's time, microseconds since 1970; the entry's is not before it.
    """
    record = Record(run.number, run.id, run.epoch, host.limits.inline_bytes)
    result: list[tuple[Entry, Any]] = []
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
            return settled(await request.step.fn(transaction, *request.args))

    def settled(value: Any) -> list[Line]:
        what = f"The result of step {request.key!r}"
        text, decoded = request.returns.settle(value, what)
        entry = Entry(
            seq, Kind.STEP_COMPLETED, request.key, max(begun, host.clock.now()), host.payloads.seal(text, what), begun,
            request.attempt, request.fingerprint,
        )  # fmt: skip
        more = Record(run.number, run.id, run.epoch, host.limits.inline_bytes)
        more.entries([entry])
        result.append((entry, decoded))
        return more.lines[1:]

    record.body = AsyncBody(async_body, context) if request.step.is_async else body

    def answered(rows: list[Row], error: Exception | None) -> None:
        lost = error is None and any(row[0] == "stale" for row in rows)
        if observer is not None:
            tell_end(observer, run, request, CancelledError() if lost else error, begun, host.clock.now())
        if lost:
            done(request, None, None, None)
        elif error is not None:
            done(request, None, None, error)
        else:
            done(request, *result[-1], None)

    try:
        host.store.submit(record, answered)
    except PerdureError as error:
        host.soon(answered, [], error)


@contextmanager
def ordinary() -> Iterator[None]:
    """Inside, what asyncio or the engine would take for its own becomes an ordinary error, as in other steps."""
    try:
        yield
    except (CancelledError, EngineSignal) as odd:
        raise own_signal(odd) from None
