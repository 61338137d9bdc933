"""What callers and operators ask of queues: define, change, pause, drain, look, retry what failed."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from perdure import ids
from perdure.client.stuck import run_infos
from perdure.client.view import RunInfo, run_info
from perdure.clock import SECOND, Clock, to_datetime
from perdure.errors import IllegalMove, QueueInUse, UnknownQueue
from perdure.model.check import check_number
from perdure.model.queue import Queue, QueueRow, Rate
from perdure.model.run import MAX_PAGE, RunRow
from perdure.store.operation import Operation
from perdure.store.store import Store

RETRIED = 100
"""Dead letters that are looked up at a time."""


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """
    A queue at one moment.

    Attributes:
        queue: Its limits as they are in force.
        state: "open", "paused" (gives no slots) or "draining" (takes no runs).
        in_line: Runs that could begin if a limit did not keep them waiting, and nobody has begun yet.
        delayed: Runs that are to stand in line later.
        holding: Runs that hold a slot; `driven`: of these, those that a worker drives.
        dead: Runs that failed, and have not been removed or run again.
        served: Slots that it has given out since it was made.
    """

    queue: Queue
    state: str
    in_line: int
    delayed: int
    holding: int
    driven: int
    dead: int
    served: int


class Queues(ABC):
    """The part of the client that is about queues. Everything here is durable when it returns."""

    store: Store
    _clock: Clock

    @abstractmethod
    async def row(self, run_id: str) -> RunRow:
        """A run as it is stored."""

    @abstractmethod
    async def rerun(self, run_id: str, *, before: str | None = "") -> None:
        """Do a run again in place."""

    # ------------------------------------------------------------------------------------ defining
    async def declare_queues(self, queues: Iterable[Queue], named: Iterable[str] = ()) -> None:
        """
        Make the queues that code declares.

        One that is there already is changed only if its declaration differs from the last one that was made, so
        that what operators have set stays until somebody changes the code.

        Args:
            named: Queues that must be there; without limits unless somebody has given them some.
        """
        declared = {queue.name: queue for queue in queues}
        operation = Operation()
        for name in sorted({*declared, *named}):
            queue = declared.get(name)
            known = Queue(name) if queue is None else queue
            self._define(operation, known, None if queue is None else known.text)
        if operation.lines:
            await self.store.apply(operation)

    def _define(self, operation: Operation, queue: Queue, declared: str | None) -> None:
        mark = ids.run_id(self._clock.now())
        operation.add("declare_queue", queue.name, *queue.columns, declared, mark)
        self._set_rates(operation, queue, mark)

    def _set_rates(self, operation: Operation, queue: Queue, mark: str) -> None:
        """Its rates, if the queue has been made or changed by the same operation."""
        operation.add("clear_rates", queue.name, mark)
        for place, rate in enumerate(queue.rates):
            operation.add(
                "add_rate", queue.name, place, rate.limit, rate.period, rate.grain, rate.span, int(rate.per_key), mark
            )
        operation.add("clear_spent", queue.name)
        operation.makes_due = True

    async def set_queue(self, queue: Queue) -> None:
        """
        Make a queue, or give it other limits; they hold from the next slot on.

        Runs that hold slots keep them, even if a limit is now lower than they are many. What was counted under a
        rate whose window stays the same still counts.
        """
        mark = ids.run_id(self._clock.now())
        operation = Operation(makes_due=True)
        operation.add("declare_queue", queue.name, *queue.columns, None, mark)
        operation.add("set_queue", queue.name, *queue.columns, mark)
        self._set_rates(operation, queue, mark)
        await self.store.apply(operation)

    async def change_queue(self, name: str, **fields: Any) -> Queue:
        """
        Change some limits of a queue.

        Args:
            fields: Fields of `Queue`.

        Raises:
            UnknownQueue: There is none of this name.
            InvalidOption: No such field, or a value is out of range.
        """
        queue = (await self.queue(name)).queue.changed(**fields)
        await self.set_queue(queue)
        return queue

    async def pause_queue(self, name: str) -> None:
        """Give out no more slots until `resume_queue`. Runs that hold one go on; new runs still stand in line."""
        await self._state(name, "paused")

    async def drain_queue(self, name: str) -> None:
        """Take no more runs until `resume_queue`; `start` is refused. Those that are there are worked off."""
        await self._state(name, "draining")

    async def resume_queue(self, name: str) -> None:
        """Open a paused or draining queue again."""
        await self._state(name, "open")

    async def _state(self, name: str, state: str) -> None:
        operation = Operation([("set_queue_state", (name, state))], makes_due=True)
        if not await self.store.apply(operation):
            raise UnknownQueue(name, [row.name for row in await self._rows()])

    async def drop_queue(self, name: str) -> None:
        """
        Remove a queue.

        Raises:
            UnknownQueue: There is none of this name.
            QueueInUse: Runs that have not ended go through it.
        """
        if not await self.store.apply(Operation([("remove_queue", (name,))])):
            await self.queue(name)
            raise QueueInUse(name)

    # ------------------------------------------------------------------------------------- looking
    async def queues(self) -> list[QueueInfo]:
        """All queues, by name, with how many runs each has. It counts them, so it takes longer the more wait."""
        return [await self._info(row) for row in await self._rows()]

    async def queue(self, name: str) -> QueueInfo:
        """
        One queue.

        Raises:
            UnknownQueue: There is none of this name.
        """
        return await self._info(await self._row(name))

    async def _rows(self) -> list[QueueRow]:
        return [QueueRow(*row) for row in await self.store.rows("queues")]

    async def _row(self, name: str) -> QueueRow:
        rows = await self._rows()
        for row in rows:
            if row.name == name:
                return row
        raise UnknownQueue(name, [row.name for row in rows])

    async def _rates(self, name: str) -> tuple[Rate, ...]:
        return tuple(
            Rate(most, period / SECOND, sliding=grain < period, per_key=bool(by_key))
            for queue, most, period, grain, by_key, _ in await self.store.rows("queue_rates")
            if queue == name
        )

    async def _info(self, row: QueueRow) -> QueueInfo:
        ((line, delayed, holding, driven, _),) = await self.store.rows("queue_counts", row.name, "", self._clock.now())
        ((dead,),) = await self.store.rows("dead_count", row.name)
        queue = row.queue(await self._rates(row.name))
        return QueueInfo(queue, row.state, line, delayed, holding, driven, dead, row.served)

    async def why(self, run_id: str) -> str:
        """
        Why a run that could go on does not, in a few words; empty when a worker has it or nothing is known.

        Raises:
            RunNotFound: There is no such run.
        """
        row = await self.row(run_id)
        now = self._clock.now()
        if row.finished or row.owner is not None:
            return ""
        (info,) = await run_infos(self.store, [row], now)
        if row.rank is None or row.queue is None:
            return info.stuck
        return f"waits for queue {row.queue}: {await self._why_in_line(row, row.queue, now, info.stuck)}"

    async def _why_in_line(self, row: RunRow, name: str, now: int, stuck: str) -> str:
        queue = next((found for found in await self._rows() if found.name == name), None)
        if queue is None:
            return "there is no such queue"
        if queue.state == "paused":
            return "it is paused"
        reasons: list[str] = []
        ((_, _, holding, _, of_key),) = await self.store.rows("queue_counts", name, row.queue_key, now)
        if queue.concurrency is not None and holding >= queue.concurrency:
            reasons.append(f"{holding} of {queue.concurrency} running")
        if queue.per_key is not None and of_key >= queue.per_key:
            reasons.append(f"{of_key} of {queue.per_key} running for the key {row.queue_key!r}")
        reasons += await self._spent(row, name, now)
        workers = await self.store.rows("owned_in_queue", name, now)
        able = [owned for known, owned in workers if row.workflow in json.loads(known)]
        if stuck:
            reasons.append(stuck)
        elif queue.per_worker is not None and min(able, default=0) >= queue.per_worker:
            reasons.append(f"every worker drives {queue.per_worker} of {queue.per_worker}")
        ((before,),) = await self.store.rows("place_in_line", name, row.queue_key, row.rank, row.number)
        if before:
            reasons.append(f"{before} before it in its line")
        return "; ".join(reasons) or "its turn has come, and all workers are busy"

    async def _spent(self, row: RunRow, name: str, now: int) -> list[str]:
        """The rates that would not take this run now."""
        found = []
        for _, most, period, by_key, used, until in await self.store.rows("rate_room", name, row.queue_key, now):
            if used + min(row.weight, most) > most:
                whose = f" for the key {row.queue_key!r}" if by_key else ""
                again = f", more at {to_datetime(until):%Y-%m-%d %H:%M:%S} UTC" if until else ""
                found.append(f"{used} of {most} in {period / SECOND:g} s used{whose}{again}")
        return found

    # -------------------------------------------------------------------------------- dead letters
    async def dead_letters(self, name: str, *, after: int = 0, limit: int = 100) -> tuple[list[RunInfo], int | None]:
        """
        One page of a queue's failed runs, oldest first, and the `after` of the next page.

        Args:
            after: Number of the run to go on behind.
            limit: 1 to 1,000 runs.

        Raises:
            UnknownQueue: There is no queue of this name.
            InvalidOption: `limit` or `after` is out of its range.
        """
        check_number("after", after, 0)
        check_number("limit", limit, 1, MAX_PAGE)
        await self._row(name)
        rows = [RunRow(*row) for row in await self.store.rows("dead_letters", name, after, limit + 1)]
        page = rows[:limit]
        return [run_info(row) for row in page], page[-1].number if len(rows) > limit else None

    async def retry_dead_letters(self, name: str, *, before: str | None = None, most: int | None = None) -> int:
        """
        Run a queue's failed runs again in place, oldest first; they stand in line as new ones do.

        Each is a transaction of its own. One that somebody else runs again meanwhile is left to him.

        Args:
            before: As for `rerun`: None goes on where each failed, keeping what its steps have done; "" begins at
                the beginning.
            most: Stop after so many.

        Returns:
            How many runs were put in line.

        Raises:
            UnknownQueue: There is no queue of this name.
            InvalidOption: `most` is no number of 1 or more.
        """
        if most is not None:
            check_number("most", most, 1)
        count, after = 0, 0
        while most is None or count < most:
            size = RETRIED if most is None else min(RETRIED, most - count)
            page, more = await self.dead_letters(name, after=after, limit=size)
            for run in page:
                try:
                    await self.rerun(run.id, before=before)
                except IllegalMove:
                    continue
                count += 1
            if more is None:
                break
            after = more
        return count
