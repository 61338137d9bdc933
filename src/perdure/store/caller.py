"""A caller's own connection or session, of whichever driver: statements run in the transaction that it has open."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from perdure.errors import InvalidOption
from perdure.store.operation import Row

_NUMBERED = re.compile(r"[$?](\d+)")
_IDLE = 0
"""What psycopg and psycopg2 call a connection without a transaction."""
ON_A_LOOP = "it answers on an event loop only: write `await app.start(…, transaction=…)`"
OPTION = "connection"


class Caller:
    """
    A caller's open transaction.

    Args:
        connection: asyncpg's, psycopg's (both kinds), psycopg2's, sqlite3's, apsw's, Django's, a connection or session
            of SQLAlchemy (both kinds), or whatever else has cursors like these.
        marks: How its database's driver marks parameters, unless SQLAlchemy or asyncpg is asked: "format" for %s,
            "numeric" for ?1.

    Raises:
        InvalidOption: It is no connection, or has no transaction open.
    """

    def __init__(self, connection: Any, marks: Literal["format", "numeric"]) -> None:
        self._connection = connection
        self._marks = marks
        if hasattr(connection, "exec_driver_sql") or (hasattr(connection, "get_bind") and hasattr(connection, "flush")):
            self._kind = "sqlalchemy"
        elif hasattr(connection, "fetchrow"):
            self._kind = "asyncpg"
            _must(connection.is_in_transaction())
        elif hasattr(connection, "cursor"):
            self._kind = "cursors"
            _must(_has_transaction(connection))
        else:
            problem = f"{type(connection).__qualname__} is neither a connection to the database nor a session on one"
            raise InvalidOption(OPTION, problem)

    async def fetch(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        """
        Run one statement.

        Args:
            sql: With $1 or ?1 for parameters.

        Returns:
            All rows. Where the connection is not for an event loop, nothing is awaited on the way.

        Raises:
            Exception: Whatever the driver raises, for the caller's own handling of its transaction.
        """
        if self._kind == "asyncpg":
            rows = await self._connection.fetch(sql, *parameters)
        elif self._kind == "sqlalchemy":
            rows = await self._through_sqlalchemy(sql, parameters)
        else:
            rows = await self._through_cursor(*marked(sql, parameters, self._marks))
        return [tuple(row.values() if isinstance(row, Mapping) else row) for row in rows]

    async def _through_sqlalchemy(self, sql: str, parameters: Sequence[Any]) -> Any:
        connection = self._connection
        if not hasattr(connection, "exec_driver_sql"):
            connection = await _settled(connection.connection())
        # A connection of SQLAlchemy begins by itself, unless it was told to commit each statement.
        _must(not _commits_each(getattr(connection, "sync_connection", connection).connection.dbapi_connection))
        text, values = marked(sql, parameters, connection.dialect.paramstyle)
        result = await _settled(connection.exec_driver_sql(text, tuple(values)))
        return result.fetchall() if result.returns_rows else []

    async def _through_cursor(self, sql: str, parameters: Sequence[Any]) -> Any:
        cursor = await _settled(self._connection.cursor())
        try:
            await _settled(cursor.execute(sql, parameters))
            return await _settled(cursor.fetchall())
        finally:
            await _settled(cursor.close())


def marked(sql: str, parameters: Sequence[Any], style: str) -> tuple[str, Sequence[Any]]:
    """A statement with $1 or ?1 and its parameters as a driver of this paramstyle takes them."""
    if style not in {"format", "pyformat"}:
        return sql, parameters
    places = [int(found) - 1 for found in _NUMBERED.findall(sql)]
    return _NUMBERED.sub("%s", sql.replace("%", "%%")), [parameters[place] for place in places]


def check_plain(connection: object) -> None:
    """
    See that a connection needs no event loop.

    Raises:
        InvalidOption: It answers on one only.
    """
    if hasattr(connection, "fetchrow") or inspect.iscoroutinefunction(getattr(connection, "execute", None)):
        raise InvalidOption(OPTION, ON_A_LOOP)


async def _settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _must(there: bool) -> None:  # noqa: FBT001 - the only argument
    if not there:
        problem = "it has no transaction open, so that what is done through it would not commit with anything of yours"
        raise InvalidOption(OPTION, problem)


def _has_transaction(connection: Any) -> bool:
    """Whether a connection with cursors has a transaction open, or begins one with the first statement."""
    if hasattr(connection, "in_atomic_block"):
        return bool(connection.in_atomic_block or not connection.get_autocommit())
    if hasattr(connection, "in_transaction"):
        return bool(connection.in_transaction or not _commits_each(connection))
    if not _commits_each(connection):
        return True
    if hasattr(connection, "info"):
        return bool(connection.info.transaction_status != _IDLE)
    return bool(connection.get_transaction_status() != _IDLE)


def _commits_each(connection: Any) -> bool:
    """Whether a driver's connection makes a transaction of each statement unless it is told to begin one."""
    if hasattr(connection, "in_transaction"):
        return getattr(connection, "isolation_level", None) is None
    return getattr(connection, "autocommit", False) is True
