"""One schema of a Postgres database as a store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from perdure.clock import Clock, standing_still
from perdure.errors import InvalidOption, StoreClosed
from perdure.model.limits import Limits
from perdure.store.base import CLOSED, BaseStore
from perdure.store.batch import Probe
from perdure.store.caller import Caller
from perdure.store.changes import Changes
from perdure.store.operation import Row
from perdure.store.pg.address import address
from perdure.store.pg.clock import SERVER_TIME, ServerClock
from perdure.store.pg.commit import PostgresCommitter
from perdure.store.pg.dialect import composed, readable
from perdure.store.pg.errors import FAILURES, mapped
from perdure.store.pg.joined import Joined
from perdure.store.pg.lasting import Lasting
from perdure.store.pg.migrate import prepare
from perdure.store.pg.notice import Notice
from perdure.store.pg.pulse import PostgresPulse
from perdure.store.pg.reader import Reader
from perdure.store.pg.transactor import Transactor
from perdure.store.pg.writer import Writer


class PostgresStore(BaseStore[PostgresCommitter]):
    """
    A store in one schema of a Postgres database, for any number of processes and machines.

    Args:
        url: See `address`.
        changes: See `BaseStore`.
        probe: For tests, see `Writer`.
    """

    dialect = "postgres"

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        limits: Limits,
        changes: Changes | None = None,
        probe: Probe | None = None,
    ) -> None:
        self.address = address(url)
        kept = clock if clock.virtual else ServerClock(clock)
        super().__init__(self.address.where, clock=kept, limits=limits, changes=changes, probe=probe)
        self._statements = readable(self.address.schema)
        self._writer: Writer | None = None
        self._transactor: Transactor | None = None
        self._reader: Reader | None = None
        self._notice: Notice | None = None

    # ------------------------------------------------------------------------------------ life
    async def connect(self, *, migrating: bool = True) -> None:
        """
        Connect; create or update the schema unless `migrating` is off.

        Raises:
            StoreUnavailable, StoreError: The database cannot be used.
            SchemaTooNew, SchemaMissing: The schema does not fit this perdure.
        """
        transactor = Transactor(self.address, self.clock, self._probe)
        writer = Writer(self.address, self.clock, transactor, self._probe)
        try:
            with standing_still(self.clock):
                connection = await writer.connection.connect()
                self.migrated = await prepare(connection, self.address.schema, self.clock.now(), migrating=migrating)
        except FAILURES as error:
            writer.connection.drop()
            raise mapped(error, self.where) from error
        except BaseException:
            writer.connection.drop()
            raise
        self._writer, self._transactor = writer, transactor
        self._reader = Reader(self.address, self.clock, writer.connection)
        self._notice = Notice(self.address, self.changes, writer.id, self._reader, clock=self.clock)
        try:
            await self.check_clock()
        except BaseException:
            self.abandon()
            raise
        self._committer = PostgresCommitter(
            writer,
            transactor,
            self.changes,
            most_queued=self.limits.queued_operations,
            published=self._notice.publish,
        )

    async def close(self) -> None:
        """Commit what is queued and let go of the database."""
        if self._committer is not None and self._writer is not None and not self._writer.connection.closed:
            await self._committer.close()
        for part in self._parts():
            await part.close()
        # Sockets of connections that were cut off are closed by the loop's next turns.
        for _ in range(2):
            await asyncio.sleep(0)
        self._reader = None

    def abandon(self) -> None:
        """Let go of the database without committing what is queued."""
        if self._committer is not None:
            self._committer.cancel()
        for part in self._parts():
            part.abandon()
        self._reader = None

    def _parts(self) -> list[Notice | Reader | Transactor | Lasting]:
        """What has connections."""
        writing = None if self._writer is None else self._writer.connection
        return [part for part in (self._notice, self._reader, self._transactor, writing) if part is not None]

    def pulse(self) -> PostgresPulse:
        """A connection of its own for the heartbeat's thread."""
        return PostgresPulse(self.address)

    # ---------------------------------------------------------------------------------- reading
    async def rows(self, name: str, *parameters: Any) -> list[Row]:
        """Run a named query."""
        return await self._fetch(self._statements[name], parameters)

    async def select(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run a query that was composed from fixed parts (lists, doctor), with ? for each value."""
        return await self._fetch(composed(self.address.schema, sql), parameters)

    async def _fetch(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        if self._reader is None:
            raise StoreClosed(CLOSED)
        return await self._reader.fetch(sql, parameters)

    def sizes(self) -> list[str]:
        """See `Store.sizes`."""
        return []

    async def check_clock(self) -> None:
        """See `Store.check_clock`."""
        if isinstance(self.clock, ServerClock):
            before = self.clock.reading()
            ((theirs,),) = await self._fetch(SERVER_TIME, ())
            self.clock.told(before, theirs)

    def joined(self, connection: object) -> Joined:
        """See `Store.joined`."""
        return Joined(Caller(connection, "format"), self.address, self.clock)

    # ------------------------------------------------------------------- noticing other processes
    def start_polling(self) -> None:
        """Notice other processes' commits from now on."""
        if self._notice is not None and not self._shared_changes and not self.clock.virtual:
            self._notice.start()

    def stop_polling(self) -> None:
        """Stop noticing them."""
        if self._notice is not None:
            self._notice.stop()

    async def backup(self, target: str) -> int:
        """
        Postgres has better tools for that.

        Raises:
            InvalidOption: Always; it names them.
        """
        option = "backup"
        how = f"pg_dump --schema='{self.address.schema}' --file={target}"
        raise InvalidOption(option, f"a Postgres database is copied by its own tools: {how}, or a base backup")
