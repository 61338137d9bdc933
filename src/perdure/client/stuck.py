"""Why nobody goes on with a run that could go on: no live worker has its code."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

from perdure.client.view import RunInfo, run_info
from perdure.engine.definition import LONE
from perdure.model.run import RunRow
from perdure.model.version import unpin
from perdure.store.store import Store


async def run_infos(store: Store, rows: Iterable[RunRow], now: int) -> list[RunInfo]:
    """
    Runs for callers, with why they are stuck, if they are.

    Args:
        now: Microseconds since 1970.
    """
    known: list[list[str]] | None = None
    found: list[RunInfo] = []
    for row in rows:
        info = run_info(row)
        if row.owner is None and ((row.due_at is not None and row.due_at <= now) or row.rank is not None):
            if known is None:
                known = await _known(store, now)
            info = replace(info, stuck=_why(row.workflow, known))
        found.append(info)
    return found


async def known_names(store: Store, now: int) -> set[str]:
    """What live workers know, by the names that runs are stored under."""
    return {name for names in await _known(store, now) for name in names}


async def _known(store: Store, now: int) -> list[list[str]]:
    return [json.loads(names) for (names,) in await store.rows("known_workflows", now)]


def _why(stored: str, known: list[list[str]]) -> str:
    if stored == LONE:
        return "its function came with a call of run_durable; call that again with its id"
    if not known:
        return "no worker is alive"
    if any(stored in names for names in known):
        return ""
    name, version = unpin(stored)
    others = sorted({unpin(other)[1] for names in known for other in names if unpin(other)[0] == name})
    if not others:
        return f"no live worker has the workflow {name!r}"
    there = ", ".join(repr(other) if other else "the one without a version" for other in others)
    which = f"version {version!r}" if version else "the one without a version"
    return f"no live worker has {which} of the workflow {name!r}; they have {there}"
