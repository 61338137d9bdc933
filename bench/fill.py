"""
A perdure file with a history: very many finished runs, made from one real one.

    .venv/bin/python bench/fill.py PATH [COUNT]

The real run is multiplied by SQL: the same rows under new numbers, ids and times, a run every 2.5
seconds up to now. One made of a million runs takes a while, so it is kept and copied.
"""

# ruff: noqa: S608 - table names come from the schema, not from a user
import hashlib
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

RUNS, JOURNAL = "perdure_runs", "perdure_journal"
EVERY_US = 2_500_000
TIMES = ("created_at", "started_at", "finished_at", "at")


def columns(db: sqlite3.Connection, table: str) -> list[str]:
    """Return the names of the table's columns, in order."""
    return [row[1] for row in db.execute(f"pragma table_info({table})")]


def copies(db: sqlite3.Connection, table: str, key: str) -> str:
    """The statement that inserts :count copies of the table's rows about run :run."""
    names = columns(db, table)
    back = f"(:count - k) * {EVERY_US}"
    new = {name: f"{name} - {back}" for name in TIMES} | {key: f"{key} + k"}
    if table == RUNS:
        new["id"] = f"printf('%012x', (created_at - {back}) / 1000) || lower(hex(randomblob(8)))"
    values = ", ".join(new.get(name, name) for name in names)
    return (
        "with recursive number(k) as (select 1 union all select k + 1 from number where k < :count) "
        f"insert into {table} ({', '.join(names)}) "
        f"select {values} from number cross join {table} where {key} = :run"
    )


def multiply(path: Path, count: int) -> None:
    """
    Add ``count`` copies of the file's one run.

    Raises:
        RuntimeError: The file holds another number of runs, an unfinished one, or rows about the run in
            a table that this function does not know.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("pragma journal_mode=delete")
        db.execute("pragma synchronous=off")
        runs = db.execute(f"select number, finished_at from {RUNS}").fetchall()
        if len(runs) != 1 or runs[0][1] is None:
            problem = f"{path} should hold one finished run, it holds {runs}"
            raise RuntimeError(problem)
        ours = {"run": runs[0][0], "count": count}
        tables = [row[0] for row in db.execute("select name from sqlite_schema where type = 'table'")]
        for table in set(tables) - {RUNS, JOURNAL}:
            if "run" in columns(db, table) and db.execute(f"select 1 from {table}").fetchone():
                problem = f"a finished run leaves rows in {table}; teach fill.py to copy them"
                raise RuntimeError(problem)
        guards = db.execute("select name, sql from sqlite_schema where type = 'trigger'").fetchall()
        db.execute("begin")
        for name, _ in guards:  # they let no run begin as finished
            db.execute(f"drop trigger {name}")
        db.execute(copies(db, RUNS, "number"), ours)
        db.execute(copies(db, JOURNAL, "run"), ours)
        for _, sql in guards:
            db.execute(sql)
        db.execute("commit")
        db.execute("pragma journal_mode=wal")


def shape(path: Path) -> str:
    """What the file's schema and its one run look like, as a short hash."""
    with closing(sqlite3.connect(path)) as db:
        schema = db.execute("select sql from sqlite_schema order by name").fetchall()
        journal = db.execute(f"select kind, key from {JOURNAL} order by run, seq").fetchall()
    return hashlib.sha256(repr((schema, journal)).encode()).hexdigest()[:12]


def filled(cache: Path, count: int, make: Callable[[str], None]) -> Path:
    """
    A file with a history, from the cache when the schema is still the same.

    Args:
        cache: Folder that keeps it.
        count: Finished runs to add.
        make: Puts one finished run into the database of this URL.
    """
    draft = cache / "draft.db"
    remove(draft)
    make(f"sqlite:///{draft}")
    wanted = cache / f"filled-{count}-{shape(draft)}.db"
    if not wanted.exists():
        for old in cache.glob(f"filled-{count}-*"):
            old.unlink()
        started = time.monotonic()
        multiply(draft, count)
        draft.rename(wanted)
        print(f"{wanted}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    remove(draft)
    return wanted


def copy(source: Path, target: Path) -> None:
    """Copy the file and wait until the disk has it, so that no measurement pays for the copy."""
    shutil.copyfile(source, target)
    file = os.open(target, os.O_RDONLY)
    os.fsync(file)
    os.close(file)


def remove(path: Path) -> None:
    """Delete a database file and what lies beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


if __name__ == "__main__":
    import peer_perdure

    into = Path(sys.argv[1])
    peer_perdure.one_run(f"sqlite:///{into}")
    multiply(into, int(sys.argv[2]) if sys.argv[2:] else 1_000_000)
