"""The open transaction of a user's function."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg

from perdure.clock import Clock, elapsed, standing_still
from perdure.errors import OperationRefused, StoreClosed
from perdure.store.operation import AsyncBody, Guarded, Line, Operation
from perdure.store.pg import lasting
from perdure.store.pg.errors import AGAIN, BROKEN, mapped, state_of, unsure
from perdure.store.transaction import carried, carried_in_task, refuse_control


class Theirs(Exception):
    """What a user's function raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause


class PostgresAsyncTransaction:
    """
    See `AsyncTransaction`; the function runs on the loop.

    It sees the database as it was when it began (REPEATABLE READ); when others have changed the same rows meanwhile,
    the function runs again.

    Attributes:
        failure: What the database raised, as the function may turn it into another error; the transaction is lost
            in any case.
    """

    def __init__(self, connection: asyncpg.Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._turn = asyncio.Lock()
        self._over = False
        self._since = elapsed()
        self.failure: Exception | None = None

    async def execute(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """
        See `Transaction.execute`.

        Raises:
            StoreClosed: The transaction is over.
        """
        refuse_control(sql)
        async with self._turn:
            self.check_open()
            self.check_kept()
            try:
                with standing_still(self._clock):
                    return [tuple(row) for row in await self._connection.fetch(sql, *parameters)]
            except BROKEN as error:
                self.failure = error
                raise mapped(error, "a transaction of a workflow") from error
            finally:
                self._since = elapsed()

    def check_open(self) -> None:
        """
        Whether its function is still running.

        Raises:
            StoreClosed: It is not.
        """
        if self._over:
            problem = "The transaction is over: use it only inside the function that it was given to."
            raise StoreClosed(problem)

    def check_kept(self) -> None:
        """
        Whether the function has not left its transaction alone for too long; repeating it would not help.

        Raises:
            OperationRefused: The server has ended it for that.
        """
        if self._connection.is_closed() and elapsed() - self._since >= lasting.IDLE_S:
            problem = (
                f"The function left its transaction alone for {lasting.IDLE_S:g} seconds, so the database ended it, as "
                "others may wait for its rows. Do what takes long in a step before."
            )
            raise OperationRefused(problem)

    async def end(self) -> None:
        """It must not be used any more; what is still being executed ends first."""
        async with self._turn:
            self._over = True


class PostgresTransaction:
    """See `Transaction`; the same for a function that runs in a thread."""

    def __init__(self, there: PostgresAsyncTransaction) -> None:
        self._there = there
        self._loop = asyncio.get_running_loop()

    def execute(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """See `Transaction.execute`; StoreClosed if the transaction is over."""
        self._there.check_open()
        return asyncio.run_coroutine_threadsafe(self._there.execute(sql, parameters), self._loop).result()


async def run_body(operation: Operation, connection: asyncpg.Connection, clock: Clock) -> list[Line]:
    """
    What follows in an operation; its function may have to tell, on the loop or in a thread.

    Raises:
        Theirs: The function failed; the transaction is to be rolled back.
    """
    body = operation.body
    assert body is not None  # noqa: S101 - the caller's choice
    if isinstance(body, Guarded):
        return body.lines
    transaction = PostgresAsyncTransaction(connection, clock)
    try:
        if isinstance(body, AsyncBody):
            function = carried_in_task(body.call(transaction))
            task = asyncio.get_running_loop().create_task(function, context=body.context.copy())
            lines = await task
        else:
            lines = await asyncio.to_thread(carried, body, PostgresTransaction(transaction))
        transaction.check_kept()
    except Exception as error:
        if (current := asyncio.current_task()) is not None and current.cancelling():
            raise asyncio.CancelledError from error
        failure = transaction.failure
        if failure is not None and (state_of(failure) in AGAIN or unsure(failure)):
            raise failure from error
        raise Theirs(error) from error
    else:
        return lines
    finally:
        await transaction.end()
