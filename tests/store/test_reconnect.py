"""Connections to Postgres that break: what was being committed is done exactly once."""

import asyncio
import random
from contextlib import suppress

import pytest
from postgreskit.proxy import READ_ONLY, Proxy
from postgreskit.server import new_server, server
from storekit.database import Database, entry, start
from storekit.generate import Generator
from storekit.kinds import PostgresSchema, StillClock
from storekit.system import ModelSystem, StoreSystem

from perdure import App, Context
from perdure.errors import SchemaMissing, StoreError, StoreReadOnly, StoreUnavailable
from perdure.model.limits import Limits
from perdure.store.operation import Operation
from perdure.store.pg import lasting
from perdure.store.pg.store import PostgresStore


class Proxied(PostgresSchema):
    """A schema that is reached through a proxy."""

    def __init__(self, folder) -> None:
        super().__init__(folder)
        self.proxy = Proxy(folder, server().socket)
        self.direct = self.url
        self.url = self.proxy.leading(self.url)


@pytest.fixture
def proxied(tmp_path):
    kind = Proxied(tmp_path)
    database = Database.__new__(Database)
    database.kind, database._loop, database._stores = kind, asyncio.new_event_loop(), []
    database.run(kind.proxy.start())
    database.store = database.another()
    yield database
    database.run(database.store.close())
    database.run(kind.proxy.stop())
    database.run(asyncio.sleep(0))
    database._loop.close()
    kind.close()


@pytest.mark.parametrize("seed", range(2))
def test_operations_are_done_once_whenever_the_connection_breaks(proxied, seed):
    """An operation whose answer got lost would be done twice, or not at all, or its rows would be missing."""
    chance = random.Random(f"cuts {seed}")
    model, store = ModelSystem(), StoreSystem(proxied)
    generator, done = Generator(model.model, f"cuts {seed}"), 0
    while done < 300:
        operations = generator.batch(chance.choice((1, 1, 2, 5)))
        theirs = store.translated(operations, model.names())
        wanted, refused = model.batch(operations)
        names = store.names()
        proxied.kind.proxy.cut = chance.choice(("", "request", "answer"))
        outcomes = proxied.batch(*theirs)
        proxied.kind.proxy.cut = ""
        names.include(store.names())
        assert [error is not None for _, error in outcomes] == refused, outcomes
        assert [sorted((names.row(row) for row in rows), key=repr) for rows, _ in outcomes] == wanted, operations[
            0
        ].lines
        assert store.dump() == model.dump()
        done += len(operations)
    assert proxied.kind.proxy.cuts > 50


@pytest.mark.parametrize("cut", ["request", "answer"])
def test_a_sequential_steps_entry_whose_connection_breaks(proxied, cut):
    """A run would be given up for an entry that it has written itself, or go on without one, or with one twice."""
    run = proxied.owned()
    assert proxied.write(run, ("entries", [entry(1)])) == []  # what the connection prepares comes before the cut
    proxied.kind.proxy.cut = cut
    assert proxied.write(run, ("entries", [entry(2)])) == []
    proxied.kind.proxy.cut = cut
    assert proxied.write(run, ("entries", [entry(3)]), epoch=run.epoch - 1) == [("stale",)]
    assert proxied.kind.proxy.cuts == 2
    assert proxied.journal("a") == [entry(1), entry(2)]


@pytest.mark.parametrize("cut", ["request", "answer"])
def test_a_users_function_whose_connection_breaks(proxied, cut):
    """Wherever it breaks, its rows would be there twice, or without its operation, or its caller never be answered."""
    table = "create table tally (n integer)"
    proxied.run(proxied.store.apply(Operation([start("first")], body=lambda there: there.execute(table))))
    for place in range(8):
        said, ran = [], []

        def body(transaction, place=place, ran=ran, said=said):
            ran.append(place)
            for n in range(3):
                if place == n and not said:
                    said.append(n)
                    proxied.kind.proxy.cut = cut
                transaction.execute("insert into tally values ($1)", (place,))
            if place >= 3 and not said:
                # Of what follows, one thing after the other: lines, the answer that is kept, the commit.
                said.append(place)
                proxied.kind.proxy.skip, proxied.kind.proxy.cut = place - 3, cut
            return [start(f"more {place}")]

        rows = proxied.run(proxied.store.apply(Operation([start(f"r{place}")], body=body)))
        proxied.kind.proxy.cut = ""
        assert [row[0] for row in rows] == ["started", "started"]
        assert proxied.run(proxied.store.select("select count(*) from tally where n = ?", (place,))) == [(3,)]
        assert len(ran) <= 2


@pytest.fixture(scope="module")
def standby():
    """The folder of a second server's socket, which follows the first."""
    with server().standby() as folder:
        yield folder


def unanswered(proxied, cause, *detours):
    """The next answer gets lost, and the connections after it meet this first."""
    proxied.kind.proxy.cut, proxied.kind.proxy.detours = cause, list(detours)


