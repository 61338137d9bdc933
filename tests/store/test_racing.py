"""A seeded crowd on one real Postgres: workers that die, callers' transactions that are rolled back, all at once."""

import asyncio
import gc
import random

import asyncpg
import pytest
from postgreskit.server import server, with_search_path

from perdure import App, AsyncTransaction, Context, WorkerOptions

PATIENCE = 60
RUNS = 60


async def note(tx: AsyncTransaction, run_id: str) -> None:
    await tx.execute("insert into notes (run) values ($1)", (run_id,))


async def child(ctx: Context, n: int) -> int:
    await ctx.step("rest", lambda: None)
    return n


async def errand(ctx: Context, n: int, waits: bool) -> int:
    await ctx.transaction(note, ctx.run_id)
    if waits:
        n = await ctx.receive("more", int)
    got = await asyncio.gather(ctx.call("child", n), ctx.step("twice", lambda: n))
    return sum(got)


class Crowd:
    """Three workers and a few callers."""

    def __init__(self, seed: int, url: str) -> None:
        self.chance, self.url = random.Random(seed), url
        self.workers: list[App] = []
        self.wanted: dict[str, int] = {}
        self.never: list[str] = []

    def app(self) -> App:
        app = App(self.url, worker=WorkerOptions(lease=1.0, hold=0.0, cached_runs=self.chance.choice((0, 100))))
        for workflow in (child, errand):
            app.workflow(workflow)
        app.queue("line", concurrency=7, per_worker=4)
        return app

    async def boot(self) -> None:
        app = self.app()
        await app.__aenter__()
        self.workers.append(app)

    def kill(self) -> None:
        """Nothing more is written or said; another worker may only come when the lease is over."""
        app = self.workers.pop(self.chance.randrange(len(self.workers)))
        app.worker.kill()
        app.worker._heartbeat.stop()
        app.client.store.abandon()

    async def start(self, client: App, caller: asyncpg.Connection, n: int) -> None:
        run_id, waits, commit = f"errand-{n}", self.chance.random() < 0.5, self.chance.random() < 0.7
        options = {"queue": self.chance.choice(("line", "")), "id": run_id}
        joined = self.chance.random() < 0.7
        transaction = caller.transaction()
        await transaction.start()
        await client.start("errand", n, waits, transaction=caller if joined else None, **options)
        await asyncio.sleep(self.chance.random() * 0.02)
        if commit or not joined:
            self.wanted[run_id] = 2 * (n + 1000 if waits else n)
        else:
            self.never.append(run_id)
        await (transaction.commit() if commit else transaction.rollback())
        if waits and run_id in self.wanted:
            await self.signal(client, caller, run_id, n + 1000)

    async def signal(self, client: App, caller: asyncpg.Connection, run_id: str, data: int) -> None:
        """The first try may be rolled back; the second counts, and a third changes nothing."""
        for commit in (self.chance.random() < 0.5, True, True):
            transaction = caller.transaction()
            await transaction.start()
            await client.signal(run_id, "more", data, key="once", transaction=caller)
            await asyncio.sleep(self.chance.random() * 0.02)
            if not commit:
                await transaction.rollback()
                continue
            await transaction.commit()
            return

    async def play(self) -> None:
        async with self.app().connected() as client:
            callers = [await asyncpg.connect(server().dsn) for _ in range(4)]
            await callers[0].execute(f"create table {self.url.rpartition('=')[2]}.notes (run text)")
            for _ in range(3):
                await self.boot()
            numbers = iter(range(RUNS))

            async def call(caller: asyncpg.Connection) -> None:
                for n in numbers:
                    await self.start(client, caller, n)

            calling = asyncio.gather(*[call(caller) for caller in callers])
            for _ in range(4):
                await asyncio.sleep(self.chance.random() * 0.6)
                self.kill()
                await self.boot()
            await calling
            await self.check(client)
            for app in self.workers:
                await app.__aexit__(None, None, None)
            findings = await client.client.doctor()
            assert [finding for finding in findings if finding.severity != "note"] == []
            for caller in callers:
                await caller.close()

    async def check(self, client: App) -> None:
        async with asyncio.timeout(PATIENCE):
            for run_id, result in self.wanted.items():
                assert (run_id, await client.handle(run_id).result()) == (run_id, result)
        rows = await client.client.store.select("select id from perdure_runs where parent is null order by id")
        assert [row[0] for row in rows] == sorted(self.wanted)
        notes = await client.client.store.select("select run from notes order by run")
        assert [row[0] for row in notes] == sorted(self.wanted), "each transaction once"


# A worker that is killed here leaves a connection to the garbage collector now and then; a process that dies does not.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(200)
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("options", [{}, {"pooler": "transaction"}], ids=["direct", "pooler"])
def test_a_random_crowd_on_one_server_leaves_what_a_doctor_finds_healthy(seed, options):
    """Of claims, records, deaths and callers' transactions at once one would cost a run, or do something twice."""
    asyncio.run(Crowd(seed, with_search_path(server().url(**options))).play())
    gc.collect()  # here, and not in the midst of another test
