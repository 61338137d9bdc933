"""A few connections to read with."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg

from perdure import ids
from perdure.clock import Clock, elapsed, standing_still
from perdure.errors import StoreClosed
from perdure.store.base import CLOSED
from perdure.store.operation import Row
from perdure.store.pg import lasting
from perdure.store.pg.address import Address
from perdure.store.pg.errors import FAILURES, mapped, passing, unsure
from perdure.store.pg.lasting import Lasting

MOST = 4
SETTINGS = {"statement_timeout": "60s", "default_transaction_read_only": "on"}


class Reader:
    """
    Runs queries, several at a time; one whose connection fails is asked again, for as long as writers try.

    Args:
        writing: Once this has been on a primary, nothing is read from a standby, which may lack the last commits.
    """

    def __init__(self, address: Address, clock: Clock, writing: Lasting) -> None:
        self._address = address
        self._clock = clock
        self._writing = writing
        self._idle: list[asyncpg.Connection] = []
        self._room = asyncio.Semaphore(MOST)
        self._closed = False

    async def fetch(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        """
        All rows of a query.

        Raises:
            StoreError: The database failed.
        """
        async with self._room:
            with standing_still(self._clock):
                return await self._insist(sql, parameters)

    async def _insist(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        begun, pause = elapsed(), 0.0
        while True:
            try:
                return await self._fetch(sql, parameters)
            except FAILURES as error:
                if not passing(error) or self._closed or elapsed() - begun > lasting.PATIENCE_S:
                    raise mapped(error, self._address.where) from error
            # The other idle connections are of the same age.
            self._drop()
            await asyncio.sleep(pause * (0.5 + ids.jitter()))
            pause = min(max(2 * pause, 0.01), lasting.LONGEST_PAUSE_S)

    async def _fetch(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        if self._closed:
            raise StoreClosed(CLOSED)
        connection = self._idle.pop() if self._idle else await self._address.connect(**SETTINGS)
        if self._writing.primary:
            self._address.check_primary(connection)
        try:
            if self._address.pooled:
                async with connection.transaction(readonly=True):
                    rows = await connection.fetch(sql, *parameters)
            else:
                rows = await connection.fetch(sql, *parameters)
        except asyncpg.PostgresError as error:
            if unsure(error):
                connection.terminate()
            else:
                self._keep(connection)
            raise
        except BaseException:
            connection.terminate()
            raise
        self._keep(connection)
        return [tuple(row) for row in rows]

    def _keep(self, connection: asyncpg.Connection) -> None:
        if self._closed:
            connection.terminate()
        else:
            self._idle.append(connection)

    def _drop(self) -> None:
        for connection in self._idle:
            connection.terminate()
        self._idle.clear()

    async def close(self) -> None:
        """Say goodbye to the server."""
        self._closed = True
        idle, self._idle = self._idle, []
        with standing_still(self._clock):
            for connection in idle:
                try:
                    await connection.close(timeout=1)
                except FAILURES:
                    connection.terminate()

    def abandon(self) -> None:
        """Let go of the connections."""
        self._closed = True
        self._drop()
