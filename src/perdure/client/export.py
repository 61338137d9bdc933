"""A run as one JSON document: to read, to compare, and to replay against other code."""

from __future__ import annotations

import json
from typing import Any

from perdure.codec.payload import Payloads
from perdure.model.entry import Entry
from perdure.store.load import load_journal, load_run, resolve
from perdure.store.store import Store

FORMAT = 1
"""Raised when a reader of the former format would misunderstand the document."""


async def export_run(store: Store, payloads: Payloads, run_id: str) -> dict[str, Any]:
    """
    Everything that is stored about one run, as plain data that `json` can write.

    {"perdure": 1, "run": {"id", "workflow", "status", "generation", "seed", "input", "output", "error",
    "tags", "artifacts", …}, "journal": [{"seq", "kind", "key", "at", "data", …}, …]}. Times are microseconds since
    1970. Payloads are opened and large ones fetched; what is null is left out of the journal's entries. Artifacts are
    listed with their sizes, without their data.

    Raises:
        RunNotFound: There is no such run.
    """
    row = await load_run(store, run_id)
    while True:
        journal = await load_journal(store, row.number, whole=True)
        now = await load_run(store, run_id)
        if now == row:  # otherwise it was stored, and the journal perhaps, while we read
            break
        row = now

    async def opened(text: str | None) -> Any:
        return None if text is None else json.loads(payloads.open(await resolve(store, text)))

    run = {
        "id": row.id,
        "workflow": row.workflow,
        "status": row.status,
        "generation": row.generation,
        "seed": row.seed,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "deadline_at": row.deadline_at,
        "forked_from": row.forked_from,
        "tags": [tag for (tag,) in await store.rows("tags_of", row.number)],
        "artifacts": [
            dict(zip(("name", "step", "media_type", "size", "saved_at"), found, strict=True))
            for found in await store.rows("artifacts", row.number)
        ],
        "input": await opened(row.input),
        "output": await opened(row.output),
        "error": await opened(row.error),
        "reason": await opened(row.reason),
    }
    return {"perdure": FORMAT, "run": run, "journal": [_plain(entry, payloads) for entry in journal]}


def _plain(entry: Entry, payloads: Payloads) -> dict[str, Any]:
    found = {name: value for name, value in entry._asdict().items() if value is not None}
    if entry.data is not None:
        found["data"] = json.loads(payloads.open(entry.data))
    return found
