"""A desk for operators: an app with a worker in virtual time, and the doctor's visit at the end."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))


from postgreskit.server import store_url

from perdure import App, WorkerOptions
from perdure.testing.time import run_virtual


class Desk:
    """
    Runs a coroutine function with an open app, on one file.

    By default no parked run stays in memory, so that everything which goes on is replayed.

    Attributes:
        ran: How often the body of each step has run; tests clear it.
    """

    def __init__(self, path) -> None:
        self.path = path
        self.clock = None
        self.ran = Counter()

    def app(self, *workflows, cached_runs=0, worker=None, **settings) -> App:
        options = WorkerOptions(lease=86_400, cached_runs=cached_runs, **worker or {})
        app = App(store_url(self.path), clock=self.clock, worker=options, synchronous="NORMAL", **settings)
        for workflow in workflows:
            app.workflow(workflow)
        return app

    def play(self, main, *workflows, healthy=True, **settings):
        async def virtual(clock):
            self.clock = clock
            async with self.app(*workflows, **settings) as app:
                result = await main(app)
                if healthy:
                    assert [finding for finding in await app.client.doctor() if finding.severity != "note"] == []
            return result

        return run_virtual(virtual)

    def body(self, name, value=None):
        """The body of a step that counts itself; returns `value`, or its name."""

        def run():
            self.ran[name] += 1
            return name if value is None else value

        return run

    async def events(self, app, run_id):
        return [event async for event in app.handle(run_id).events(follow=False)]

    async def kinds(self, app, run_id):
        return [event.kind for event in await self.events(app, run_id)]

    async def data(self, app, run_id, kind):
        return [event.data for event in await self.events(app, run_id) if event.kind == kind]

    async def status(self, app, run_id):
        info = await app.handle(run_id).info()
        return str(info.status)


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path / "desk.db")
