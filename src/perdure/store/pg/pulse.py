"""The heartbeat's own connection to Postgres."""

from __future__ import annotations

import asyncio

import asyncpg

from perdure.store.pg.address import Address
from perdure.store.pg.dialect import readable
from perdure.store.pg.errors import FAILURES, mapped

BEAT_S = 10.0


class PostgresPulse:
    """Extends one worker's lease. Used from one thread, of its own, on a loop of its own."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._sql = readable(address.schema)["heartbeat"]
        self._loop = asyncio.new_event_loop()
        self._connection: asyncpg.Connection | None = None

    def beat(self, worker: int, now: int, lease_until: int) -> bool:
        """See `Pulse.beat`."""
        try:
            return self._loop.run_until_complete(asyncio.wait_for(self._beat(worker, now, lease_until), BEAT_S))
        except FAILURES as error:
            self._drop()
            raise mapped(error, self._address.where) from error

    async def _beat(self, worker: int, now: int, lease_until: int) -> bool:
        if self._connection is None:
            # A lease that a crash of the server forgets is only a lease that ends early.
            self._connection = await self._address.connect(synchronous_commit="off")
        return bool(await self._connection.fetch(self._sql, 0, worker, now, lease_until))

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    def close(self) -> None:
        """Let go of the database."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                self._loop.run_until_complete(connection.close(timeout=1))
            except FAILURES:
                connection.terminate()
        # What was terminated closes its socket on the loop's next turn.
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()
