"""Group commit on a connection: a batch is what was submitted while the last one was under way."""

from __future__ import annotations

import asyncio
import logging

from perdure.clock import elapsed
from perdure.errors import StoreClosed
from perdure.store.changes import Changes
from perdure.store.commit import Committer, Published
from perdure.store.operation import Done, Guarded, Operation, Outcome
from perdure.store.pg.transactor import Transactor
from perdure.store.pg.writer import Writer

CLOSING_S = 10.0
"""Closing gives up what has no answer after so long without any."""
LETTING_GO_S = 1.0
GIVEN_UP = "The store was closed before the database had answered; what was asked of it may have been done."
log = logging.getLogger("perdure.store")


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
        self._given_up = False

    async def close(self) -> None:
        """See `Committer.close`; who waits for a database, or a user's function, that does not answer waits in vain."""
        while not self._given_up:
            before = self.commits
            try:
                async with asyncio.timeout(CLOSING_S):
                    await super().close()
                    if self._transactions:
                        await asyncio.wait(self._transactions)
                break
            except TimeoutError:
                if self.commits == before:
                    await self._give_up()
        # The callers of functions are answered on the loop's next turn.
        await asyncio.sleep(0)

    async def _give_up(self) -> None:
        """Answer all that nobody else will."""
        log.warning("closing without an answer of the database, or of a function in a transaction")
        operations, dones, self._operations, self._dones = self._operations, self._dones, [], []
        self._given_up = True
        self.cancel()
        if tasks := {task for task in (self._task, *self._transactions) if task is not None and not task.done()}:
            # A function in a thread goes on, and a coroutine may; neither can reach the transaction any more.
            await asyncio.wait(tasks, timeout=LETTING_GO_S)
        self._answer(operations, dones, [([], StoreClosed(GIVEN_UP)) for _ in operations])

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
        except asyncio.CancelledError:
            if not self._given_up:
                raise
            outcome = [], StoreClosed(GIVEN_UP)
        except Exception as error:  # noqa: BLE001 - as in `_run`
            outcome = [], error
        self._count(elapsed() - begun, [outcome])
        asyncio.get_running_loop().call_soon(self._answer, [operation], [done], [outcome])

    async def _run(self, operations: list[Operation], dones: list[Done]) -> None:
        outcomes: list[Outcome]
        begun = elapsed()
        try:
            outcomes = await self._writer.run(operations)
        except asyncio.CancelledError:
            if not self._given_up:
                raise
            outcomes = [([], StoreClosed(GIVEN_UP)) for _ in operations]
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
