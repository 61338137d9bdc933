"""The heartbeat's own connection, so that a busy loop or a long commit does not stop it."""

from __future__ import annotations

import apsw

from perdure.store.batch import BUSY_MILLISECONDS
from perdure.store.queries import statements
from perdure.store.sqlite_errors import mapping


class SqlitePulse:
    """
    Extends one worker's lease. Used from one thread, of its own.

    Args:
        name: What SQLite opens.
        path: What errors call it.
    """

    def __init__(self, name: str, path: str) -> None:
        self._path = path
        with mapping(path):
            flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
            self._connection = apsw.Connection(name, flags=flags)
            self._connection.set_busy_timeout(BUSY_MILLISECONDS)
            # A lease that a power cut forgets is only a lease that ends early.
            self._connection.execute("pragma synchronous = normal")
        self._sql = statements("sqlite")["heartbeat"].sql

    def beat(self, worker: int, now: int, lease_until: int) -> bool:
        """
        Extend the lease.

        Returns:
            False when others have declared the worker dead.

        Raises:
            StoreError: The database could not be written; the lease is as it was.
        """
        with mapping(self._path):
            return bool(list(self._connection.execute(self._sql, (0, worker, now, lease_until))))

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()
