"""The kinds of stores that the conformance suite runs on."""

from contextlib import closing
from pathlib import Path

import apsw

from perdure.model.limits import Limits
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

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "store.db")

    def open(self, **options) -> SqliteStore:
        """A new store on this kind's database, opened; its schema is made by the first."""
        options = {"synchronous": "OFF", "clock": StillClock(), "limits": Limits(), **options}
        store = SqliteStore(self.path, **options)
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


class SqliteMemory(SqliteFile):
    """A database in memory, which ends with its only store."""

    name = "sqlite-memory"
    shared = False

    def __init__(self, folder: Path) -> None:
        self.path = ":memory:"


KINDS = (SqliteFile, SqliteMemory)
