"""One schema of a Postgres database as a store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from perdure.clock import Clock, standing_still
from perdure.errors import InvalidOption, StoreClosed
from perdure.model.limits import Limits
from perdure.store.batch import Probe
from perdure.store.changes import Changes
from perdure.store.commit import Committed
from perdure.store.migrate import Migration
from perdure.store.operation import Done, Operation, Row
from perdure.store.pg.address import address
from perdure.store.pg.clock import SERVER_TIME, ServerClock
from perdure.store.pg.commit import PostgresCommitter
from perdure.store.pg.dialect import composed, readable
from perdure.store.pg.errors import FAILURES, mapped
from perdure.store.pg.migrate import prepare
from perdure.store.pg.notice import Notice
from perdure.store.pg.pulse import PostgresPulse
from perdure.store.pg.reader import Reader
from perdure.store.pg.writer import Writer

_CLOSED = "The store is not open: use it inside `async with app:`."


class PostgresStore:
    """
    A store in one schema of a Postgres database, for any number of processes and machines.

    Args:
        url: See `address`.
        changes: A hub shared with other stores of this process on the same schema; they need not listen then.
        probe: For tests, see `Writer`.

    Attributes:
        migrated: What `connect` did to the schema.
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
        self.where = self.address.where
        self.limits = limits
        self.migrated: list[Migration] = []
        self.changes = changes or Changes()
        self._shared_changes = changes is not None
        self.clock = self._clock = clock if clock.virtual else ServerClock(clock)
        self._probe = probe
        self._statements = readable(self.address.schema)
        self._writer: Writer | None = None
        self._reader: Reader | None = None
        self._committer: PostgresCommitter | None = None
        self._notice: Notice | None = None

    # ------------------------------------------------------------------------------------ life
    async def connect(self, *, migrating: bool = True) -> None:
        """
        Connect; create or update the schema unless `migrating` is off.

        Raises:
            StoreUnavailable, StoreError: The database cannot be used.
            SchemaTooNew, SchemaMissing: The schema does not fit this perdure.
        """
        writer = Writer(self.address, self._clock, self._probe)
        try:
            with standing_still(self._clock):
                connection = await writer.connect()
                self.migrated = await prepare(connection, self.address.schema, self._clock.now(), migrating=migrating)
        except FAILURES as error:
            writer.drop()
            raise mapped(error, self.where) from error
        except BaseException:
            writer.drop()
            raise
        self._writer, self._reader = writer, Reader(self.address, self._clock)
        self._notice = Notice(self.address, self.changes, writer.id, self._reader, clock=self._clock)
        try:
            await self.check_clock()
        except BaseException:
            self.abandon()
            raise
        self._committer = PostgresCommitter(
            writer, self.changes, most_queued=self.limits.queued_operations, published=self._notice.publish
        )

    async def close(self) -> None:
        """Commit what is queued and let go of the database."""
        if self._committer is not None and self._writer is not None and not self._writer.closed:
            await self._committer.close()
        for part in (self._notice, self._reader, self._writer):
            if part is not None:
                await part.close()
        # Sockets of connections that were cut off are closed by the loop's next turns.
        for _ in range(2):
            await asyncio.sleep(0)
        self._reader = None

    def abandon(self) -> None:
        """Let go of the database without committing what is queued."""
        if self._committer is not None:
            self._committer.cancel()
        for part in (self._notice, self._reader):
            if part is not None:
                part.abandon()
        if self._writer is not None:
            self._writer.closed = True
            self._writer.drop()
        self._reader = None

    # ---------------------------------------------------------------------------------- writing
    def submit(self, operation: Operation, done: Done) -> None:
        """Queue an operation; see `Committer.submit`."""
        if self._committer is None:
            raise StoreClosed(_CLOSED)
        self._committer.submit(operation, done)

    def hold(self) -> None:
        """See `Committer.hold`."""
        if self._committer is not None:
            self._committer.hold()

    def flush(self) -> None:
        """See `Committer.flush`."""
        if self._committer is not None:
            self._committer.flush()

    async def apply(self, operation: Operation) -> list[Row]:
        """See `Store.apply`."""
        answered: asyncio.Future[list[Row]] = asyncio.get_running_loop().create_future()

        def done(rows: list[Row], error: Exception | None) -> None:
            if answered.done():
                return
            if error is None:
                answered.set_result(rows)
            else:
                answered.set_exception(error)

        self.submit(operation, done)
        return await answered

    def observe(self, told: Committed) -> None:
        """See `Store.observe`."""
        if self._committer is None:
            raise StoreClosed(_CLOSED)
        self._committer.observed = told

    @property
    def commits(self) -> int:
        """How many batches this store has committed."""
        return self._committer.commits if self._committer else 0

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
            raise StoreClosed(_CLOSED)
        return await self._reader.fetch(sql, parameters)

    def sizes(self) -> list[str]:
        """See `Store.sizes`."""
        return []

    async def check_clock(self) -> None:
        """See `Store.check_clock`."""
        if isinstance(self._clock, ServerClock):
            before = self._clock.reading()
            ((theirs,),) = await self._fetch(SERVER_TIME, ())
            self._clock.told(before, theirs)

    # ------------------------------------------------------------------- noticing other processes
    def start_polling(self) -> None:
        """Notice other processes' commits from now on."""
        if self._notice is not None and not self._shared_changes and not self._clock.virtual:
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
