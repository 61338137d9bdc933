"""A laboratory for the engine: one database file, virtual time, workers that come and go."""

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))


from postgreskit.server import ON_POSTGRES, store_url

from perdure import App, Flow, Pipeline, RunEvent, RunInfo, WorkerOptions
from perdure.clock import to_datetime
from perdure.errors import RunCancelled, RunFailed
from perdure.model.entry import ENDINGS, OUTCOMES
from perdure.store.changes import Changes
from perdure.store.operation import Operation
from perdure.testing.time import START, run_virtual

PATIENCE = 500 * 86_400
BEGIN = to_datetime(START)


@dataclass
class Ended:
    """How a run ended: its result or error, and its journal."""

    value: Any
    error: BaseException | None
    info: RunInfo
    events: list[RunEvent]

    @property
    def status(self) -> str:
        return str(self.info.status)

    @property
    def seconds(self) -> float:
        """From the start of virtual time to the run's end."""
        return (self.info.finished_at - BEGIN).total_seconds()

    def keys(self, kind: str) -> list[str]:
        return [event.key for event in self.events if event.kind == kind]

    def times(self, kind: str) -> list[float]:
        return [(event.at - BEGIN).total_seconds() for event in self.events if event.kind == kind]

    def data(self, kind: str) -> list[Any]:
        return [event.data for event in self.events if event.kind == kind]


