"""
Group commit without a timer.

A batch is whatever was submitted while the previous commit was under way: a lone operation never waits,
a crowd shares one fsync, and everybody is answered with one wake-up of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from perdure.clock import elapsed
from perdure.errors import Overloaded, StoreBusy, StoreClosed
from perdure.store.batch import BatchRunner, Outcome
from perdure.store.changes import Changes
from perdure.store.operation import Done, Operation

Committed = Callable[[int, float, list[Exception]], None]
"""Told of a batch: how many operations, how many seconds, and the errors of those that failed."""
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
        observed: Told of each of them.
    """

    def __init__(self, runner: BatchRunner, changes: Changes, *, most_queued: int, inline_only: bool = False) -> None:
        self._runner = runner
        self._changes = changes
        self._most_queued = most_queued
        self._inline_only = inline_only
        self._operations: list[Operation] = []
        self._dones: list[Done] = []
        self._patient = False
        self._busy = False
        self._held = False
        self.under_way = False
        self._closed = False
        self._expected = 0.0
        self._thread: ThreadPoolExecutor | None = None
        self._idle: asyncio.Event | None = None
        self.commits = 0
        self.observed: Committed | None = None

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
        if len(self._operations) >= self._most_queued:
            what = "The queue of operations waiting to be stored"
            raise Overloaded(what, self._most_queued)
        self._operations.append(operation)
        self._dones.append(done)
        if operation.body is not None:
            self._patient = True
        if not self._busy:
            self._busy = True
            if not self._held:
                asyncio.get_running_loop().call_soon(self._flush)

    def hold(self) -> None:
        """Let what is submitted wait for `flush`: the caller knows when its crowd is complete."""
        self._held = True

    def flush(self) -> None:
        """Commit what is queued, now if commits are made on this thread."""
        self._held = False
        if self._operations and not self.under_way:
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
        if self.under_way or not self._operations:
            return
        operations, dones = self._take()
        if (self._patient or self._expected >= INLINE_SECONDS) and not self._inline_only:
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
        self._learn(elapsed() - begun, outcomes)
        self._answer(operations, dones, outcomes)

    def _take(self) -> tuple[list[Operation], list[Done]]:
        """What goes into the next commit."""
        operations, dones = self._operations, self._dones
        self._operations, self._dones = operations[MOST_PER_COMMIT:], dones[MOST_PER_COMMIT:]
        if self._operations:
            del operations[MOST_PER_COMMIT:], dones[MOST_PER_COMMIT:]
        return operations, dones

    def _hand_over(self, operations: list[Operation], dones: list[Done]) -> None:
        if self._inline_only:
            problem = StoreBusy("Another connection holds the database.")
            self._answer(operations, dones, [([], problem) for _ in operations])
            return
        self.under_way = True
        self._patient = any(operation.body for operation in self._operations)
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
            self._learn(elapsed() - begun, outcomes)
            self._answer(operations, dones, outcomes)

        loop.run_in_executor(self._thread, self._runner.run_patiently, operations).add_done_callback(finished)

    def _learn(self, seconds: float, outcomes: list[Outcome]) -> None:
        self._expected += (seconds - self._expected) * 0.2
        self.commits += 1
        if self.observed is not None:
            self.observed(len(outcomes), seconds, [error for _, error in outcomes if error is not None])

    def _answer(self, operations: list[Operation], dones: list[Done], outcomes: list[Outcome]) -> None:
        changed: set[int] = set()
        ended: set[int] = set()
        mail: set[int] = set()
        made_due = False
        watched = self._changes.watched
        for operation, done, (rows, error) in zip(operations, dones, outcomes, strict=True):
            if error is None:
                made_due = made_due or operation.makes_due
                if watched:
                    changed |= operation.changed
                if operation.ends:
                    ended |= operation.changed
            if rows:
                mail.update(row[1] for row in rows if row[0] in MAIL_LABELS)
            done(rows, error)
        if made_due or changed or ended or mail:
            self._changes.committed(changed | mail, ended, mail, due=made_due)
        if self._operations:
            asyncio.get_running_loop().call_soon(self._flush)
        elif not self.under_way:
            self._busy = False
            if self._idle:
                self._idle.set()


MAIL_LABELS = frozenset({"sent", "asked", "cancelling", "notified"})
"""Rows that say that the run of this number has got a message."""
