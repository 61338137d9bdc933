"""The coroutines of parked runs, of which a worker keeps so many in memory."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from perdure.engine.drive import Driver
from perdure.model.run import Claimed


class Parked(OrderedDict[int, Driver]):
    """
    Drivers of parked runs by number, the one that was parked first in front.

    Args:
        most: The first one has to go when there are more.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def keep(self, driver: Driver) -> None:
        """Let it wait here."""
        self[driver.run.number] = driver
        if len(self) > self._most:
            self.popitem(last=False)[1].evict()

    def holds(self, run: Claimed) -> bool:
        """Whether the coroutine of a claimed run may go on: nobody owned the run since it was parked here."""
        driver = self.get(run.number)
        if driver is None:
            return False
        if driver.run.epoch + 1 == run.epoch and driver.run.generation == run.generation:
            return True
        del self[run.number]
        asyncio.get_running_loop().call_soon(driver.evict)
        return False

    def evict(self) -> None:
        """Keep none of them."""
        for driver in self.values():
            driver.evict()
        self.clear()
