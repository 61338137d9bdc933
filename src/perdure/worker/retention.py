"""Remove finished runs when they are old enough: in small pieces, and one worker at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

from perdure.clock import SECOND, Clock, elapsed, micros
from perdure.errors import StoreError
from perdure.model.status import TERMINAL
from perdure.store.operation import Operation
from perdure.store.prune import prune_rest, prune_some
from perdure.store.store import Store

log = logging.getLogger("perdure.worker")
FIRST_S = 10.0
"""After the start of a worker, whose first seconds belong to its runs."""
SHORTEST, LONGEST = 60 * SECOND, 6 * 3_600 * SECOND
"""Between two looks, a tenth of the age in these bounds."""
DAY = 86_400 * SECOND
PAUSE_S = 0.05
QUICK_S = 0.02
FEWEST, MOST = 5, 500
"""Trees per transaction: as many as take about `QUICK_S`, with a pause of more than that behind each."""


class Retention:
    """
    Prunes what ended longer ago than `age`, for all workers of the database: whoever comes first in each interval.

    Args:
        age: Seconds or timedelta; None keeps everything.
    """

    def __init__(self, store: Store, clock: Clock, age: float | timedelta | None) -> None:
        self._store = store
        self._clock = clock
        self._age = None if age is None else micros(age, "retention")
        self._interval = min(LONGEST, max(SHORTEST, (self._age or 0) // 10))
        self._timer: asyncio.TimerHandle | None = None
        self._spawn: Callable[..., None]
        self._stopped = True
        self._trees = 50

    def start(self, spawn: Callable[..., None]) -> None:
        """
        Begin to look.

        Args:
            spawn: Runs a coroutine function beside everything else.
        """
        if self._age is not None:
            self._spawn, self._stopped = spawn, False
            self._later(FIRST_S)

    def stop(self) -> None:
        """End with the transaction that is under way."""
        self._stopped = True
        if self._timer:
            self._timer.cancel()

    def _later(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, lambda: self._spawn(self._round))

    async def _round(self) -> None:
        try:
            await self._prune()
        except Exception as error:
            # Whatever it is: who calls must not try again at once, beside the next round.
            mistake = not isinstance(error, StoreError)
            log.warning("cannot remove old runs now, trying again later: %s", error, exc_info=mistake)
        finally:
            if not self._stopped:
                self._later(self._interval / SECOND)

    async def _prune(self) -> None:
        begun = self._clock.now()
        until = begun + self._interval
        # Workers with other ages have a chore of their own, so that the shortest age counts, whoever comes first.
        if not await self._mine(f"prune {self._age}", begun, until):
            return
        before, removed = begun - (self._age or 0), 0
        while not self._stopped and self._clock.now() < until:
            began = elapsed()
            count = await prune_some(self._store, before, TERMINAL, self._trees)
            if not count:
                break
            removed += count
            self._learn(elapsed() - began)
            await asyncio.sleep(PAUSE_S)
        if removed:
            log.info(
                "removed %d runs that ended more than %s ago", removed, timedelta(seconds=(self._age or 0) / SECOND)
            )
        if not self._stopped and await self._mine("orphans", begun, begun + DAY):
            await prune_rest(self._store, begun, MOST)

    async def _mine(self, chore: str, now: int, until: int) -> bool:
        """Whether this worker is to do it; if so, no other will before that time."""
        return bool(await self._store.apply(Operation([("take_chore", (chore, now, until))])))

    def _learn(self, seconds: float) -> None:
        if not self._clock.virtual:
            self._trees = max(FEWEST, min(MOST, round(self._trees * min(2.0, max(0.5, QUICK_S / seconds)))))
