"""Read journals page by page, once for all who ask for the same at the same time."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from perdure.model.entry import Entry
from perdure.store.load import load_run, resolve
from perdure.store.store import Store

PAGE = 500
PAGE_CHARS = 2_000_000
"""A page ends behind the entry with which it has as much; large payloads are fetched one by one until then."""


class Page(NamedTuple):
    """
    The next entries of a run's journal.

    Attributes:
        entries: With large payloads in place.
        last: The place of the last one, told or not.
        full: Whether there may be more already.
        finished: Whether the run had ended before they were read.
    """

    entries: list[Entry]
    last: int
    full: bool
    finished: bool


class Pages:
    """
    The reads of one store.

    A thousand readers of one run wake at the same commit and ask for the same entries: one of them reads.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asked: dict[tuple[str, int, int], asyncio.Task[Page]] = {}

    async def after(self, run_id: str, number: int, place: int) -> Page:
        """
        The entries behind a place, as they are after this call.

        Raises:
            RunNotFound: There is no such run any more.
        """
        key = run_id, number, place
        reading = self._asked.get(key)
        if reading is None:
            # It begins on the loop's next turn: until then others may join, and none of them misses a commit.
            reading = self._asked[key] = asyncio.create_task(self._read(key))
            reading.add_done_callback(_looked_at)
        return await asyncio.shield(reading)

    async def _read(self, key: tuple[str, int, int]) -> Page:
        del self._asked[key]
        run_id, number, place = key
        finished = (await load_run(self._store, run_id)).finished
        rows = await self._store.rows("entries", number, place, PAGE)
        entries, chars = [], 0
        for row in rows:
            entry = Entry(*row)
            place = entry.seq
            if entry.data:
                entry = entry._replace(data=await resolve(self._store, entry.data))
                if entry.data and entry.data.startswith("@"):
                    continue  # continue_as_new has forgotten it since it was listed
                chars += len(entry.data or "")
            entries.append(entry)
            if chars >= PAGE_CHARS:
                return Page(entries, place, full=True, finished=finished)
        return Page(entries, place, len(rows) == PAGE, finished)


def _looked_at(reading: asyncio.Task[Page]) -> None:
    """Whoever wanted it may have left: then nobody asks for its error."""
    if not reading.cancelled():
        reading.exception()
