"""perdure_start and perdure_signal: what other languages have of perdure, with nothing but SQL."""

import asyncio
import json
import subprocess
import sys

import asyncpg
import pytest
from postgreskit.server import server

from perdure import App, Context, RunFailed, StartConflict

PATIENCE = 20


class Desk:
    """An app with a worker, and somebody with a console."""

    def __init__(self) -> None:
        self.url = server().url()
        self.schema = self.url.rpartition("schema=")[2]
        self.app = App(self.url)
        self.app.queue("line", concurrency=1)
        self.app.queue("shut", concurrency=1)

        @self.app.workflow
        async def ship(ctx: Context, order: int, note: str = "") -> str:
            return f"{order}{note}"

        @self.app.workflow
        async def wait(ctx: Context) -> list:
            return [await ctx.receive("go"), await ctx.receive("go")]

        @self.app.workflow(name="sold", version="2")
        async def sold(ctx: Context) -> str:
            return "2"

    def play(self, main) -> None:
        async def whole() -> None:
            async with self.app:
                self.console = await asyncpg.connect(server().dsn)
                try:
                    await self.app.client.drain_queue("shut")
                    await main()
                    findings = await self.app.client.doctor()
                    assert [finding for finding in findings if finding.severity != "note"] == []
                finally:
                    await self.console.close()

        asyncio.run(whole())

    async def sql(self, call: str, *parameters):
        return await self.console.fetchval(f'select "{self.schema}".perdure_{call}', *parameters)

    async def ended(self, run_id):
        async with asyncio.timeout(PATIENCE):
            return await self.app.handle(run_id).result()

    async def row(self, run_id):
        return await self.app.client.row(run_id)


@pytest.fixture
def desk():
    return Desk()


def test_start(desk):
    """A run of another language's would not be driven, be there twice, or lose what it was started with."""

    async def main() -> None:
        run_id = await desk.sql("start($1, $2)", "ship", '{"order": 7}')
        assert await desk.ended(run_id) == "7"
        assert len(run_id) == 28
        for _ in range(2):
            call = """start('ship', '{"note": "ü", "order": 8}', id => 'mine', tags => '{a,b}', timeout => '1 hour')"""
            assert await desk.sql(call) == "mine"
        assert await desk.ended("mine") == "8ü"
        assert (await desk.app.start("ship", 8, "ü", id="mine")).id == "mine"
        assert await desk.app.client.tags("mine") == ["a", "b"]
        row = await desk.row("mine")
        assert row.deadline_at - row.created_at == 3_600_000_000
        assert await desk.ended(await desk.sql("start('sold@2')")) == "2"
        with pytest.raises(StartConflict):
            await desk.app.start("ship", 9, id="mine")

    desk.play(main)


def test_the_apps_run_is_recognised(desk):
    """A start of the app's, repeated from SQL, would be refused, whatever order or space its input has."""

    async def main() -> None:
        await desk.app.start("ship", 1, "x" * 50_000, id="big")
        big = json.dumps({"note": "x" * 50_000, "order": 1})
        assert await desk.sql("start('ship', $1, id => 'big')", big) == "big"

    desk.play(main)


def test_in_a_transaction(desk):
    """It would not be the caller's transaction that decides."""

    async def main() -> None:
        transaction = desk.console.transaction()
        await transaction.start()
        await desk.sql("start('ship', '{\"order\": 1}', id => 'never')")
        await transaction.rollback()
        async with desk.console.transaction():
            await desk.sql("start('ship', '{\"order\": 1}', id => 'now')")
            rows = await desk.app.client.store.select("select id from perdure_runs")
            assert rows == []
        assert await desk.ended("now") == "1"

    desk.play(main)


def test_queues(desk):
    """A run would jump its queue's line, or two starts under one key be two runs."""

    async def main() -> None:
        first = await desk.sql("start('wait', queue => 'line', key => 'k', priority => 3, weight => 2, id => 'first')")
        row = await desk.row(first)
        assert (row.queue, row.queue_key, row.priority, row.weight) == ("line", "k", 3, 2)
        same = await desk.sql("start('wait', queue => 'line', dedupe => 'd')")
        assert await desk.sql("start('wait', queue => 'line', dedupe => 'd')") == same
        new = await desk.sql("start('wait', queue => 'line', dedupe => 'd', dedupe_then => 'replace')")
        assert new != same
        assert (await desk.row(same)).status in {"cancelling", "cancelled"}
        for word in ("a", "b", "c"):
            call = "start('ship', $1, debounce => 'type', debounce_wait => '200 ms', debounce_longest => '1 minute')"
            typed = await desk.sql(call, json.dumps({"order": 1, "note": word}))
        assert await desk.ended(typed) == "1c"
        soon = await desk.sql("start('ship', '{\"order\": 1}', delay => '1 hour')")
        row = await desk.row(soon)
        assert row.due_at - row.created_at == 3_600_000_000
        rows = await desk.app.client.store.select("select count(*) from perdure_runs")
        assert rows == [(5,)]

    desk.play(main)


