"""When what steps have emitted is stored: that of all runs together, the later the more of it comes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

LONGEST_S = 0.0105
"""From one time to the next when much comes: of 2,000 entries a second, 20 share a commit."""
MUCH = 1_700
"""Entries a second from which on they wait so long; of fewer each waits less, in proportion."""
MEMORY_S = 0.02
"""Of what has come in about this time the next wait is made."""
CROWD = 32
"""From so many entries on it does not wait for the time."""


class Cadence:
    """
    Calls those who have something to store, all in one turn of the loop.

    Args:
        soon: Calls what it is given on the loop's next turn, and commits what comes of all such calls together.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, soon: Callable[..., None]) -> None:
        self._loop = loop
        self._soon = soon
        self._stores: dict[Callable[[], None], None] = {}
        self._entries = 0
        self._rate = 0.0
        self._last = float("-inf")
        self._timer: asyncio.Handle | None = None
        self._at_once = False

    def emitted(self, store: Callable[[], None]) -> None:
        """One more entry waits; `store` is called once for all that come until then. On the loop's thread only."""
        self._entries += 1
        self._stores[store] = None
        if self._at_once or (self._timer is not None and self._entries < CROWD):
            return
        wait = self._last + LONGEST_S * min(1.0, self._rate / MUCH) - self._loop.time()
        if wait > 0 and self._entries < CROWD:
            self._timer = self._loop.call_later(wait, self._fire)
            return
        if self._timer is not None:
            self._timer.cancel()
        self._at_once = True
        self._timer = self._loop.call_soon(self._fire)

    def _fire(self) -> None:
        now = self._loop.time()
        passed = max(now - self._last, 1e-6)
        fades = math.exp(-passed / MEMORY_S)
        self._rate = fades * self._rate + (1 - fades) * self._entries / passed
        self._last, self._timer, self._at_once, self._entries = now, None, False, 0
        stores, self._stores = self._stores, {}
        for store in stores:
            self._soon(store)
