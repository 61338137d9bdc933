"""What perdure asks of a store, whichever database it is on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from perdure.clock import Clock
from perdure.model.limits import Limits
from perdure.store.changes import Changes
from perdure.store.commit import Committed
from perdure.store.migrate import Migration
from perdure.store.operation import Done, Operation, Row


class Pulse(Protocol):
    """The heartbeat's own connection, used from one thread, so that a busy loop or a long commit does not stop it."""

    def beat(self, worker: int, now: int, lease_until: int) -> bool:
        """
        Extend the lease.

        Returns:
            False when others have declared the worker dead.

        Raises:
            StoreError: The database could not be written; the lease is as it was.
        """

    def close(self) -> None:
        """Let go of the database."""


class Database(Protocol):
    """
    What can be asked of a store, and of a caller's open transaction on its database too: see `Store.joined`.

    Attributes:
        clock: What everybody who uses this database goes by: the machine's clock, or on a server the server's.
    """

    clock: Clock

    async def apply(self, operation: Operation) -> list[Row]:
        """
        Commit one operation and wait for it; in a caller's transaction it commits with that.

        Returns:
            Its rows.

        Raises:
            StoreError: It was not stored.
        """

    async def rows(self, name: str, *parameters: Any) -> list[Row]:
        """
        Run a named query.

        Raises:
            StoreError: The database failed.
        """

    async def check_clock(self) -> None:
        """
        Compare the clock with the database's, if that is another one.

        Raises:
            StoreError: The database failed; the clock goes on as it did.
        """


class Store(Database, Protocol):
    """
    A database that runs live in.

    Attributes:
        dialect: "sqlite" or "postgres": whose migrations it has. Nothing but tools that show it looks at it.
        where: What people call it, without a password.
        migrated: What `connect` did to the schema.
        changes: Tells those who wait in this process.
    """

    dialect: str
    where: str
    limits: Limits
    migrated: list[Migration]
    changes: Changes

    async def connect(self, *, migrating: bool = True) -> None:
        """
        Open it; create or update the schema unless `migrating` is off.

        Raises:
            StoreUnavailable, StoreReadOnly, StoreCorrupt: It cannot be used.
            SchemaTooNew, SchemaMissing: The schema does not fit this perdure.
        """

    async def close(self) -> None:
        """Commit what is queued and let go of the database."""

    def abandon(self) -> None:
        """Let go of the database without committing what is queued."""

    def submit(self, operation: Operation, done: Done) -> None:
        """Queue an operation; see `Committer.submit`."""

    def hold(self) -> None:
        """See `Committer.hold`."""

    def flush(self) -> None:
        """See `Committer.flush`."""

    def observe(self, told: Committed) -> None:
        """Tell of each batch from now on, how many operations it had, how long it took and what failed."""

    @property
    def commits(self) -> int:
        """How many batches this store has committed."""

    def pulse(self) -> Pulse:
        """A connection of its own for the heartbeat's thread."""

    async def select(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run a query that was composed from fixed parts, with ? for each value."""

    def sizes(self) -> list[str]:
        """What the doctor says of the database's size besides what its tables take."""

    def joined(self, connection: object) -> Database:
        """
        Take part in a transaction of the caller's own on this database; the store need not be open for it.

        Args:
            connection: Of any driver, or a session of SQLAlchemy; see `Caller`.

        Raises:
            InvalidOption: It is none, or has no transaction open.
        """

    def start_polling(self) -> None:
        """Notice other processes' commits from now on."""

    def stop_polling(self) -> None:
        """Stop noticing them."""

    async def backup(self, target: str) -> int:
        """
        Copy the database, consistently, while it is in use.

        Args:
            target: A file that does not exist yet.

        Returns:
            Its size in bytes.

        Raises:
            InvalidOption: The file exists, or this database has tools of its own for that.
        """
