"""Numbered, forward-only migrations, each in one transaction with its version."""

from __future__ import annotations

import os
import re
from contextlib import closing
from functools import cache
from typing import NamedTuple

import apsw

from perdure.errors import SchemaMissing, SchemaTooNew, StoreCorrupt
from perdure.store.batch import BUSY_MILLISECONDS
from perdure.store.queries import SQL, read_sql
from perdure.store.sqlite_errors import mapping

_FILE = re.compile(r"(\d{4})_(\w+)\.sql")


class Migration(NamedTuple):
    """One file of store/sql/migrations/<dialect>/."""

    version: int
    name: str
    sql: str


@cache
def migrations(dialect: str) -> tuple[Migration, ...]:
    """All migrations of a dialect, by version."""
    found = [
        Migration(int(match[1]), match[2], read_sql("migrations", dialect, file))
        for file in os.listdir(os.path.join(SQL, "migrations", dialect))  # noqa: PTH118, PTH208 - as in queries
        if (match := _FILE.fullmatch(file))
    ]
    return tuple(sorted(found, key=lambda migration: migration.version))


def version_of(connection: apsw.Connection) -> int:
    """The schema's version, 0 when perdure has no schema here."""
    there = connection.execute(
        "select count(*) from sqlite_schema where type = 'table' and name = 'perdure_schema'"
    ).get
    if not there:
        return 0
    version = connection.execute("select max(version) from perdure_schema").get
    if not isinstance(version, int):
        problem = "The table perdure_schema is empty: the database was damaged. Restore a backup."
        raise StoreCorrupt(problem)
    return version


def check_version(connection: apsw.Connection, path: str, *, older: bool = False) -> None:
    """
    Refuse a schema that this perdure cannot use.

    Args:
        older: Whether an older one will do, as it is about to be migrated.

    Raises:
        SchemaTooNew: A newer perdure migrated it.
        SchemaMissing: It has to be migrated first.
    """
    have, newest = version_of(connection), migrations("sqlite")[-1].version
    if have > newest:
        problem = f"{path} has schema version {have}, and this perdure knows {newest}. Install a newer perdure."
        raise SchemaTooNew(problem)
    if have < newest and not older:
        problem = f"{path} has schema version {have}, and {newest} is needed. Run `perdure db migrate`."
        raise SchemaMissing(problem)


def behind(path: str) -> int | None:
    """
    The version that a file would be migrated from, 0 without a schema; None if nothing is to be done.

    Raises:
        SchemaTooNew: A newer perdure migrated it.
        StoreError: The file cannot be read.
    """
    with mapping(path), closing(apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        connection.set_busy_timeout(BUSY_MILLISECONDS)
        check_version(connection, path, older=True)
        have = version_of(connection)
    return have if have < migrations("sqlite")[-1].version else None


def migrate(connection: apsw.Connection, path: str, now: int) -> list[Migration]:
    """
    Bring the schema up to date; several processes may try at once.

    Args:
        now: Microseconds since 1970.

    Returns:
        The migrations that were applied.

    Raises:
        SchemaTooNew: A newer perdure migrated the database; nothing is changed.
    """
    newest = migrations("sqlite")[-1].version
    if version_of(connection) == newest:
        return []
    connection.execute("begin immediate")
    try:
        have = version_of(connection)
        if have > newest:
            check_version(connection, path)
        applied = [migration for migration in migrations("sqlite") if migration.version > have]
        for migration in applied:
            connection.execute(migration.sql)
            connection.execute(
                "insert into perdure_schema (version, name, applied_at) values (?, ?, ?)",
                (migration.version, migration.name, now),
            )
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise
    return applied
