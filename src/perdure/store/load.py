"""Read runs with what belongs to them: journals, inboxes, large payloads."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

from perdure.errors import RunNotFound
from perdure.model.entry import Entry
from perdure.model.run import Claimed, Message, RunRow
from perdure.store.store import Database, Store


async def find_run(store: Database, run_id: str) -> RunRow | None:
    """The run with this id, None when there is none."""
    rows = await store.rows("run_by_id", run_id)
    return RunRow(*rows[0]) if rows else None


async def load_run(store: Database, run_id: str) -> RunRow:
    """
    The run with this id.

    Raises:
        RunNotFound: There is none.
    """
    row = await find_run(store, run_id)
    if row is None:
        raise RunNotFound(run_id)
    return row


async def load_first_input(store: Database, row: RunRow) -> str:
    """What a run was first started with, as sealed: what another start of its id is compared with."""
    return await resolve(store, row.input if row.first_input is None else row.first_input)


async def load_messages(store: Store, numbers: list[int]) -> dict[int, list[Message]]:
    """The untaken messages of these runs, by run, oldest first."""
    found: dict[int, list[Message]] = {}
    for row in await store.rows("mail", json.dumps(numbers)):
        message = Message(*row)
        found.setdefault(message.run, []).append(message)
    return found


async def load_journals(store: Store, runs: Iterable[Claimed]) -> dict[int, list[Entry]]:
    """The journals of these runs, by run, with large payloads in place."""
    return {run.number: await load_journal(store, run.number) for run in runs}


async def load_journal(store: Store, number: int, *, whole: bool = False) -> list[Entry]:
    """
    One run's journal, with large payloads in place.

    Args:
        whole: With what its steps have emitted, which no replay needs; without, the last entry may be such a one.
    """
    rows = await (store.rows("entries", number, 0, sys.maxsize) if whole else store.rows("history", number))
    entries = [Entry(*row) for row in rows]
    names = {entry.data for entry in entries if entry.data is not None and entry.data.startswith("@")}
    if not names:
        return entries
    texts = await _blobs(store, names)
    return [entry._replace(data=texts.get(entry.data, entry.data)) if entry.data else entry for entry in entries]


async def resolve_input(store: Store, runs: Iterable[Claimed]) -> dict[int, Claimed]:
    """Those of the runs whose input is a large payload, with it in place."""
    large = [run for run in runs if run.input.startswith(("@", "+"))]
    return {run.number: run._replace(input=await resolve(store, run.input)) for run in large}


async def resolve(store: Database, text: str) -> str:
    """A payload as it was before it was perhaps put on the shelf of blobs; of a batch, each of its parts."""
    names = blobs_in(text)
    if not names:
        return text
    texts = await _blobs(store, set(names))
    if text.startswith("@"):
        return texts.get(text, text)
    return "+" + json.dumps([texts.get(part, part) for part in json.loads(text[1:])])


def blobs_in(text: str) -> list[str]:
    """The blobs that a stored payload refers to: it is one, or it is a batch that gathered some."""
    if text.startswith("@"):
        return [text]
    return [part for part in json.loads(text[1:]) if part.startswith("@")] if text.startswith("+") else []


async def _blobs(store: Database, names: set[str]) -> dict[str, str]:
    hashes = json.dumps([name[1:] for name in names])
    return {f"@{name}": data for name, data in await store.rows("blobs", hashes)}
