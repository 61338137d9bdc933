"""Which queues a worker asks about when it claims."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.clock import SECOND

LINGER = 60 * SECOND
"""How long a queue is still asked about after something was there: so the next run is found by the first claim."""
MOST_LINGERING = 20
"""Asking costs time, so of the queues where nothing is now only so many are asked about."""


class Lanes:
    """
    The queues where something can be due, or was lately.

    Attributes:
        asked: Those that the last claim asked about.
    """

    def __init__(self) -> None:
        self.asked: tuple[str, ...] = ()
        self._ready: frozenset[str] = frozenset()
        self._seen: dict[str, int] = {}

    def ask(self, now: int) -> tuple[str, ...]:
        """The queues to ask about in a claim; always in one order, so that workers do not lock them crosswise."""
        if self._seen:
            for name in [name for name, at in self._seen.items() if at < now - LINGER]:
                del self._seen[name]
        self.asked = tuple(sorted({*self._ready, *self._seen}))
        return self.asked

    def found(self, ready: Iterable[str], now: int, asked: Iterable[str]) -> bool:
        """Something can be due in these queues; returns whether one of them is not among those `asked` about now."""
        self._ready = frozenset(ready)
        for name in self._ready:
            self._seen.pop(name, None)
            self._seen[name] = now
        while len(self._seen) > MOST_LINGERING:
            del self._seen[next(iter(self._seen))]
        return not self._ready <= set(asked)
