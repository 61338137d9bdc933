"""Take part in a caller's transaction on a SQLite file."""

from __future__ import annotations

from typing import Any

from perdure.clock import Clock
from perdure.store.caller import Caller
from perdure.store.operation import Operation, Row, place_of
from perdure.store.queries import statements


class JoinedSqlite:
    """
    See `Database`. The file has one writer at a time, so everybody else's commits wait for the caller's transaction.

    Workers hear of its commit as they do of any other connection's.
    """

    def __init__(self, caller: Caller, clock: Clock) -> None:
        self.clock = clock
        self._caller = caller
        self._statements = statements("sqlite")

    async def apply(self, operation: Operation) -> list[Row]:
        """See `Database.apply`; it is stored when the caller commits."""
        rows: list[Row] = []
        for name, parameters in sorted(operation.lines, key=place_of):
            statement = self._statements[name]
            if statement.tagged:
                rows += [row[1:] for row in await self._caller.fetch(statement.sql, (0, *parameters))]
            else:
                await self._caller.fetch(statement.sql, parameters)
        return rows

    async def rows(self, name: str, *parameters: Any) -> list[Row]:
        """Run a named query; it sees what the caller's transaction has done."""
        return await self._caller.fetch(self._statements[name].sql, parameters)

    async def check_clock(self) -> None:
        """All who use a file are on one machine."""