REFUSALS = [
    ("start('')", "PD001"),
    ("start(null)", "PD001"),
    ("start(repeat('x', 201))", "PD001"),
    ("start('a/b')", "PD001"),
    ("start('sold@')", "PD001"),
    ("start('sold@2@3')", "PD001"),
    ("start('ship', '[1]')", "PD001"),
    ("start('ship', null)", "PD001"),
    ("start('ship', id => '')", "PD001"),
    ("start('ship', id => repeat('x', 201))", "PD001"),
    ("start('ship', id => E'a\\nb')", "PD001"),
    ("start('ship', key => E'\\t', queue => 'line')", "PD001"),
    ("start('ship', weight => 0, queue => 'line')", "PD001"),
    ("start('ship', weight => 2)", "PD001"),
    ("start('ship', key => 'k')", "PD001"),
    ("start('ship', priority => 2000000, queue => 'line')", "PD001"),
    ("start('ship', delay => '-1s')", "PD001"),
    ("start('ship', delay => '200 years')", "PD001"),
    ("start('ship', timeout => '-1s')", "PD001"),
    ("start('ship', timeout => '101 years')", "PD001"),
    ("start('ship', tags => '{\"\"}')", "PD001"),
    ("start('ship', dedupe => 'a', debounce => 'b', debounce_wait => '1s')", "PD001"),
    ("start('ship', dedupe => '')", "PD001"),
    ("start('ship', dedupe => 'a', dedupe_then => 'join')", "PD001"),
    ("start('ship', dedupe => 'a', dedupe_ttl => '0s')", "PD001"),
    ("start('ship', dedupe => 'a', dedupe_ttl => '200 years')", "PD001"),
    ("start('ship', dedupe_ttl => '1s')", "PD001"),
    ("start('ship', dedupe_then => 'reject')", "PD001"),
    ("start('ship', debounce => 'a')", "PD001"),
    ("start('ship', debounce => 'a', debounce_wait => '200 years')", "PD001"),
    ("start('ship', debounce => 'a', debounce_wait => '1s', debounce_longest => '200 years')", "PD001"),
    ("start('ship', debounce_longest => '1s')", "PD001"),
    ("start('ship', debounce => 'a', debounce_wait => '2s', debounce_longest => '1s')", "PD001"),
    ("start('ship', id => 'there')", "PD002"),
    ("start('wait', '{\"order\": 1}', id => 'there')", "PD002"),
    ("start('wait', dedupe => 'k', dedupe_then => 'reject')", "PD003"),
    ("start('ship', queue => 'none')", "PD004"),
    ("start('ship', queue => 'shut')", "PD005"),
    ("signal('there', '')", "PD001"),
    ("signal('there', 'a/b')", "PD001"),
    ("signal('nobody', 'go')", "PD006"),
    ("signal('there', 'go')", "PD007"),
]


def test_refusals(desk):
    """A mistake would be stored, or told without a code that a program can look at."""

    async def main() -> None:
        await desk.app.start("ship", 1, id="there")
        await desk.ended("there")
        await desk.app.start("wait", id="keyed", dedupe="k")
        for call, state in REFUSALS:
            with pytest.raises(asyncpg.PostgresError) as refused:
                await desk.sql(call)
            assert (call, refused.value.sqlstate) == (call, state)
            assert str(refused.value).startswith("perdure: ")
        assert len(await desk.app.client.store.select("select id from perdure_runs")) == 2

    desk.play(main)


def test_what_a_refusal_calls_it(desk):
    """A mistake would be told with a gap in its place, or one of some Postgres without a code of perdure's."""

    async def main() -> None:
        with pytest.raises(asyncpg.PostgresError, match="perdure: '' is no name of a signal"):
            await desk.sql("signal('there', '')")
        version = int(await desk.console.fetchval("show server_version_num"))
        if version >= 170_000:  # before, Postgres itself refuses such an interval
            with pytest.raises(asyncpg.PostgresError, match="delay is not between") as refused:
                await desk.sql("start('ship', delay => 'infinity')")
            assert refused.value.sqlstate == "PD001"
        assert await desk.sql("start('ship', '{\"order\": 1}', id => 'late', delay => '100 years')") == "late"

    desk.play(main)


def test_input_that_does_not_fit(desk):
    """The worker would retry it for ever, or pause it without a word."""

    async def main() -> None:
        run_id = await desk.sql("start('ship', '{\"ordr\": 7}')")
        with pytest.raises(RunFailed, match="no parameter 'ordr'"):
            await desk.ended(run_id)

    desk.play(main)


def test_signal(desk):
    """A signal would be lost, or be received twice under one key."""

    async def main() -> None:
        run = await desk.app.start("wait")
        assert await desk.sql("signal($1, 'go', '{\"a\": 1}', key => 'k')", run.id)
        assert not await desk.sql("signal($1, 'go', '2', key => 'k')", run.id)
        assert await desk.sql("signal($1, 'go')", run.id)
        assert await desk.ended(run.id) == [{"a": 1}, None]

    desk.play(main)


def test_the_schema_that_is_printed_has_them():
    """Who makes the schema from the printed SQL would lack the functions."""
    url = server().url()
    schema = url.rpartition("schema=")[2]
    command = [sys.executable, "-m", "perdure.cli", "db", "migrate", "--sql", "--url", url]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    async def main() -> None:
        console = await asyncpg.connect(server().dsn)
        await console.execute(printed)
        assert await console.fetchval(f"select {schema}.perdure_start('ship', id => 'a', tell => false)") == "a"
        await console.close()
        app = App(url, migrate=False)

        @app.workflow
        async def ship(ctx: Context) -> str:
            return "shipped"

        async with app, asyncio.timeout(PATIENCE):
            assert await app.handle("a").result() == "shipped"

    asyncio.run(main())
