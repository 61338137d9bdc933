"""The open transaction of a user's function."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg

from perdure.errors import StoreClosed
from perdure.store.operation import Line, Operation
from perdure.store.pg.errors import AGAIN, mapped, state_of, unsure
from perdure.store.transaction import refuse_control


class Theirs(Exception):
    """What a user's function raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause


class PostgresTransaction:
    """
    See `Transaction`; the function runs in a thread.

    It sees the database as it was when it began (REPEATABLE READ); when others have changed the same rows meanwhile,
    the function runs again.
    """

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._over = False
        self.failure: Exception | None = None

    def execute(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """
        See `Transaction.execute`.

        Raises:
            StoreClosed: The transaction is over.
        """
        refuse_control(sql)
        if self._over:
            problem = "The transaction is over: use it only inside the function that it was given to."
            raise StoreClosed(problem)
        return asyncio.run_coroutine_threadsafe(self._fetch(sql, parameters), self._loop).result()

    async def _fetch(self, sql: str, parameters: Sequence[Any] | dict[str, Any]) -> list[tuple[Any, ...]]:
        try:
            return [tuple(row) for row in await self._connection.fetch(sql, *parameters)]
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            # Kept, as the function may turn it into another one; the transaction is lost in any case.
            self.failure = error
            raise mapped(error, "a transaction of a workflow") from error

    def end(self) -> None:
        """It must not be used any more."""
        self._over = True


async def run_body(operation: Operation, connection: asyncpg.Connection) -> list[Line]:
    """
    Run the function of an operation, in a thread.

    Raises:
        Theirs: The function failed; the transaction is to be rolled back.
    """
    assert operation.body is not None  # noqa: S101 - the caller's choice
    transaction = PostgresTransaction(connection)
    try:
        return await asyncio.to_thread(operation.body, transaction)
    except Exception as error:
        failure = transaction.failure
        if failure is not None and (state_of(failure) in AGAIN or unsure(failure)):
            raise failure from error
        raise Theirs(error) from error
    finally:
        transaction.end()
