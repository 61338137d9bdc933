"""
Group commit without a timer.

A batch is whatever was submitted while the previous commit was under way: a lone operation never waits,
a crowd shares one fsync, and everybody is answered with one wake-up of the loop.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable

from perdure.errors import Overloaded, StoreClosed
from perdure.model.entry import Entry
from perdure.model.run import End
from perdure.store.changes import NOTHING, Changes
from perdure.store.operation import Done, Operation, Outcome, is_stale
from perdure.store.record import appended

log = logging.getLogger("perdure.store")
Committed = Callable[[int, float, list[Exception]], None]
"""Told of a batch: how many operations, how many seconds, and the errors of those that failed."""
MOST_PER_COMMIT = 2_000
Published = Callable[[set[int], set[int], set[int], bool], None]
"""Told after each commit what others may want to know: the first four arguments of `Changes.committed`."""


class Committer(ABC):
    """
    Takes operations on the event loop's thread and commits them in order; how is up to each database.

    Args:
        most_queued: Operations that may wait; more are refused with `Overloaded`.
        published: For other processes that have no other way to notice.

    Attributes:
        under_way: Whether a batch is with the database while the loop goes on, so that the connection is not ours.
        commits: Batches committed so far.
        observed: Told of each of them.
    """

    def __init__(self, changes: Changes, *, most_queued: int, published: Published | None = None) -> None:
        self._changes = changes
        self._most_queued = most_queued
        self._published = published
        self._operations: list[Operation] = []
        self._dones: list[Done] = []
        self._busy = False
        self._held = False
        self.under_way = False
        self._closed = False
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

    def _flush(self) -> None:
        if self.under_way or not self._operations:
            return
        operations, dones = self._operations, self._dones
        self._operations, self._dones = operations[MOST_PER_COMMIT:], dones[MOST_PER_COMMIT:]
        if self._operations:
            del operations[MOST_PER_COMMIT:], dones[MOST_PER_COMMIT:]
        self._commit(operations, dones)

    @abstractmethod
    def _commit(self, operations: list[Operation], dones: list[Done]) -> None:
        """Commit a batch, at once or with `under_way` set meanwhile; `_count` and `_answer` come after, in any case."""

    def _count(self, seconds: float, outcomes: list[Outcome]) -> None:
        self.commits += 1
        if self.observed is not None:
            self.observed(len(outcomes), seconds, [error for _, error in outcomes if error is not None])

    def _answer(self, operations: list[Operation], dones: list[Done], outcomes: list[Outcome]) -> None:
        changed: set[int] = set()
        ended: dict[int, End | None] = {}
        mail: set[int] = set()
        made_due = False
        watched = self._changes.watched or self._published is not None
        for operation, done, (rows, error) in zip(operations, dones, outcomes, strict=True):
            if error is None:
                made_due = made_due or operation.makes_due
                if watched:
                    changed |= operation.changed
                if operation.end is not None and not is_stale(rows):
                    ended.update(dict.fromkeys(operation.changed, operation.end))
            if rows:
                mail.update(row[1] for row in rows if row[0] in _MAIL_LABELS)
                if self._changes.delivering:
                    changed.update(row[1] for row in rows if row[0] == "started")
            try:
                done(rows, error)
            except Exception:
                # A mistake of ours: the others must be answered, and the next batch begun, all the same.
                log.exception("what follows a commit failed")
        if made_due or changed or ended or mail:
            if self._published is not None:
                self._published(changed | mail, set(ended), mail, made_due)
            handed = self._handed(operations, outcomes) if self._changes.following else NOTHING
            self._changes.committed(changed | mail, ended, mail, due=made_due, handed=handed)
        self._go_on()

    def _handed(self, operations: list[Operation], outcomes: list[Outcome]) -> dict[int, list[Entry] | None]:
        """What was appended to the journals that somebody follows; None for a run to which more was done than that."""
        found: dict[int, list[Entry] | None] = {}
        for operation, (rows, error) in zip(operations, outcomes, strict=True):
            for number in self._changes.following & operation.changed if error is None else ():
                new, before = None if rows else appended(operation), found.get(number, [])
                found[number] = None if new is None or before is None else before + new
        return found

    def _go_on(self) -> None:
        """With what was submitted meanwhile, if anything."""
        if self._operations:
            asyncio.get_running_loop().call_soon(self._flush)
        elif not self.under_way:
            self._busy = False
            if self._idle:
                self._idle.set()


_MAIL_LABELS = frozenset({"sent", "asked", "cancelling", "notified"})
"""Rows that say that the run of this number has got a message."""
