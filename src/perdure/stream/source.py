"""What can be read as a stream: a run's journal, and streams that were written by name."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import fields
from typing import NamedTuple, Protocol

from perdure.client.view import RunEvent, run_event
from perdure.codec.payload import Payloads
from perdure.errors import InvalidOption, StreamGone, StreamNotFound
from perdure.model.entry import ENDINGS, Entry
from perdure.model.run import RunRow
from perdure.model.stream import StreamRow
from perdure.model.wire import wire_json
from perdure.store.load import resolve
from perdure.store.store import Store
from perdure.stream.content import JSON, Chunk, Content
from perdure.stream.offset import Offset
from perdure.stream.streams import Streams

PAGE = 500
"""Most entries of a journal in one page."""


class Page(NamedTuple):
    """
    What is behind an offset: all of it, or as much as one answer takes.

    Attributes:
        next: Where to go on.
        at_end: Whether that was the end of the stream.
        closed: Whether nothing will ever follow; only at the end.
    """

    chunks: list[Chunk]
    next: Offset
    at_end: bool
    closed: bool


class Source(Protocol):
    """
    A stream to read.

    Attributes:
        name: As errors name it.
        watched: What `Changes` calls it.
        view: Readers of one stream who see different parts of it differ in this.
    """

    name: str
    content: Content
    watched: int
    view: object

    async def page(self, after: Offset, size: int) -> Page:
        """
        What is behind this offset.

        Args:
            size: Bytes that a page has when others are left for the next one; it has one chunk at least.

        Raises:
            InvalidOption: The offset is behind the end.
            StreamGone: What follows it has been removed.
            StreamNotFound: The stream has been removed.
        """

    async def end(self) -> Page:
        """An empty page at its end."""

    async def touch(self) -> None:
        """It is read, and lives on if it lives by that."""

    @property
    def life(self) -> tuple[int | None, int | None]:
        """Its TTL in seconds, and when it ends if it has none."""


class NamedSource:
    """A stream that was written by name, for as long as it is the same one."""

    def __init__(self, streams: Streams, row: StreamRow) -> None:
        self.name = row.name
        self.content = Content(row.type)
        self.watched = -row.number
        self.view: object = None
        self.row = row
        self._streams = streams

    async def _look(self) -> StreamRow:
        rows = await self._streams.store.rows("stream_by_number", self.row.number)
        if not rows or StreamRow(*rows[0]).gone(self._streams.clock.now()):
            raise StreamNotFound(self.name)
        return StreamRow(*rows[0])

    async def page(self, after: Offset, size: int) -> Page:
        """See `Source.page`."""
        row = await self._look()
        if after > (row.head, 0):
            raise behind(self.name, after, Offset(row.head))
        chunks: list[Chunk] = []
        within = after.within
        for nth, stored in await self._streams.read(row.number, after.chunk, row.head, size):
            chunks.append(Chunk(nth, self.content.read(stored, within)))
            within = 0
        reached = Offset(chunks[-1].nth) if chunks else after
        at_end = reached.chunk >= row.head
        return Page(chunks, reached, at_end, at_end and row.closed)

    async def end(self) -> Page:
        """See `Source.end`."""
        row = await self._look()
        return Page([], Offset(row.head), at_end=True, closed=row.closed)

    async def touch(self) -> None:
        """See `Source.touch`."""
        await self._streams.touch(self.row)

    @property
    def life(self) -> tuple[int | None, int | None]:
        """See `Source.life`."""
        return self.row.ttl, self.row.expires_at


class RunSource:
    """
    A run's journal. It is closed when the run has ended, which is so from the commit on that has its last entry.

    Args:
        kinds: Only entries of these kinds; offsets go on counting all of them.
    """

    def __init__(self, store: Store, payloads: Payloads, run: RunRow, kinds: Collection[str] = ()) -> None:
        self.name = f"runs/{run.id}"
        self.content = Content(JSON)
        self.watched = run.number
        self.view: object = frozenset(kinds)
        self._store = store
        self._payloads = payloads
        self._kinds = frozenset(kinds)

    async def _ended(self) -> bool:
        rows = await self._store.rows("run_by_number", self.watched)
        if not rows:
            raise StreamNotFound(self.name)
        return RunRow(*rows[0]).finished

    async def page(self, after: Offset, size: int) -> Page:
        """See `Source.page`."""
        if after.within:
            option = "offset"
            raise InvalidOption(option, f"{after} lies within an entry of a journal, which is never told in parts")
        ended = await self._ended()
        rows = await self._store.rows("entries", self.watched, after.chunk, PAGE)
        if not rows and after.chunk:
            end = (await self.end()).next
            if after > end:
                raise behind(self.name, after, end)
        if rows and after.chunk and rows[0][0] > after.chunk + 1:
            problem = f"the run has begun anew, and its journal now begins with {Offset(rows[0][0])}"
            raise StreamGone(self.name, problem)
        chunks, reached = [], after.chunk
        for row in rows:
            if size <= 0:
                break
            entry = Entry(*row)
            reached = entry.seq
            text = None if self._kinds and entry.kind not in self._kinds else await self._text(entry)
            if text is not None:
                size -= len(text)
                chunks.append(Chunk(entry.seq, [text]))
        at_end = len(rows) < PAGE and (not rows or rows[-1][0] == reached)
        # The entry of the end and the end are one commit; it may have come between the two queries.
        ended = ended or bool(rows and rows[-1][1] in ENDINGS)
        return Page(chunks, Offset(reached), at_end, at_end and ended)

    async def _text(self, entry: Entry) -> str | None:
        """An entry as readers see it; None when it was forgotten since it was listed."""
        if entry.data is not None:
            entry = entry._replace(data=await resolve(self._store, entry.data))
            if entry.data is not None and entry.data.startswith("@"):
                return None
        return event_text(run_event(entry, self._payloads))

    async def end(self) -> Page:
        """See `Source.end`."""
        ended = await self._ended()
        rows = await self._store.rows("run_heads", json.dumps([self.watched]))
        return Page([], Offset(rows[0][1] if rows else 0), at_end=True, closed=ended)

    async def touch(self) -> None:
        """A run does not live by being read."""

    @property
    def life(self) -> tuple[int | None, int | None]:
        """Retention removes a run, not a time of its own."""
        return None, None


def behind(name: str, after: Offset, end: Offset) -> InvalidOption:
    """The error for an offset that the stream does not reach."""
    return InvalidOption("offset", f"{after} is behind the end of {name!r}, {end}")


def event_text(event: RunEvent) -> str:
    """A journal entry as readers of the stream see it: the JSON that `perdure run tail --json` prints."""
    found = {field.name: getattr(event, field.name) for field in fields(event)}
    return wire_json(found, ensure_ascii=False, separators=(",", ":"))
