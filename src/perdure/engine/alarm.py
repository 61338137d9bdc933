"""The one timer of a driven run: it rings when the first of the times that the run waits for has come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from perdure.clock import SECOND
from perdure.engine.host import Host


class Alarm:
    """
    A timer that is moved rather than piled up.

    Args:
        ring: Called on the loop, outside any task.
    """

    __slots__ = ("_at", "_host", "_ring", "_timer")

    def __init__(self, host: Host, ring: Callable[[], None]) -> None:
        self._host = host
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._at: int | None = None

    def set(self, at: int | None) -> None:
        """Ring then, microseconds since 1970, and at no other time; None for never."""
        if at == self._at:
            return
        self.clear()
        if at is not None:
            self._at = at
            self._timer = self._host.loop.call_later(max(0, at - self._host.clock.now()) / SECOND, self._ring)

    def clear(self) -> None:
        """Do not ring."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._at = None
