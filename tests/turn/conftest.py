"""Turns in the engine's laboratory: one database, virtual time, workers that come and go."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from tests.engine.conftest import Lab

from perdure.turn import follow


class Stage(Lab):
    """Plays turns."""

    @asynccontextmanager
    async def turning(self, producer, *, settings=None, **options):
        """An open app with a worker, and the turn that it knows."""
        async with self.app(lease=30, **settings or {}) as app:
            yield app, app.turn(**options)(producer)

    def say(self, producer, *args, settings=None, **options):
        """Play a turn to its end; returns what a reader was told, each with its time."""

        async def main():
            async with self.turning(producer, settings=settings, **options) as (app, turn):
                run = await app.start(turn, *args, id="t")
                return [(event, self.seconds()) async for event in follow(run)]

        return self.play(main)

    async def read_until_dead(self, run, after, got):
        """Follow a turn until its worker dies; `got` is what the reader has then."""
        reader = asyncio.ensure_future(self._read(run, after, got))
        dead = asyncio.ensure_future(self.dead.wait())
        await asyncio.wait({reader, dead}, return_when=asyncio.FIRST_COMPLETED)
        for each in (reader, dead):
            if not each.done():
                each.cancel()
        return reader.done() and not reader.cancelled()

    async def _read(self, run, after, got):
        async for event in follow(run, after=after):
            got.append(event)

    def survive_turn(self, producer, *args, settings=None, **options):
        """
        Play a turn whose producer kills its worker now and then.

        The one reader stays as long as its process does, and comes back with its last place.
        """

        async def main():
            got = []
            for _ in range(200):
                async with self.turning(producer, settings=settings, **options) as (app, turn):
                    self.working, self.dead = app, asyncio.Event()
                    run = await app.start(turn, *args, id="t")
                    if await self.read_until_dead(run, got[-1].seq if got else 0, got):
                        return got, await self.journal(app, "t")
            raise AssertionError(got)

        return self.play(main)


def kept(events):
    """What a reader has in the end, who forgets what is void."""
    there = []
    for event in events:
        if event.kind == "void":
            there = [each for each in there if each.seq < event.value]
        elif event.kind == "event":
            there.append(event)
    return [event.value for event in there]


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path / "turns.db")
