"""For programs that do not stay: run one thing and wait for it, or do one round of due work and end."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from perdure.app import App
from perdure.client.view import RunEvent
from perdure.clock import SECOND, micros
from perdure.engine.observer import Observer
from perdure.errors import StoreClosed
from perdure.model.run import Claimed
from perdure.outbox.deliverer import Deliverer

LOOK_S = 0.02
PRUNED = 5_000


async def run_and_wait(
    app: App,
    workflow: Any,
    /,
    *args: Any,
    wait: float | timedelta | None = None,
    progress: Callable[[RunEvent], Any] | None = None,
    **options: Any,
) -> Any:
    """
    Start a run and wait for its result; where no worker lives in this process, one does until then.

    Args:
        app: Open or not; if not, it is opened meanwhile.
        wait: Seconds or timedelta; after that it is waited for no longer, and goes on wherever there is a worker.
        progress: Called with each entry of the run's journal as it comes; may be a coroutine function.
        options: As for `App.start`.

    Raises:
        TimeoutError: It has not ended in time.
        RunFailed, RunCancelled: As for `RunHandle.result`.
    """
    async with _working(app):
        handle = await app.start(workflow, *args, **options)
        async with asyncio.timeout(None if wait is None else micros(wait, "wait") / SECOND):
            if progress is not None:
                async for event in handle.events():
                    answer = progress(event)
                    if inspect.isawaitable(answer):
                        await answer
            return await handle.result()


@asynccontextmanager
async def _working(app: App) -> AsyncIterator[None]:
    """See to it that a worker lives in this process."""
    if app.worker is not None:
        yield
        return
    opened = True
    try:
        _ = app.client
    except StoreClosed:
        opened = False
    async with app.variant(changes=app.client.store.changes) if opened else app:
        yield


@dataclass(frozen=True, slots=True)
class Tick:
    """
    What one round has done.

    Attributes:
        claimed: How often a run was taken up; `ended`, `waiting` and `paused` say what became of them.
        taken_over: Runs of dead workers that were made due again.
        delivered, undelivered: Events that sinks have got, and deliveries that have failed.
        pruned: Finished runs that were removed as too old.
        more: Whether something was left that is due.
    """

    claimed: int
    ended: int
    waiting: int
    paused: int
    taken_over: int
    delivered: int
    undelivered: int
    pruned: int
    more: bool


_BECAME = dict.fromkeys(("completed", "failed", "cancelled"), "ended") | {"paused": "paused"}


class _Counting(Observer):
    """Counts what a worker does."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def claimed(self, runs: Sequence[Claimed], due: Mapping[int, int], at: int) -> None:  # noqa: ARG002 - as observers are told
        """See `Observer.claimed`."""
        self.counts["claimed"] += len(runs)

    def left(self, run: Claimed, how: str, error: BaseException | None, at: int) -> None:  # noqa: ARG002 - as above
        """See `Observer.left`."""
        self.counts[_BECAME.get(how, "waiting")] += 1

    def took_over(self, count: int) -> None:
        """See `Observer.took_over`."""
        self.counts["taken_over"] += count


async def tick(app: App, *, seconds: float | timedelta = 20.0) -> Tick:
    """
    Do one bounded round of what is due, for cron or a function that is billed by time, and leave.

    Runs that are due are driven until they end or wait, those of dead workers are taken over, events are delivered, and
    what is older than the retention is removed. Everything is stored when this returns; runs that take longer are given
    back as when a worker leaves, within its ``drain``.

    Args:
        app: Not open: it has a worker of its own meanwhile.
        seconds: Seconds or timedelta after which nothing more is begun.
    """
    counting = _Counting()
    options = replace(app.worker_options, retention=None)
    round_ = app.variant(observers=(*app.observers, counting), worker=options)
    async with round_:
        with suppress(TimeoutError):
            async with asyncio.timeout(micros(seconds, "seconds") / SECOND):
                while await _anything(round_):  # noqa: ASYNC110 - runs end in many ways; this looks from outside
                    await asyncio.sleep(LOOK_S)
        worker = round_.worker
        parts = [part for part in worker.parts if isinstance(part, Deliverer)] if worker is not None else []
        keep, pruned = app.worker_options.retention, 0
        if keep is not None:
            pruned = await round_.client.prune(older_than=keep, most=PRUNED)
    # The worker has left: what it was doing is counted too, and what is due now is for the next round.
    counts, told = counting.counts, sum((part.told for part in parts), Counter[str]())
    async with app.variant().connected() as looking:
        more = await _due(looking)
    return Tick(
        counts["claimed"], counts["ended"], counts["waiting"], counts["paused"], counts["taken_over"],
        told["delivered"], told["failed"], pruned, more,
    )  # fmt: skip


async def _anything(app: App) -> bool:
    """Whether something is driven or due."""
    return bool(app.worker is not None and (app.worker.statistics["driven"] or app.worker.busy)) or await _due(app)


async def _due(app: App) -> bool:
    client = app.client
    now, names = client.store.clock.now(), json.dumps(app.registry.names())
    return bool(await client.store.rows("any_due", now, names))
