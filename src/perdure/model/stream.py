"""A stream as it is stored."""

from __future__ import annotations

from typing import NamedTuple


class StreamRow(NamedTuple):
    """
    A row of perdure_streams, with what its last chunk says.

    Attributes:
        ttl: Seconds that it lives after the last reading or writing.
        expires_at: Past this time it is gone; None for never.
        source: The number of the stream that it was forked from.
        base, within: As far as the source's content is this one's as well: so many chunks, and of the next one a part.
        closed_at: When it was closed without a last chunk, by the producer's append `closer` if it named one.
        head: The number of its last chunk.
        closes: 1 when that chunk was the stream's last.
        writer_seq: The highest Stream-Seq so far.
        total: Bytes of its own chunks.
        producer, epoch, seq: Of the last chunk.
        forked: 1 when there are forks of it.
    """

    number: int
    name: str
    type: str
    ttl: int | None
    expires_at: int | None
    source: int | None
    base: int
    within: int
    closed_at: int | None
    closer: str | None
    closer_epoch: int | None
    closer_seq: int | None
    head: int
    closes: int
    writer_seq: str | None
    total: int
    producer: str | None
    epoch: int | None
    seq: int | None
    forked: int

    @property
    def closed(self) -> bool:
        """Whether nothing can be appended any more."""
        return bool(self.closed_at is not None or self.closes)

    def gone(self, now: int) -> bool:
        """Whether it has been deleted or has expired."""
        return self.expires_at is not None and self.expires_at <= now


class Producer(NamedTuple):
    """
    Who appends, so that an append that is sent again is not made twice, and one that was superseded is refused.

    Attributes:
        id: The same for whoever takes over.
        epoch: Grows with each who takes over; the older ones are refused from then on.
        seq: The append's number in this epoch: 0, 1, 2, …
    """

    id: str
    epoch: int
    seq: int
