"""How workers that share a database keep out of each other's way when there is something to claim."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from perdure import ids
from perdure.clock import SECOND, Clock

MOST_PER_CLAIM = 500
FIRST_SHARE = 8
"""What the first of several workers takes at once; it doubles with each claim that finds as many."""
STAGGER_S = 0.003
"""How far apart workers look when all of them hear of the same commit: about as long as a claim takes."""


class Pace:
    """
    When a worker that hears of another process's commit looks, and how many runs it claims.

    All workers hear of it. If each claimed at once, all but one would wait for the quickest, for nothing. So each draws
    one of as many turns as there are workers, which keeps the rate at which they look the same; most often somebody
    draws the first, which is now.

    Args:
        look: Claims.

    Attributes:
        others: How many other workers are alive.
    """

    def __init__(self, clock: Clock, look: Callable[[], None]) -> None:
        self.others = 0
        self._clock = clock
        self._look = look
        self._share = FIRST_SHARE
        self._timer: asyncio.TimerHandle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._stopped = False

    def most(self, free: int) -> int:
        """How many runs to claim, so that something is left for others: few at first, more while there are more."""
        return min(free, self._share if self.others else MOST_PER_CLAIM)

    def claimed(self, runs: int, most: int) -> None:
        """A claim of at most so many has given this many."""
        self._share = min(self._share * 2, MOST_PER_CLAIM) if runs >= most else FIRST_SHARE

    def heard(self, elsewhere: bool) -> None:  # noqa: FBT001 - a listener's only argument
        """
        Something may be due.

        Args:
            elsewhere: Another process has committed it.
        """
        if not elsewhere or self._clock.virtual:
            self._look()
        elif self._timer is None:
            turn = int(ids.jitter() * (self.others + 1))
            self._timer = asyncio.get_running_loop().call_later(turn * STAGGER_S, self._wake)

    def look_at(self, at: int) -> None:
        """
        Look when it is so late, if not before.

        An earlier time stays: answers overtake each other, and who says a later one may not know yet what made it so.
        """
        loop = asyncio.get_running_loop()
        when = loop.time() + max(0, at - self._clock.now()) / SECOND
        if self._stopped or (self._alarm is not None and self._alarm.when() <= when):
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = loop.call_at(when, self._ring)

    def stop(self) -> None:
        """Look no more."""
        self._stopped = True
        for timer in (self._timer, self._alarm):
            if timer is not None:
                timer.cancel()

    def _ring(self) -> None:
        self._alarm = None
        self._look()

    def _wake(self) -> None:
        self._timer = None
        self._look()
