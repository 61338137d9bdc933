"""Run a batch of operations as one SQLite transaction."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import apsw

from perdure.errors import StoreError
from perdure.store.operation import (
    ASKING,
    CLAIMS,
    PLACE,
    AsyncBody,
    Guarded,
    Line,
    Operation,
    Outcome,
    Row,
    is_lone_entry,
    is_stale,
    place_of,
)
from perdure.store.queries import Statement
from perdure.store.sqlite_errors import UNSTORABLE, mapped
from perdure.store.transaction import at_once, carried, refuse_control

Probe = Callable[[str, Sequence[Operation]], None]
BUSY_MILLISECONDS = 10_000
LOG_PAGES = 1_000
"""So many pages of the log are copied into the file at a time; then it is written anew from its beginning."""
PAGE_BYTES = 4_096
_MAY_AWAIT = "on SQLite it may await nothing but its transaction, as it keeps the whole file waiting"


class SqliteTransaction:
    """See `Transaction`."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._cursor = connection.cursor()
        self._cursor.exec_trace = _refuse_control

    def execute(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """See `Transaction.execute`."""
        return list(self._cursor.execute(sql, parameters))


class SqliteAsyncTransaction:
    """See `AsyncTransaction`; nothing is waited for."""

    def __init__(self, there: SqliteTransaction) -> None:
        self._there = there

    async def execute(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """See `Transaction.execute`."""
        return self._there.execute(sql, parameters)


def _run_body(body: Callable[[Any], list[Line]] | AsyncBody | Guarded, connection: apsw.Connection) -> list[Line]:
    """
    What follows in an operation; its function may have to tell. One that waits for something would keep all waiting.

    Raises:
        InvalidOption: A coroutine function awaited something else than its transaction.
    """
    if isinstance(body, Guarded):
        return body.lines
    transaction = SqliteTransaction(connection)
    if not isinstance(body, AsyncBody):
        return carried(body, transaction)
    coroutine = body.call(SqliteAsyncTransaction(transaction))
    return carried(body.context.copy().run, at_once, coroutine, "ctx.transaction(fn)", _MAY_AWAIT)


def _refuse_control(_cursor: apsw.Cursor, sql: str, _parameters: object) -> bool:
    """Asked by the driver before each statement of a user's function."""
    refuse_control(sql)
    return True


class BatchRunner:
    """
    Owns the writing connection.

    Args:
        probe: Called with "before_commit" and "after_commit" and the batch, for tests that kill or fail
            the process just there.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        statements: dict[str, Statement],
        path: str,
        probe: Probe | None = None,
    ) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._statements = statements
        self._path = path
        self._probe = probe

    def run(self, batch: list[Operation]) -> list[Outcome]:
        """
        Commit a batch; a bad operation is isolated and the others still commit.

        Returns:
            For each operation its rows, or the error that kept it from being stored.

        Raises:
            StoreBusy: Another process is writing; nothing was done.
        """
        try:
            try:
                if len(batch) == 1 and is_lone_entry(batch[0]):
                    return self._append(batch)
                if len(batch) == 1 and self._finds_nothing(batch[0]):
                    return [([], None)]
                return self._transact(batch, self._apply)
            except (apsw.Error, *UNSTORABLE) as error:
                if len(batch) == 1 or mapped(error, self._path).retryable:
                    raise
            # Still one transaction: if it cannot be had, nothing was done yet.
            return self._transact(batch, self._apply_apart)
        except apsw.BusyError as error:
            raise mapped(error, self._path) from error
        except (apsw.Error, *UNSTORABLE) as error:
            problem = mapped(error, self._path, self._connection.system_errno)
            problem.__cause__ = error
            return [([], problem) for _ in batch]
        except StoreError as error:
            return [([], error) for _ in batch]

    def run_patiently(self, batch: list[Operation]) -> list[Outcome]:
        """The same from a thread of its own, waiting for other processes that write."""
        self._connection.set_busy_timeout(BUSY_MILLISECONDS)
        try:
            return self.run(batch)
        finally:
            self._connection.set_busy_timeout(0)

    def make_room(self) -> None:
        """
        Let the log be at once as long as it will get, if it is on disk.

        A commit that makes it longer takes the disk about twice as long as one that writes over what is there. So what
        is written here is taken back, and stays as room.
        """
        log = f"{self._path}-wal"
        if not os.path.exists(log) or os.path.getsize(log) >= LOG_PAGES * PAGE_BYTES:  # noqa: PTH110, PTH202 - no pathlib
            return
        execute = self._cursor.execute
        ((cached,),) = execute("pragma cache_size")
        try:
            execute("pragma cache_size = 10")  # what there is no room for in memory goes to the log
            execute("begin immediate")
            execute("create table perdure_room (data)")
            execute("insert into perdure_room values (zeroblob(?))", (LOG_PAGES * PAGE_BYTES,))
        except apsw.Error:
            pass  # somebody else writes, or the disk is full: whoever commits next will hear of it
        finally:
            if self._connection.in_transaction:
                execute("rollback")
            execute(f"pragma cache_size = {cached}")

    def _append(self, batch: list[Operation]) -> list[Outcome]:
        """
        The one entry of a sequential step, as a transaction of one statement.

        When it was inserted, there is no need to ask whether it might be.
        """
        if self._probe:
            self._probe("before_commit", batch)
        fence, append = batch[0].lines
        rows: list[Row] = []
        self._cursor.execute(self._statements["append"].sql, append[1])
        if not self._connection.changes():
            rows = [row[1:] for row in self._cursor.execute(self._statements["fence"].sql, (0, *fence[1]))]
        if self._probe:
            self._probe("after_commit", batch)
        return [(rows, None)]

    def _finds_nothing(self, operation: Operation) -> bool:
        """Whether it asks for runs and there are none: other processes need not wait for it, nor it for them."""
        names = {name for name, _ in operation.lines}
        if operation.body is not None or not names <= CLAIMS or names.isdisjoint(ASKING):
            return False
        found: list[Row] = []
        for name, parameters in operation.lines:
            if name == "claim":
                _, now, _, workflows = parameters
                found += self._cursor.execute(self._statements["any_due"].sql, (now, workflows))
            elif name == "claim_line":
                _, now, *_, queue = parameters
                found += self._cursor.execute(self._statements["queue_ready"].sql, (queue, now))
        return all(ready is None for (ready,) in found)

    def _transact(self, batch: list[Operation], apply: Callable[[list[Operation]], list[Outcome]]) -> list[Outcome]:
        execute = self._cursor.execute
        execute("begin immediate")
        try:
            outcomes = apply(batch)
            if self._probe:
                self._probe("before_commit", batch)
            execute("commit")
        except BaseException:
            if self._connection.in_transaction:
                execute("rollback")
            raise
        if self._probe:
            self._probe("after_commit", batch)
        return outcomes

    def _apply(self, batch: list[Operation]) -> list[Outcome]:
        if len(batch) == 1 and batch[0].body is None:
            return [(self._run_lines(batch[0].lines), None)]
        outcomes: list[Outcome] = [([], None) for _ in batch]
        buckets: dict[str, list[tuple[Any, ...]]] = {}
        statements = self._statements
        with_body = []
        for tag, operation in enumerate(batch):
            if operation.body is not None:
                with_body.append(tag)
                continue
            for name, parameters in operation.lines:
                row = (tag, *parameters) if statements[name].tagged else parameters
                if name in buckets:
                    buckets[name].append(row)
                else:
                    buckets[name] = [row]
        self._execute(buckets, outcomes)
        for tag in with_body:
            outcomes[tag] = self._apply_alone(batch[tag])
        return outcomes

    def _apply_apart(self, batch: list[Operation]) -> list[Outcome]:
        return [self._apply_alone(operation) for operation in batch]

    def _execute(self, buckets: dict[str, list[tuple[Any, ...]]], outcomes: list[Outcome]) -> None:
        executemany = self._cursor.executemany
        for name in sorted(buckets, key=PLACE.__getitem__):
            statement = self._statements[name]
            rows = executemany(statement.sql, buckets[name])
            if statement.tagged:
                for row in rows:
                    outcomes[row[0]][0].append(row[1:])
            else:
                for _ in rows:
                    pass

    def _apply_alone(self, operation: Operation) -> Outcome:
        """In a savepoint of its own, so that a failure undoes only this operation."""
        error: Exception | None = None
        self._connection.execute("savepoint perdure_alone")
        try:
            rows = self._run_lines(operation.lines)
            if operation.body is not None and not is_stale(rows):
                rows += self._run_lines(_run_body(operation.body, self._connection))
        except Exception as problem:
            if not self._connection.in_transaction:
                # A failure of the disk has ended the whole transaction.
                raise
            self._connection.execute("rollback to perdure_alone")
            rows, error = [], _typed(problem, self._path, operation)
        self._connection.execute("release perdure_alone")
        return rows, error

    def _run_lines(self, lines: list[Line]) -> list[Row]:
        """Execute one operation's statements, in the order of `ORDER`; returns their rows."""
        execute, statements = self._cursor.execute, self._statements
        rows: list[Row] = []
        for name, parameters in sorted(lines, key=place_of) if len(lines) > 1 else lines:
            statement = statements[name]
            if statement.tagged:
                rows += [row[1:] for row in execute(statement.sql, (0, *parameters))]
            else:
                for _ in execute(statement.sql, parameters):
                    pass
        return rows


def _typed(error: Exception, path: str, operation: Operation) -> Exception:
    """What the caller is told: the error of a user's function as it is, all others as one of ours."""
    ours = isinstance(error, UNSTORABLE) and operation.body is None
    return mapped(error, path) if ours or isinstance(error, apsw.Error) else error
