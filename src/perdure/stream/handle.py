"""A stream in Python: append to it, read it, follow it, without HTTP and with the same guarantees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from typing import Any, Generic, NamedTuple, TypeVar

from perdure import ids
from perdure.clock import SECOND, from_datetime, micros, to_datetime
from perdure.codec.value import TypeCodec, codec_for
from perdure.engine.current import current_step
from perdure.errors import InvalidInput, InvalidOption, StoreClosed
from perdure.model.check import check_number
from perdure.model.stream import Producer
from perdure.stream.append import MAX_COUNT, Append, append
from perdure.stream.content import Content, Parts, base_type, check_type, split_messages
from perdure.stream.make import Making, create
from perdure.stream.offset import Offset, offset_of
from perdure.stream.source import NamedSource, Page
from perdure.stream.streams import Streams
from perdure.stream.tails import Tails

T = TypeVar("T")
PAGE_BYTES = 1024 * 1024
LONGEST_S = 3600.0
ATTEMPTS = 2**20
"""Of one step under one owner of its run, at most, as far as producers' epochs go."""


class StreamItem(NamedTuple, Generic[T]):
    """
    One message; of a stream that is not JSON, what one append brought.

    Attributes:
        offset: Go on behind it with this.
    """

    offset: str
    value: T


class StreamInfo(NamedTuple):
    """
    A stream at one moment.

    Attributes:
        type: Its media type.
        offset: Its end.
        closed: Whether nothing follows.
        ttl: Seconds that it lives after it was read or written last; None for no such limit.
        expires_at: When it ends; None for never.
    """

    name: str
    type: str
    offset: str
    closed: bool
    ttl: int | None
    expires_at: datetime | None


