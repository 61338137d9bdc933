"""SQLite's own side: what a file must be, how it is opened, backed up, and watched for other processes' commits."""

import asyncio
import json
import os
import shutil
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest
from storekit.database import ALL, Database, line, start
from storekit.kinds import NOW, SqliteFile, SqliteMemory, StillClock

from perdure.clock import SystemClock
from perdure.errors import (
    InvalidOption,
    OperationRefused,
    SchemaMissing,
    SchemaTooNew,
    StoreClosed,
    StoreCorrupt,
    StoreError,
    StoreReadOnly,
    StoreUnavailable,
)
from perdure.model.limits import Limits
from perdure.store import sqlite
from perdure.store.batch import LOG_PAGES, PAGE_BYTES
from perdure.store.operation import Operation
from perdure.store.sqlite import SqliteStore
from perdure.store.sqlite_commit import MANY
from perdure.worker.claims import claiming

NOBODY = 65534


def store_on(path, **options):
    return SqliteStore(str(path), **{"clock": StillClock(), "limits": Limits(), **options})


def opened(path, *, migrating=True, **options):
    store = store_on(path, **options)
    store.open(migrating=migrating)
    return store


def close(*stores):
    for store in stores:
        asyncio.run(store.close())


def pragma(connection, name):
    return connection.execute(f"pragma {name}").get


# ------------------------------------------------------------------------------------------- opening
@pytest.mark.parametrize(("synchronous", "level"), [("FULL", 2), ("NORMAL", 1)])
def test_commits_are_as_durable_as_asked_for(tmp_path, synchronous, level):
    """A power cut would take back what callers were told is stored."""
    store = opened(tmp_path / "a.db", synchronous=synchronous)
    for connection in (store._writer, store._reader):
        assert pragma(connection, "synchronous") == level
        assert pragma(connection, "journal_mode") == "wal"
        assert pragma(connection, "wal_autocheckpoint") == LOG_PAGES
    close(store)


def test_full_is_what_one_gets_without_asking(tmp_path):
    """Durability would be an option that one has to know of."""
    store = opened(tmp_path / "a.db")
    assert pragma(store._writer, "synchronous") == 2
    close(store)


@pytest.mark.parametrize("synchronous", ["full", "OFF", 2])
def test_an_unknown_durability_is_refused(tmp_path, synchronous):
    """A misspelt option would be taken for the weakest, and SQLite's OFF would lose commits without a word."""
    with pytest.raises(InvalidOption, match="is neither FULL nor NORMAL"):
        store_on(tmp_path / "a.db", synchronous=synchronous)


def test_reading_connections_cannot_write(tmp_path):
    """A list or the doctor could change what it looks at."""
    store = opened(tmp_path / "a.db")
    with pytest.raises(StoreReadOnly):
        asyncio.run(store.select("delete from perdure_runs"))
    close(store)


def test_what_was_stored_is_there_when_the_file_is_opened_again(tmp_path):
    """A restart would lose runs."""
    store = opened(tmp_path / "a.db")
    asyncio.run(store.apply(Operation([start("a")])))
    close(store)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db"], "the log was merged into the file"
    store = opened(tmp_path / "a.db")
    assert asyncio.run(store.select("select id from perdure_runs")) == [("a",)]
    close(store)


def test_who_commits_much_gets_room_in_the_log(tmp_path):
    """Each commit would make the log longer, which takes the disk about as long again as the commit itself."""
    store = opened(tmp_path / "a.db")

    async def main(names):
        for name in names:
            await store.apply(Operation([start(name)]))

    asyncio.run(main(map(str, range(MANY - 1))))
    log = tmp_path / "a.db-wal"
    before = log.stat().st_size
    asyncio.run(main(["last"]))
    room = log.stat().st_size
    assert before < room
    assert room >= LOG_PAGES * PAGE_BYTES
    asyncio.run(main(map(str, range(1_000, 1_100))))
    assert log.stat().st_size == room
    for name in ("a.db", "a.db-wal"):  # as a process that is killed now leaves them
        shutil.copy(tmp_path / name, tmp_path / f"left-{name}")
    left = opened(tmp_path / "left-a.db")
    assert asyncio.run(left.select("select count(*) from perdure_runs")) == [(MANY + 100,)]
    assert asyncio.run(left.select("select name from sqlite_schema where name like '%room%'")) == []
    assert pragma(left._writer, "integrity_check") == "ok"
    close(store, left)


