"""Find the workers that are dead, and make their runs due again."""

from __future__ import annotations

import json
import logging

from perdure.clock import SECOND, Clock, micros
from perdure.codec.payload import Payloads
from perdure.engine.guard import seal_reason
from perdure.engine.observer import Observer
from perdure.model.status import Status
from perdure.store.operation import Operation, Row
from perdure.store.store import Store
from perdure.worker.options import WorkerOptions
from perdure.worker.register import gone

log = logging.getLogger("perdure.worker")
MOST_LOGGED = 10
LOOK_S = 1.0
"""A dead process of the same machine is noticed within this time."""
AFTER_LEASE_S = 0.02


async def sweep(
    store: Store,
    me: int,
    place: str,
    *,
    clock: Clock,
    options: WorkerOptions,
    payloads: Payloads,
    observer: Observer | None,
) -> tuple[list[int], bool]:
    """
    Take over the runs of workers that are dead; where time is virtual, say as well that this one is alive.

    Args:
        me: Number of the worker that looks.

    Returns:
        When the leases of the others end that are alive; and whether this one is.
    """
    operation, now = Operation(), clock.now()
    if clock.virtual:
        operation.add("heartbeat", me, now, now + micros(options.lease))
    leases = await _add_takeover(
        operation, store, me, place, clock=clock, most_takeovers=options.most_takeovers, payloads=payloads
    )
    if not operation.lines:
        return leases, True
    rows = await store.apply(operation)
    await _tell_expired(store, rows, observer)
    return leases, not clock.virtual or any(row[0] == "alive" for row in rows)


async def _add_takeover(
    operation: Operation,
    store: Store,
    me: int,
    place: str,
    *,
    clock: Clock,
    most_takeovers: int,
    payloads: Payloads,
) -> list[int]:
    """
    Add to an operation what takes the runs of dead workers over, if there are any.

    A worker is dead when its lease is over by the database's clock, or at once when it ran on this machine and its
    process is gone.

    Args:
        me: Number of the worker that looks.
        place: Where its process ids mean something.
        clock: Where it is virtual, processes are simulated, so that only leases count.
        most_takeovers: Deaths in a row without progress after which a run is paused.
        payloads: Seals the entry of a run that is paused.

    Returns:
        When the leases of the others that are alive will end.
    """
    others = [found for found in await store.rows("suspects") if found[0] != me]
    if any(state == "alive" and lease_until < clock.now() for *_, state, lease_until in others):
        # This machine's clock may have been set since it was last compared.
        await store.check_clock()
    now = clock.now()
    for number, other_place, pid, state, lease_until in others:
        if state == "alive" and not clock.virtual and gone(other_place, pid, place):
            operation.add("declare_dead", number, now)
        elif state == "alive" and lease_until >= now:
            continue
        operation.makes_due = True
    if operation.makes_due:
        message = (
            f"Its worker died {most_takeovers} times in a row without progress of this run. Look for what kills the "
            "process (memory, a crash in native code), then resume it."
        )
        operation.add("bury", now)
        reason = json.dumps({"code": "poison", "message": message, "at": now, "seq": None})
        operation.add("expire_runs", now, most_takeovers, reason)
        operation.add("expire_deliveries", now)
        operation.add("note_poison", reason, seal_reason(payloads, reason), now)
    return [lease_until for *_, state, lease_until in others if state == "alive" and lease_until >= now]


def next_look(leases: list[int], clock: Clock, longest: float) -> float:
    """
    How many seconds to wait until the next look for dead workers: until the first lease may have ended, at most.

    Args:
        leases: When those of the others end.
        longest: Seconds.
    """
    if clock.virtual:
        return longest
    first = [max(0, min(leases) - clock.now()) / SECOND + AFTER_LEASE_S] if leases else []
    return min(LOOK_S, longest, *first)


async def _tell_expired(store: Store, rows: list[Row], observer: Observer | None) -> None:
    """
    Log which runs were taken over, and let those who watch a run that was paused look again.

    Args:
        rows: What the operation of `_add_takeover` gave.
    """
    expired: list[tuple[int, str]] = [row[1:] for row in rows if row[0] == "expired"]
    if expired and observer is not None:
        observer.took_over(len(expired))
    for number, status in expired[:MOST_LOGGED]:
        for run in await store.rows("run_by_number", number):
            log.warning("run %s was taken from a dead worker and is %s", run[1], status)
    if len(expired) > MOST_LOGGED:
        log.warning("%d more runs were taken from dead workers", len(expired) - MOST_LOGGED)
    paused = {number for number, status in expired if status == Status.PAUSED}
    store.changes.committed(paused, {}, set(), due=False)
