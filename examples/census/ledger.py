"""What the journals of the census say, read by the demo while the worker writes them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from perdure import App, RunEvent, RunFilter


@dataclass
class Outcome:
    """One entry `step_completed` of a step that counted a file."""

    run: str
    at: datetime
    count: dict[str, Any]


@dataclass
class Ledger:
    """
    Follows the journals of a run and its children.

    Attributes:
        outcomes: Every recorded count of a file, in the order of reading.
        entries: The parent's journal.
    """

    app: App
    parent: str
    outcomes: list[Outcome] = field(default_factory=list)
    entries: list[RunEvent] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    _read_to: Counter[str] = field(default_factory=Counter)

    async def read(self) -> None:
        """Read what was added since the last time."""
        self.entries += await self._new(self.parent)
        children, _ = await self.app.client.runs(RunFilter(parent=self.parent, limit=1000, oldest_first=True))
        for child in children:
            if child.id in self.ended:
                continue
            for event in await self._new(child.id):
                if event.kind == "step_completed":
                    self.outcomes.append(Outcome(child.id, event.at, event.data))
            if child.finished:
                self.ended.add(child.id)

    async def _new(self, run: str) -> list[RunEvent]:
        events = [event async for event in self.app.handle(run).events(after=self._read_to[run], follow=False)]
        for event in events:
            if event.seq != self._read_to[run] + 1:
                self.gaps.append(f"{run}: {self._read_to[run]} is followed by {event.seq}")
            self._read_to[run] = event.seq
        return events

    @property
    def expected(self) -> int:
        """How many files the census has found; 0 until it has said so."""
        return next((event.data["data"]["files"] for event in self.entries if event.kind == "emitted"), 0)

    @property
    def packages(self) -> int:
        """How many packages the census has found."""
        return next((event.data["data"]["packages"] for event in self.entries if event.kind == "emitted"), 0)

    def files(self) -> Counter[str]:
        """How many outcomes are recorded for each file."""
        return Counter(outcome.count["file"] for outcome in self.outcomes)


@dataclass
class Moments:
    """When things happened, and what was there at the kill."""

    started: datetime
    killed: datetime
    restarted: datetime
    recorded: set[str]
    first_worker: int

    def recovery(self, ledger: Ledger) -> float:
        """Seconds from the second worker's start, interpreter included, to the first outcome that it recorded."""
        first = min((outcome.at for outcome in ledger.outcomes if outcome.at > self.killed), default=self.restarted)
        return (first - self.restarted).total_seconds()


def bodies(log: Path) -> dict[int, Counter[str]]:
    """How often each process began the body for each file, by the log that the bodies themselves keep."""
    begun: dict[int, Counter[str]] = {}
    for line in log.read_text().splitlines():
        pid, _, file = line.partition(" ")
        begun.setdefault(int(pid), Counter())[file] += 1
    return begun
