"""One SQLite file as a store: connections, pragmas, reading, backup."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
from collections.abc import Sequence
from typing import Any, Literal

import apsw

from perdure.clock import Clock
from perdure.errors import InvalidOption, SchemaMissing, StoreClosed, StoreReadOnly, StoreUnavailable
from perdure.model.limits import Limits
from perdure.store.base import CLOSED, BaseStore
from perdure.store.batch import BUSY_MILLISECONDS, LOG_PAGES, BatchRunner, Probe
from perdure.store.caller import Caller
from perdure.store.changes import Changes
from perdure.store.joined import JoinedSqlite
from perdure.store.migrate import check_version, migrate
from perdure.store.operation import Row
from perdure.store.pulse import SqlitePulse
from perdure.store.queries import statements
from perdure.store.sqlite_commit import SqliteCommitter
from perdure.store.sqlite_errors import UNSTORABLE, mapped, mapping

BACKUP_PAGES = 1_000
POLL_QUICK_S = 0.005
POLL_SLOW_S = 0.05
log = logging.getLogger("perdure.store")
_memory = itertools.count(1)


class SqliteStore(BaseStore[SqliteCommitter]):
    """
    A store on one SQLite file, or in memory.

    Several processes may use one file. Commits are durable when they return (`synchronous=FULL` in WAL
    mode), unless NORMAL was asked for: then a power cut, but not a crash of the process, can lose the last
    commits.

    Args:
        path: The file; ":memory:" for a database that ends with the store.
        synchronous: "FULL", or "NORMAL" for speed at that price.
        inline_only: Never use a thread (simulations).
        changes: See `BaseStore`.
        probe: For tests, see `BatchRunner`.
    """

    dialect = "sqlite"

    def __init__(
        self,
        path: str,
        *,
        clock: Clock,
        limits: Limits,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        inline_only: bool = False,
        changes: Changes | None = None,
        probe: Probe | None = None,
    ) -> None:
        if synchronous not in ("FULL", "NORMAL"):
            option = "synchronous"
            raise InvalidOption(option, f"{synchronous!r} is neither FULL nor NORMAL")
        super().__init__(path, clock=clock, limits=limits, changes=changes, probe=probe)
        self.path = path
        self._synchronous = synchronous
        self._inline_only = inline_only
        self._statements = statements("sqlite")
        self._name = f"file:/perdure-{os.getpid()}-{next(_memory)}?vfs=memdb" if path == ":memory:" else path
        self._writer: apsw.Connection | None = None
        self._reader: apsw.Connection | None = None
        self._poll_timer: asyncio.TimerHandle | None = None
        self._seen = 0
        self._quiet = 0

    # ------------------------------------------------------------------------------------ life
    async def connect(self, *, migrating: bool = True) -> None:
        """See `Store.connect`; a file is open at once."""
        self.open(migrating=migrating)

    def open(self, *, migrating: bool = True) -> None:
        """
        Connect; create or update the schema unless `migrating` is off. A file that does not fit stays as it is.

        Raises:
            StoreUnavailable, StoreReadOnly, StoreCorrupt: The file cannot be used.
            SchemaTooNew, SchemaMissing: The schema does not fit this perdure.
        """
        folder = os.path.dirname(os.path.abspath(self.path))  # noqa: PTH100, PTH120 - no import of pathlib
        if self.path != ":memory:" and not os.path.isdir(folder):  # noqa: PTH112 - as above
            problem = f"The folder {folder} does not exist, so {self.path} cannot be made there. Create it first."
            raise StoreUnavailable(problem)
        if not migrating and self.path != ":memory:" and not os.path.exists(self.path):  # noqa: PTH110 - as above
            problem = f"There is no database {self.path}. Run `perdure db migrate` to make it."
            raise SchemaMissing(problem)
        try:
            self._connect_all(migrating=migrating)
        except BaseException:
            self.abandon()
            raise
        assert self._writer is not None  # noqa: S101 - just connected
        self._writer.set_busy_timeout(0)
        runner = BatchRunner(self._writer, self._statements, self.path, self._probe)
        self._committer = SqliteCommitter(
            runner, self.changes, most_queued=self.limits.queued_operations, inline_only=self._inline_only
        )

    def _connect_all(self, *, migrating: bool) -> None:
        with mapping(self.path):
            self._writer = self._connect()
            check_version(self._writer, self.path, older=migrating)
            # Only now that the file is known to be ours, or is about to be.
            if self.path != ":memory:":
                _use_wal(self._writer)
            if migrating:
                self.migrated = migrate(self._writer, self.path, self.clock.now())
            if self._writer.readonly("main"):
                problem = f"{self.path} cannot be written. Check the permissions of the file and its folder."
                raise StoreReadOnly(problem)
            self._writer.execute("create temp table perdure_doomed (number integer primary key)")
            self._reader = self._connect()
            self._reader.execute("pragma query_only = on")
            self._seen = self._version()

    def _connect(self) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(self._name, flags=flags)
        connection.set_busy_timeout(BUSY_MILLISECONDS)
        # Without this, statements whose parameters the planner peeks at are prepared anew for each execution.
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        connection.execute(f"pragma synchronous = {self._synchronous}")
        connection.execute(f"pragma wal_autocheckpoint = {LOG_PAGES}")
        return connection

    async def close(self) -> None:
        """Commit what is queued and let go of the file."""
        self.stop_polling()
        if self._committer:
            await self._committer.close()
        self.abandon()

    def abandon(self) -> None:
        """Let go of the file without committing what is queued."""
        self.stop_polling()
        for connection in (self._reader, self._writer):
            if connection:
                connection.close()
        self._reader = self._writer = None

    def pulse(self) -> SqlitePulse:
        """A connection of its own for the heartbeat's thread."""
        return SqlitePulse(self._name, self.path)

    # ---------------------------------------------------------------------------------- reading
    async def rows(self, name: str, *parameters: Any) -> list[Row]:
        """
        Run a named query.

        Raises:
            StoreError: The database failed.
        """
        return await self.select(self._statements[name].sql, parameters)

    async def select(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run a query that was composed from fixed parts (lists, doctor); values are bound."""
        if self._reader is None:
            raise StoreClosed(CLOSED)
        try:
            return list(self._reader.execute(sql, parameters))
        except (apsw.Error, *UNSTORABLE) as error:
            raise mapped(error, self.path) from error

    async def check_clock(self) -> None:
        """All who use a file are on one machine."""

    def joined(self, connection: object) -> JoinedSqlite:
        """
        See `Store.joined`.

        Raises:
            InvalidOption: Nobody else has a connection to a database in memory; or this store is open and the
                connection is not apsw's; or as there.
        """
        problem = ""
        if self.path == ":memory:":
            problem = "a database in memory has no other connections; use a file"
        elif self._writer is not None and not isinstance(connection, apsw.Connection):
            # Each has its own idea of which locks this process holds.
            problem = "two copies of SQLite in one process would damage the file; use one of apsw beside an open app"
        if problem:
            option = "connection"
            raise InvalidOption(option, problem)
        return JoinedSqlite(Caller(connection, "numeric"), self.clock)

    # ------------------------------------------------------------------- noticing other processes
    def start_polling(self) -> None:
        """Notice other processes' commits from now on, through a counter that SQLite keeps in memory."""
        if self._poll_timer is None and not self._shared_changes and not self.clock.virtual:
            self._poll_timer = asyncio.get_running_loop().call_later(POLL_QUICK_S, self._poll)

    def stop_polling(self) -> None:
        """Stop noticing them."""
        if self._poll_timer:
            self._poll_timer.cancel()
            self._poll_timer = None

    def _poll(self) -> None:
        """Often after something happened, ten times less often when all has been quiet for a while."""
        if self._writer is None:  # asked to look by somebody who has not noticed that the store was closed
            self._poll_timer = None
            return
        if self._committer is not None and not self._committer.under_way:
            self._quiet += 1
            try:
                version = self._version()
                if version != self._seen:
                    self._seen, self._quiet = version, 0
                    self.changes.committed_elsewhere(self._ended())
            except Exception as error:
                # The next look comes soon; what was missed is noticed then, as the counter is compared.
                self._seen = 0
                expected = isinstance(error, apsw.Error)
                log.warning("cannot look for other processes' commits, trying again: %s", error, exc_info=not expected)
        delay = POLL_QUICK_S if self._quiet < QUIET_POLLS else POLL_SLOW_S
        self._poll_timer = asyncio.get_running_loop().call_later(delay, self._poll)

    def _ended(self) -> set[int]:
        awaited = self.changes.awaited
        if not awaited or self._reader is None:
            return set()
        rows = self._reader.execute(self._statements["ended"].sql, (json.dumps(awaited),))
        return {int(number) for (number,) in rows}

    def _version(self) -> int:
        """Changes whenever another connection than the writer commits."""
        assert self._writer is not None  # noqa: S101 - called while open
        value = self._writer.execute("pragma data_version").get
        return int(value)

    def sizes(self) -> list[str]:
        """See `Store.sizes`."""
        try:
            log_bytes = os.path.getsize(self.path + "-wal")  # noqa: PTH202 - as above
        except OSError:
            log_bytes = 0
        return [f"{log_bytes:,} bytes of write-ahead log"]

    # ---------------------------------------------------------------------------------- backup
    async def backup(self, target: str) -> int:
        """
        Copy the database, consistently, while it is in use.

        Args:
            target: A file that does not exist yet.

        Returns:
            Its size in bytes.

        Raises:
            InvalidOption: The file exists.
        """
        if os.path.exists(target):  # noqa: PTH110, ASYNC240 - as above; one look at a local disk
            option = "backup target"
            raise InvalidOption(option, f"{target} exists already; choose another name")
        if self._reader is None:
            raise StoreClosed(CLOSED)
        with mapping(target):
            source, copy = self._connect(), apsw.Connection(target)
            try:
                # It holds one moment of the database: each commit of others would make the copy begin again.
                source.execute("begin; select count(*) from perdure_schema")
                with copy.backup("main", source, "main") as backup:
                    while not backup.done:
                        # In memory a reader keeps the writer out, so it must not stay.
                        backup.step(BACKUP_PAGES if self.path != ":memory:" else -1)
                        await asyncio.sleep(0)
                copy.execute("pragma journal_mode = wal")
                copy.close()
            except BaseException:
                copy.close()
                os.unlink(target)  # noqa: PTH108 - as above
                raise
            finally:
                source.close()
        return os.path.getsize(target)  # noqa: PTH202, ASYNC240 - as above


def _use_wal(connection: apsw.Connection) -> None:
    """Switch the file to WAL, where it stays; another process may be doing the same."""
    for attempt in range(WAL_TRIES):
        try:
            connection.execute("pragma journal_mode = wal")
        except apsw.BusyError:
            if attempt == WAL_TRIES - 1:
                raise
            # The switch itself does not wait for those who have the file open just now; this does.
            connection.execute("begin exclusive; rollback")
        else:
            return


WAL_TRIES = 20
QUIET_POLLS = 400
