"""What the bodies of a step have emitted, read back from the journal."""

from __future__ import annotations

import json

from perdure.codec.payload import Payloads
from perdure.engine.current import Emission
from perdure.model.entry import Entry, Kind
from perdure.model.status import Status
from perdure.store.load import resolve
from perdure.store.store import Store

PAGE = 500


async def read_emitted(store: Store, payloads: Payloads, number: int, key: str) -> list[Emission]:
    """
    What counts of it for the next body: everything since the run was last run again, if it had not failed.

    Args:
        number: The run's.
        key: The step's.
    """
    found: list[Emission] = []
    after = 0
    while True:
        rows = await store.rows("emitted", number, key, after, PAGE)
        for row in rows:
            entry = Entry(*row)
            after = entry.seq
            if entry.kind == Kind.RERUN:
                if begins_anew(json.loads(entry.data or "{}")):
                    found.clear()
                continue
            data = json.loads(payloads.open(await resolve(store, entry.data or "null")))
            found.append(Emission(entry.seq, entry.attempt or 1, data["topic"], data["value"]))
        if len(rows) < PAGE:
            return found


def begins_anew(rerun: dict[str, dict[str, str]]) -> bool:
    """Whether a rerun, as its mark tells, does again what went well; one of a failed run goes on where that broke."""
    return rerun.get("previous", {}).get("status") != Status.FAILED
