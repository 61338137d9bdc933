"""What a turn's producer has said, as the journal has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from perdure.engine.current import Emission

EVENT, VOID, HANDLE = "event", "void", "handle"
"""Topics of what a turn's step emits: an event, that what came before is void, where the work goes on."""
TURN = "turn"
"""The key of a turn's step."""

Accumulate = Callable[[Any, str], str | None]
"""Gets an event's value and the text so far; returns the text with it, or None when it adds nothing."""


class Event(NamedTuple):
    """
    An event with an id of its own; what a producer yields otherwise is an event without one.

    Attributes:
        value: Any value that can be stored as JSON.
        id: Unique in the turn. A second event with the id is the first one again, and dropped.
    """

    value: Any
    id: str | None = None


def said(event: Any, text: str) -> str | None:
    """
    How a turn's text grows, unless it says otherwise.

    A string is appended. Of {"type": …, "data": …} these types are known: "message.part.updated" appends "delta", or
    without one has the text of its "part" of type "text" in place of all before; "result" has "finalText" so.
    """
    if isinstance(event, str):
        return text + event
    if not isinstance(event, dict) or not isinstance(event.get("data"), dict):
        return None
    data: dict[str, Any] = event["data"]
    if event.get("type") == "message.part.updated":
        delta, part = data.get("delta"), data.get("part")
        if isinstance(delta, str) and delta:
            return text + delta
        if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
            return str(part["text"])
    elif event.get("type") == "result" and isinstance(data.get("finalText"), str):
        return str(data["finalText"])
    return None


class Log:
    """
    The events that count, folded: those that were said since the last time that the turn started over.

    Attributes:
        events: How many.
        first: The place of the first one in the journal; None for none.
        last_id: Of the last one that has an id.
        text: What they add up to.
        handle: Where the work goes on, as its source has told.
    """

    def __init__(self, accumulate: Accumulate) -> None:
        self._accumulate = accumulate
        self._ids: set[str] = set()
        self.clear()

    def clear(self) -> None:
        """What there is, is void."""
        self.events = 0
        self.first: int | None = None
        self.last_id: str | None = None
        self.text = ""
        self.handle: Any = None
        self._ids.clear()

    def read(self, emissions: list[Emission]) -> None:
        """Take what is in the journal."""
        for emission in emissions:
            if emission.topic == VOID:
                self.clear()
            elif emission.topic == HANDLE:
                self.handle = emission.value
            elif emission.topic == EVENT:
                self.add(Event(emission.value["event"], emission.value.get("id")))
                self.first = self.first or emission.seq

    def knows(self, id: str) -> bool:
        """Whether an event with this id is there."""
        return id in self._ids

    def add(self, event: Event) -> None:
        """One more."""
        self.events += 1
        self.text = self._grown(event.value)
        if event.id is not None:
            self.last_id = event.id
            self._ids.add(event.id)

    def _grown(self, value: Any) -> str:
        text = self._accumulate(value, self.text)
        return self.text if text is None else text
