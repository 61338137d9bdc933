"""Sinks, as operators see them: what they have not got, what was given up, and trying that again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from perdure.clock import Clock, from_datetime, to_datetime
from perdure.codec.payload import Payloads
from perdure.errors import IllegalMove, RunNotFound, UnknownSink
from perdure.model.check import check_number
from perdure.model.event import STARTED
from perdure.model.run import MAX_PAGE
from perdure.store.load import find_run
from perdure.store.operation import Line, Operation, is_stale
from perdure.store.store import Store

if TYPE_CHECKING:
    from perdure.model.sink import Sink

REPLAYED_AT_A_TIME = 500


@dataclass(frozen=True, slots=True)
class SinkInfo:
    """
    A sink, as the database knows it.

    Attributes:
        events: The kinds that it is told of.
        since: The time of the first events that it was to get.
        waiting: Runs that have events for it which it has not got, those of `dead` included.
        dead: Runs for which it was given up.
        oldest_at: Since when something waits; None when nothing does.
    """

    name: str
    events: tuple[str, ...]
    since: datetime
    waiting: int
    dead: int
    oldest_at: datetime | None


@dataclass(frozen=True, slots=True)
class DeadEvent:
    """
    An event that a sink was given up for; the later ones of its run wait behind it.

    Attributes:
        seq: The event's place in the run's journal.
        last: That of the last one known to wait.
        attempts, error: How often it was tried, and what came of the last time.
    """

    run_id: str
    seq: int
    last: int
    attempts: int
    error: str
    dead_at: datetime


class Sinks:
    """The part of the client that looks after sinks."""

    store: Store
    payloads: Payloads
    _clock: Clock

    async def declare_sinks(self, sinks: Iterable[Sink]) -> None:
        """
        Let events be kept for these sinks from now on; those that are known with the same kinds stay as they are.

        A sink that is new gets what happens from now on, and what has happened since its `since`.
        """
        there: dict[str, set[str]] = {}
        wanted = tuple(sinks)
        for name, kind, _since in await self.store.rows("sinks") if wanted else ():
            there.setdefault(name, set()).add(kind)
        now = self._clock.now()
        lines: list[Line] = []
        for sink in wanted:
            kinds, have = set(sink.events), there.get(sink.name, set())
            since = now if sink.since is None else from_datetime(sink.since, "since")
            lines += [("add_kind", (sink.name, kind, since)) for kind in sorted(kinds - have)]
            lines += [("remove_kind", (sink.name, kind)) for kind in sorted(have - kinds)]
            if not have and sink.since is not None:
                lines += [("fill_entries", (sink.name, kind, since, now)) for kind in sorted(kinds - {STARTED})]
                lines += [("fill_starts", (sink.name, since, now))] if STARTED in kinds else []
        if lines:
            await self.store.apply(
                Operation([("touch_sinks", (now,)), ("tell_entries", ()), ("tell_starts", ()), *lines])
            )

    async def sinks(self) -> list[SinkInfo]:
        """All sinks of the database, by name."""
        counts = {name: counted for name, *counted in await self.store.rows("sink_counts")}
        kinds: dict[str, list[str]] = {}
        first: dict[str, int] = {}
        for name, kind, since in await self.store.rows("sinks"):
            kinds.setdefault(name, []).append(kind)
            first[name] = min(since, first.get(name, since))
        found = []
        for name, told in kinds.items():
            waiting, dead, oldest = counts.get(name, (0, 0, None))
            oldest_at = None if oldest is None else to_datetime(oldest)
            found.append(SinkInfo(name, tuple(told), to_datetime(first[name]), waiting, dead, oldest_at))
        return found

    async def dead_events(self, sink: str, *, limit: int = 100) -> list[DeadEvent]:
        """
        The events that a sink was given up for, those of the longest ago first.

        Args:
            limit: 1 to 1,000.

        Raises:
            UnknownSink: There is none of this name.
        """
        check_number("limit", limit, 1, MAX_PAGE)
        await self._check(sink)
        rows = await self.store.rows("dead_deliveries", sink, limit)
        return [
            DeadEvent(run_id, seq, last, attempts, self._told(error), to_datetime(dead_at))
            for run_id, seq, last, attempts, error, dead_at in rows
        ]

    def _told(self, error: str | None) -> str:
        return "" if error is None else str(json.loads(self.payloads.open(error)))

    async def replay_events(self, sink: str, run_id: str | None = None) -> int:
        """
        Try again what a sink was given up for; each run's events go on in their order, from the one that failed.

        Args:
            run_id: Of this run only; of all when left out, those of the longest ago first.

        Returns:
            For how many runs.

        Raises:
            UnknownSink: There is none of this name.
        """
        await self._check(sink)
        now = self._clock.now()
        if run_id is not None:
            return len(await self._tell_deliverers([("replay_one", (sink, run_id, now))]))
        replayed = 0
        while found := len(await self._tell_deliverers([("replay_dead", (sink, now, REPLAYED_AT_A_TIME))])):
            replayed += found
        return replayed

    async def skip_event(self, sink: str, run_id: str) -> int:
        """
        Leave out the event that a sink was given up for; what waits behind it is delivered.

        Returns:
            The seq of the event that the sink will never get.

        Raises:
            UnknownSink: There is none of this name.
            RunNotFound: There is no such run.
            IllegalMove: Nothing of this run was given up.
        """
        await self._check(sink)
        for seq, *_, dead_at, _owner in await self.store.rows("delivery", sink, run_id):
            if dead_at is not None:
                place = (sink, run_id, seq)
                if await self._tell_deliverers([("skip_last", place), ("skip_event", (*place, self._clock.now()))]):
                    return int(seq)
        run = await find_run(self.store, run_id)
        if run is None:
            raise RunNotFound(run_id)
        raise IllegalMove(run_id, run.status, f"have an event skipped (sink {sink!r} was not given up for it)")

    async def remove_sink(self, sink: str) -> None:
        """
        Forget a sink, and what it has not got. An app that declares it makes it anew, for what happens from then on.

        Raises:
            UnknownSink: There is none of this name.
        """
        await self._check(sink)
        now = self._clock.now()
        lines: list[Line] = [("touch_sinks", (now,)), ("remove_sink", (sink,)), ("remove_deliveries", (sink,))]
        # Without sinks nothing is marked in the journal any more.
        quiet: list[Line] = [("hush_entries", ()), ("hush_starts", ())]
        last = Operation([("guard_last_sink", (sink,))], body=lambda _transaction: [*lines, *quiet])
        rows = await self.store.apply(last)
        if is_stale(rows):
            await self.store.apply(Operation(lines))

    async def _tell_deliverers(self, lines: list[Line]) -> list[Any]:
        """Commit it; deliverers hear of it."""
        return await self.store.apply(Operation(lines, makes_due=True))

    async def _check(self, sink: str) -> None:
        known = sorted({name for name, *_ in await self.store.rows("sinks")})
        if sink not in known:
            raise UnknownSink(sink, known)
