"""Bring a schema of a Postgres database up to date; several processes may try at once."""

from __future__ import annotations

import asyncpg

from perdure.errors import SchemaMissing, SchemaTooNew, StoreCorrupt
from perdure.store.migrate import Migration, migrations
from perdure.store.pg.address import Address
from perdure.store.pg.dialect import quoted, within
from perdure.store.pg.errors import FAILURES, mapped
from perdure.store.pg.function import functions


async def prepare(connection: asyncpg.Connection, schema: str, now: int, *, migrating: bool) -> list[Migration]:
    """
    Make the schema what this perdure needs, or see that it is.

    Args:
        now: Microseconds since 1970.

    Returns:
        The migrations that were applied.

    Raises:
        SchemaTooNew: A newer perdure migrated it; nothing is changed.
        SchemaMissing: It has to be migrated first, and may not be now.
    """
    have = await _behind(connection, schema)
    if have is None:
        return []
    if not migrating:
        if have:
            needed = f"{migrations('postgres')[-1].version} with its functions is needed"
            problem = f"Schema {schema!r} has version {have}, and {needed}. Run `perdure db migrate`."
        else:
            problem = (
                f"There is no schema {schema!r} of perdure's in this database. Check the URL; `perdure db migrate` "
                "makes a new one, and so does `perdure worker`."
            )
        raise SchemaMissing(problem)
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", f"perdure {schema}")
        return await _migrate(connection, schema, now)


async def behind(at: Address) -> int | None:
    """
    The version that a schema would be migrated from, 0 where there is none; None if nothing is to be done.

    Raises:
        SchemaTooNew: A newer perdure migrated it.
        StoreError: The database cannot be asked.
    """
    try:
        connection = await at.connect()
        try:
            return await _behind(connection, at.schema)
        finally:
            await connection.close()
    except FAILURES as error:
        raise mapped(error, at.where) from error


def whole_sql(schema: str, migrations_sql: str, have: int) -> str:
    """All that makes a schema, or brings one of this version up to date, in one transaction."""
    parts = [within(schema, migrations_sql), functions(schema).sql]
    if not have:
        # Only then, as it takes a right that whoever migrates later need not have.
        parts.insert(0, f"create schema if not exists {quoted(schema)};\n")
    return "begin;\n" + "\n".join(parts) + "commit;\n"


async def _behind(connection: asyncpg.Connection, schema: str) -> int | None:
    newest = migrations("postgres")[-1].version
    have = await _version(connection, schema)
    if have == newest and await _has_functions(connection, schema):
        return None
    if have > newest:
        problem = f"Schema {schema!r} has version {have}, and this perdure knows {newest}. Install a newer perdure."
        raise SchemaTooNew(problem)
    return have


async def _migrate(connection: asyncpg.Connection, schema: str, now: int) -> list[Migration]:
    have = await _version(connection, schema)
    applied = [migration for migration in migrations("postgres") if migration.version > have]
    if not await connection.fetchval("select count(*) from pg_namespace where nspname = $1", schema):
        await connection.execute(f"create schema {quoted(schema)}")
    for migration in applied:
        await connection.execute(within(schema, migration.sql))
        await connection.execute(
            within(schema, "insert into perdure_schema (version, name, applied_at) values ($1, $2, $3)"),
            migration.version, migration.name, now,
        )  # fmt: skip
    await connection.execute(functions(schema).sql)
    return applied


async def _version(connection: asyncpg.Connection, schema: str) -> int:
    """The schema's version, 0 when perdure has no tables here."""
    # Asked of the catalogue itself: what to_regclass says may be older than the lock that was waited for.
    there = "select count(*) from pg_tables where schemaname = $1 and tablename = 'perdure_schema'"
    if not await connection.fetchval(there, schema):
        return 0
    version = await connection.fetchval(within(schema, "select max(version) from perdure_schema"))
    if version is None:
        problem = "The table perdure_schema is empty: the database was damaged. Restore a backup."
        raise StoreCorrupt(problem)
    return int(version)


async def _has_functions(connection: asyncpg.Connection, schema: str) -> bool:
    found = await connection.fetchval(
        "select count(*) from pg_proc p join pg_namespace n on n.oid = p.pronamespace "
        "where n.nspname = $1 and p.proname = $2",
        schema, functions(schema).name,
    )  # fmt: skip
    return bool(found)