REFUSED = ("53300", "28P01", "3D000", "25006", "XX000")
"""What a server, or a pooler before it, may say for a moment: too many, no such user, …; 25006 to a statement."""


@pytest.mark.parametrize("cut", ["request", "answer"])
@pytest.mark.parametrize("state", [*REFUSED, "standby"])
def test_what_may_have_been_done_is_found_out_whatever_the_next_connections_meet(proxied, standby, state, cut):
    """What was committed would be told as undone, and be done twice, or a run trip over its own entry."""
    detours = [standby, standby] if state == "standby" else [state, state]
    run = proxied.owned()
    assert proxied.write(run, ("entries", [entry(1)])) == []
    unanswered(proxied, cut, *detours)
    assert proxied.write(run, ("entries", [entry(2)])) == []
    assert proxied.journal("a") == [entry(1), entry(2)]
    unanswered(proxied, cut, *detours)
    outcomes = proxied.batch([start("b")], [start("c")])
    assert [rows[0][0] for rows, error in outcomes if not error] == ["started", "started"]
    table = "create table once (n integer)"
    proxied.run(proxied.store.apply(Operation([start("d")], body=lambda there: there.execute(table))))

    def body(transaction):
        # The commit is the fourth message from here on: the function's row, the lines, the answer that is kept.
        transaction.execute("insert into once values (1)")
        proxied.kind.proxy.skip = 2
        unanswered(proxied, cut if not ran else "", *([] if ran else detours))
        ran.append(1)
        return []

    ran = []
    assert proxied.run(proxied.store.apply(Operation([start("e")], body=body)))[0][0] == "started"
    assert proxied.run(proxied.store.select("select count(*) from once")) == [(1,)]
    assert proxied.kind.proxy.cuts == 3
    assert proxied.kind.proxy.detours == []


def test_who_waits_for_an_answer_says_so(proxied, monkeypatch, caplog):
    """Operators of a database that is away for an hour would see workers that do nothing, and not learn why."""
    monkeypatch.setattr(lasting, "PATIENCE_S", 0.05)
    run = proxied.owned()
    unanswered(proxied, "request", *["53300"] * 5)
    assert proxied.write(run, ("entries", [entry(1)])) == []
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert 1 <= len(told) <= 4
    assert all("still without an answer of" in line and "sent away by a test" in line for line in told)


def anew(proxied, *detours):
    """The writer connects again, and meets this first."""
    proxied.store._writer.connection.drop()
    for lane in proxied.store._transactor._lanes:
        lane.connection.drop()
    proxied.kind.proxy.detours = list(detours)


@pytest.mark.parametrize("of", ["standby", READ_ONLY])
def test_a_connection_that_leads_to_a_server_without_writes_is_given_up(proxied, standby, of):
    """A writer that came upon a standby once, in a failover, would stay there: nothing is stored until a restart."""
    run, place = proxied.owned(), standby if of == "standby" else of
    body = Operation([start("c")], body=lambda there: there.execute("select 1") and [])
    anew(proxied, place)
    assert proxied.apply(start("b"))
    assert proxied.kind.proxy.detours == []
    anew(proxied, place, place, place)
    assert proxied.write(run, ("entries", [entry(1)])) == []
    assert proxied.kind.proxy.detours == []
    anew(proxied, place)
    assert proxied.run(proxied.store.apply(body))
    assert proxied.kind.proxy.detours == []
    assert proxied.journal("a") == [entry(1)]


def test_a_worker_that_comes_upon_a_standby_goes_on_and_leaves_in_good_order(tmp_path, standby, monkeypatch, caplog):
    """In a failover its runs would stop; and a worker that is told to leave then would end with a traceback."""
    url = server().url()

    async def main() -> None:
        proxy = Proxy(tmp_path, server().socket)
        await proxy.start()
        app = App(proxy.leading(url))

        @app.workflow
        async def twice(ctx: Context) -> int:
            for _ in range(2):
                proxy.cut_all()
                proxy.detours = [standby] * 5
                await ctx.step("count", lambda: calls.append(1))
            return len(calls)

        calls: list[int] = []
        async with app:
            assert await (await app.start(twice)).result() == 2
            monkeypatch.setattr(lasting, "PATIENCE_S", 0.05)
            proxy.detours = [standby] * 1000
            app.client.store._writer.connection.drop()
        await proxy.stop()

    asyncio.run(asyncio.wait_for(main(), 30))
    assert "cannot say goodbye, and counts as alive until its lease ends" in caplog.text


def test_a_database_that_stays_read_only_is_an_error_that_can_be_tried_again(proxied, standby, monkeypatch):
    """Callers would wait for ever, or not be told what is the matter."""
    monkeypatch.setattr(lasting, "PATIENCE_S", 0.05)
    anew(proxied, *[standby] * 100)
    with pytest.raises(StoreReadOnly) as told:
        proxied.apply(start("a"))
    assert told.value.retryable
    proxied.kind.proxy.detours = []
    assert proxied.apply(start("a"))


