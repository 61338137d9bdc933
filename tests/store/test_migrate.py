"""Migrations: numbered, forward only, each whole or not at all, and done once however many processes try."""

import asyncio
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from storekit.database import start
from storekit.kinds import NOW, StillClock

from perdure.errors import SchemaMissing, SchemaTooNew, StoreCorrupt, StoreError
from perdure.model.limits import Limits
from perdure.store import migrate as module
from perdure.store.migrate import Migration, check_version, migrate, migrations, version_of
from perdure.store.operation import Operation
from perdure.store.sqlite import SqliteStore

FOLDER = Path(module.__file__).parent / "sql" / "migrations" / "sqlite"
NEWEST = migrations("sqlite")[-1].version
PROCESSES = 4
OPENER = """
import sys
from perdure.clock import SystemClock
from perdure.model.limits import Limits
from perdure.store.sqlite import SqliteStore
store = SqliteStore(sys.argv[1], clock=SystemClock(), limits=Limits())
print("ready", flush=True)
sys.stdin.readline()
store.open()
print(len(store.migrated), flush=True)
store.abandon()
"""


def store_on(path):
    return SqliteStore(str(path), clock=StillClock(), limits=Limits())


def schema(connection):
    """Everything that the schema is made of."""
    return sorted(connection.execute("select type, name, tbl_name, sql from sqlite_schema"), key=repr)


def with_more(monkeypatch, *more):
    """Let this perdure know further migrations."""
    known = (*migrations("sqlite"), *more)
    monkeypatch.setattr(module, "migrations", lambda _dialect: known)


def test_files_are_named_and_numbered_without_gaps():
    """A migration would be left out because of its file's name, or two would have one number."""
    files = sorted(path.name for path in FOLDER.iterdir())
    assert all(re.fullmatch(r"\d{4}_[a-z0-9_]+\.sql", name) for name in files)
    assert [int(name[:4]) for name in files] == list(range(1, len(files) + 1))
    assert [(found.version, found.name) for found in migrations("sqlite")] == [
        (int(name[:4]), name[5:-4]) for name in files
    ]  # fmt: skip


def test_a_new_database_records_what_was_applied(tmp_path):
    """Nobody could tell which schema a file has, or when it got it."""
    store = store_on(tmp_path / "a.db")
    store.open()
    assert [found.version for found in store.migrated] == list(range(1, NEWEST + 1))
    rows = asyncio.run(store.select("select version, name, applied_at from perdure_schema order by version"))
    assert rows == [(found.version, found.name, NOW) for found in migrations("sqlite")]
    asyncio.run(store.close())


def test_a_second_start_applies_nothing(tmp_path):
    """Each start of a process would lock the file, or try to make the tables again."""
    store = store_on(tmp_path / "a.db")
    store.open()
    asyncio.run(store.apply(Operation([start("a")])))
    before = schema(store._writer)
    asyncio.run(store.close())
    again = store_on(tmp_path / "a.db")
    again.open()
    assert again.migrated == []
    assert schema(again._writer) == before
    assert asyncio.run(again.select("select id from perdure_runs")) == [("a",)]
    asyncio.run(again.close())


def test_a_database_migrated_step_by_step_is_as_a_new_one(tmp_path, monkeypatch):
    """A database that grew up with perdure would behave otherwise than a new one."""
    second = Migration(NEWEST + 1, "more", "create table more (x integer) strict; create index more_x on more (x);")
    with closing(apsw.Connection(":memory:")) as grown, closing(apsw.Connection(":memory:")) as fresh:
        migrate(grown, "grown", NOW)
        with_more(monkeypatch, second)
        assert migrate(grown, "grown", NOW) == [second]
        migrate(fresh, "fresh", NOW)
        assert schema(grown) == schema(fresh)
        assert version_of(grown) == version_of(fresh) == NEWEST + 1


def test_a_newer_database_is_refused_and_left_alone(tmp_path):
    """An old perdure would write rows that the new one misreads."""
    path = tmp_path / "a.db"
    store = store_on(path)
    store.open()
    asyncio.run(store.close())
    with closing(apsw.Connection(str(path))) as outside:
        outside.execute("insert into perdure_schema values (?, 'to come', 0)", (NEWEST + 1,))
        before = schema(outside)
    for migrating in (True, False):
        with pytest.raises(SchemaTooNew, match=str(NEWEST + 1)):
            store_on(path).open(migrating=migrating)
    with closing(apsw.Connection(str(path))) as outside:
        assert schema(outside) == before
        assert version_of(outside) == NEWEST + 1


def test_without_migrating_an_old_schema_is_refused(tmp_path, monkeypatch):
    """A process that must not change the schema would change it, or work on one that does not fit."""
    path = tmp_path / "a.db"
    with pytest.raises(SchemaMissing, match="db migrate"):
        store_on(path).open(migrating=False)
    store = store_on(path)
    store.open()
    asyncio.run(store.close())
    with_more(monkeypatch, Migration(NEWEST + 1, "more", "create table more (x)"))
    with pytest.raises(SchemaMissing):
        store_on(path).open(migrating=False)
    with closing(apsw.Connection(str(path))) as outside:
        assert version_of(outside) == NEWEST


@pytest.mark.parametrize("bad", ["create table broken (", "insert into no_such_table values (1)"])
def test_a_migration_that_fails_leaves_the_version_before_it(tmp_path, monkeypatch, bad):
    """Half a migration would stay, and no perdure could use the database any more."""
    path = tmp_path / "a.db"
    store = store_on(path)
    store.open()
    asyncio.run(store.apply(Operation([start("a")])))
    before = schema(store._writer)
    asyncio.run(store.close())
    first = Migration(NEWEST + 1, "good", "create table good (x)")
    with monkeypatch.context() as patched:
        with_more(patched, first, Migration(NEWEST + 2, "bad", f"create table half (x); {bad}"))
        with pytest.raises(StoreError):
            store_on(path).open()
    again = store_on(path)
    again.open()
    assert schema(again._writer) == before
    assert version_of(again._writer) == NEWEST
    assert asyncio.run(again.select("select id from perdure_runs")) == [("a",)]
    asyncio.run(again.close())


def test_an_emptied_record_of_versions_is_damage():
    """A damaged database would be taken for a new one, and its tables be made a second time."""
    with closing(apsw.Connection(":memory:")) as connection:
        migrate(connection, "x", NOW)
        connection.execute("delete from perdure_schema")
        with pytest.raises(StoreCorrupt):
            check_version(connection, "x")
        with pytest.raises(StoreCorrupt):
            migrate(connection, "x", NOW)


def test_processes_that_start_at_once_migrate_once(tmp_path):
    """Several workers started on a new file would fail at each other, or apply a migration twice."""
    path = tmp_path / "a.db"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", OPENER, str(path)], **pipes) for _ in range(PROCESSES)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0] * PROCESSES, ends
    applied = sorted(int(out) for out, _ in ends)
    assert applied == [0] * (PROCESSES - 1) + [NEWEST]
    with closing(apsw.Connection(str(path))) as outside:
        assert list(outside.execute("select version from perdure_schema")) == [
            (version,) for version in range(1, NEWEST + 1)
        ]  # fmt: skip
