"""Places in a stream, and the cursor that keeps shared caches from looping."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

from perdure import ids
from perdure.clock import SECOND, from_datetime
from perdure.errors import InvalidOption

BEGINNING = "-1"
NOW = "now"
_FORM = re.compile(r"(\d{16})(?:_(\d{16}))?", re.ASCII)
_BEGAN = from_datetime(datetime(2024, 10, 9, tzinfo=UTC))
_INTERVAL = 20 * SECOND
_FARTHEST = 180
"""Intervals that a cursor is moved ahead at most: an hour."""


class Offset(NamedTuple):
    """
    Where a reader has come to.

    Its text sorts as the places do, and is valid for as long as the stream is there. A run's is the seq of an entry.

    Attributes:
        chunk: The number of the last chunk that it has read whole; 0 before the first.
        within: How many messages (of JSON) or bytes of the next chunk it has read as well.
    """

    chunk: int
    within: int = 0

    def __str__(self) -> str:
        return f"{self.chunk:016d}_{self.within:016d}" if self.within else f"{self.chunk:016d}"


START = Offset(0)


def offset_of(text: object) -> Offset:
    """
    Read an offset, or "-1" for the beginning; "now" means nothing without a stream.

    Raises:
        InvalidOption: It is none.
    """
    if text == BEGINNING:
        return START
    found = _FORM.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        option = "offset"
        raise InvalidOption(option, f"{text!r} is none; pass one that a stream has told, -1 for its beginning, or now")
    return Offset(int(found[1]), int(found[2] or 0))


def cursor_after(now: int, given: str | None) -> str:
    """
    The cursor to answer with: the current interval of 20 seconds, or one later than what the client has.

    Args:
        now: Microseconds since 1970.
        given: The client's cursor.
    """
    current = (now - _BEGAN) // _INTERVAL
    if given is not None and given.isascii() and given.isdigit() and len(given) < 16:  # noqa: PLR2004 - no cursor
        theirs = int(given)
        if theirs >= current:
            return str(theirs + 1 + int(ids.jitter() * _FARTHEST))
    return str(current)
