"""What a worker asks for: due runs, and those of the queues where something can be due."""

from __future__ import annotations

import json
from collections.abc import Callable

from perdure.engine.observer import Observer
from perdure.model.entry import Entry
from perdure.model.run import Claimed, Message
from perdure.store.load import load_journals, load_messages, resolve_input
from perdure.store.operation import Operation, Row
from perdure.store.store import Store


def claiming(  # one per what may be claimed
    worker: int, now: int, *, most: int, top: int, workflows: str, queues: tuple[str, ...], lone: str = ""
) -> Operation:
    """
    The operation that claims runs.

    Args:
        worker: The worker's number.
        now: Microseconds since 1970.
        most: Runs without a queue that it takes at most, and runs of each queue.
        top: Runs that it may own altogether when this is done; looked at for runs of queues.
        workflows: JSON array of the names that it knows.
        queues: Where something can be due; nothing is asked about the others.
        lone: JSON array of the ids of runs that only this worker has the functions of; "" for none.
    """
    operation = Operation([("claim", (worker, now, most, workflows))])
    if lone:
        operation.add("claim_lone", worker, now, lone)
    for queue in queues:
        operation.add("forget_spent", queue, now)
        operation.add("line_up", now, queue)
        operation.add("claim_held", worker, now, most, top, workflows, queue)
        operation.add("claim_line", worker, now, most, top, workflows, queue)
    return operation


def taken(rows: list[Row], now: int, observer: Observer | None) -> list[Claimed]:
    """The runs that a claim has given; the observer hears of them."""
    if observer is None:
        return [Claimed(*row[1:]) for row in rows]
    runs = [Claimed(*row[1:]) for row in rows if row[0] == "claimed"]
    if runs:
        due: dict[int, int] = {row[1]: row[2] for row in rows if row[0] == "due"}
        observer.claimed(runs, {run.number: due[run.number] for run in runs if run.number in due}, now)
    return runs


async def _look_closer(store: Store, runs: list[Claimed], observer: Observer) -> list[Claimed]:
    """
    Read of claimed runs what only an observer wants to know.

    Returns:
        The runs, with what is kept with them.
    """
    queued = [run for run in runs if run.queue is not None]
    if queued and (waits := await store.rows("lined_up", _numbers(queued))):
        observer.lined_up([(queue, waited) for queue, waited in waits])
    if not observer.keeps:
        return runs
    kept: dict[int, str] = dict(await store.rows("traces", _numbers(runs)))
    return [run._replace(trace=kept.get(run.number)) for run in runs]


async def read_claimed(
    store: Store, runs: list[Claimed], in_memory: Callable[[Claimed], bool], observer: Observer | None
) -> list[tuple[Claimed, list[Entry] | None, list[Message]]]:
    """
    Read what it takes to drive claimed runs.

    Args:
        in_memory: Whether a run's coroutine is here, so that its journal need not be read.

    Returns:
        Each with its journal, None where that was not read, and with the messages that wait for it.

    Raises:
        StoreError: The database failed.
    """
    if observer is not None:
        runs = await _look_closer(store, runs, observer)
    told = [run.number for run in runs if run.mail]
    messages = await load_messages(store, told) if told else {}
    cold = [run for run in runs if not in_memory(run)]
    journals: dict[int, list[Entry]] = {run.number: [] for run in cold}
    journals |= await load_journals(store, [run for run in cold if run.epoch > 1 or run.forked_from])
    inputs = await resolve_input(store, cold)
    return [(inputs.get(run.number, run), journals.get(run.number), messages.get(run.number, [])) for run in runs]


async def look_ahead(store: Store, now: int) -> tuple[int | None, tuple[str, ...]]:
    """
    When to claim again, if nothing happens before, and of which queues.

    Returns:
        The next time that a run becomes due or a rate's window ends, None for never; and the queues where something
        can be due now.
    """
    rows = await store.rows("next_due", now)
    times = [at for _, at, _ in rows if at is not None]
    return min(times, default=None), tuple(sorted(queue for queue, _, ready in rows if ready))


def _numbers(runs: list[Claimed]) -> str:
    return json.dumps([run.number for run in runs])
