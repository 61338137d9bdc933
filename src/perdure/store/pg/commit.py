"""Group commit on a connection: a batch is what was submitted while the last one was under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from perdure.clock import elapsed
from perdure.store.batch import Outcome
from perdure.store.changes import Changes
from perdure.store.commit import MAIL_LABELS, Committer
from perdure.store.operation import Done, Operation
from perdure.store.pg.writer import Writer


class PostgresCommitter(Committer):
    """
    Takes operations on the event loop's thread; one batch at a time is with the database.

    Args:
        published: Called after each commit with what other processes may want to know, as for
            `Changes.committed`.
    """

    def __init__(
        self,
        writer: Writer,
        changes: Changes,
        *,
        most_queued: int,
        published: Callable[[set[int], set[int], set[int], bool], None],
    ) -> None:
        super().__init__(writer, changes, most_queued=most_queued)  # type: ignore[arg-type]  # its run is awaited here
        self._writer = writer
        self._published = published
        self._task: asyncio.Task[None] | None = None

    def _flush(self) -> None:
        if self.under_way or not self._operations:
            return
        self.under_way = True
        self._task = asyncio.get_running_loop().create_task(self._commit(*self._take()))

    async def _commit(self, operations: list[Operation], dones: list[Done]) -> None:
        outcomes: list[Outcome]
        begun = elapsed()
        try:
            outcomes = await self._writer.run(operations)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for this batch must hear of it
            outcomes = [([], error) for _ in operations]
        self.under_way = False
        self._learn(elapsed() - begun, outcomes)
        asyncio.get_running_loop().call_soon(self._tell, operations, dones, outcomes)

    def _tell(self, operations: list[Operation], dones: list[Done], outcomes: list[Outcome]) -> None:
        """Outside of the task, as those who are answered run their coroutines' steps at once."""
        self._publish(operations, outcomes)
        self._answer(operations, dones, outcomes)

    def _publish(self, operations: list[Operation], outcomes: list[Outcome]) -> None:
        changed: set[int] = set()
        ended: set[int] = set()
        mail: set[int] = set()
        due = False
        for operation, (rows, error) in zip(operations, outcomes, strict=True):
            if error is None:
                due = due or operation.makes_due
                changed |= operation.changed
                if operation.ends:
                    ended |= operation.changed
                mail |= {row[1] for row in rows if row[0] in MAIL_LABELS}
        self._published(changed | mail, ended, mail, due)

    def cancel(self) -> None:
        """Leave a batch that is under way to the database."""
        if self._task is not None:
            self._task.cancel()
