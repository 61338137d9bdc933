"""SQLite's result codes as errors of perdure: by class, never by text."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from perdure.errors import (
    OperationRefused,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)

_CLASSES: tuple[tuple[type[Exception], type[StoreError], str], ...] = (
    (apsw.BusyError, StoreBusy, "Another process keeps the database locked; nothing was stored, try again"),
    (apsw.LockedError, StoreBusy, "Another connection keeps the table locked; nothing was stored, try again"),
    (apsw.FullError, StoreFull, "The disk or the database is full: free some space; nothing was stored"),
    (
        apsw.ReadOnlyError,
        StoreReadOnly,
        "The database cannot be written: check the file's and its folder's permissions",
    ),
    (apsw.PermissionsError, StoreReadOnly, "Access to the database is denied: check the file's permissions"),
    (
        apsw.CantOpenError,
        StoreUnavailable,
        "The database cannot be opened: check that its folder exists and can be written, which reading needs too",
    ),
    (apsw.NotADBError, StoreCorrupt, "The file is not an SQLite database; nothing was changed"),
    (apsw.CorruptError, StoreCorrupt, "The database is damaged: restore a backup, or try `sqlite3 FILE .recover`"),
    (apsw.IOError, StoreUnavailable, "The disk failed while the database was read or written"),
    (apsw.NoMemError, StoreUnavailable, "SQLite got no memory"),
    (apsw.ConstraintError, OperationRefused, "The operation breaks a rule of the schema and was not stored"),
    (apsw.TooBigError, OperationRefused, "A value is too big for SQLite and was not stored"),
    (apsw.MismatchError, OperationRefused, "A value has the wrong type and was not stored"),
)
UNSTORABLE = (UnicodeError, OverflowError, TypeError)
"""What the driver raises for a value that SQLite cannot hold: lone surrogates, integers beyond 64 bits, objects."""


_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""SQLite reports only the first of them as a full disk."""


def mapped(error: Exception, path: str, system: int = 0) -> StoreError:
    """
    The error of perdure that stands for one of the driver.

    Args:
        system: What the operating system last said on that connection, as `errno`.
    """
    if isinstance(error, apsw.IOError) and system in _NO_ROOM:
        problem = f"There is no more room for the database ({os.strerror(system)}): free some, or raise the limit"
        return StoreFull(f"{problem}; nothing was stored ({path}: {error}).")
    if isinstance(error, UNSTORABLE):
        return OperationRefused(f"A value is not one that SQLite can hold: {error} ({path}).")
    for theirs, ours, meaning in _CLASSES:
        if isinstance(error, theirs):
            return ours(f"{meaning} ({path}: {error}).")
    return StoreError(f"SQLite refused: {error} ({path}).")


@contextmanager
def mapping(path: str) -> Iterator[None]:
    """Turn the driver's errors inside into errors of perdure."""
    try:
        yield
    except (apsw.Error, *UNSTORABLE) as error:
        raise mapped(error, path) from error