@pytest.mark.parametrize("why", ["busy", "full"])
def test_where_there_is_no_room_commits_go_on(tmp_path, why):
    """What only makes commits quicker would make them fail, or leave a transaction open."""
    store = opened(tmp_path / "a.db")
    asyncio.run(store.apply(Operation([start("a")])))
    with closing(apsw.Connection(str(tmp_path / "a.db"))) as other:
        if why == "busy":
            other.execute("begin immediate")
        else:
            store._writer.execute(f"pragma max_page_count = {pragma(store._writer, 'page_count') + 100}")
        cached = pragma(store._writer, "cache_size")
        store._committer._runner.make_room()
        assert (store._writer.in_transaction, pragma(store._writer, "cache_size")) == (False, cached)
    asyncio.run(store.apply(Operation([start("b")])))
    assert asyncio.run(store.select("select count(*) from perdure_runs")) == [(2,)]
    close(store)


def test_what_was_committed_survives_a_store_that_was_abandoned(tmp_path):
    """A killed process would lose commits that it had answered for."""
    store = opened(tmp_path / "a.db")

    async def main():
        await store.apply(Operation([start("a")]))
        store.submit(Operation([start("b")]), lambda rows, error: None)
        store.abandon()

    asyncio.run(main())
    again = opened(tmp_path / "a.db")
    assert asyncio.run(again.select("select id from perdure_runs")) == [("a",)]
    close(again)


def test_memory_stores_do_not_see_each_other(tmp_path):
    """Two tests, or two apps in one process, would share their runs."""
    one, two = (Database(SqliteMemory(tmp_path)) for _ in range(2))
    one.queued("a")
    two.queued("b")
    for database, run_id in ((one, "a"), (two, "b")):
        assert database.run(database.store.select("select id from perdure_runs")) == [(run_id,)]
        database.close()
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path_is_taken_from_the_working_folder(tmp_path, monkeypatch):
    """sqlite:///orders.db would not be found, though its folder is there."""
    monkeypatch.chdir(tmp_path)
    close(opened("a.db"))
    assert (tmp_path / "a.db").exists()


@pytest.mark.parametrize("name", ["what?mode=ro.db", "a#b.db", "50%41.db", "with space.db", "größe.db"])
def test_every_file_name_is_taken_as_it_is(tmp_path, name):
    """A name with a sign that means something in a URL would open another file."""
    store = opened(tmp_path / name)
    asyncio.run(store.apply(Operation([start("a")])))
    close(store)
    assert (tmp_path / name).is_file()


# ------------------------------------------------------------------------------------------ bad files
def test_a_missing_folder_is_named(tmp_path):
    """A user would read "unable to open database file" and search in vain."""
    with pytest.raises(StoreUnavailable, match="no/such"):
        opened(tmp_path / "no" / "such" / "a.db")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_database(tmp_path):
    """A path that names a folder would end in a driver's error."""
    with pytest.raises(StoreUnavailable):
        opened(tmp_path)


@pytest.mark.parametrize("text", ["Dear diary,\n" * 500, "a short note"])
def test_a_file_that_is_something_else_is_left_alone(tmp_path, text):
    """A user's text file would be overwritten, or the error would say nothing."""
    path = tmp_path / "diary.txt"
    path.write_text(text)
    for migrating in (True, False):
        with pytest.raises(StoreCorrupt):
            opened(path, migrating=migrating)
        assert path.read_text() == text
        assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def foreign(tmp_path):
    """Somebody else's database, in the journal mode that SQLite begins with."""
    path = tmp_path / "foreign.db"
    with closing(apsw.Connection(str(path))) as outside:
        outside.execute("create table theirs (x); insert into theirs values (1)")
    return path


def test_somebody_elses_database_stays_as_it_is_without_leave_to_migrate(foreign):
    """A slip of the pen in a URL would change another program's database."""
    before = foreign.read_bytes()
    with pytest.raises(SchemaMissing, match="db migrate"):
        opened(foreign, migrating=False)
    assert foreign.read_bytes() == before
    assert list(foreign.parent.iterdir()) == [foreign]


def test_a_database_with_a_users_own_tables_takes_ours_too(foreign):
    """ctx.transaction is of use only where a user's rows and ours are in one file."""
    close(opened(foreign))
    close(opened(foreign, migrating=False))
    with closing(apsw.Connection(str(foreign))) as outside:
        assert outside.execute("select x from theirs").get == 1
        assert outside.execute("pragma journal_mode").get == "wal"


def test_a_newer_database_keeps_its_journal_mode(tmp_path):
    """An old perdure would change a database that it refuses."""
    path = tmp_path / "a.db"
    close(opened(path))
    with closing(apsw.Connection(str(path))) as outside:
        outside.execute("insert into perdure_schema values (9999, 'to come', 0); pragma journal_mode = delete")
    before = path.read_bytes()
    for migrating in (True, False):
        with pytest.raises(SchemaTooNew):
            opened(path, migrating=migrating)
    assert path.read_bytes() == before


