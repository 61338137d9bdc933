"""One reader of a run's journal that waits for what comes next, and is handed it by the commit where that is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from perdure.model.entry import Entry

MOST_HANDED = 100
"""Entries that are kept for a reader that is busy; one that is further behind reads them from the store."""


class Follower:
    """
    A reader's place among those that wait.

    Entries come by the commits of this process, as they were stored. They are no more than a short way: where one is
    missing, or somebody else has changed the run, the reader looks at the store.

    Args:
        leave: Called once it follows no more.
    """

    __slots__ = ("_handed", "_leave", "_look", "_waiting")

    def __init__(self, leave: Callable[[Follower], None]) -> None:
        self._leave = leave
        self._handed: list[Entry] = []
        self._look = False
        self._waiting: asyncio.Future[None] | None = None

    def tell(self, entries: list[Entry] | None) -> None:
        """
        A commit has changed the run.

        Args:
            entries: All that it has done to the journal, which is to append these; None for anything else.
        """
        if entries is None or len(self._handed) + len(entries) > MOST_HANDED:
            self._look = True
        self._handed = [] if self._look or entries is None else self._handed + entries
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def behind(self, seq: int) -> list[Entry]:
        """
        Wait for a change since the last look.

        Args:
            seq: How far the reader has come, in the store or by what this has given.

        Returns:
            The entries that follow at once behind this place; none when the store must tell.
        """
        while not self._look:
            handed, self._handed = self._handed, []
            new = [entry for entry in handed if entry.seq > seq]
            if new:
                return new if new[-1].seq == seq + len(new) else []
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        self._look = False
        return []

    def close(self) -> None:
        """Follow no more."""
        self._leave(self)
