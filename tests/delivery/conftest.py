"""A post office: apps on one database of each kind, in virtual time, with the doctor's visit at the end."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))


from postgreskit.schemas import empty_schema

from perdure import App, WorkerOptions
from perdure.testing.time import START, run_virtual


class Office:
    """
    Apps on one database.

    Attributes:
        ran: How often something has happened; tests count what they like.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.clock = None
        self.ran = Counter()

    def play(self, main):
        """Run a coroutine function in virtual time."""

        async def virtual(clock):
            self.clock = clock
            return await main()

        return run_virtual(virtual)

    def app(self, *workflows, worker=None, **settings) -> App:
        options = WorkerOptions(**{"lease": 30, "cached_runs": 0, **(worker or {})})
        app = App(self.url, clock=self.clock, worker=options, synchronous="NORMAL", **settings)
        for workflow in workflows:
            app.workflow(workflow)
        return app

    def seconds(self) -> float:
        """Virtual time since its beginning."""
        return (self.clock.now() - START) / 1_000_000

    async def check(self, app) -> None:
        assert [finding for finding in await app.client.doctor() if finding.severity != "note"] == []

    async def count(self, app, table: str) -> int:
        ((found,),) = await app.client.store.select(f"select count(*) from perdure_{table}")
        return found


@pytest.fixture(params=["sqlite", "postgres"])
def office(request, tmp_path):
    if request.param == "sqlite":
        yield Office(f"sqlite:///{tmp_path / 'office.db'}")
        return
    with empty_schema() as url:
        yield Office(url)
