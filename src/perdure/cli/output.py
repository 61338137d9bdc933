"""What the commands print: results on standard output, remarks on standard error, JSON or for people."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields as fields_of
from dataclasses import is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.table import Column, Table
from rich.text import Text

from perdure.model.wire import wire_json

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_UNLIMITED = 1_000_000
BRIEF = 120
"""Most characters of a shortened value where no terminal limits the width."""
STATUS_STYLES = {
    "queued": "blue", "running": "cyan", "waiting": "blue", "paused": "yellow", "compensating": "yellow",
    "cancelling": "yellow", "completed": "green", "failed": "red", "cancelled": "magenta",
}  # fmt: skip


class Output:
    """
    Where one command prints.

    Args:
        as_json: Results are JSON documents, and nothing else is printed.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = _console(stderr=False)
        self.remarks = _console(stderr=True)

    def document(self, data: Any) -> None:
        """Print the one JSON document of a command."""
        self._write(wire_json(plain(data), indent=2))

    def result(self, data: Any, text: str) -> None:
        """Print the one result of a command: this document as JSON, or this text for people."""
        if self.as_json:
            self.document(data)
        else:
            self.text(text)

    def line(self, data: Any) -> None:
        """Print one of several JSON documents, on a line of its own, at once."""
        self._write(wire_json(plain(data)))
        sys.stdout.flush()

    def text(self, text: str | Text, style: str = "") -> None:
        """Print a text for people; the terminal wraps it."""
        shown = visible(text) if isinstance(text, str) else text
        self.console.print(shown, style=style or None, soft_wrap=True)

    def note(self, text: str) -> None:
        """Remark something that is not the result."""
        if not self.as_json:
            self.remarks.print(visible(text), soft_wrap=True)

    def raw(self, text: str) -> None:
        """As it is, for a program or a file."""
        sys.stdout.write(text)

    def table(self, columns: Sequence[str | Column], rows: Iterable[Sequence[str | Text]]) -> None:
        """Print a table. Where no terminal limits the width, each row is one line and nothing is cut."""
        table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for row in rows:
            table.add_row(*(visible(cell) if isinstance(cell, str) else cell for cell in row))
        if self.console.is_terminal:
            self.console.print(table)
            return
        with self.console.capture() as captured:
            self.console.print(table)
        self._write("\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n")))

    def listing(
        self, data: Any, columns: Sequence[str | Column], rows: Iterable[Sequence[str | Text]], *, none: str = "",
        more: str = "",
    ) -> None:  # fmt: skip
        """
        Print the one list of a command: this document as JSON, or a table for people.

        Args:
            none: What is remarked when it is empty.
            more: What is remarked when it goes on.
        """
        if self.as_json:
            self.document(data)
            return
        found = list(rows)
        self.table(columns, found)
        remark = more if found else none
        if remark:
            self.note(remark)

    def working(self, text: str) -> AbstractContextManager[Status | None]:
        """Show that something goes on, while it does; only to people at a terminal."""
        return _Working(self.remarks, text, shown=self.remarks.is_terminal and not self.as_json)

    @property
    def room(self) -> int:
        """Characters that a shortened value may take on a line of its own."""
        return max(20, self.console.width - 4) if self.console.is_terminal else BRIEF

    def _write(self, text: str) -> None:
        sys.stdout.write(text + "\n")


class _Working(AbstractContextManager[Status | None]):
    """A spinner, or nothing."""

    def __init__(self, console: Console, text: str, *, shown: bool) -> None:
        self._status = Status(visible(text), console=console) if shown else None

    def __enter__(self) -> Status | None:
        if self._status:
            self._status.start()
        return self._status

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = _UNLIMITED
    return console


_FORMS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (Enum, lambda value: value.value),
    (datetime, datetime.isoformat),
    (timedelta, timedelta.total_seconds),
)


def plain(value: Any) -> Any:
    """A value as JSON takes it: times in ISO 8601, spans in seconds, dataclasses as objects."""
    for kind, form in _FORMS:
        if isinstance(value, kind):
            return form(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields_of(value)}
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def visible(text: str) -> str:
    """The text with its control characters spelt out, so that stored data cannot steer a terminal."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def compact(value: Any) -> str:
    """A value as JSON on one line, for people."""
    return visible(json.dumps(plain(value), ensure_ascii=False))


def brief(value: Any, room: int = BRIEF) -> str:
    """A value as JSON on one line, cut at `room` characters, with a mark where it was cut."""
    text = compact(value)
    return text if len(text) <= room else text[: room - 1] + "…"


def status_text(status: str) -> Text:
    """A run's status in its colour."""
    return Text(status, STATUS_STYLES.get(status, ""))


def when(at: datetime | None) -> str:
    """A time on the clock of this place, to the second."""
    return "" if at is None else f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def onward(after: int | None) -> str:
    """How to see the next page; empty when there is none."""
    return "" if after is None else f"There are more: --after {after}"


def took(begun: datetime | None, ended: datetime | None) -> str:
    """The time between two times, with as much precision as a reader wants; empty when one is missing."""
    if begun is None or ended is None:
        return ""
    seconds = max(0.0, (ended - begun).total_seconds())
    if seconds < 0.9995:  # noqa: PLR2004 - what would be rounded up to 1e+03 ms
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.3g} s"
    return in_words(seconds)


def in_words(seconds: float) -> str:
    """A whole number of seconds in its two largest units: 3m 12s, 2d 4h."""
    left, parts = round(seconds), []
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"
