"""A Postgres database with a history: as `fill` makes one, kept as a template for the rest of the session."""

# ruff: noqa: S608 - table names come from the schema, not from a user
import asyncio
import sys
import time
from collections.abc import Callable

import asyncpg

SCHEMA, RUNS, JOURNAL = "perdure", "perdure_runs", "perdure_journal"
EVERY_US = 2_500_000
TIMES = ("created_at", "started_at", "finished_at", "at", "slot_at")


async def filled(url: str, count: int, make: Callable[[str], None]) -> None:
    """
    Replace a database by one that has seen so many runs.

    Args:
        url: Of the database, which nobody uses.
        make: Puts one finished run into the database of this URL.
    """
    server, _, name = url.rpartition("/")
    template = f"filled_{count}"
    admin = await asyncpg.connect(f"{server}/postgres")
    if not await admin.fetchval("select 1 from pg_database where datname = $1", template):
        started = time.monotonic()
        await admin.execute(f"create database {template}")
        await asyncio.to_thread(make, f"{server}/{template}")
        await multiply(f"{server}/{template}", count)
        print(f"{template}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    await admin.execute(f"drop database {name}")
    await admin.execute(f"create database {name} template {template} strategy file_copy")
    await admin.execute("checkpoint")
    await admin.close()


async def multiply(url: str, count: int) -> None:
    """
    Add ``count`` copies of the database's one run.

    Raises:
        RuntimeError: It holds another number of runs, or an unfinished one.
    """
    db = await asyncpg.connect(url, server_settings={"search_path": SCHEMA})
    runs = await db.fetch(f"select number, finished_at from {RUNS}")
    if len(runs) != 1 or runs[0][1] is None:
        problem = f"there should be one finished run, there are {runs}"
        raise RuntimeError(problem)
    for table, key in ((RUNS, "number"), (JOURNAL, "run")):
        names = [
            row[0] for row in await db.fetch("select attname from pg_attribute where attrelid = $1::text::regclass "
                                             "and attnum > 0 and not attisdropped", table)
        ]  # fmt: skip
        new = {name: f"{name} - ({count} - k) * {EVERY_US}::bigint" for name in TIMES} | {key: f"{key} + k"}
        new["id"] = f"to_hex((created_at - ({count} - k) * {EVERY_US}::bigint) / 1000) || md5(k::text)"
        values = ", ".join(new.get(name, name) for name in names)
        await db.execute(f"alter table {table} disable trigger user")  # they let no run begin as finished
        await db.execute(
            f"insert into {table} ({', '.join(names)}) select {values} "
            f"from {table} cross join generate_series(1, {count}) k where {key} = {runs[0][0]}",
            timeout=900,
        )
        await db.execute(f"alter table {table} enable trigger user")
        await db.execute(f"vacuum analyze {table}", timeout=900)
    await db.execute(f"select setval(pg_get_serial_sequence('{RUNS}', 'number'), max(number)) from {RUNS}")
    await db.close()
