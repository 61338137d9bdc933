"""When what steps have emitted is stored: that of all runs together, the more of it comes, the more of it at once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

COMPANY = 22
"""So many entries share a commit when much comes."""
MUCH = 1_700
"""Entries a second from which on they do; of fewer, fewer wait for each other, and less long."""
LONGEST_S = 0.012
"""From one time to the next when much comes and less than COMPANY has come."""
MEMORY_S = 0.02
"""Of what has come in about this time is known how much comes."""


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
        self._enough = 1
        self._longest = 0.0
        self._last = float("-inf")
        self._timer: asyncio.Handle | None = None
        self._at_once = False

    def emitted(self, store: Callable[[], None]) -> None:
        """One more entry waits; `store` is called once for all that come until then. On the loop's thread only."""
        self._entries += 1
        self._stores[store] = None
        if self._at_once:
            return
        if self._entries < self._enough:
            if self._timer is not None:
                return
            wait = self._last + self._longest - self._loop.time()
            if wait > 0:
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
        share = min(1.0, self._rate / MUCH)
        self._enough, self._longest = max(1, round(COMPANY * share * share)), LONGEST_S * share
        self._last, self._timer, self._at_once, self._entries = now, None, False, 0
        stores, self._stores = self._stores, {}
        for store in stores:
            self._soon(store)
