"""Connections to Postgres that break: what was being committed is done exactly once."""

import asyncio
import random
from urllib.parse import quote

import pytest
from postgreskit.proxy import Proxy
from postgreskit.server import new_server, server
from storekit.database import Database, entry, start
from storekit.generate import Generator
from storekit.kinds import PostgresSchema
from storekit.system import ModelSystem, StoreSystem

from perdure.errors import StoreUnavailable
from perdure.store.operation import Operation
from perdure.store.pg import lasting


class Proxied(PostgresSchema):
    """A schema that is reached through a proxy."""

    def __init__(self, folder) -> None:
        super().__init__(folder)
        self.proxy = Proxy(folder, server().socket)
        self.direct = self.url
        self.url = self.url.replace(quote(str(server().socket), safe=""), quote(str(folder), safe=""))


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
