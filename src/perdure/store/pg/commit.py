"""Group commit on a connection: a batch is what was submitted while the last one was under way."""

from __future__ import annotations

import asyncio

from perdure.clock import elapsed
from perdure.store.changes import Changes
from perdure.store.commit import Committer, Published
from perdure.store.operation import Done, Operation, Outcome
from perdure.store.pg.writer import Writer


class PostgresCommitter(Committer):
    """One batch at a time is with the database, and the loop goes on."""

    def __init__(self, writer: Writer, changes: Changes, *, most_queued: int, published: Published) -> None:
        super().__init__(changes, most_queued=most_queued, published=published)
        self._writer = writer
        self._task: asyncio.Task[None] | None = None

    def _commit(self, operations: list[Operation], dones: list[Done]) -> None:
        self.under_way = True
        self._task = asyncio.get_running_loop().create_task(self._run(operations, dones))

    async def _run(self, operations: list[Operation], dones: list[Done]) -> None:
        outcomes: list[Outcome]
        begun = elapsed()
        try:
            outcomes = await self._writer.run(operations)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for this batch must hear of it
            outcomes = [([], error) for _ in operations]
        self.under_way = False
        self._count(elapsed() - begun, outcomes)
        # Outside of the task, as those who are answered run their coroutines' steps at once.
        asyncio.get_running_loop().call_soon(self._answer, operations, dones, outcomes)

    def cancel(self) -> None:
        """Leave a batch that is under way to the database."""
        if self._task is not None:
            self._task.cancel()
