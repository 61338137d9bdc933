"""Remove finished runs, a few trees at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable

from perdure.store.operation import DROPS, Line, Operation
from perdure.store.store import Store


async def prune_some(
    store: Store, before: int, statuses: Iterable[str], trees: int, *, undelivered: bool = False
) -> int:
    """
    Remove some whole trees of runs that ended before a time, and workers that left by then, in one transaction.

    Args:
        before: Microseconds since 1970.
        statuses: How the trees' first runs ended.
        trees: Most of them; fewer where trees have many runs.
        undelivered: Also those that have events which a sink has not got.

    Returns:
        How many runs were removed; 0 when none are left.
    """
    terms = (before, json.dumps(sorted(statuses)), trees, int(undelivered))
    operation = Operation([("forget_workers", (before,)), ("doom", terms)])
    for statement in DROPS:
        operation.add(statement)
    return len(await store.apply(operation))


async def prune_rest(store: Store, now: int, most: int) -> None:
    """
    Remove what belongs to no run any more.

    These are names and commands whose time is over, payloads that nothing refers to, and what is left of streams that
    were deleted or have expired.

    Args:
        now: Microseconds since 1970.
        most: Payloads, and chunks of streams, per transaction.
    """
    over: list[Line] = [("forget_names", (now,)), ("forget_commands", (now,)), ("drop_orphans", (most,))]
    while await store.apply(Operation([*over, *_streams(now, most)])):
        pass


async def prune_streams(store: Store, now: int, chunks: int = 500, *, rounds: int | None = None) -> None:
    """
    Remove what is left of streams that were deleted or have expired, in small transactions.

    Args:
        now: Microseconds since 1970.
        chunks: Most of them per transaction.
        rounds: Most transactions; None until nothing is left.
    """
    while rounds is None or rounds > 0:
        if not await store.apply(Operation(_streams(now, chunks))):
            return
        rounds = None if rounds is None else rounds - 1


def _streams(now: int, chunks: int) -> list[Line]:
    return [("drop_chunks", (now, chunks)), ("drop_streams", (now,))]
