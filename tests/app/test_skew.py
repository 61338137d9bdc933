"""Machines whose clocks are wrong, on one Postgres: everybody goes by the server's clock."""

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from postgreskit.server import server

from perdure import App, Context, WorkerOptions
from perdure.clock import SECOND, SystemClock
from perdure.worker.takeover import sweep

HOUR = 3_600 * SECOND
LEASE = 0.6


class Wrong(SystemClock):
    """A machine's clock that is set to another time."""

    def __init__(self, off: int) -> None:
        self.off = off

    def now(self) -> int:
        return super().now() + self.off


class Machines:
    """Apps on one schema, each on a machine of its own: what tells that a process has gone means nothing elsewhere."""

    def __init__(self, stack: AsyncExitStack, monkeypatch) -> None:
        self.url = server().url()
        self.entered = stack
        self.gate = asyncio.Event()
        self.bodies = asyncio.Queue()
        self._patch = monkeypatch
        self._looked = asyncio.Event()
        monkeypatch.setattr("perdure.worker.worker.sweep", self._look)

    async def _look(self, *arguments, **options):
        """As a worker looks for dead ones."""
        found = await sweep(*arguments, **options)
        self._looked.set()
        return found

    async def worker(self, off: int, lease: float = LEASE) -> App:
        self._patch.setattr("perdure.ids.process_place", lambda place=f"machine {off}": place)
        app = App(self.url, clock=Wrong(off), worker=WorkerOptions(lease=lease))

        @app.workflow
        async def wait(ctx: Context) -> str:
            return await ctx.step("wait", self._body)

        return await self.entered.enter_async_context(app)

    async def _body(self) -> str:
        self.bodies.put_nowait(self)
        await self.gate.wait()
        return "done"

    async def until(self, app, sql: str) -> None:
        """Until the database says so after a worker has looked for dead ones."""
        async with asyncio.timeout(20):
            while not (await app.client.store.select(sql))[0][0]:
                self._looked.clear()
                await self._looked.wait()


def play(main, monkeypatch):
    async def body():
        async with AsyncExitStack() as stack:
            await main(Machines(stack, monkeypatch))

    asyncio.run(body())


BEATEN = "select min(heartbeat_at - started_at) >= 1500000 from perdure_workers where state = 'alive'"


def test_workers_with_wrong_clocks_keep_their_runs(monkeypatch, caplog):
    """A worker two hours ahead of another would take its runs away as soon as it looks."""

    async def main(machines):
        late = await machines.worker(-HOUR)
        handle = await late.start("wait", id="a")
        early = await machines.worker(HOUR)
        await machines.until(early, BEATEN)
        assert await early.client.store.select("select owner, epoch, takeovers from perdure_runs") == [
            (late.worker.number, 1, 0)
        ]
        assert {worker.state for worker in await early.client.workers()} == {"alive"}
        machines.gate.set()
        assert await handle.result() == "done"
        info = await handle.info()
        # Of one clock: by those of the machines it would have ended an hour or two before or after.
        ((now,),) = await late.client.store.select("select (extract(epoch from clock_timestamp()) * 1000000)::bigint")
        assert 0 <= now - int(info.finished_at.timestamp() * SECOND) < 20 * SECOND
        assert machines.bodies.qsize() == 1

    play(main, monkeypatch)
    told = [record.getMessage() for record in caplog.records if "this machine's clock" in record.getMessage()]
    assert ["3600.0 s behind" in told[0], "3600.0 s ahead of" in told[1], len(told)] == [True, True, 2]


@pytest.mark.parametrize("off", [-HOUR, HOUR])
def test_a_dead_worker_with_a_wrong_clock_is_taken_over_when_its_lease_ends(monkeypatch, off):
    """The runs of a machine whose clock was ahead would be nobody's for as long as it was."""

    async def main(machines):
        heir = await machines.worker(0)
        dead = await machines.worker(off)
        await dead.start("wait", id="a")
        await machines.bodies.get()
        dead.worker._heartbeat.stop()
        dead.worker.kill()
        await machines.bodies.get()
        ((until,),) = await heir.client.store.select(
            "select lease_until from perdure_workers where number = ?", (dead.worker.number,)
        )
        assert 0 <= heir.client.store.clock.now() - until < 10 * SECOND
        machines.gate.set()
        assert await heir.handle("a").result() == "done"

    play(main, monkeypatch)


def test_a_clock_that_jumps_calls_nobody_dead(monkeypatch):
    """A machine whose clock is set right would take all runs of all others away (it asks the server first)."""

    async def main(machines):
        owner = await machines.worker(0, lease=30)
        handle = await owner.start("wait", id="a")
        judge = await machines.worker(SECOND)
        corrected = asyncio.Event()
        clock, loop = judge.client.store.clock, asyncio.get_running_loop()
        compare = clock.compare

        def compared(*reading):
            compare(*reading)
            if clock.correction <= -HOUR + SECOND:
                loop.call_soon_threadsafe(corrected.set)

        monkeypatch.setattr(clock, "compare", compared)
        judge._clock.off = HOUR
        await corrected.wait()
        await machines.until(judge, BEATEN.replace("min(", "max("))
        assert {worker.state for worker in await judge.client.workers() if worker.id == owner.worker.id} == {"alive"}
        assert machines.bodies.qsize() == 1
        machines.gate.set()
        assert await handle.result() == "done"

    play(main, monkeypatch)
