"""Append to a stream and close it: once, in its order, and only who may."""

from __future__ import annotations

from typing import NamedTuple

from perdure.errors import (
    InvalidOption,
    ProducerFenced,
    ProducerGap,
    StoreBusy,
    StreamClosed,
    StreamConflict,
    StreamFull,
)
from perdure.model.stream import Producer, StreamRow
from perdure.store.operation import Operation
from perdure.stream.content import Parts, base_type, size_of
from perdure.stream.offset import Offset
from perdure.stream.streams import Known, Streams

TRIES = 5
MAX_COUNT = 2**53 - 1


class Append(NamedTuple):
    """
    An append, a closure, or both at once.

    Attributes:
        parts: What to append, see `Content.parts`; None only closes.
        media_type: What the writer takes the stream for; not checked when left out, or when it is only closed.
        writer_seq: Must be greater than any before it, byte by byte.
        producer: Makes it idempotent, see `Producer`.
        closes: Whether the stream is closed by it.
    """

    parts: Parts | None
    media_type: str | None = None
    writer_seq: str | None = None
    producer: Producer | None = None
    closes: bool = False


class Appended(NamedTuple):
    """
    What became of it.

    Attributes:
        offset: The end of the stream behind it.
        duplicate: Whether it had been stored before, by this producer.
        closed: Whether the stream is closed now.
        seq: The producer's highest number that is stored.
    """

    offset: Offset
    duplicate: bool = False
    closed: bool = False
    seq: int | None = None


async def append(streams: Streams, name: str, wanted: Append) -> Appended:
    """
    Append to a stream, or close it. It is durable when this returns.

    Raises:
        StreamNotFound, StreamGone: As for `Streams.find`.
        StreamClosed: It was closed before.
        StreamConflict: Another type, or a `writer_seq` that is not greater.
        StreamFull, PayloadTooLarge: A limit.
        ProducerFenced, ProducerGap: A newer epoch has begun, or a number was left out.
        InvalidOption: A new epoch that does not begin with 0.
    """
    if wanted.parts is None:
        wanted = wanted._replace(media_type=None, writer_seq=None)
    for _ in range(TRIES):
        known = await streams.remember(name)
        if wanted.media_type is None or base_type(wanted.media_type) == known.content.base:
            done = await _try(streams, name, known, wanted)
            if done is not None:
                return done
        # Whatever was in the way, what is stored says it.
        row = await streams.find(name)
        streams.note(row)
        answer = await _explain(streams, row, wanted)
        if answer is not None:
            return answer
    problem = f"Others appended to stream {name!r} first each time; try again."
    raise StoreBusy(problem)


async def _try(streams: Streams, name: str, known: Known, wanted: Append) -> Appended | None:
    """Without a look before; None when nothing was stored."""
    operation, now = Operation(changed=[-known.number]), streams.clock.now()
    who = wanted.producer or (None, None, None)
    closes = wanted.closes or wanted.parts is None
    if wanted.parts is None:
        operation.add("close_stream", known.number, now, *who)
    else:
        stored, size = streams.stored(name, known.content, wanted.parts)
        most = streams.limits.stream_bytes
        operation.add("append_chunk", known.number, now, stored, size, most, wanted.writer_seq, *who, int(closes))
    streams.lengthen(operation, known.number, known.ttl)
    rows = await streams.store.apply(operation)
    return Appended(Offset(rows[0][1]), closed=closes, seq=who[2]) if rows else None


async def _explain(streams: Streams, row: StreamRow, wanted: Append) -> Appended | None:
    """What an append is answered that was not stored; None when nothing is in its way any more."""
    state = (-1, -1) if wanted.producer is None else await _state(streams, row, wanted.producer.id)
    if wanted.producer is not None:
        if wanted.producer.epoch < state[0]:
            raise ProducerFenced(row.name, wanted.producer.id, state[0])
        if wanted.producer.epoch == state[0] and wanted.producer.seq <= state[1]:
            return Appended(Offset(row.head), duplicate=True, closed=row.closed, seq=state[1])
    elif wanted.parts is None and row.closed:
        return Appended(Offset(row.head), closed=True)
    # In the order that the protocol prescribes: closed, type, sequence.
    if row.closed:
        raise StreamClosed(row.name, str(Offset(row.head)))
    _check(row, wanted)
    if wanted.producer is not None:
        _check_producer(row, wanted.producer, *state)
    if wanted.parts is not None and row.total + size_of(wanted.parts) > streams.limits.stream_bytes:
        raise StreamFull(row.name, streams.limits.stream_bytes)
    return None


async def _state(streams: Streams, row: StreamRow, producer: str) -> tuple[int, int]:
    """A producer's newest epoch, and its last number in it; -1 for none."""
    rows = await streams.store.rows("producer_state", row.number, producer)
    found = [(int(epoch), int(seq)) for epoch, seq in rows]
    if row.closer == producer and row.closer_epoch is not None and row.closer_seq is not None:
        found.append((row.closer_epoch, row.closer_seq))
    return max(found, default=(-1, -1))


def _check(row: StreamRow, wanted: Append) -> None:
    if wanted.media_type is not None and base_type(wanted.media_type) != base_type(row.type):
        problem = f"it is {row.type}, not {wanted.media_type}"
        raise StreamConflict(row.name, problem)
    if wanted.writer_seq is not None and row.writer_seq is not None and wanted.writer_seq <= row.writer_seq:
        problem = f"Stream-Seq {wanted.writer_seq!r} is not greater than {row.writer_seq!r}, which came before"
        raise StreamConflict(row.name, problem)


def _check_producer(row: StreamRow, producer: Producer, epoch: int, seq: int) -> None:
    if producer.epoch > epoch >= 0 and producer.seq:
        option = "producer seq"
        raise InvalidOption(option, f"{producer.seq} cannot begin epoch {producer.epoch}; begin with 0")
    expected = seq + 1 if producer.epoch == epoch else 0
    if producer.seq != expected:
        raise ProducerGap(row.name, producer.id, expected, producer.seq)
