"""An open app on each kind of database, in virtual time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from postgreskit.schemas import empty_schema
from streamkit.web import Web

from perdure import App, WorkerOptions
from perdure.testing.time import run_virtual


class Place:
    """One database, on which apps are opened in virtual time."""

    def __init__(self, url) -> None:
        self.url = url
        self.clock = None

    def app(self, **settings) -> App:
        worker = settings.pop("worker", None) or WorkerOptions(lease=86_400, cached_runs=0)
        return App(self.url, clock=self.clock, synchronous="NORMAL", worker=worker, **settings)

    def play(self, main, *, working=False, **settings):
        """Run a coroutine function with an open app and a client of its streams."""

        async def virtual(clock):
            self.clock = clock
            app = self.app(**settings)
            async with app if working else app.connected():
                return await main(app, Web(app.stream_server()))

        return run_virtual(virtual)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path):
    """A database of each kind."""
    if request.param == "sqlite":
        yield Place(f"sqlite:///{tmp_path}/streams.db")
        return
    with empty_schema() as url:
        yield Place(url)


@pytest.fixture
def file_place(tmp_path):
    """A SQLite file, for what has nothing to do with the database."""
    return Place(f"sqlite:///{tmp_path}/streams.db")
