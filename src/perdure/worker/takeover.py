"""Find the workers that are dead, and make their runs due again."""

from __future__ import annotations

import json

from perdure.store.operation import Operation
from perdure.store.sqlite import SqliteStore
from perdure.worker.register import gone


async def add_takeover(
    operation: Operation,
    store: SqliteStore,
    me: int,
    place: str,
    *,
    now: int,
    most_takeovers: int,
    virtual: bool,
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
        reason = json.dumps({"code": "poison", "message": message, "at": now})
        operation.add("expire_runs", now, most_takeovers, reason)
