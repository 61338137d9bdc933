"""Closing a store on Postgres: it waits for what is under way, but not for ever."""

import asyncio
import contextvars
import threading

import pytest
from postgreskit.server import server
from storekit.database import start

from perdure.clock import SystemClock
from perdure.errors import StoreClosed, StoreUnavailable
from perdure.model.limits import Limits
from perdure.store.choose import store_at
from perdure.store.operation import AsyncBody, Operation
from perdure.store.pg import commit
from perdure.store.pg.dialect import within
from perdure.testing.time import run_virtual


def play(main, *, virtual=False):
    """Run `main(store)` within a time that no wait of ours needs."""

    async def bounded(clock):
        store = store_at(server().url(), clock=clock, limits=Limits())
        await store.connect()
        async with asyncio.timeout(3600 if virtual else 15):
            await main(store)

    if virtual:
        run_virtual(bounded)
    else:
        asyncio.run(bounded(SystemClock()))


async def refused(*waiting):
    """All of these were told that the store is closed."""
    for each in waiting:
        with pytest.raises(StoreClosed):
            await each


def test_a_database_that_does_not_answer(monkeypatch, caplog):
    """A deploy while the database is away would hang until somebody kills the process, and its callers with it."""
    monkeypatch.setattr(commit, "CLOSING_S", 0.2)

    async def main(store):
        outside = await store.address.connect()
        blocking = outside.transaction()
        await blocking.start()
        await outside.execute(within(store.address.schema, "lock table perdure_runs in access exclusive mode"))
        first = asyncio.create_task(store.apply(Operation([start("a")])))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert store._committer.under_way
        second = asyncio.create_task(store.apply(Operation([start("b")])))
        await asyncio.sleep(0)
        await store.close()
        await refused(first, second)
        await blocking.rollback()
        await outside.close()

    play(main)
    assert "closing without an answer" in caplog.text


def test_work_that_takes_long_is_waited_for():
    """What was committed, only not quickly, would be told as undone."""

    async def main(store):
        async def slow(_):
            await asyncio.sleep(0.7 * commit.CLOSING_S)
            return []

        bodies = [Operation(body=AsyncBody(slow, contextvars.copy_context())) for _ in range(12)]
        waiting = [asyncio.create_task(store.apply(each)) for each in bodies]
        await asyncio.sleep(0)
        await store.close()
        assert await asyncio.gather(*waiting) == [[]] * 12

    play(main, virtual=True)


@pytest.mark.parametrize("heeds", [True, False])
def test_a_coroutine_that_hangs_in_its_transaction(heeds):
    """`async with app:` would never end because of one function that waits for what does not come."""
    begun, go, told = asyncio.Event(), asyncio.Event(), []

    async def hang(_):
        begun.set()
        try:
            await go.wait()
        except asyncio.CancelledError:
            told.append(1)
            if heeds:
                raise
            await go.wait()
        return []

    async def main(store):
        waiting = asyncio.create_task(store.apply(Operation(body=AsyncBody(hang, contextvars.copy_context()))))
        await begun.wait()
        await store.close()
        assert told == [1]
        go.set()
        with pytest.raises(StoreClosed if heeds else StoreUnavailable):
            await waiting

    play(main, virtual=True)


def test_a_thread_that_hangs_in_its_transaction(monkeypatch):
    """As above; what it does later must not be stored."""
    monkeypatch.setattr(commit, "CLOSING_S", 0.2)
    begun, go, seen = threading.Event(), threading.Event(), []

    def hang(transaction):
        begun.set()
        go.wait(30)
        try:
            transaction.execute("create table late (n integer)")
        except StoreClosed:
            seen.append(1)
        return []

    async def main(store):
        waiting = asyncio.create_task(store.apply(Operation(body=hang)))
        await asyncio.to_thread(begun.wait, 30)
        await store.close()
        await refused(waiting)
        go.set()

    play(main)
    assert seen == [1]
