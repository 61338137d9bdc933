"""Messages for runs that a worker drives: fetched when somebody has sent some."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure.store.load import load_messages
from perdure.store.store import Store
from perdure.worker.tasks import Tasks

if TYPE_CHECKING:
    from perdure.engine.drive import Driver


class Mail:
    """
    Brings messages to drivers.

    Args:
        drivers: The worker's, by run.
        loading: Runs that are just being read, perhaps after their messages were: of these it only keeps that there
            are more, and is told again once they are driven.

    Attributes:
        heard_of: How often messages have come, for whichever run. What a claim says of a run's inbox holds if it has
            not changed since the claim was sent.
    """

    def __init__(self, store: Store, drivers: dict[int, Driver], loading: dict[int, bool], tasks: Tasks) -> None:
        self._store = store
        self._drivers = drivers
        self._loading = loading
        self._tasks = tasks
        self.heard_of = 0

    def heard(self, numbers: set[int] | None) -> None:
        """Messages have come for these runs, or perhaps for any."""
        self.heard_of += 1
        if self._loading:
            loading = self._loading.keys()
            self._loading.update(dict.fromkeys(tuple(loading) if numbers is None else loading & numbers, True))
        driven = self._drivers.keys() if numbers is None else self._drivers.keys() & numbers
        if driven:
            self._tasks.spawn(self._fetch, list(driven))

    async def _fetch(self, numbers: list[int]) -> None:
        claims = {number: driver.run for number in numbers if (driver := self._drivers.get(number)) is not None}
        for number, messages in (await load_messages(self._store, list(claims))).items():
            driver = self._drivers.get(number)
            # If it was parked meanwhile and claimed again, it has all that there was then, or has taken it since.
            if driver is not None and driver.run is claims[number]:
                asyncio.get_running_loop().call_soon(driver.deliver, messages)
