"""What the stores of all databases have alike: what is written goes through a committer."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from perdure.clock import Clock
from perdure.errors import StoreClosed
from perdure.model.limits import Limits
from perdure.store.batch import Probe
from perdure.store.changes import Changes
from perdure.store.commit import Committed, Committer
from perdure.store.migrate import Migration
from perdure.store.operation import Done, Odd, Operation, Row

CLOSED = "The store is not open: use it inside `async with app:`."
C = TypeVar("C", bound=Committer)


class BaseStore(Generic[C]):
    """
    The half of a `Store` that writes.

    Args:
        where: What people call the database, without a password.
        changes: A hub shared with other stores of this process on the same database; they need not look for other
            processes' commits then.

    Attributes:
        migrated: What `connect` did to the schema.
    """

    def __init__(
        self, where: str, *, clock: Clock, limits: Limits, changes: Changes | None, probe: Probe | None
    ) -> None:
        self.where = where
        self.clock = clock
        self.limits = limits
        self.changes = changes or Changes()
        self.migrated: list[Migration] = []
        self._shared_changes = changes is not None
        self._probe = probe
        self._committer: C | None = None

    def _open(self) -> C:
        """
        The committer.

        Raises:
            StoreClosed: The store has not been opened.
        """
        if self._committer is None:
            raise StoreClosed(CLOSED)
        return self._committer

    def submit(self, operation: Operation, done: Done) -> None:
        """Queue an operation; see `Committer.submit`."""
        (self._committer or self._open()).submit(operation, done)

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
                answered.set_exception(error.raised if isinstance(error, Odd) else error)

        self.submit(operation, done)
        return await answered

    def observe(self, told: Committed) -> None:
        """See `Store.observe`."""
        self._open().observed = told

    @property
    def commits(self) -> int:
        """How many batches this store has committed."""
        return self._committer.commits if self._committer else 0
