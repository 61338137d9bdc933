"""How far a run of a declared workflow has come, and the frame of its diagram."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

from perdure.model.entry import MARKS, Kind


class Event(Protocol):
    """A journal entry, such as `RunHandle.events` gives."""

    @property
    def seq(self) -> int:
        """Its position."""

    @property
    def kind(self) -> str:
        """What it records."""

    @property
    def key(self) -> str:
        """Which operation it belongs to."""

    @property
    def data(self) -> Any:
        """Its payload as plain data."""


class Standing(NamedTuple):
    """
    How far a run has come with one node or part of a node.

    Attributes:
        status: "pending", "running", "waiting", "retrying", "completed", "failed", "cancelled", "skipped",
            "compensating" or "compensated".
        detail: The branch that was chosen, how many iterations were done, or how far a stage says that it is.
    """

    status: str
    detail: str = ""

    @property
    def document(self) -> dict[str, str]:
        """As a part of plain data."""
        return {"status": self.status} | ({"detail": self.detail} if self.detail else {})


PENDING = Standing("pending")
MEANING = {
    Kind.STEP_COMPLETED: "completed",
    Kind.STEP_FAILED: "failed",
    Kind.ATTEMPT_STARTED: "running",
    Kind.ATTEMPT_FAILED: "retrying",
    Kind.STEP_CANCELLED: "cancelled",
    Kind.TIMER_SET: "waiting",
    Kind.RECEIVE_STARTED: "waiting",
    Kind.TIMER_FIRED: "completed",
    Kind.SIGNAL_RECEIVED: "completed",
    Kind.CHILD_STARTED: "running",
    Kind.CHILD_COMPLETED: "completed",
    Kind.CHILD_FAILED: "failed",
}
UNDOING = {Kind.STEP_COMPLETED: "compensated", Kind.STEP_RESOLVED: "compensated", Kind.ATTEMPT_FAILED: "compensating"}
_WORST = ("failed", "compensating", "retrying", "waiting", "running", "cancelled", "compensated", "completed")
COLOURS = {
    "running": "#cfe3ff", "waiting": "#fff1c2", "retrying": "#ffdcb3", "completed": "#cdeccd", "failed": "#ffc9c9",
    "cancelled": "#dddddd", "skipped": "#f4f4f4", "compensating": "#e7d3ff", "compensated": "#d9d2e9",
}  # fmt: skip


def standing_events(events: Iterable[Event]) -> list[Event]:
    """The entries that still count: without what reruns have dropped, and without marks."""
    kept: list[Event] = []
    for event in events:
        if event.kind == Kind.RERUN:
            keep = (event.data or {}).get("keep", 0)
            kept = [earlier for earlier in kept if earlier.seq <= keep]
        elif event.kind not in MARKS:
            kept.append(event)
    return kept


def worst(parts: Mapping[str, Standing]) -> str:
    """The status of what has these parts."""
    statuses = {standing.status for standing in parts.values()}
    return next(status for status in _WORST if status in statuses)


def name_of(fn: Any) -> str:
    """How a diagram names a function."""
    return str(getattr(fn, "__name__", fn))


def span_text(value: Any) -> str:
    """How a diagram writes a span, a moment or the function that says it."""
    if isinstance(value, timedelta | datetime):
        return str(value)
    return name_of(value) if callable(value) else f"{value:g} s"


def chart(lines: Iterable[str], last: Iterable[str], classes: Mapping[str, str]) -> str:
    """
    A Mermaid flowchart.

    Args:
        lines: Its boxes and arrows; the box "start" is there already.
        last: The boxes that lead to the end.
        classes: The statuses of the boxes that have one.
    """
    whole = ["flowchart TD", '    start(["start"])', *lines, '    done(["end"])']
    whole += [f"    {one} --> done" for one in last]
    whole += [f"    classDef {status} fill:{COLOURS[status]}" for status in COLOURS if status in classes.values()]
    whole += [f"    class {one} {status}" for one, status in classes.items()]
    return "\n".join(whole) + "\n"


def text_in(label: str) -> str:
    """A label between quotes."""
    return label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