def test_no_file_is_made_without_leave_to_migrate(tmp_path):
    """A slip of the pen in a URL would leave an empty file behind, which looks like a database."""
    with pytest.raises(SchemaMissing, match="db migrate"):
        opened(tmp_path / "a.db", migrating=False)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_becomes_a_database(tmp_path):
    """A file made by `touch` or a mount would be refused."""
    path = tmp_path / "a.db"
    path.touch()
    close(opened(path))
    assert path.stat().st_size > 0


def test_a_damaged_file_is_an_error_that_says_so(tmp_path):
    """A damaged database would be taken for an empty one, or stop the process with a driver's error."""
    path = tmp_path / "a.db"
    store = opened(path)
    for place in range(200):
        asyncio.run(store.apply(Operation([start(f"r{place}", input=json.dumps("x" * 500))])))
    close(store)
    data = bytearray(path.read_bytes())
    data[4096 * 2 :] = b"\xff" * (len(data) - 4096 * 2)
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt):
        store = opened(path)
        asyncio.run(store.select("select * from perdure_runs"))


@contextmanager
def unprivileged():
    """A folder that everybody reaches, and no right to pass over its permissions."""
    folder = Path(tempfile.mkdtemp(prefix="perdure-"))
    folder.chmod(0o777)
    root = os.geteuid() == 0
    try:
        yield folder, (lambda: os.seteuid(NOBODY)) if root else (lambda: None)
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o777)
        shutil.rmtree(folder)


@pytest.mark.parametrize("what", ["file", "folder", "both"])
def test_a_database_that_cannot_be_written_says_so(what):
    """A worker would start on a read-only database and fail at its first step."""
    with unprivileged() as (folder, give_up_rights):
        path = folder / "a.db"
        close(opened(path))
        if what in {"file", "both"}:
            path.chmod(0o444)
        else:
            path.chmod(0o666)
        if what in {"folder", "both"}:
            folder.chmod(0o555)
        before = path.read_bytes()
        give_up_rights()
        with pytest.raises((StoreReadOnly, StoreUnavailable)) as problem:
            close(opened(path))
        assert "permission" in str(problem.value) or "yours" in str(problem.value)
        assert path.read_bytes() == before


def test_a_file_that_others_may_not_read_says_so():
    """An operator would not learn that permissions are the cause."""
    with unprivileged() as (folder, give_up_rights):
        path = folder / "a.db"
        close(opened(path))
        path.chmod(0)
        give_up_rights()
        with pytest.raises(StoreError) as problem:
            opened(path)
        assert problem.value.code in {"store_unavailable", "store_read_only"}


def test_a_value_that_no_database_holds_is_refused_when_reading_too(tmp_path):
    """A strange id in a query would end in an error of the driver."""
    store = opened(tmp_path / "a.db")
    for bad in ("\ud800", 1 << 70, object()):
        with pytest.raises(OperationRefused):
            asyncio.run(store.rows("run_by_id", bad))
    with pytest.raises(StoreError):
        asyncio.run(store.select("select * from no_such_table"))
    close(store)


# ---------------------------------------------------------------------------------------- other processes
def test_other_processes_commits_are_noticed(tmp_path):
    """Somebody who waits for a run that another process drives would wait for ever."""

    async def main():
        ours = store_on(tmp_path / "a.db", clock=SystemClock())
        ours.open()
        theirs = opened(tmp_path / "a.db")
        ((_, number),) = await ours.apply(Operation([start("a")]))
        due, mail = [], []
        ours.changes.on_due(lambda _: due.append(1))
        ours.changes.on_mail(mail.append)
        ours.start_polling()
        for place in range(3):
            follower = ours.changes.follow(number)
            send = line("send", run_id="a", topic="signal:x", key=None, data=str(place), now=NOW)
            await theirs.apply(Operation([send]))
            async with asyncio.timeout(30):
                await follower.behind(0)
            assert len(await ours.rows("mail", json.dumps([number]))) == place + 1
        assert len(due) >= 3
        assert set(mail) == {None}
        await theirs.close()
        await ours.close()

    asyncio.run(main())


