"""Python's cyclic garbage collector, which looks less often while a worker serves a crowd."""

from __future__ import annotations

import asyncio
import gc

from perdure.clock import Clock

YOUNG = 50_000
"""Containers that may come into being before the collector looks through them; Python's 700 are one or two runs'."""
LASTING_S = 1.0


class Collector:
    """
    Lets the collector look less often while crowds are served, and as before when none has come for a second or two.

    What is made for a crowd is alive until all of it has been served, and then freed without the collector: one
    that looks through it again and again meanwhile finds nothing, and took a quarter of the time
    (docs/adr/0019-no-circles.md). A program that has switched it off, or lets it look even less often, is left
    alone; so is one on a virtual clock, as the next simulation in its process must find everything the same.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self._virtual = clock.virtual
        self._crowded = False
        self._before = 0
        self._timer: asyncio.TimerHandle | None = None

    def crowd(self) -> None:
        """A crowd is about to be served."""
        self._crowded = True
        if self._timer is None and not self._virtual:
            young, old, oldest = gc.get_threshold()
            if 0 < young < YOUNG:
                self._before = young
                gc.set_threshold(YOUNG, old, oldest)
                self._timer = self._loop.call_later(LASTING_S, self._look)

    def _look(self) -> None:
        if self._crowded:
            self._crowded = False
            self._timer = self._loop.call_later(LASTING_S, self._look)
        else:
            self.restore()

    def restore(self) -> None:
        """Let it look as often as before, unless somebody else has said how often meanwhile."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            young, old, oldest = gc.get_threshold()
            if young == YOUNG:
                gc.set_threshold(self._before, old, oldest)
