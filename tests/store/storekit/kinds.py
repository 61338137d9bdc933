"""The kinds of stores that the conformance suite runs on."""

import asyncio
from contextlib import closing
from pathlib import Path

import apsw
import asyncpg
from postgreskit.schemas import schemas
from postgreskit.server import with_search_path

from perdure.model.limits import Limits
from perdure.store.pg.dialect import composed
from perdure.store.pg.store import PostgresStore
from perdure.store.sqlite import SqliteStore

NOW = 1_750_000_000_000_000
"""When everything in these tests happens, microseconds since 1970; only the parameters of statements pass it on."""


class StillClock:
    """A clock that stands still: no statement may depend on it."""

    virtual = True

    def now(self) -> int:
        return NOW


class SqliteFile:
    """One SQLite file, on which several stores may be opened."""

    name = "sqlite-file"
    shared = True
    mark = "?"
    """How a user's SQL marks a parameter."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "store.db")

    def store(self, **options) -> SqliteStore:
        """A new store on this kind's database, not connected yet."""
        options = {"synchronous": "NORMAL", "clock": StillClock(), "limits": Limits(), **options}
        return SqliteStore(self.path, **options)

    def open(self, **options) -> SqliteStore:
        """A new store, opened; the schema is made by the first."""
        store = self.store(**options)
        store.open()
        return store

    def execute(self, store: SqliteStore, sql: str, parameters=()) -> list[tuple]:
        """
        Run SQL on the store's database from outside, as an operator with a console could.

        The portable kind of SQL only, with ? for parameters. Committed when it returns. Raises whatever the
        driver raises.
        """
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
        with closing(apsw.Connection(store._name, flags=flags)) as outside:
            outside.set_busy_timeout(10_000)
            return list(outside.execute(sql, parameters))

    refusal: type[Exception] = apsw.ConstraintError
    """What `execute` raises when a trigger or a constraint refuses."""

    def close(self) -> None:
        """Nothing is kept open."""


class SqliteMemory(SqliteFile):
    """A database in memory, which ends with its only store."""

    name = "sqlite-memory"
    shared = False

    def __init__(self, folder: Path) -> None:
        self.path = ":memory:"


class PostgresSchema:
    """A schema of a real Postgres."""

    name = "postgres"
    shared = True
    mark = "$1"
    refusal: type[Exception] = asyncpg.IntegrityConstraintViolationError

    def __init__(self, _folder: Path, **options: str) -> None:
        self._schema = schemas().take()
        self.url = with_search_path(self._schema.url(**options))
        self._loop = asyncio.new_event_loop()
        self._outside = None

    def store(self, **options) -> PostgresStore:
        return PostgresStore(self.url, **{"clock": StillClock(), "limits": Limits(), **options})

    def execute(self, store: PostgresStore, sql: str, parameters=()) -> list[tuple]:
        return self._loop.run_until_complete(self._execute(store, sql, parameters))

    async def _execute(self, store, sql, parameters):
        if self._outside is None:
            self._outside = await store.address.connect()
        return [tuple(row) for row in await self._outside.fetch(composed(store.address.schema, sql), *parameters)]

    def close(self) -> None:
        if self._outside is not None:
            self._loop.run_until_complete(self._outside.close())
        self._loop.close()
        schemas().give_back(self._schema)


KINDS = (SqliteFile, SqliteMemory, PostgresSchema)
