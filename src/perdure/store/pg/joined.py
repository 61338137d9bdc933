"""Take part in a caller's transaction on a Postgres database."""

from __future__ import annotations

from typing import Any

from perdure.clock import Clock
from perdure.errors import SchemaMissing
from perdure.store.caller import Caller
from perdure.store.operation import Operation, Row
from perdure.store.pg.address import Address
from perdure.store.pg.clock import SERVER_TIME, ServerClock
from perdure.store.pg.dialect import readable
from perdure.store.pg.errors import state_of
from perdure.store.pg.function import functions
from perdure.store.pg.work import tuples, work

_LATER = {"wake_id"}
"""Left for the commit, as they lock runs of others: a worker would wait for it with all that it drives."""
_GENERATED = {"cancel_named"}
"""Left for the commit by the function itself, which knows by then whom to cancel."""
_MISSING = ("3F000", "42P01", "42883")


class Joined:
    """See `Database`. What the driver raises is passed on: the caller knows how to repeat its transaction."""

    def __init__(self, caller: Caller, address: Address, clock: Clock) -> None:
        self.clock = clock
        self._caller = caller
        self._address = address
        self._statements = readable(address.schema)
        join = functions(address.schema).join
        self._join = f"select {join}($1::text::jsonb, $2::text::jsonb, $3::text::boolean, $4::text::bigint)::text"

    async def apply(self, operation: Operation) -> list[Row]:
        """
        See `Database.apply`; it is stored when the caller commits, and workers are told by that commit.

        Raises:
            SchemaMissing: The database has no schema of this perdure.
        """
        now = [line for line in operation.lines if line[0] not in _LATER | _GENERATED]
        later = [line for line in operation.lines if line[0] in _LATER]
        at_commit = work([later]) if later else None
        tell, time = str(self._address.listen), str(self.clock.now())
        answer = await self._fetch(self._join, work([now], locking=False), at_commit, tell, time)
        return tuples(answer[0][0])

    async def rows(self, name: str, *parameters: Any) -> list[Row]:
        """Run a named query; it sees what the caller's transaction has done."""
        return await self._fetch(self._statements[name], *parameters)

    async def check_clock(self) -> None:
        """Compare the clock with the server's, on the caller's connection."""
        if isinstance(self.clock, ServerClock):
            before = self.clock.reading()
            ((theirs,),) = await self._fetch(SERVER_TIME)
            self.clock.told(before, theirs)

    async def _fetch(self, sql: str, *parameters: Any) -> list[Row]:
        try:
            return await self._caller.fetch(sql, parameters)
        except Exception as error:  # of whichever driver
            driver = getattr(error, "orig", None) or error
            if (state_of(driver) or getattr(driver, "pgcode", None)) in _MISSING:
                problem = (
                    f"The database of this connection has no schema {self._address.schema!r} of this perdure: run "
                    "`perdure db migrate`, or connect to the app's own database"
                )
                raise SchemaMissing(problem) from error
            raise
