"""Make a stream: an empty one, one with its first content, or a fork of another."""

from __future__ import annotations

from typing import NamedTuple

from perdure import ids
from perdure.errors import InvalidOption, StoreBusy, StreamConflict, StreamGone
from perdure.model.stream import StreamRow
from perdure.store.operation import Operation
from perdure.stream.content import BYTES, Content, Parts, base_type
from perdure.stream.offset import Offset
from perdure.stream.streams import Streams, end_of_life

TRIES = 5


class Making(NamedTuple):
    """
    What a stream is to be.

    Attributes:
        type: Its media type; None for what it is forked from, or bytes.
        ttl: Seconds it lives after the last reading or writing.
        expires_at: When it ends; microseconds since 1970.
        closed: From the beginning; None for open, or as it is when it is there.
        source: The name of the stream to fork; None for none.
        at: Where to fork it; None for its end.
    """

    type: str | None = None
    ttl: int | None = None
    expires_at: int | None = None
    closed: bool | None = False
    source: str | None = None
    at: Offset | None = None


async def create(streams: Streams, name: str, wanted: Making, body: bytes = b"") -> tuple[StreamRow, bool]:
    """
    Make a stream, or find it as it is wanted. It is durable when this returns.

    Args:
        body: Its first content, perhaps none. Not looked at when the stream is there.

    Returns:
        The stream, and whether it was made.

    Raises:
        StreamConflict: It is there and another one, or its name still belongs to one with forks; or what it is to
            be forked from is gone, or of another type.
        StreamNotFound: There is nothing of this name to fork.
        InvalidInput, InvalidOption, PayloadTooLarge: The body, the time of its end or the offset of the fork is wrong.
    """
    ids.check_id("stream name", name)
    for _ in range(TRIES):
        row, now = await streams.row(name), streams.clock.now()
        if row is not None and not row.gone(now):
            source = await streams.row(wanted.source) if wanted.source is not None else None
            _check_same(row, wanted, source)
            return row, False
        if row is not None and row.forked:
            problem = "it is gone, but forks of it are there; its name is free when the last one is deleted"
            raise StreamConflict(name, problem)
        operation = Operation([] if row is None else [("free_stream", (row.number, now))])
        await _make(streams, operation, name, wanted, body)
        if await streams.store.apply(operation):
            made = await streams.find(name)
            streams.note(made)
            if wanted.ttl is not None or wanted.expires_at is not None:
                await streams.tidy()
            return made, True
    problem = f"Stream {name!r} was made and removed by others again and again; try again."
    raise StoreBusy(problem)


async def _make(streams: Streams, operation: Operation, name: str, wanted: Making, body: bytes) -> None:
    source = None if wanted.source is None else await _source(streams, wanted.source, wanted.type)
    content = Content(wanted.type or (source.type if source else BYTES))
    base, within, parts = 0, 0, []
    ttl, expires_at = wanted.ttl, wanted.expires_at
    if source is not None:
        at, part = await _fork_at(streams, source, wanted.at, content)
        base, within = at
        parts += [part] if part else []
        if ttl is None and expires_at is None:
            ttl, expires_at = source.ttl, None if source.ttl is not None else source.expires_at
    parts += [first] if body and (first := content.parts(body, empty=True)) else []
    now, made, total = streams.clock.now(), ids.run_id(streams.clock.now()), 0
    ends = expires_at if ttl is None else end_of_life(now, ttl)
    if ends is not None and ends <= now:
        option = "ttl, expires_at"
        raise InvalidOption(option, "the stream would be gone as soon as it is made; name a later time")
    closed_at = now if wanted.closed and not parts else None
    operation.add(
        "create_stream", name, made, content.type, now, ttl, ends, closed_at, None if source is None else source.number,
        base, within,
    )  # fmt: skip
    for nth, part in enumerate(parts, 1):
        stored, size = streams.stored(name, content, part)
        total += size
        closes = int(bool(wanted.closed) and nth == len(parts))
        operation.add("first_chunk", name, made, nth, now, stored, size, total, closes)


async def _source(streams: Streams, name: str, media_type: str | None) -> StreamRow:
    try:
        source = await streams.find(name)
    except StreamGone as error:
        raise StreamConflict(name, error.problem) from error
    if media_type is not None and base_type(media_type) != base_type(source.type):
        problem = f"it is {source.type}; a fork of it cannot be {media_type}"
        raise StreamConflict(name, problem)
    return source


async def _fork_at(
    streams: Streams, source: StreamRow, at: Offset | None, content: Content
) -> tuple[Offset, Parts | None]:
    """Where to fork, and what of the chunk behind it belongs to the fork."""
    if at is None:
        return Offset(source.head), None
    option = "fork offset"
    if at.chunk > source.head or (at.chunk == source.head and at.within):
        raise InvalidOption(option, f"{at} is behind the end of {source.name!r}, {Offset(source.head)}")
    if not at.within:
        return at, None
    ((_, stored),) = await streams.read(source.number, at.chunk, at.chunk + 1, 1)
    whole = content.read(stored) if not content.json else content.parts(f"[{stored}]".encode())
    if at.within > len(whole):
        raise InvalidOption(option, f"{at} is behind the end of that chunk, which has {len(whole)} parts")
    return at, whole[: at.within]


def _check_same(row: StreamRow, wanted: Making, source: StreamRow | None) -> None:
    """
    The same stream wanted once more is the same stream.

    Raises:
        StreamConflict: It is another one.
    """
    differs = []
    if wanted.type is not None and base_type(wanted.type) != base_type(row.type):
        differs.append(f"its type is {row.type}")
    if wanted.source is None and wanted.type is None and base_type(row.type) != BYTES:
        differs.append(f"its type is {row.type}")
    if wanted.closed is not None and wanted.closed != row.closed:
        differs.append("it is closed" if row.closed else "it is open")
    if wanted.source is None or wanted.ttl is not None or wanted.expires_at is not None:
        ends = row.expires_at if row.ttl is None else None
        if (wanted.ttl, wanted.expires_at) != (row.ttl, ends):
            differs.append("its TTL or expiry is another")
    if wanted.source is not None and (source is None or row.source != source.number):
        differs.append("it was not forked from there")
    if wanted.at is not None and wanted.at != (row.base, row.within):
        differs.append("it was forked elsewhere")
    if differs:
        raise StreamConflict(row.name, "; ".join(differs))
