"""Streams that are written by name, in the store: find them, read them, remove them."""

from __future__ import annotations

from typing import NamedTuple

from perdure.clock import SECOND, Clock
from perdure.codec.payload import Payloads
from perdure.errors import PayloadTooLarge, StreamGone, StreamNotFound
from perdure.model.limits import Limits
from perdure.model.stream import StreamRow
from perdure.store.operation import Operation
from perdure.store.prune import prune_streams
from perdure.store.store import Store
from perdure.stream.content import Content, Parts, size_of

KNOWN = 10_000
"""Streams whose number is remembered, so that an append needs no look before it."""
PAGE = 1_000
"""Most chunks that are read at a time."""
TIDY = 3_600 * SECOND
SLACK = 20
"""A stream lives up to a twentieth longer than its TTL, so that most readings need not be noted."""


class Known(NamedTuple):
    """What never changes of a stream."""

    number: int
    content: Content
    ttl: int | None


class Streams:
    """All streams of a database that are written by name."""

    def __init__(self, store: Store, clock: Clock, payloads: Payloads, limits: Limits) -> None:
        self.store = store
        self.clock = clock
        self.payloads = payloads
        self.limits = limits
        self._known: dict[str, Known] = {}
        self._tidied = 0

    # ------------------------------------------------------------------------------------- looking
    async def find(self, name: str) -> StreamRow:
        """
        A stream as it is now.

        Raises:
            StreamNotFound: There is none of this name.
            StreamGone: It was deleted or has expired, and forks of it are still there.
        """
        row = await self.row(name)
        if row is None:
            raise StreamNotFound(name)
        self._check_there(row, name)
        return row

    async def row(self, name: str) -> StreamRow | None:
        """What is stored under this name, even if it is gone."""
        rows = await self.store.rows("stream_by_name", name)
        return StreamRow(*rows[0]) if rows else None

    def _check_there(self, row: StreamRow, name: str) -> None:
        if row.gone(self.clock.now()):
            self._known.pop(name, None)
            if row.forked:
                problem = "it was deleted, or has expired; its forks go on"
                raise StreamGone(name, problem)
            raise StreamNotFound(name)

    async def touch(self, row: StreamRow) -> None:
        """Note that a stream was read, if its life depends on that."""
        operation = Operation()
        self.lengthen(operation, row.number, row.ttl)
        if operation.lines and (row.expires_at or 0) < self.clock.now() + (row.ttl or 0) * SECOND:
            await self.store.apply(operation)

    def lengthen(self, operation: Operation, number: int, ttl: int | None) -> None:
        """With what the operation does, the stream's life begins anew."""
        if ttl is not None:
            now = self.clock.now()
            operation.add("touch_stream", number, now, end_of_life(now, ttl))

    async def remember(self, name: str) -> Known:
        """
        What never changes of a stream, perhaps as it was before it was removed and made anew.

        Raises:
            StreamNotFound, StreamGone: As for `find`.
        """
        known = self._known.get(name)
        return known if known is not None else self.note(await self.find(name))

    def note(self, row: StreamRow) -> Known:
        """Remember it so."""
        if len(self._known) >= KNOWN:
            self._known.clear()
        known = self._known[row.name] = Known(row.number, Content(row.type), row.ttl)
        return known

    def stored(self, name: str, content: Content, parts: Parts) -> tuple[str, int]:
        """
        What is stored of an append, and how many bytes it counts for.

        Raises:
            PayloadTooLarge: Too many.
        """
        size = size_of(parts)
        what = f"What is appended to stream {name!r}"
        if size > self.limits.payload_bytes:
            raise PayloadTooLarge(what, size, self.limits.payload_bytes)
        return self.payloads.seal(content.stored(parts), what, limited=False), size

    # ------------------------------------------------------------------------------------ removing
    async def delete(self, name: str) -> None:
        """
        Remove a stream; while forks of it are there, only its name stays taken.

        It is out of reach when this returns. What it holds is removed in small pieces, here or by retention.

        Raises:
            StreamNotFound, StreamGone: As for `find`.
        """
        row = await self.find(name)
        self._known.pop(name, None)
        now = self.clock.now()
        operation = Operation(changed=[-row.number])
        operation.add("delete_stream", row.number, now)
        operation.add("free_stream", row.number, now)
        if not await self.store.apply(operation):
            raise StreamNotFound(name)
        if not row.forked:
            await prune_streams(self.store, now)

    async def tidy(self) -> None:
        """Remove some of what has expired: who makes streams that end by themselves sees to it now and then."""
        now = self.clock.now()
        if now - self._tidied >= TIDY:
            self._tidied = now
            await prune_streams(self.store, now, rounds=10)

    # ------------------------------------------------------------------------------------- reading
    async def read(self, number: int, after: int, last: int, size: int) -> list[tuple[int, str]]:
        """Some of the chunks of a stream, with those that it has from its source; see the statement `chunks`."""
        found: list[tuple[int, str]] = []
        upto, reaches = last, []
        for place, base in await self.store.rows("lineage", number):
            reaches.append((int(place), base, upto))
            upto = min(upto, base)
        for place, base, end in reversed(reaches):
            begin = max(after, base)
            if begin < end and size > 0 and len(found) < PAGE:
                rows = await self.store.rows("chunks", place, begin, end, PAGE - len(found), size)
                found += [(nth, self.payloads.open(data)) for nth, data in rows]
                size -= sum(len(data) for _, data in rows)
                if rows and rows[-1][0] < end:
                    break
        return found


def end_of_life(now: int, ttl: int) -> int:
    """Until when a stream lives that is read or written now."""
    return now + ttl * SECOND + ttl * SECOND // SLACK
