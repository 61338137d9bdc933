"""A place for durable calls on every kind of store: a file, memory, Postgres; one body for all."""

import sys
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from postgreskit.schemas import empty_schema

from perdure import App, RunFailed, WorkerOptions, run_durable
from perdure.store.changes import Changes
from perdure.testing.time import START, run_virtual

KINDS = ("file", "memory", "postgres")
SHARED = ("file", "postgres")
"""Those that several processes can have open."""


class Place:
    """
    One database, in virtual time. Every `process` is an app of its own, except in memory, where there can be only one.

    Attributes:
        ran: How often each body has run.
    """

    def __init__(self, kind, url) -> None:
        self.kind = kind
        self.url = url
        self.ran = Counter()
        self.clock = None
        self._app = None

    def play(self, main):
        """Run a coroutine function in virtual time; no parked run stays in memory, so that each wake-up replays."""

        async def virtual(clock):
            # Where time is virtual nobody looks for others' commits now and then: all processes hear of all of them.
            self.clock, self._changes = clock, Changes()
            if self.kind != "memory":
                return await main()
            async with self.app() as self._app:
                return await main()

        return run_virtual(virtual)

    def app(self, *, lease=86_400, cached_runs=0, **settings) -> App:
        worker = WorkerOptions(lease=lease, cached_runs=cached_runs)
        more = {} if self.kind == "postgres" else {"synchronous": "NORMAL"}
        return App(self.url, clock=self.clock, changes=self._changes, worker=worker, **more, **settings)

    @asynccontextmanager
    async def process(self, **settings):
        """As a process that begins here and ends: what it knew by heart is gone, what is stored stays."""
        if self._app is not None:
            yield self._app
            return
        async with self.app(**settings) as app:
            yield app

    async def call(self, run_id, fn, **options):
        """One call, in a process of its own."""
        async with self.process() as app:
            return await run_durable(run_id, fn, store=app, **options)

    async def failure(self, run_id, fn, **options):
        """The error that the function ended with."""
        with pytest.raises(RunFailed) as failed:
            await self.call(run_id, fn, **options)
        return failed.value.cause

    def body(self, name, value=None):
        """A body that counts itself; returns `value`, or its name."""

        def run(*_):
            self.ran[name] += 1
            return name if value is None else value

        return run

    def seconds(self) -> float:
        """Virtual time since its beginning."""
        return (self.clock.now() - START) / 1_000_000


def place_of(kind, folder):
    if kind != "postgres":
        yield Place(kind, "sqlite://" if kind == "memory" else f"sqlite:///{folder / 'durable.db'}")
        return
    with empty_schema() as url:
        yield Place(kind, url)


@pytest.fixture(params=KINDS)
def place(request, tmp_path):
    """On each kind of store."""
    yield from place_of(request.param, tmp_path)


@pytest.fixture(params=SHARED)
def shared(request, tmp_path):
    """On each kind of store that several processes can have open."""
    yield from place_of(request.param, tmp_path)
