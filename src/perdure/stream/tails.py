"""Readers that wait for the end of a stream to move: any number of them, and one look for all."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable

from perdure.clock import elapsed
from perdure.errors import StoreError
from perdure.store.store import Store
from perdure.stream.offset import Offset
from perdure.stream.source import Page, Source

log = logging.getLogger("perdure.stream")
KEPT_S = 0.1
"""How long a page is kept for others who are woken at the same time."""
SHARE = 4
"""A look for everybody is followed by a pause of so many times what it took."""


class Tails:
    """
    Those that wait in this process.

    A commit that is known in detail wakes those it is about. When another process has committed and only that is
    known, one query finds out for all streams that are waited for, and it is not made all the time.

    Attributes:
        count: How many wait now.
        stopped: Nobody waits any more.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[int, dict[Tail, None]] = {}  # each stream's in the order in which they came
        self._pages: dict[tuple[int, Offset, int, object], asyncio.Future[Page]] = {}
        self.count = 0
        self._heads: dict[int, int] = {}
        self._looking: asyncio.Task[None] | None = None
        self._again = False
        self.stopped = False

    def enter(self, watched: int) -> Tail:
        """Begin to be told when this stream changes; do so before reading it, so that no change falls between."""
        if not self.count:
            self._store.changes.on_change(self._changed)
        self.count += 1
        tail = Tail(self, watched)
        self._waiting.setdefault(watched, {})[tail] = None
        self._store.start_polling()
        return tail

    def leave(self, tail: Tail) -> None:
        """It waits no more."""
        there = self._waiting.get(tail.watched)
        if there and tail in there:
            self.count -= 1
            del there[tail]
            if not there:
                del self._waiting[tail.watched]
                self._heads.pop(tail.watched, None)
        if not self.count:
            self._store.changes.forget(self._changed)

    def stop(self) -> None:
        """Send everybody home: the server is going down."""
        self.stopped = True
        self._wake(tuple(self._waiting))

    def _changed(self, numbers: set[int] | None) -> None:
        if numbers is None:
            self._look_soon()
        else:
            self._wake(self._waiting.keys() & numbers)

    def _wake(self, watched: Iterable[int]) -> None:
        if self._pages:
            self._pages.clear()
        for number in watched:
            for tail in self._waiting.get(number, ()):
                tail.wake()

    async def page(self, source: Source, after: Offset, size: int) -> Page:
        """
        What is behind an offset, for one who was woken: those who stand at the same place read it together.

        Raises:
            StreamNotFound, StreamGone: As for `Source.page`.
        """
        key = source.watched, after, size, source.view
        reading = self._pages.get(key)
        if reading is None:
            loop = asyncio.get_running_loop()
            if not self._pages:
                loop.call_later(KEPT_S, self._pages.clear)
            reading = self._pages[key] = loop.create_task(source.page(after, size))
            reading.add_done_callback(_noted)
        return await asyncio.shield(reading)

    # ------------------------------------------------------------------------ one look for everybody
    def _look_soon(self) -> None:
        self._again = True
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        try:
            while self._again and self._waiting:
                self._again, begun = False, elapsed()
                try:
                    moved = await self._moved()
                except Exception as error:
                    if not isinstance(error, StoreError):
                        log.exception("what has moved cannot be found out, so all who wait look")
                    moved = list(self._waiting)  # each sees for itself
                self._wake(moved)
                await asyncio.sleep((elapsed() - begun) * SHARE)
        finally:
            # Here, and not when the task is done, which is a turn of the loop later: what comes then needs a new look.
            self._looking = None

    async def _moved(self) -> list[int]:
        """Those that are waited for and not where they were at the last look."""
        runs = [number for number in self._waiting if number > 0]
        streams = [-number for number in self._waiting if number < 0]
        heads: dict[int, int] = {}
        if runs:
            heads |= dict(await self._store.rows("run_heads", json.dumps(runs)))
        if streams:
            rows = await self._store.rows("stream_heads", json.dumps(streams))
            heads |= {-number: head for number, head in rows}
        before, self._heads = self._heads, {number: heads.get(number, -1) for number in self._waiting}
        return [number for number, head in self._heads.items() if before.get(number) != head]


def _noted(reading: asyncio.Future[Page]) -> None:
    """Whoever waited for it may have gone."""
    if not reading.cancelled():
        reading.exception()


class Tail:
    """One reader's place among those that wait."""

    __slots__ = ("_dismissed", "_future", "_tails", "_woken", "watched")

    def __init__(self, tails: Tails, watched: int) -> None:
        self.watched = watched
        self._tails = tails
        self._future: asyncio.Future[None] | None = None
        self._woken = self._dismissed = False

    def wake(self) -> None:
        """There may be something to see."""
        self._woken = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def dismiss(self) -> None:
        """Whoever it waits for has gone."""
        self._dismissed = True
        self.wake()

    async def wait(self, seconds: float) -> bool:
        """
        Wait until woken, now or since the last time.

        Returns:
            False when the time was over first, the server is going down, or it was dismissed.
        """
        if not self._woken and not self._tails.stopped and seconds > 0:
            loop = asyncio.get_running_loop()
            self._future = loop.create_future()
            timer = loop.call_later(seconds, self._over)
            try:
                await self._future
            finally:
                timer.cancel()
                self._future = None
        woken, self._woken = self._woken, False
        return woken and not self._dismissed and not self._tails.stopped

    def _over(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def leave(self) -> None:
        """See `Tails.leave`."""
        self._tails.leave(self)