def test_only_runs_that_have_ended_wake_those_who_wait_for_an_end(tmp_path):
    """Each commit of another process would make everybody look, whose run goes on."""

    async def main():
        ours, theirs = opened(tmp_path / "a.db"), opened(tmp_path / "a.db")
        numbers = [(await ours.apply(Operation([start(run_id)])))[0][1] for run_id in "ab"]
        waiters = [ours.changes.watch(number) for number in numbers]
        await theirs.apply(Operation([line("cancel", id="a", now=NOW)]))
        poll(ours)
        await asyncio.sleep(0)
        assert [waiter.done() for waiter in waiters] == [False, False]
        with closing(apsw.Connection(ours.path)) as outside:
            outside.execute(
                "update perdure_runs set status = 'cancelled', finished_at = 1, due_at = null where id = 'a'"
            )
        poll(ours)
        await asyncio.sleep(0)
        assert [waiter.done() for waiter in waiters] == [True, False]
        await theirs.close()
        await ours.close()

    asyncio.run(main())


def poll(store):
    """Look for others' commits now, and only now."""
    store._poll()
    store.stop_polling()


def test_own_commits_are_not_taken_for_others(tmp_path):
    """A busy worker would look at everything after each of its own commits."""

    async def main():
        store = opened(tmp_path / "a.db")
        heard = []
        store.changes.on_mail(heard.append)
        for run_id in "abc":
            await store.apply(Operation([start(run_id)]))
            poll(store)
        assert heard == []
        await store.close()

    asyncio.run(main())


def test_nobody_looks_while_the_writer_is_at_work(tmp_path):
    """The loop would wait for a slow commit after all, to ask for a number."""

    async def main():
        store = opened(tmp_path / "a.db")
        looked = []
        store._version = lambda: looked.append(1) or 0
        store._committer.under_way = True
        poll(store)
        assert looked == []
        store._committer.under_way = False
        poll(store)
        assert looked == [1]
        await store.close()

    asyncio.run(main())


@pytest.mark.parametrize("error", [apsw.IOError("no"), RuntimeError("a mistake of ours")], ids=["disk", "mistake"])
def test_a_look_that_fails_is_made_up_for(tmp_path, caplog, error):
    """One busy moment, or one mistake, would make a process deaf to the others for ever."""

    async def main():
        ours, theirs = opened(tmp_path / "a.db"), opened(tmp_path / "a.db")
        heard = []
        ours.changes.on_mail(heard.append)
        look = ours._version

        def fail():
            raise error

        ours._version = fail
        await theirs.apply(Operation([start("a")]))
        ours._poll()
        assert ours._poll_timer is not None
        assert heard == []
        ours._version = look
        poll(ours)
        assert heard == [None]
        await theirs.close()
        await ours.close()

    asyncio.run(main())
    assert "trying again" in caplog.text


def test_a_closed_store_looks_no_more(tmp_path, caplog):
    """Whoever begins to wait while a store is being closed would have it look at what is not there, for ever."""

    async def main():
        store = opened(tmp_path / "a.db", clock=SystemClock())
        await store.close()
        store.start_polling()
        assert store._poll_timer is not None
        store._poll()
        assert store._poll_timer is None

    asyncio.run(main())
    assert caplog.text == ""


def test_a_quiet_store_looks_less_often(tmp_path, monkeypatch):
    """An idle process would burn a core's share (I10), or a busy one would be late."""

    async def main():
        store = opened(tmp_path / "a.db")
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 0.0)

        def delay():
            store._poll()
            wait = store._poll_timer.when()
            store.stop_polling()
            return wait

        assert delay() <= sqlite.POLL_QUICK_S
        for _ in range(sqlite.QUIET_POLLS):
            poll(store)
        assert delay() > sqlite.POLL_QUICK_S
        with closing(apsw.Connection(store.path)) as outside:
            outside.execute("create table theirs (x)")
        assert delay() <= sqlite.POLL_QUICK_S
        await store.close()

    asyncio.run(main())


def test_stores_that_share_a_hub_and_virtual_clocks_do_not_poll(tmp_path):
    """Virtual time would never stand still, or two stores of one process would poll for each other."""

    async def main():
        alone = opened(tmp_path / "a.db")
        sharing = opened(tmp_path / "a.db", clock=SystemClock(), changes=alone.changes)
        for store in (alone, sharing):
            store.start_polling()
            assert store._poll_timer is None
            await store.close()

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------ backup
def ids(path):
    with closing(apsw.Connection(str(path))) as copy:
        assert copy.execute("pragma integrity_check").get == "ok"
        return [run_id for (run_id,) in copy.execute("select id from perdure_runs order by number")]


