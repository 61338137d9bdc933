"""`text/event-stream`: how one event of a stream is written, as the HTML standard's server-sent events have it."""

from __future__ import annotations

import re

from perdure.errors import InvalidName

MEDIA_TYPE = "text/event-stream"
"""Its content type; the encoding is always UTF-8."""
_LINES = re.compile(r"\r\n|\r|\n")
_IN_FIELD = re.compile(r"[\r\n]")
_IN_ID = re.compile(r"[\r\n\0]")


def sse_event(
    data: str | None, *, event: str = "", id: str | None = None, retry: float | None = None, tight: bool = False
) -> bytes:
    """
    Write one event.

    Args:
        data: Its text, of any number of lines, however they end. With None the readers take note of `id` and `retry`
            only, and are told of no event.
        event: Its type; "message" for readers when empty. Ends of lines in it become spaces.
        id: Where a reader that comes back says that it was; "" makes it forget.
        retry: After how many milliseconds it comes back.
        tight: Leave out the space behind "data:", which readers do not see; some protocols are tested without it.

    Raises:
        InvalidName: An id with an end of line or a NUL, which no reader could send back.
    """
    lines = []
    if id is not None:
        if _IN_ID.search(id):
            what = "event id"
            raise InvalidName(what, id, "it must not contain ends of lines or NUL")
        lines.append(f"id: {id}")
    if retry is not None and 0 <= retry < float("inf"):
        lines.append(f"retry: {int(retry)}")
    if event:
        lines.append(f"event: {_IN_FIELD.sub(' ', event)}")
    if data is not None:
        # A line's own first space must not be taken for that one.
        lines += [f"data:{'' if tight and line[:1] != ' ' else ' '}{line}" for line in _LINES.split(data)]
    return _bytes("\n".join([*lines, "", ""]))


def sse_comment(text: str = "") -> bytes:
    """Write what readers ignore; sent now and then, it keeps a silent connection open."""
    return _bytes("".join(f": {line}\n" for line in _LINES.split(text)) + "\n")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # half of a surrogate pair has no UTF-8
