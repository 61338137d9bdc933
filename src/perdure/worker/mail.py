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
        loading: Runs that are just being read, and are driven by the time that their messages are.
    """

    def __init__(self, store: Store, drivers: dict[int, Driver], loading: set[int], tasks: Tasks) -> None:
        self._store = store
        self._drivers = drivers
        self._loading = loading
        self._tasks = tasks

    def heard(self, numbers: set[int] | None) -> None:
        """Messages have come for these runs, or perhaps for any."""
        known = self._drivers.keys() | self._loading if self._loading else self._drivers.keys()
        driven = known if numbers is None else known & numbers
        if driven:
            self._tasks.spawn(self._fetch, list(driven))

    async def _fetch(self, numbers: list[int]) -> None:
        for number, messages in (await load_messages(self._store, numbers)).items():
            driver = self._drivers.get(number)
            if driver is not None:
                asyncio.get_running_loop().call_soon(driver.deliver, messages)
