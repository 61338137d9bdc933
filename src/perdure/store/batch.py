"""Run a batch of operations as one SQLite transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import apsw

from perdure.errors import PerdureError, StoreError
from perdure.store.operation import ORDER, Line, Operation, Row
from perdure.store.queries import Statement
from perdure.store.sqlite_errors import mapped

Outcome = tuple[list[Row], Exception | None]
Probe = Callable[[str, Sequence[Operation]], None]
BUSY_MILLISECONDS = 10_000
_PLACE = {name: place for place, name in enumerate(ORDER)}


class Transaction:
    """
    The open transaction, as `ctx.transaction` hands it to a user's function.

    What is executed here commits together with the step's outcome, or not at all.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """
        Run SQL on the same database.

        Args:
            sql: One or more statements of SQLite; no begin, commit or rollback.
            parameters: For ?, ?1 or :name.

        Returns:
            All rows.
        """
        return list(self._connection.execute(sql, parameters))


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
            return self._transact(batch)
        except apsw.BusyError as error:
            raise mapped(error, self._path) from error
        except apsw.Error as error:
            problem = mapped(error, self._path)
            if problem.retryable or len(batch) == 1:
                problem.__cause__ = error
                return [([], problem) for _ in batch]
        except StoreError as error:
            return [([], error) for _ in batch]
        outcomes: list[Outcome] = []
        for operation in batch:
            outcomes += self.run([operation])
        return outcomes

    def run_patiently(self, batch: list[Operation]) -> list[Outcome]:
        """The same from a thread of its own, waiting for other processes that write."""
        self._connection.set_busy_timeout(BUSY_MILLISECONDS)
        try:
            return self.run(batch)
        finally:
            self._connection.set_busy_timeout(0)

    def _transact(self, batch: list[Operation]) -> list[Outcome]:
        execute = self._cursor.execute
        execute("begin immediate")
        try:
            outcomes = self._apply(batch)
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
            outcomes[tag] = self._apply_body(batch[tag])
        return outcomes

    def _execute(self, buckets: dict[str, list[tuple[Any, ...]]], outcomes: list[Outcome]) -> None:
        executemany = self._cursor.executemany
        for name in sorted(buckets, key=_PLACE.__getitem__):
            statement = self._statements[name]
            rows = executemany(statement.sql, buckets[name])
            if statement.tagged:
                for row in rows:
                    outcomes[row[0]][0].append(row[1:])
            else:
                for _ in rows:
                    pass

    def _apply_body(self, operation: Operation) -> Outcome:
        """An operation with user code: in a savepoint of its own, so that its failure undoes only itself."""
        outcomes: list[Outcome] = [([], None)]
        self._connection.execute("savepoint perdure_body")
        try:
            self._execute(self._bucket(operation.lines), outcomes)
            if not any(row[0] == "stale" for row in outcomes[0][0]):
                assert operation.body is not None  # noqa: S101 - for mypy; the caller chose by it
                self._execute(self._bucket(operation.body(Transaction(self._connection))), outcomes)
        except Exception as error:  # noqa: BLE001 - the user's function may raise anything; it is reported
            self._connection.execute("rollback to perdure_body")
            outcomes = [([], error if isinstance(error, PerdureError) else _foreign(error, self._path))]
        self._connection.execute("release perdure_body")
        return outcomes[0]

    def _bucket(self, lines: list[Line]) -> dict[str, list[tuple[Any, ...]]]:
        buckets: dict[str, list[tuple[Any, ...]]] = {}
        for name, parameters in lines:
            row = (0, *parameters) if self._statements[name].tagged else parameters
            buckets.setdefault(name, []).append(row)
        return buckets


def _foreign(error: Exception, path: str) -> Exception:
    return mapped(error, path) if isinstance(error, apsw.Error) else error
