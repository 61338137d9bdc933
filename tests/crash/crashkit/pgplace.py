"""A place whose database is a schema of a real Postgres."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import asyncpg
from postgreskit.server import Server, server, with_search_path

from crashkit.harness import PATIENCE_S, Place
from perdure.clock import SystemClock
from perdure.model.limits import Limits
from perdure.store.doctor import examine
from perdure.store.pg.store import PostgresStore
from perdure.store.sqlite import SqliteStore

SETUP = """
create table ledger (run text not null, label text not null);
create table witness (run bigint not null, seq bigint not null, kind text not null, key text not null,
  attempt bigint, epoch bigint not null, id text not null, generation bigint not null);
create function witness_journal() returns trigger language plpgsql set search_path = '{schema}' as $$
begin
  insert into witness
  select new.run, new.seq, new.kind, new.key, new.attempt, r.epoch, r.id, r.generation
  from perdure_runs r where r.number = new.run;
  return null;
end $$;
create trigger witness_journal after insert on perdure_journal for each row execute function witness_journal();
create table held (queue text not null, in_all bigint not null, of_key bigint not null, of_worker bigint not null);
create function witness_slot() returns trigger language plpgsql set search_path = '{schema}' as $$
begin
  insert into held
  select new.queue, count(*), count(*) filter (where r.queue_key = new.queue_key), count(*) filter (where r.owner = new.owner)
  from perdure_runs r where r.queue = new.queue and r.slot = 2 and r.finished_at is null;
  return null;
end $$;
create trigger witness_slot after update on perdure_runs for each row
when (old.slot <> 2 and new.slot = 2) execute function witness_slot();
"""
"""As `check.SETUP`."""


class PostgresPlace(Place):
    """
    A test's folder, with a schema of its own.

    Args:
        on: The server; the one that all tests of this process share when left out.
    """

    def __init__(self, folder: Path, on: Server | None = None) -> None:
        self.server = on or server()
        self.url = with_search_path(self.server.url())
        self.schema = self.url.partition("schema=")[2].partition("&")[0]
        self._runner = asyncio.Runner()
        self._connection: asyncpg.Connection | None = None
        super().__init__(folder)

    def _prepare(self, _disk: Path | None) -> None:
        async def go() -> None:
            store = PostgresStore(self.url, clock=SystemClock(), limits=Limits())
            await store.connect()
            await store.close()
            await (await self._connect()).execute(SETUP.replace("{schema}", self.schema))

        self._runner.run(go())

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)
        if self._connection is not None:
            self._connection.terminate()
        self._runner.close()

    async def _connect(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            settings = {"search_path": self.schema}
            self._connection = await asyncpg.connect(self.server.dsn, timeout=PATIENCE_S, server_settings=settings)
        return self._connection

    def _ask(self, asking: Callable[[asyncpg.Connection], Any]) -> Any:
        """Ask the database, again while it is away."""
        give_up = time.monotonic() + PATIENCE_S

        async def go() -> Any:
            while True:
                try:
                    return await asking(await self._connect())
                except (asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError, asyncpg.AdminShutdownError,
                        asyncpg.CrashShutdownError, asyncpg.InterfaceError, OSError):  # fmt: skip
                    if time.monotonic() > give_up:
                        raise
                await asyncio.sleep(0.05)

        return self._runner.run(go())

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of one query of the portable kind, with ? for parameters."""
        for place in range(len(parameters)):
            sql = sql.replace("?", f"${place + 1}", 1)
        return [tuple(row) for row in self._ask(lambda connection: connection.fetch(sql, *parameters))]

    @contextlib.contextmanager
    def read(self) -> Iterator[apsw.Connection]:
        """
        A copy of one moment's rows as an SQLite file, so that the same rules are held against both.

        Postgres's own doctor has been asked before, and has found no error.
        """
        findings = [finding for finding in self._runner.run(self._doctor()) if finding.severity == "error"]
        assert not findings, findings
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            path = f"{folder}/copy.db"
            store = SqliteStore(path, clock=SystemClock(), limits=Limits(), synchronous="NORMAL")
            store.open()
            store.abandon()
            database = apsw.Connection(path)
            try:
                self._ask(lambda connection: _copy(connection, self.schema, database))
                yield database
            finally:
                database.close()

    scene = read

    async def _doctor(self) -> Any:
        store = PostgresStore(self.url, clock=SystemClock(), limits=Limits())
        await store.connect(migrating=False)
        try:
            return await examine(store, SystemClock().now())
        finally:
            await store.close()


async def _copy(source: asyncpg.Connection, schema: str, target: apsw.Connection) -> None:
    """All tables of the schema; what one of the two sides does not have is left out."""
    with target:
        for (trigger,) in list(target.execute("select name from sqlite_schema where type = 'trigger'")):
            target.execute(f"drop trigger {trigger}")
        async with source.transaction(isolation="repeatable_read", readonly=True):
            tables = await source.fetch("select tablename from pg_tables where schemaname = $1", schema)
            for (table,) in tables:
                rows = await source.fetch(f"select * from {table}")
                columns = [column.name for column in await _columns(source, table)]
                known = {column[1] for column in target.execute(f"pragma table_info({table})")}
                if not known and not table.startswith("perdure_"):
                    target.execute(f"create table {table} ({', '.join(columns)})")
                    known = set(columns)
                kept = [column for column in columns if column in known]
                if kept and table != "perdure_schema":
                    target.execute(f"delete from {table}")
                    marks = ", ".join("?" * len(kept))
                    target.executemany(
                        f"insert into {table} ({', '.join(kept)}) values ({marks})",
                        [tuple(row[column] for column in kept) for row in rows],
                    )


async def _columns(source: asyncpg.Connection, table: str) -> Any:
    return (await source.prepare(f"select * from {table}")).get_attributes()
