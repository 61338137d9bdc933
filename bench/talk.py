"""Answers that stream: how long after it was said a reader has each event, in this process and in another one."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

from child import hear, kill, say, spawn
from meter import Figures, Meter, latencies
from perdure import App

EVERY_S = 0.025
STREAM = "tail"


async def turns(app: App, many: int, each: int) -> Figures:
    """So many turns at the same time, an event every 25 ms each; all of them are durable when they are read."""
    from perdure.turn import Turn, follow  # noqa: PLC0415 - the process that W3R recovers in imports this file too

    late: list[float] = []

    async def speak(_turn: Turn, first: float) -> AsyncIterator[dict[str, float]]:
        begun = time.perf_counter() + first
        for n in range(each):
            await asyncio.sleep(max(0, begun + n * EVERY_S - time.perf_counter()))
            yield {"at": time.perf_counter(), "n": n}

    speaking = app.turn(speak)
    commits = app.client.store.commits

    async def listen(number: int) -> None:
        run = await app.start(speaking, number * EVERY_S / many)
        late.extend([time.perf_counter() - event.value["at"] async for event in follow(run) if event.kind == "event"])

    with Meter() as meter:
        await asyncio.gather(*[listen(number) for number in range(many)])
    commits = app.client.store.commits - commits
    assert len(late) == many * each
    return {
        **meter.figures(runs=many, steps=many * each),
        "events_per_s": round(len(late) / meter.wall_s),
        "events_per_commit": round(len(late) / commits, 1),
        **latencies(late),
    }


async def tail(app: App, url: str, events: int) -> Figures:
    """A stream that another process writes; the clock is the machine's, so both have the same one."""
    await app.stream(STREAM, float).create()
    writer, late = spawn("write", url, events), list[float]()
    try:
        with Meter() as meter:
            async with aclosing(app.stream(STREAM, float).tail()) as items:
                late.extend([time.perf_counter() - item.value async for item in items])
        await asyncio.to_thread(hear, writer)
    finally:
        kill(writer)
    assert len(late) == events
    return {**meter.figures(steps=events), **latencies(late)}


def write(url: str, events: str) -> None:
    """Role of TAIL: append the time, every 25 ms."""

    async def go() -> None:
        app = App(url)
        async with app.connected():
            stream = app.stream(STREAM, float)
            for _ in range(int(events)):
                await stream.append(time.perf_counter())
                await asyncio.sleep(EVERY_S)
            await stream.close()
            say()

    asyncio.run(go())
