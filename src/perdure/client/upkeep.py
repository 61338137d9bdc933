"""What operators do to the database: prune it, back it up, have it examined."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

from perdure.clock import Clock, micros
from perdure.errors import InvalidOption
from perdure.model.check import check_number, check_texts
from perdure.model.status import TERMINAL, Status
from perdure.store.prune import prune_rest, prune_some
from perdure.store.store import Store

if TYPE_CHECKING:
    from perdure.model.finding import Finding


class Upkeep:
    """The part of the client that looks after the database."""

    store: Store
    _clock: Clock

    async def prune(
        self,
        *,
        older_than: timedelta | float,
        statuses: Iterable[Status] = tuple(TERMINAL),
        trees: int = 500,
        most: int | None = None,
        undelivered: bool = False,
    ) -> int:
        """
        Remove runs that ended long ago, with everything that belongs to them, and workers that left by then.

        Streams that were deleted or have expired go as well, whatever `older_than` says.

        Only whole trees go: a run with its children, once all of them have ended. A few hundred trees make a
        transaction, so that others can write in between.

        Args:
            older_than: Seconds or timedelta since the end of the tree's first run.
            statuses: How the tree's first run ended.
            trees: Trees per transaction, 1 or more; fewer where trees have many runs.
            most: Stop after about this many runs, without leaving a tree half removed; None for no limit.
            undelivered: Also those that have events which a sink has not got; these are lost then.

        Returns:
            How many runs were removed.

        Raises:
            InvalidOption: A status that is no end, a negative age, or a number below 1.
        """
        before = self._clock.now() - micros(older_than, "older_than")
        ends = _ends(statuses)
        for option, value in (("trees", trees), ("most", most)):
            if value is not None:
                check_number(option, value, 1)
        removed = 0
        while most is None or removed < most:
            now = trees if most is None else min(trees, most - removed)
            count = await prune_some(self.store, before, ends, now, undelivered=undelivered)
            removed += count
            if not count:
                break
        await prune_rest(self.store, self._clock.now(), trees)
        return removed

    async def size(self) -> int:
        """How many bytes the database's tables and indexes take."""
        ((found,),) = await self.store.rows("file_size")
        return int(found)

    async def backup(self, target: str | os.PathLike[str]) -> int:
        """See `Store.backup`: copies the database while it is in use; returns its size in bytes."""
        return await self.store.backup(os.fspath(target))

    async def doctor(self) -> list[Finding]:
        """See `examine`: broken invariants first, then warnings, then notes."""
        from perdure.store.doctor import examine  # noqa: PLC0415 - `import perdure` need not wait for it

        return await examine(self.store, self._clock.now())


def _ends(statuses: Iterable[Status]) -> set[Status]:
    option = "statuses"
    given = set(check_texts(option, statuses))
    if not given or not given <= TERMINAL:
        told = ", ".join(sorted(given - TERMINAL)) or "none"
        raise InvalidOption(option, f"{told} cannot be pruned; name one or more of completed, failed and cancelled")
    return {Status(status) for status in given}
