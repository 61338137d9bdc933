"""
Group commit without a timer.

A batch is whatever was submitted while the previous commit was under way: a lone operation never waits,
a crowd shares one fsync, and everybody is answered with one wake-up of the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from perdure.clock import elapsed
from perdure.errors import Overloaded, StoreBusy, StoreClosed
from perdure.store.batch import BatchRunner, Outcome
from perdure.store.changes import Changes
from perdure.store.operation import Done, Operation

MOST_PER_COMMIT = 2_000
INLINE_SECONDS = 0.004
"""Commits expected to take less are made on the loop's own thread: handing one over costs about as much."""


class Committer:
    """
    Takes operations on the event loop's thread and commits them in order.

    While commits are quick they are made on the loop's own thread. When the disk is slow, when another
    process holds the file, or when an operation carries user code, a writer thread makes them and the loop
    stays free.

    Args:
        inline_only: Never use a thread, so that every run of a simulation is the same.
        most_queued: Operations that may wait; more are refused with `Overloaded`.

    Attributes:
        under_way: Whether the writer thread is committing, so that the connection is not ours.
        commits: Transactions made so far.
    """

    def __init__(self, runner: BatchRunner, changes: Changes, *, most_queued: int, inline_only: bool = False) -> None:
        self._runner = runner
        self._changes = changes
        self._most_queued = most_queued
        self._inline_only = inline_only
        self._queue: deque[tuple[Operation, Done]] = deque()
        self._busy = False
        self.under_way = False
        self._closed = False
        self._expected = 0.0
        self._thread: ThreadPoolExecutor | None = None
        self._idle: asyncio.Event | None = None
        self.commits = 0

    def submit(self, operation: Operation, done: Done) -> None:
        """
        Queue an operation; call it on the event loop's thread only.

        Args:
            done: Called after the commit with the operation's rows, or with the error that kept it from
                being stored. It must not raise.

        Raises:
            StoreClosed: The store was closed.
            Overloaded: Too many operations wait already; nothing was queued.
        """
        if self._closed:
            problem = "The store is closed; open the app again."
            raise StoreClosed(problem)
        if len(self._queue) >= self._most_queued:
            what = "The queue of operations waiting to be stored"
            raise Overloaded(what, self._most_queued)
        self._queue.append((operation, done))
        if not self._busy:
            self._busy = True
            asyncio.get_running_loop().call_soon(self._flush)

    def flush(self) -> None:
        """Commit what is queued now, if commits are made on this thread: the caller knows that a crowd is complete."""
        if self._queue and not self.under_way:
            self._flush()

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or being committed."""
        return not self._busy

    async def close(self) -> None:
        """Commit what is queued, then refuse more."""
        self._closed = True
        if self._busy:
            self._idle = asyncio.Event()
            await self._idle.wait()
        if self._thread:
            self._thread.shutdown()

    def _flush(self) -> None:
        queue = self._queue
        if self.under_way or not queue:
            return
        batch = [queue.popleft() for _ in range(min(len(queue), MOST_PER_COMMIT))]
        operations = [operation for operation, _ in batch]
        quick = self._expected < INLINE_SECONDS and all(operation.body is None for operation in operations)
        if not (quick or self._inline_only):
            self._hand_over(batch, operations)
            return
        begun = elapsed()
        try:
            outcomes = self._runner.run(operations)
        except StoreBusy:
            self._hand_over(batch, operations)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for this batch must hear of it
            outcomes = [([], error) for _ in batch]
        self._learn(elapsed() - begun)
        self._answer(batch, outcomes)

    def _hand_over(self, batch: list[tuple[Operation, Done]], operations: list[Operation]) -> None:
        if self._inline_only:
            problem = StoreBusy("Another connection holds the database.")
            self._answer(batch, [([], problem) for _ in batch])
            return
        self.under_way = True
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "perdure-writer")
        loop = asyncio.get_running_loop()
        begun = elapsed()

        def finished(future: asyncio.Future[list[Outcome]]) -> None:
            self.under_way = False
            self._learn(elapsed() - begun)
            problem = future.exception()
            if problem is None:
                outcomes = future.result()
            elif isinstance(problem, Exception):
                outcomes = [([], problem) for _ in batch]
            else:
                raise problem
            self._answer(batch, outcomes)

        loop.run_in_executor(self._thread, self._runner.run_patiently, operations).add_done_callback(finished)

    def _learn(self, seconds: float) -> None:
        self._expected += (seconds - self._expected) * 0.2
        self.commits += 1

    def _answer(self, batch: list[tuple[Operation, Done]], outcomes: list[Outcome]) -> None:
        changed: set[int] = set()
        ended: set[int] = set()
        mail: set[int] = set()
        due = False
        watched = self._changes.watched
        for (operation, done), (rows, error) in zip(batch, outcomes, strict=True):
            if error is None:
                due = due or operation.makes_due
                if watched:
                    changed |= operation.changed
                    if operation.ends:
                        ended |= operation.changed
                for row in rows:
                    if row[0] in MAIL_LABELS:
                        mail.add(row[1])
            done(rows, error)
        self._changes.committed(changed | mail, ended, mail, due=due)
        if self._queue:
            asyncio.get_running_loop().call_soon(self._flush)
        elif not self.under_way:
            self._busy = False
            if self._idle:
                self._idle.set()


MAIL_LABELS = frozenset({"sent", "asked", "cancelling", "notified"})
"""Rows that say that the run of this number has got a message."""
