"""Find the workers that are dead, and make their runs due again."""

from __future__ import annotations

import json
import logging

from perdure.codec.payload import Payloads
from perdure.engine.guard import seal_reason
from perdure.model.status import Status
from perdure.store.operation import Operation, Row
from perdure.store.sqlite import SqliteStore
from perdure.worker.register import gone

log = logging.getLogger("perdure.worker")
MOST_LOGGED = 10


async def add_takeover(
    operation: Operation,
    store: SqliteStore,
    me: int,
    place: str,
    *,
    now: int,
    most_takeovers: int,
    virtual: bool,
    payloads: Payloads,
) -> None:
    """
    Add to an operation what takes the runs of dead workers over, if there are any.

    A worker is dead when its lease is over, or at once when it ran on this machine and its process is gone.

    Args:
        me: Number of the worker that looks.
        place: Where its process ids mean something.
        now: Microseconds since 1970.
        most_takeovers: Deaths in a row without progress after which a run is paused.
        virtual: Whether processes are simulated, so that only leases count.
        payloads: Seals the entry of a run that is paused.
    """
    for number, other_place, pid, state, lease_until in await store.rows("suspects"):
        if number == me:
            continue
        if state == "alive" and not virtual and gone(other_place, pid, place):
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
        operation.add("note_poison", reason, seal_reason(payloads, reason), now)


async def tell_expired(store: SqliteStore, rows: list[Row]) -> None:
    """
    Log which runs were taken over, and let those who watch a run that was paused look again.

    Args:
        rows: What the operation of `add_takeover` gave.
    """
    expired: list[tuple[int, str]] = [row[1:] for row in rows if row[0] == "expired"]
    for number, status in expired[:MOST_LOGGED]:
        for run in await store.rows("run_by_number", number):
            log.warning("run %s was taken from a dead worker and is %s", run[1], status)
    if len(expired) > MOST_LOGGED:
        log.warning("%d more runs were taken from dead workers", len(expired) - MOST_LOGGED)
    paused = {number for number, status in expired if status == Status.PAUSED}
    store.changes.committed(paused, set(), set(), due=False)
