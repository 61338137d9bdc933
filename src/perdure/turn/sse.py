"""Server-sent events, read as they come."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

_END = re.compile(rb"\r\n|\r|\n")
_MOST_DIGITS = 9


class ServerSentEvent(NamedTuple):
    """
    An event of a `text/event-stream`.

    Attributes:
        type: Its ``event:``, "message" without one.
        data: Its ``data:``, whose lines are joined.
        id: Its own ``id:``; None without one, though the standard has the last id go on.
    """

    type: str
    data: str
    id: str | None = None

    def json(self) -> Any:
        """The data, decoded."""
        return json.loads(self.data)


class TooLong(ValueError):
    """An event takes more bytes than is allowed."""


class EventReader:
    """
    Reads the bytes of one answer.

    Attributes:
        retry: How many seconds to wait before the connection is made again, as the stream has said last.
    """

    def __init__(self, most: int) -> None:
        self.retry: float | None = None
        self._most = most
        self._size = 0
        self._line = bytearray()
        self._begun = self._returned = False
        self._clear()

    def read(self, chunk: bytes) -> list[ServerSentEvent]:
        """
        Return the events that end in it. A block without data or a type, such as a comment, is none.

        Raises:
            TooLong: One takes more than `most` bytes.
        """
        if not chunk:
            return []
        if self._returned:  # the last chunk has ended with a line's end, of which this may be the second half
            chunk = chunk.removeprefix(b"\n")
        self._returned = chunk.endswith(b"\r")
        *ends, rest = _END.split(chunk)
        found = []
        for end in ends:
            self._line += end
            if (event := self._taken()) is not None:
                found.append(event)
        self._line += rest
        self._check(len(self._line))
        return found

    def _check(self, more: int) -> None:
        if self._size + more > self._most:
            problem = f"an event of it takes more than {self._most:,} bytes"
            raise TooLong(problem)

    def _clear(self) -> None:
        self._type = ""
        self._data: list[str] = []
        self._id: str | None = None

    def _taken(self) -> ServerSentEvent | None:
        """Take the line that has ended."""
        length = len(self._line)
        self._check(length)
        line = self._line.decode("utf-8", "replace")
        self._line.clear()
        if not self._begun:
            self._begun, line = True, line.removeprefix("\ufeff")
        if not line:
            return self._event()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
            self._size += length
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._id = value or None
        elif name == "retry" and value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS:
            self.retry = int(value) / 1000
        return None

    def _event(self) -> ServerSentEvent | None:
        event = ServerSentEvent(self._type or "message", "\n".join(self._data), self._id)
        counts = bool(self._type or self._data)
        self._size = 0
        self._clear()
        return event if counts else None