@pytest.mark.parametrize("kind", [SqliteFile, SqliteMemory])
def test_a_backup_is_a_database_of_its_own(tmp_path, kind):
    """A backup could not be restored, or would need files that nobody copies."""
    database = Database(kind(tmp_path))
    for place in range(50):
        database.queued(f"r{place}", input=json.dumps("x" * 2_000))
    target = tmp_path / "copy.db"
    size = database.run(database.store.backup(str(target)))
    assert size == target.stat().st_size
    assert ids(target) == [f"r{place}" for place in range(50)]
    assert not list(tmp_path.glob("copy.db-*"))
    database.queued("later")
    restored = opened(target)
    assert len(asyncio.run(restored.apply(Operation([start("new")])))) == 1
    close(restored)
    assert ids(target)[-2:] == ["r49", "new"]
    database.close()


def test_a_backup_while_others_write_is_of_one_moment_and_comes_to_an_end(tmp_path, monkeypatch):
    """Under load a backup would begin again with each commit, for ever, or hold half of what belongs together."""
    monkeypatch.setattr(sqlite, "BACKUP_PAGES", 2)
    target = tmp_path / "copy.db"

    async def main():
        store = opened(tmp_path / "a.db", inline_only=True)
        await store.apply(Operation([start(f"r{place}", input=json.dumps("x" * 2_000)) for place in range(60)]))
        backup = asyncio.ensure_future(store.backup(str(target)))
        count = 0
        while not backup.done() and count < 1_000:
            pair = [start(f"one {count}"), start(f"two {count}")]
            await store.apply(Operation(pair))
            count += 1
        assert backup.done(), "it begins again and again"
        await backup
        await store.close()
        return count

    assert asyncio.run(main()) > 10
    found = ids(target)
    assert found[:60] == [f"r{place}" for place in range(60)]
    ones, twos = ({name[4:] for name in found if name.startswith(word)} for word in ("one", "two"))
    assert ones == twos


def test_readers_see_new_commits_during_a_backup(tmp_path, monkeypatch):
    """While a backup runs, everybody would be shown the past."""
    monkeypatch.setattr(sqlite, "BACKUP_PAGES", 1)

    async def main():
        store = opened(tmp_path / "a.db")
        await store.apply(Operation([start("a")]))
        backup = asyncio.ensure_future(store.backup(str(tmp_path / "copy.db")))
        await asyncio.sleep(0)
        await store.apply(Operation([start("b")]))
        assert len(await store.rows("run_by_id", "b")) == 1
        await backup
        await store.close()

    asyncio.run(main())


def test_a_backup_never_overwrites_and_leaves_nothing_half_made(tmp_path, monkeypatch):
    """A backup would destroy an older one, or a broken-off one would pass for whole."""
    monkeypatch.setattr(sqlite, "BACKUP_PAGES", 1)
    store = opened(tmp_path / "a.db")
    target = tmp_path / "copy.db"
    target.write_text("precious")
    with pytest.raises(InvalidOption):
        asyncio.run(store.backup(str(target)))
    assert target.read_text() == "precious"
    target.unlink()
    with pytest.raises(StoreUnavailable):
        asyncio.run(store.backup(str(tmp_path / "no" / "copy.db")))

    async def broken_off():
        backup = asyncio.ensure_future(store.backup(str(target)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        backup.cancel()
        with pytest.raises(asyncio.CancelledError):
            await backup

    asyncio.run(broken_off())
    assert list(tmp_path.glob("copy.db*")) == []
    asyncio.run(store.backup(str(target)))
    close(store)
    with pytest.raises(StoreClosed):
        asyncio.run(store.backup(str(tmp_path / "late.db")))


# ------------------------------------------------------------------------------------------------- pulse
def test_the_heartbeat_has_a_connection_of_its_own(tmp_path):
    """A long commit of the worker would stop its heartbeat."""
    for kind in (SqliteFile, SqliteMemory):
        database = Database(kind(tmp_path))
        number = database.worker(lease_until=NOW + 5)
        pulse = database.store.pulse()
        assert pulse.beat(number, NOW + 1, NOW + 9)
        assert database.rows("suspects")[0][-1] == NOW + 9
        database.apply(line("declare_dead", worker=number, now=NOW))
        assert not pulse.beat(number, NOW + 2, NOW + 19)
        pulse.close()
        database.close()


def test_a_claim_that_finds_nothing_waits_for_nobody(tmp_path):
    """Of several processes on a file, each idle one would take the writer's lock whenever another has committed."""
    database = Database(SqliteFile(tmp_path))
    worker = database.worker()
    asked = claiming(worker, NOW, most=9, top=9, workflows=ALL, queues=("q",))
    with closing(apsw.Connection(str(database.store.path))) as other:
        other.execute("begin immediate")
        assert database.apply(*asked.lines) == []
        other.execute("rollback")
    database.queued("a")
    assert [row[2] for row in database.apply(*asked.lines)] == ["a"]
    database.close()