def test_readers_do_not_ask_a_standby(proxied, standby):
    """What has not come there yet would be missing: a run would go on without its last entries."""
    proxied.kind.proxy.cut_all()
    proxied.kind.proxy.detours = [standby] * 3
    for _ in range(2):
        assert proxied.run(proxied.store.select("select pg_is_in_recovery()")) == [(False,)]
    assert proxied.kind.proxy.detours == []


def test_who_begins_on_a_standby_may_read_there_until_it_writes(proxied, standby):
    """An operator's look at a copy would be refused; or a worker go on with what a copy has, as in the last test."""
    there = PostgresStore(proxied.kind.url, clock=StillClock(), limits=Limits())
    while there._committer is None:
        # It follows, and need not have the schema yet.
        proxied.kind.proxy.detours = [standby] * 2
        with suppress(SchemaMissing):
            proxied.run(there.connect(migrating=False))
    assert proxied.run(there.select("select pg_is_in_recovery()")) == [(True,)]
    assert proxied.run(there.apply(Operation([start("a")])))
    for _ in range(2):
        assert proxied.run(there.select("select pg_is_in_recovery()")) == [(False,)]
    proxied.run(there.close())


def test_too_many_connections_are_waited_for(proxied):
    """After each restart of the database some would be refused, as all clients come back at once."""
    for call in (lambda: proxied.apply(start("a")), lambda: proxied.rows("counts")):
        anew(proxied, "53300", "53300")
        assert call()
        assert proxied.kind.proxy.detours == []


@pytest.mark.parametrize("state", ["28P01", "3D000"])
def test_a_connection_that_is_refused_for_good_is_told_at_once(proxied, state):
    """A wrong password, changed while the app runs, would look like a database that is slow."""
    anew(proxied, state)
    with pytest.raises(StoreError, match="sent away by a test"):
        proxied.apply(start("a"))
    assert proxied.count("runs") == 0


def test_a_database_that_is_away_is_an_error_that_can_be_tried_again(proxied, monkeypatch):
    """Callers would wait for ever for a database that does not come back, or take what was not stored for stored."""
    monkeypatch.setattr(lasting, "PATIENCE_S", 0.05)
    proxied.run(proxied.kind.proxy.stop())
    proxied.store._writer.connection.drop()
    (proxied.kind.proxy.folder / ".s.PGSQL.5432").unlink(missing_ok=True)
    with pytest.raises(StoreUnavailable) as told:
        proxied.apply(start("a"))
    assert told.value.retryable
    with pytest.raises(StoreUnavailable):
        proxied.rows("counts")
    proxied.run(proxied.kind.proxy.start())
    assert proxied.apply(start("a"))
    assert proxied.rows("counts") == [("queued", 1)]


def test_a_query_survives_a_connection_that_broke(proxied):
    """After each failover of the database the first queries would fail."""
    proxied.queued()
    for cut in ("request", "answer"):
        assert proxied.rows("counts") == [("queued", 1)]
        proxied.kind.proxy.cut = cut
        assert proxied.rows("counts") == [("queued", 1)]


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_nothing_is_lost_or_done_twice_when_the_server_restarts(mode, tmp_path):
    """A restart of Postgres under load would cost operations, or do them twice."""
    own = new_server()

    class Own(PostgresSchema):
        def __init__(self, _folder) -> None:
            super().__init__(_folder)
            self.url = own.url()

    db = Database(Own(tmp_path))
    answers, arrived = [], asyncio.Condition()

    async def more(senders) -> None:
        wanted = len(answers) + 100
        async with arrived:
            await arrived.wait_for(lambda: len(answers) >= wanted or any(sender.done() for sender in senders))
        for sender in senders:
            assert not sender.done(), sender

    async def main() -> None:
        going = True

        async def sender(name: int) -> None:
            try:
                await send(name)
            finally:
                async with arrived:
                    arrived.notify_all()

        async def send(name: int) -> None:
            count = 0
            while going:
                lines = [start(f"{name}-{count}"), ("send", (f"{name}-{count}", "signal:x", None, "1", 1))]
                answers.append((f"{name}-{count}", await db.store.apply(Operation(lines))))
                count += 1
                async with arrived:
                    arrived.notify_all()

        senders = [asyncio.create_task(sender(name)) for name in range(5)]
        for _ in range(2):
            await more(senders)
            await asyncio.to_thread(own.restart, mode)
        await more(senders)
        going = False
        await asyncio.gather(*senders)

    db.run(main())
    numbers = dict(db.run(db.store.select("select id, number from perdure_runs")))
    assert {name for name, _ in answers} == set(numbers)
    assert all(rows == [("started", numbers[name]), ("sent", numbers[name])] for name, rows in answers)
    assert db.count("inbox") == len(answers)
    db.close()
    own.stop()
