"""Postgres's SQLSTATEs, and the driver's own errors, as errors of perdure: by class, never by text."""

from __future__ import annotations

import asyncpg

from perdure.errors import (
    OperationRefused,
    SchemaMissing,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)

UNSTORABLE = (UnicodeError, OverflowError, TypeError, ValueError)
"""What is raised for a value that cannot be sent: lone surrogates, integers beyond 64 bits, objects."""
BROKEN = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""What the driver raises for what the server says and for connections that break, its own confusion included."""
FAILURES = (*BROKEN, *UNSTORABLE)
"""All that the driver raises."""
AGAIN = frozenset({"40001", "40P01"})
"""Two transactions stood in each other's way: nothing was done, and the same may be done at once again."""
_PASSING = frozenset({"53300", "25006"})
"""Nothing was done, and what was asked was not the reason: too many connections, a server that takes no writes."""
_STATES: tuple[tuple[str, type[StoreError], str], ...] = (
    ("40", StoreBusy, "Others changed the same rows at the same time; perdure tries again"),
    ("55P03", StoreBusy, "Another connection holds the rows; perdure tries again"),
    ("57014", StoreBusy, "The statement took too long and was cancelled; perdure tries again"),
    ("53100", StoreFull, "The disk of the database is full: free some space; nothing was stored"),
    ("53", StoreUnavailable, "The database has no room for this connection or statement"),
    ("25006", StoreReadOnly, "The database takes no writes now; perhaps it is a standby that is taking over"),
    ("42501", StoreReadOnly, "The database's user may not do this: grant it the schema and its tables"),
    ("57P", StoreUnavailable, "The database is shutting down or starting up"),
    ("25P", StoreUnavailable, "The connection was idle inside a transaction for too long"),
    ("08", StoreUnavailable, "The connection to the database failed"),
    ("28", StoreError, "The database refused the user or the password"),
    ("3D000", StoreUnavailable, "There is no such database: create it first"),
    ("3F000", SchemaMissing, "There is no such schema: run `perdure db migrate`"),
    ("42P01", SchemaMissing, "A table of perdure is missing: run `perdure db migrate`"),
    ("42883", SchemaMissing, "A function of perdure is missing: run `perdure db migrate`"),
    ("XX001", StoreCorrupt, "The database is damaged: restore a backup"),
    ("XX002", StoreCorrupt, "An index of the database is damaged: reindex it, or restore a backup"),
    ("23", OperationRefused, "The operation breaks a rule of the schema and was not stored"),
    ("22", OperationRefused, "A value is not one that Postgres can hold, and was not stored"),
    ("54", OperationRefused, "A value is too big for Postgres and was not stored"),
)


def state_of(error: BaseException) -> str:
    """The SQLSTATE of an error; empty when it has none."""
    return str(getattr(error, "sqlstate", None) or "")


def by_state(state: str, text: str, where: str) -> StoreError:
    """The error of perdure that stands for an SQLSTATE."""
    for prefix, ours, meaning in _STATES:
        if state.startswith(prefix):
            return ours(f"{meaning} ({where}: {text}).")
    return StoreError(f"Postgres refused ({where}, {state}): {text}.")


def mapped(error: BaseException, where: str) -> StoreError:
    """The error of perdure that stands for one of the driver."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, asyncpg.PostgresError):
        return by_state(state_of(error), str(error), where)
    if isinstance(error, (asyncpg.DataError, *UNSTORABLE)) and not isinstance(error, OSError):
        return OperationRefused(f"A value is not one that Postgres can hold: {error} ({where}).")
    return StoreUnavailable(f"The connection to the database failed ({where}: {str(error) or type(error).__name__}).")


def unsure(error: BaseException) -> bool:
    """Whether the server may have done what was asked all the same: the connection broke."""
    if isinstance(error, asyncpg.PostgresError):
        # The server's own good-bye comes instead of an answer: what it was doing is undone, but not certainly.
        return state_of(error).startswith(("57P", "08"))
    return not isinstance(error, (asyncpg.DataError, *UNSTORABLE))


def passing(error: BaseException) -> bool:
    """Whether another connection, soon, may do better: this one broke, was one too many, or led to a standby."""
    return unsure(error) or state_of(error) in _PASSING
