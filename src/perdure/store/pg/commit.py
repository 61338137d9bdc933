"""Group commit on a connection: a batch is what was submitted while the last one was under way."""

from __future__ import annotations

import asyncio

from perdure.clock import elapsed
from perdure.store.changes import Changes
from perdure.store.commit import Committer, Published
from perdure.store.operation import Done, Guarded, Operation, Outcome
from perdure.store.pg.transactor import Transactor
from perdure.store.pg.writer import Writer


class PostgresCommitter(Committer):
    """One batch at a time is with the database, and the loop goes on; operations with functions go beside them."""

    def __init__(
        self, writer: Writer, transactor: Transactor, changes: Changes, *, most_queued: int, published: Published
    ) -> None:
        super().__init__(changes, most_queued=most_queued, published=published)
        self._writer = writer
        self._transactor = transactor
        self._task: asyncio.Task[None] | None = None
        self._transactions: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """See `Committer.close`."""
        await super().close()
        if self._transactions:
            await asyncio.wait(self._transactions)
            # Their callers are answered on the loop's next turn.
            await asyncio.sleep(0)

    def _commit(self, operations: list[Operation], dones: list[Done]) -> None:
        loop = asyncio.get_running_loop()
        if any(_has_function(operation) for operation in operations):
            rest: list[tuple[Operation, Done]] = []
            for pair in zip(operations, dones, strict=True):
                if _has_function(pair[0]):
                    task = loop.create_task(self._transact(*pair))
                    self._transactions.add(task)
                    task.add_done_callback(self._transactions.discard)
                else:
                    rest.append(pair)
            if not rest:
                self._go_on()
                return
            operations, dones = [pair[0] for pair in rest], [pair[1] for pair in rest]
        self.under_way = True
        self._task = loop.create_task(self._run(operations, dones))

    async def _transact(self, operation: Operation, done: Done) -> None:
        begun = elapsed()
        try:
            outcome: Outcome = await self._transactor.run(operation)
        except Exception as error:  # noqa: BLE001 - as in `_run`
            outcome = [], error
        self._count(elapsed() - begun, [outcome])
        asyncio.get_running_loop().call_soon(self._answer, [operation], [done], [outcome])

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
        """Leave what is under way to the database."""
        for task in (self._task, *self._transactions):
            if task is not None:
                task.cancel()


def _has_function(operation: Operation) -> bool:
    return operation.body is not None and not isinstance(operation.body, Guarded)
