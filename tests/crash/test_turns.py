"""Turns whose producers are killed for good, and the readers of those turns, who live on in another process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perdure import App, WorkerOptions
from perdure.turn import Turn, TurnEvent, follow

EVENTS = 50
WORDS = [f"<{n}>" for n in range(EVENTS)]
WORKER = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from test_turns import turning
asyncio.run(turning(sys.argv[1]).serve())
"""
pytestmark = pytest.mark.crash


def turning(folder: str) -> App:
    """An app with a turn that kills its process at one event, the first time that it comes there."""
    app = App(f"sqlite:///{folder}/turns.db", worker=WorkerOptions(concurrency=1, most_takeovers=100))

    def die_once(deadly: int, n: int, continues: bool) -> None:
        mark = Path(folder) / f"died-{deadly}-{continues}"
        if n == deadly and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    @app.turn(continues=True)
    async def on(turn: Turn, deadly: int):
        for n in range(turn.events, EVENTS):
            yield WORDS[n]
            await asyncio.sleep(0.001)
            die_once(deadly, n, True)

    @app.turn
    async def anew(turn: Turn, deadly: int):
        for n in range(EVENTS):
            yield WORDS[n]
            await asyncio.sleep(0.001)
            die_once(deadly, n, False)

    return app


def kept(events: list[TurnEvent]) -> list[str]:
    """What a reader has in the end, who forgets what is void."""
    words: list[tuple[int, str]] = []
    for event in events[:-1]:
        if event.kind == "void":
            words = [word for word in words if word[0] < event.value]
        else:
            words.append((event.seq, event.value))
    return [word for _, word in words]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("turn", "deaths"), [("on", range(EVENTS)), ("anew", range(0, EVENTS, 7))])
def test_the_reader_of_a_turn_that_is_killed_at_every_event_gets_it_once(tmp_path, turn, deaths):
    """A kill at some event would lose words that were read, or have the reader read them twice."""
    command = [sys.executable, "-c", WORKER, str(tmp_path), str(Path(__file__).parent)]
    restarts = 0

    async def read(app: App, deadly: int) -> list[TurnEvent]:
        return [event async for event in follow(app.handle(f"t{deadly}"))]

    async def keep_alive() -> None:
        nonlocal restarts
        while True:
            worker = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
            try:
                assert await worker.wait() == -signal.SIGKILL
            finally:
                if worker.returncode is None:
                    worker.kill()
                    await worker.wait()
            restarts += 1

    async def main() -> list[list[TurnEvent]]:
        app = turning(str(tmp_path))
        async with app.connected():
            for deadly in deaths:
                await app.start(turn, deadly, id=f"t{deadly}")
            workers = asyncio.create_task(keep_alive())
            try:
                reading = asyncio.gather(*(read(app, deadly) for deadly in deaths))
                await asyncio.wait({reading, workers}, return_when=asyncio.FIRST_COMPLETED)
                return await reading
            finally:
                workers.cancel()
                await asyncio.gather(workers, return_exceptions=True)

    told = asyncio.run(main())
    assert restarts == len(deaths)
    for events in told:
        assert kept(events) == WORDS
        assert events[-1].kind == "completed"
        assert len({event.seq for event in events}) == len(events)
        if turn == "on":
            assert all(event.kind == "event" for event in events[:-1])
