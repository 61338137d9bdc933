"""Group commit on a file: on the loop's own thread while that is quick, otherwise on a thread of its own."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from perdure.clock import elapsed
from perdure.errors import StoreBusy
from perdure.store.batch import BatchRunner
from perdure.store.changes import Changes
from perdure.store.commit import Committer
from perdure.store.operation import Done, Operation, Outcome

INLINE_SECONDS = 0.004
"""Commits expected to take less are made on the loop's own thread: handing one over costs about as much."""
MANY = 100
"""A process that has made so many commits gets room in the log; by then that has cost about what the room takes."""


class SqliteCommitter(Committer):
    """
    While commits are quick they are made on the loop's own thread.

    When the disk is slow, when another process holds the file, or when an operation carries user code, a writer
    thread makes them and the loop stays free.

    Args:
        inline_only: Never use a thread, so that every run of a simulation is the same.
    """

    def __init__(self, runner: BatchRunner, changes: Changes, *, most_queued: int, inline_only: bool = False) -> None:
        super().__init__(changes, most_queued=most_queued)
        self._runner = runner
        self._inline_only = inline_only
        self._expected = 0.0
        self._thread: ThreadPoolExecutor | None = None

    async def close(self) -> None:
        """See `Committer.close`."""
        await super().close()
        if self._thread:
            self._thread.shutdown()

    def _commit(self, operations: list[Operation], dones: list[Done]) -> None:
        if (self._expected >= INLINE_SECONDS or _carry_code(operations)) and not self._inline_only:
            self._hand_over(operations, dones)
            return
        begun = elapsed()
        try:
            outcomes = self._runner.run(operations)
        except StoreBusy:
            self._hand_over(operations, dones)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for this batch must hear of it
            outcomes = [([], error) for _ in operations]
        self._finish(elapsed() - begun, operations, dones, outcomes)

    def _hand_over(self, operations: list[Operation], dones: list[Done]) -> None:
        if self._inline_only:
            problem = StoreBusy("Another connection holds the database.")
            self._answer(operations, dones, [([], problem) for _ in operations])
            return
        self.under_way = True
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "perdure-writer")
        loop = asyncio.get_running_loop()
        begun = elapsed()

        def finished(future: asyncio.Future[list[Outcome]]) -> None:
            self.under_way = False
            problem = future.exception()
            if problem is None:
                outcomes = future.result()
            elif isinstance(problem, Exception):
                outcomes = [([], problem) for _ in operations]
            else:
                raise problem
            self._finish(elapsed() - begun, operations, dones, outcomes)

        loop.run_in_executor(self._thread, self._runner.run_patiently, operations).add_done_callback(finished)

    def _finish(self, seconds: float, operations: list[Operation], dones: list[Done], outcomes: list[Outcome]) -> None:
        self._expected += (seconds - self._expected) * 0.2
        self._count(seconds, outcomes)
        self._answer(operations, dones, outcomes)
        if self.commits == MANY:
            self._runner.make_room()


def _carry_code(operations: list[Operation]) -> bool:
    for operation in operations:  # noqa: SIM110 - any() takes longer, and mostly there is one
        if operation.body is not None:
            return True
    return False
