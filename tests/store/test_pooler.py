"""Behind a pooler in transaction mode: each transaction may be on another connection of the server."""

import asyncio

import asyncpg
import pytest
from postgreskit.pooler import Pooler, pooled
from postgreskit.proxy import Proxy
from postgreskit.server import server
from storekit.database import start

from perdure import App, AsyncTransaction, Context
from perdure.clock import SystemClock
from perdure.model.limits import Limits
from perdure.store.choose import store_at
from perdure.store.operation import Operation
from perdure.store.pg.address import address


def app_on(url) -> App:
    app, table = App(url), f"{address(url).schema}.notes"
    app.queue("line", concurrency=5)

    async def note(tx: AsyncTransaction, run_id: str) -> None:
        await tx.execute(f"insert into {table} (run) values ($1)", (run_id,))

    @app.workflow
    async def child(ctx: Context, n: int) -> int:
        return await ctx.step("twice", lambda: 2 * n)

    @app.workflow(queue="line")
    async def errand(ctx: Context, n: int) -> int:
        for place in range(3):
            n += await ctx.step(f"step {place}", lambda: 1)
        await ctx.transaction(note, ctx.run_id)
        return n + await ctx.call(child, n) + await ctx.receive("more", int)

    return app


def test_all_that_runs_do_works_behind_a_pooler(tmp_path):
    """What counts on its connection from one transaction to the next would fail, or meet what others have left."""

    async def main() -> None:
        async with pooled(tmp_path, server().socket, server().url()) as url, app_on(url), app_on(url) as app:
            outside = await asyncpg.connect(server().dsn)
            await outside.execute(f"create table {address(url).schema}.notes (run text)")
            handles = [await app.start("errand", n, id=f"errand-{n}") for n in range(20)]
            for handle in handles:
                await app.signal(handle.id, "more", 100)
            assert [await handle.result() for handle in handles] == [3 * (n + 3) + 100 for n in range(20)]
            notes = await outside.fetch(f"select run from {address(url).schema}.notes")
            assert sorted(row[0] for row in notes) == sorted(handle.id for handle in handles)
            await outside.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_commit_behind_a_pooler_is_done_once_wherever_its_connection_breaks(tmp_path):
    """There a commit is several messages, after each of which it may break."""
    folder = tmp_path / "pooler"
    folder.mkdir()

    async def main() -> None:
        async with pooled(folder, server().socket, server().url()) as url:
            proxy = Proxy(tmp_path, folder)
            await proxy.start()
            store = store_at(proxy.leading(url), clock=SystemClock(), limits=Limits())
            await store.connect()
            for cut in ("request", "answer"):
                for place in range(5):
                    run_id, proxy.cut, proxy.skip = f"{cut} {place}", cut, place
                    lines = [start(run_id), ("send", (run_id, "signal:x", None, "1", 1))]
                    assert [row[0] for row in await store.apply(Operation(lines))] == ["started", "sent"]
                    proxy.cut = ""
            assert proxy.cuts > 5
            assert await store.select("select count(*) from perdure_inbox") == [(10,)]
            await store.close()
            await proxy.stop()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_what_a_pooler_cannot_give_is_seen(tmp_path):
    """The other tests here would pass whatever perdure does with its connections."""

    async def main() -> list[str]:
        pooler = Pooler(tmp_path, server().socket, sessions=2)
        await pooler.start()
        dsn = address(pooler.leading(server().url())).dsn
        with pytest.raises(asyncpg.ProtocolViolationError):
            await asyncpg.connect(dsn, server_settings={"statement_timeout": "1s"})
        connection = await asyncpg.connect(dsn)
        assert await connection.fetchval("select 1 + $1::int", 1) == 2
        with pytest.raises(asyncpg.InvalidSQLStatementNameError):
            await connection.fetchval("select 1 + $1::int", 1)
        assert ["statement_timeout" in refused for refused in pooler.refused] == [True, False]
        for sql in ("listen news", "set work_mem = '5MB'"):
            await connection.execute(sql)
        await connection.close()
        return await pooler.stop()

    left = asyncio.run(asyncio.wait_for(main(), 30))
    assert "channel news" in ", ".join(left)
    assert "setting work_mem" in ", ".join(left)
