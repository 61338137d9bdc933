"""What operators do to the database: prune it, back it up, have it examined."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from perdure.clock import Clock
from perdure.model.finding import Finding
from perdure.model.status import TERMINAL, Status
from perdure.store.sqlite import SqliteStore


class Upkeep:
    """The part of the client that looks after the database."""

    store: SqliteStore
    _clock: Clock

    async def prune(
        self,
        *,
        older_than: timedelta | float,
        statuses: Iterable[Status] = tuple(TERMINAL),
        batch: int = 500,
        most: int | None = None,
    ) -> int:
        """
        Remove runs that ended long ago, with everything that belongs to them, and workers that left by then.

        Only whole trees go: a run with its children, once all of them have ended. Each batch is a transaction
        of its own, so that others can write in between.

        Args:
            older_than: Seconds or timedelta since the end of the tree's first run.
            statuses: How the tree's first run ended.
            batch: Trees per transaction, 1 or more.
            most: Stop after about this many runs, without leaving a tree half removed; None for no limit.

        Returns:
            How many runs were removed.

        Raises:
            InvalidOption: A status that is no end, a negative age, or a batch below 1.
        """
        raise NotImplementedError

    async def backup(self, target: str) -> int:
        """See `SqliteStore.backup`: copies the database while it is in use; returns its size in bytes."""
        return await self.store.backup(target)

    async def doctor(self) -> list[Finding]:
        """Examine the database: broken invariants first, then warnings, then notes."""
        raise NotImplementedError