class Stream(Generic[T]):
    """
    A stream, by its name. Handles hold nothing open; make as many as you like.

    Args:
        of: What its messages are.
        media_type: How it is stored and served. JSON keeps the bounds of messages; text/… has strings, all others
            bytes.

    Attributes:
        name: Under which it is served as well.
    """

    def __init__(self, streams: Streams, tails: Tails, name: str, of: Any, media_type: str) -> None:
        self.name = ids.check_id("stream name", name)
        self.type = check_type(media_type)
        self._streams = streams
        self._tails = tails
        self._codec: TypeCodec = codec_for(of)
        self._content = Content(media_type)

    def __repr__(self) -> str:
        return f"<stream {self.name}>"

    # -------------------------------------------------------------------------------------- making
    async def create(
        self, *, ttl: float | timedelta | None = None, expires_at: datetime | None = None,
        forked_from: str | None = None, at: str | None = None,
    ) -> bool:  # fmt: skip
        """
        Make the stream, unless it is there, open or closed. It is durable when this returns.

        Args:
            ttl: It is removed when it was neither read nor written for so long: seconds or a timedelta,
                rounded up to whole seconds.
            expires_at: It is removed at this time.
            forked_from: The name of a stream whose content it begins with; nothing is copied.
            at: Up to this offset of it; all of it when left out.

        Returns:
            Whether it was made.

        Raises:
            StreamConflict: One of this name is there, and another one.
            StreamNotFound: There is nothing to fork.
            InvalidOption: Two options exclude each other, its end is not in the future, or `at` is no offset there.
        """
        if ttl is not None and expires_at is not None:
            option = "ttl"
            raise InvalidOption(option, "it excludes expires_at")
        if at is not None and forked_from is None:
            option = "at"
            raise InvalidOption(option, "it needs forked_from")
        if forked_from is not None:
            ids.check_id("stream name", forked_from)
        seconds = None if ttl is None else -(-micros(ttl, "ttl") // SECOND)
        wanted = Making(
            self.type, seconds, None if expires_at is None else from_datetime(expires_at, "expires_at"), closed=None,
            source=forked_from, at=None if at is None else offset_of(at),
        )  # fmt: skip
        _, made = await create(self._streams, self.name, wanted)
        return made

    async def delete(self) -> None:
        """
        Remove it. Forks of it go on.

        Raises:
            StreamNotFound, StreamGone: It is not there.
        """
        await self._streams.delete(self.name)

    async def info(self) -> StreamInfo:
        """
        How it stands now; this is no reading that lengthens its life.

        Raises:
            StreamNotFound, StreamGone: It is not there.
        """
        row = await self._streams.find(self.name)
        ends = None if row.expires_at is None else to_datetime(row.expires_at)
        return StreamInfo(self.name, row.type, str(Offset(row.head)), row.closed, row.ttl, ends)

    # ----------------------------------------------------------------------------------- appending
    async def append(self, value: T, *, close: bool = False) -> str:
        """
        Append one message. It is durable when this returns, and readers in all processes are told.

        Args:
            close: It is the last one.

        Returns:
            The end of the stream behind it.

        Raises:
            StreamNotFound, StreamGone: It is not there; create it first.
            StreamClosed: It was closed.
            StreamConflict: It is of another media type.
            StreamFull, PayloadTooLarge: A limit.
        """
        return await self.write(self.parts(value), None, closes=close)

    async def close(self) -> None:
        """
        Let nothing follow. To close a closed stream changes nothing.

        Raises:
            StreamNotFound, StreamGone: It is not there.
        """
        await self.write(None, None, closes=True)

    def producer(self, id: str | None = None, epoch: int | None = None) -> StreamProducer[T]:
        """
        Append as somebody who may fail and be replaced.

        Inside a step both arguments follow from the step: another attempt of it, on any worker, takes over.

        Args:
            id: The same for whoever takes over.
            epoch: Greater for whoever takes over; from its first append on, all others of this id are refused.

        Raises:
            NotInWorkflow: An argument is missing, and the caller is not inside a step.
        """
        if id is None or epoch is None:
            step = current_step()
            id = ids.joined_id(f"{step.run_id}/{step.key}") if id is None else id  # noqa: A001 - the argument
            # Attempts count from 1 again when the run has passed to another worker. A rerun takes over, too.
            epoch = step.epoch * ATTEMPTS + min(step.attempt, ATTEMPTS - 1) if epoch is None else epoch
        return StreamProducer(self, id, epoch)

    async def write(self, parts: Parts | None, producer: Producer | None, *, closes: bool) -> str:
        """Append what a message consists of, or only close; see `append`."""
        wanted = Append(parts, self.type, producer=producer, closes=closes)
        done = await append(self._streams, self.name, wanted)
        return str(done.offset)

    def parts(self, value: Any) -> Parts:
        """
        What a message is stored as.

        Raises:
            InvalidInput, NotSerializable: It does not fit the stream.
        """
        what = f"A message of stream {self.name!r}"
        if self._content.json:
            return split_messages(f"[{self._codec.encode(value, what)}]".encode())
        given: object = value.encode() if self._content.text and isinstance(value, str) else value
        if not isinstance(given, bytes | bytearray) or not given:
            wanted = "a str" if self._content.text else "bytes"
            raise InvalidInput(what, f"{value!r:.100} is not {wanted}, or is empty")
        return bytes(given)

    # ------------------------------------------------------------------------------------- reading
    async def read(self, after: str = "-1") -> list[StreamItem[T]]:
        """
        What is behind an offset; at most about a megabyte of it, so go on behind the last one until nothing comes.

        Args:
            after: An offset that this stream told; "-1" is its beginning.

        Raises:
            StreamNotFound, StreamGone: It is not there.
            InvalidOption: That is no offset of it.
            InvalidInput: A message is not what the handle was said to have.
        """
        source, place = await self._source(), offset_of(after)
        return self._items(await source.page(place, PAGE_BYTES), place)

    async def tail(self, after: str = "-1") -> AsyncGenerator[StreamItem[T], None]:
        """
        What is behind an offset, and whatever comes, until the stream is closed.

        Args:
            after: An offset that this stream told; "-1" is its beginning.

        Raises:
            StreamNotFound, StreamGone: It is not there, or not any more.
            StoreClosed: The app was closed meanwhile.
            InvalidOption, InvalidInput: As for `read`.
        """
        source, place = await self._source(), offset_of(after)
        tail = self._tails.enter(source.watched)
        try:
            page = await source.page(place, PAGE_BYTES)
            while True:
                for item in self._items(page, place):
                    yield item
                place = page.next
                if page.closed:
                    return
                if page.at_end and not await tail.wait(LONGEST_S) and self._tails.stopped:
                    problem = "The app was closed while this stream was followed; go on behind the last offset."
                    raise StoreClosed(problem)
                page = await self._tails.page(source, place, PAGE_BYTES)
        finally:
            tail.leave()

    async def _source(self) -> NamedSource:
        row = await self._streams.find(self.name)
        if base_type(row.type) != self._content.base:
            what, problem = f"Stream {self.name!r}", f"it is {row.type}, not {self.type}"
            raise InvalidInput(what, problem)
        await self._streams.touch(row)
        return NamedSource(self._streams, row)

    def _items(self, page: Page, after: Offset) -> list[StreamItem[T]]:
        found: list[StreamItem[T]] = []
        what = f"A message of stream {self.name!r}"
        for chunk in page.chunks:
            if isinstance(chunk.parts, bytes):
                value: Any = chunk.parts.decode("utf-8", "replace") if self._content.text else chunk.parts
                found.append(StreamItem(str(Offset(chunk.nth)), value))
                continue
            texts = split_messages(f"[{','.join(chunk.parts)}]".encode())
            before = after.within if chunk.nth == after.chunk + 1 else 0
            for place, text in enumerate(texts, 1):
                behind = Offset(chunk.nth) if place == len(texts) else Offset(chunk.nth - 1, before + place)
                found.append(StreamItem(str(behind), self._codec.decode(text, what)))
        return found


class StreamProducer(Generic[T]):
    """
    One who appends under a number each, so that nothing is stored twice, however often it is sent.

    It appends one after the other. An append that failed (the database was away) is sent again under its number by
    the next call with the same value.

    Args:
        id, epoch: See `Stream.producer`.

    Attributes:
        seq: The number of the next append.
    """

    def __init__(self, stream: Stream[T], id: str, epoch: int) -> None:
        ids.check_id("producer id", id)
        check_number("epoch", epoch, 0, MAX_COUNT)
        self.stream = stream
        self.id = id
        self.epoch = epoch
        self.seq = 0
        self._turn = asyncio.Lock()

    async def append(self, value: T, *, close: bool = False) -> str:
        """
        Append one message; see `Stream.append`.

        Raises:
            ProducerFenced: Somebody has taken over with a newer epoch; stop.
        """
        return await self._produce(self.stream.parts(value), closes=close)

    async def close(self) -> None:
        """
        Let nothing follow; see `Stream.close`.

        Raises:
            ProducerFenced: As for `append`.
        """
        await self._produce(None, closes=True)

    async def _produce(self, parts: Parts | None, *, closes: bool) -> str:
        async with self._turn:
            offset = await self.stream.write(parts, Producer(self.id, self.epoch, self.seq), closes=closes)
            self.seq += 1
            return offset