class Lab:
    """Runs workflows on one file; by default no parked run stays in memory, so that each wake-up replays."""

    def __init__(self, path) -> None:
        self.path = path
        self.clock = None
        self.changes = None

    def play(self, main):
        """Run a coroutine function in virtual time."""

        async def with_clock(clock):
            self.clock = clock
            if ON_POSTGRES:
                # In virtual time nobody asks a server for others' commits, so that workers hear of each other only here.
                self.changes = Changes()
            return await main()

        return run_virtual(with_clock)

    def play_on_real_clock(self, main):
        """Where threads must be waited for by time, which stands still for them in virtual time."""
        return asyncio.run(main())

    def app(self, *workflows, lease=86_400, cached_runs=0, options=None, **settings) -> App:
        worker = WorkerOptions(lease=lease, cached_runs=cached_runs, **options or {})
        settings = {"clock": self.clock, "changes": self.changes, **settings}
        app = App(store_url(self.path), worker=worker, synchronous="NORMAL", **settings)
        for workflow in workflows:
            fn, more = workflow if isinstance(workflow, tuple) else (workflow, {})
            if isinstance(fn, Flow):
                app.flow(fn, **more)
            elif isinstance(fn, Pipeline):
                app.pipeline(fn, **more)
            else:
                app.workflow(fn, **more) if not more else app.workflow(**more)(fn)
        return app

    @asynccontextmanager
    async def worker(self, *workflows, **settings):
        """A worker that knows these functions as workflows: `fn`, or `(fn, options)`."""
        async with self.app(*workflows, **settings) as app:
            yield app

    def finish(self, workflow, *args, others=(), settings=None, **options) -> Ended:
        """Run one workflow to its end, then once more from its whole journal: it must end alike, asking for nothing."""

        async def main() -> Ended:
            name = name_of(workflow)
            async with self.worker(*others, workflow, **settings or {}) as app:
                handle = await app.start(name, *args, **options)
                ended = await self.ended(app, handle.id, name)
            async with self.worker(*others, workflow, **settings or {}) as app:
                await self.check_replay(app, ended, name)
            return ended

        return self.play(main)

    def die(self) -> None:
        """Called by a step's body in `survive`: the process is gone, this very moment."""
        self.working.worker.kill()
        self.dead.set()

    def survive(self, workflow, *args, others=(), **options) -> Ended:
        """Run one workflow to its end while its bodies kill the worker; the next worker takes the run over."""

        name = name_of(workflow)

        async def main() -> Ended:
            started = False
            while True:
                async with self.worker(*others, workflow, lease=30) as app:
                    self.working, self.dead = app, asyncio.Event()
                    if not started:
                        started = await app.start(name, *args, id="r", **options)
                    ended = asyncio.create_task(self.ended(app, "r", name))
                    dead = asyncio.create_task(self.dead.wait())
                    await asyncio.wait([ended, dead], return_when=asyncio.FIRST_COMPLETED)
                    if not dead.done():
                        dead.cancel()
                        await self.check_replay(app, ended.result(), name)
                        return ended.result()
                    ended.cancel()

        return self.play(main)

    async def ended(self, app, run_id, workflow=None) -> Ended:
        """Wait for a run's end."""
        handle, value, error = app.handle(run_id, workflow), None, None
        try:
            async with asyncio.timeout(PATIENCE):
                value = await handle.result()
        except TimeoutError:
            raise AssertionError(f"{await handle.info()} does not end: {await self.journal(app, run_id)}") from None
        except RunFailed as failed:
            error = failed.cause
        except RunCancelled as cancelled:
            error = cancelled
        return Ended(value, error, await handle.info(), await self.journal(app, run_id))

    async def journal(self, app, run_id) -> list[RunEvent]:
        return [event async for event in app.handle(run_id).events(follow=False)]

    async def check_replay(self, app, ended: Ended, workflow=None) -> None:
        """I5, I6, I7: the same journal gives the same end, and nothing is asked for that it does not hold."""
        last = max((event.seq for event in ended.events if event.kind in OUTCOMES), default=None)
        end = ended.events[-1]
        assert end.kind in ENDINGS
        if last is None:
            return
        await self.rerun(app, ended.info.id, end.seq - 1)
        again = await self.ended(app, ended.info.id, workflow)
        more = [event.kind for event in again.events[len(ended.events) :]]
        assert more == ["rerun", end.kind], f"replay asked for more: {again.events[len(ended.events) :]}"
        assert again.status == ended.status
        assert again.value == ended.value or repr(again.value) == repr(ended.value)
        assert type(again.error) is type(ended.error)
        assert str(again.error) == str(ended.error)
        assert vars_of(again.error) == vars_of(ended.error)

    async def rerun(self, app, run_id, keep: int) -> None:
        """Drive an ended run again from the first `keep` entries of its journal."""
        row, now = await app.client.row(run_id), self.clock.now()
        operation = Operation(makes_due=True)
        operation.add("rerun", run_id, row.epoch, now)
        operation.add("note", run_id, row.epoch + 1, "rerun", json.dumps({"keep": keep}), now)
        assert await app.client.store.apply(operation)

    async def resume(self, app, run_id) -> None:
        """What an operator does to a paused run."""
        row, now = await app.client.row(run_id), self.clock.now()
        operation = Operation(makes_due=True)
        operation.add("resume", run_id, row.epoch, now)
        operation.add("note", run_id, row.epoch + 1, "resumed", "{}", now)
        assert await app.client.store.apply(operation)

    async def until(self, app, run_id, *statuses) -> RunInfo:
        """Let virtual time pass until the run has one of these statuses and nobody owns it."""
        wait = 0.01
        for _ in range(400):
            info = await app.handle(run_id).info()
            if info.status in statuses and info.owner is None:
                return info
            await asyncio.sleep(wait)
            wait = min(10, wait * 1.1)
        raise AssertionError(f"{run_id} is {info.status}, not {statuses}: {await self.journal(app, run_id)}")

    async def waits_for(self, app, run_id, topic) -> RunInfo:
        """Let virtual time pass until the run is parked and waits for this."""
        for _ in range(1000):
            info = await app.handle(run_id).info()
            if info.owner is None and info.waiting_for == [topic]:
                return info
            await asyncio.sleep(0.1)
        raise AssertionError(f"{info} does not wait for {topic}")

    def clock_time(self):
        """The virtual time of day."""
        return to_datetime(self.clock.now())

    def seconds(self) -> float:
        """Virtual time since its beginning."""
        return (self.clock.now() - START) / 1_000_000

    async def spoil(self, app, sql) -> None:
        """What only a console can do to the database."""
        await app.client.store.apply(Operation(body=lambda transaction: transaction.execute(sql)))

    async def sql(self, app, sql, *parameters) -> list[tuple]:
        return await app.client.store.select(sql, parameters)


def name_of(workflow) -> str:
    fn, options = workflow if isinstance(workflow, tuple) else (workflow, {})
    return fn.name if isinstance(fn, Flow | Pipeline) else options.get("name", fn.__name__)


def vars_of(error):
    """An error's fields, those that are errors themselves by their texts."""
    fields = dict(vars(error)) if error is not None else {}
    return {name: repr(value) if isinstance(value, BaseException) else value for name, value in fields.items()}


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path / "engine.db")
