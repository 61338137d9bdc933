"""
Answers that stream in a simulated world, and readers who come back; what these are told must obey the contract.

An answer is a turn, or a stream that a step writes under its own name. Readers ask any process, also one that drives
the answer and dies, leave when they like and go on behind the last thing that they got, as Python code or over HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from tests.sim.process import Flaky
from tests.sim.readers import Reader

from perdure import Context, Retry, Step, current_step
from perdure.errors import IllegalMove, RunFinished, RunNotFound, StoreError, StreamClosed
from perdure.turn import Supplied, Turn, TurnResult, interrupt, supervise

if TYPE_CHECKING:
    from tests.sim.process import Process
    from tests.sim.world import World

TAKEN_OVER = "taken over"
"""What a step writes first, so that an older attempt of it is refused from there on."""
OFTEN = Retry(max_attempts=100, delay=0.3, cap=5.0)
"""Reading what was logged fails as long as the disk is sick, which counts as an attempt each time."""


@dataclass
class Talk:
    """
    One answer, and who reads it.

    Attributes:
        form: "on" continues after a death, "anew" begins again, "elsewhere" follows work that goes on by itself,
            "written" is a step that writes a stream.
        words: How many it has.
        pause: Virtual seconds between two of them.
        fails: Attempts that break off at word `breaks`.
        stored: What the hook that stores the answer was given, each time.
    """

    id: str
    form: str
    words: int
    pause: float
    fails: int
    breaks: int
    at: float
    interrupted_at: float | None
    readers: list[Reader] = field(default_factory=list)
    stored: list[TurnResult] = field(default_factory=list)

    @property
    def spec(self) -> dict[str, Any]:
        """What the producer is told."""
        return {"words": self.words, "pause": self.pause, "fails": self.fails, "breaks": self.breaks}


def draw(world: World, rng: Random, *, talking: bool) -> list[Talk]:
    """The answers of a seed; many have none."""
    talks = []
    for place in range(rng.choice((2, 3, 4) if talking else (0, 0, 0, 1, 2))):
        form = rng.choice(("on", "anew", "elsewhere", "written"))
        talk = Talk(
            f"t{place}", form, rng.choice((0, 1, 5, 20)), rng.choice((0, 0.002, 0.05, 1.0)), rng.choice((0, 0, 1, 3)),
            rng.randrange(20), rng.choice((0, rng.uniform(0, 15))),
            rng.uniform(0, 8) if form != "written" and rng.random() < 0.2 else None,
        )  # fmt: skip
        talk.readers = [Reader(world, talk.id, form, Random(rng.random())) for _ in range(rng.choice((1, 2, 3)))]
        talks.append(talk)
    return talks


class Work:
    """What goes on by itself in no process of ours; an adapter to it, as each of them has."""

    def __init__(self, world: World, spec: dict[str, Any]) -> None:
        self._begun = world.works
        self._spec = spec

    async def start(self, key: str) -> AsyncIterator[Supplied]:
        """Under a key that is known it goes on."""
        self._begun.setdefault(key, asyncio.get_running_loop().time())
        yield Supplied(handle=key)
        async for supplied in self.attach(key, None):
            yield supplied

    async def attach(self, handle: str, after: str | None) -> AsyncIterator[Supplied]:
        """It tells the last one that is known once more, as some sources do."""
        loop = asyncio.get_running_loop()
        for word in range(int(after or 0), self._spec["words"]):
            await asyncio.sleep(max(0, self._begun[handle] + word * self._spec["pause"] - loop.time()))
            yield Supplied(str(word), str(word))


def register(process: Process) -> None:
    """Define the answers in a freshly started process."""
    app, world = process.app, process.world

    async def words(turn: Turn, spec: dict[str, Any]) -> AsyncIterator[str]:
        for word in range(turn.events, spec["words"]):
            if turn.attempt <= spec["fails"] and word == spec["breaks"]:
                raise Flaky
            yield str(word)
            await asyncio.sleep(spec["pause"])

    async def elsewhere(turn: Turn, spec: dict[str, Any]) -> AsyncIterator[Any]:
        async for event in supervise(turn, Work(world, spec)):
            if turn.attempt <= spec["fails"] and event.id == str(spec["breaks"]):
                raise Flaky
            yield event

    async def store(result: TurnResult, _spec: dict[str, Any]) -> None:
        said = current_step().run_id
        next(talk for talk in world.talks if talk.id == said).stored.append(result)

    shared: dict[str, Any] = {"accumulate": lambda event, text: f"{text}{event},", "persist": store, "retry": OFTEN}
    app.turn(name="talk_on", continues=True, **shared)(words)
    app.turn(name="talk_anew", **shared)(words)
    app.turn(name="talk_elsewhere", continues=True, **shared)(elsewhere)
    _register_writer(process)


def _register_writer(process: Process) -> None:
    """A step that writes a stream, and goes on behind what another attempt of it has written."""
    app = process.app

    async def write(name: str, spec: dict[str, Any]) -> None:
        stream = app.stream(name, str)
        await _sent(stream.create)
        writer = stream.producer()
        try:
            place = await _sent(lambda: writer.append(TAKEN_OVER))
            said = [item.value async for item in _all(stream, place) if item.value != TAKEN_OVER]
            for word in range(len(said), spec["words"]):
                if current_step().attempt <= spec["fails"] and word == spec["breaks"]:
                    raise Flaky
                await _sent(lambda word=word: writer.append(str(word)))
                await asyncio.sleep(spec["pause"])
            await _sent(writer.close)
        except StreamClosed:
            return  # by an attempt whose outcome was lost

    written = Step(write).options(retry=OFTEN)

    @app.workflow
    async def talk_written(ctx: Context, spec: dict[str, Any]) -> str:
        await ctx.step(written, ctx.run_id, spec)
        return "written"


async def _sent(make: Any) -> Any:
    """Send it again while the disk is sick; a producer's append goes under the same number."""
    while True:
        try:
            return await make()
        except StoreError:
            await asyncio.sleep(0.2)


async def _all(stream: Any, last: str) -> AsyncIterator[Any]:
    """Everything up to an offset."""
    place = "-1"
    while place < last:
        page = await _sent(lambda place=place: stream.read(place))
        for item in page:
            yield item
            place = item.offset
        if not page:
            return


async def script(world: World, talk: Talk) -> None:
    """All that callers do with one answer: they start it, read it, perhaps interrupt it."""
    errands = [_start(world, talk), *(reader.read(talk.at) for reader in talk.readers)]
    if talk.interrupted_at is not None:
        errands.append(_interrupt(world, talk))
    await asyncio.gather(*errands)


async def _start(world: World, talk: Talk) -> None:
    await asyncio.sleep(talk.at)
    await world.insist(lambda process: process.app.start(f"talk_{talk.form}", talk.spec, id=talk.id))


async def _interrupt(world: World, talk: Talk) -> None:
    await asyncio.sleep(talk.at + (talk.interrupted_at or 0))
    with contextlib.suppress(RunNotFound, RunFinished, IllegalMove):
        await world.insist(lambda process: interrupt(process.app.handle(talk.id)))


def check(world: World) -> None:
    """What readers have in the end is what was said, and what was stored of it."""
    for talk in world.talks:
        run = world.mirror.run(talk.id)
        if run is None:
            world.wrong(f"{talk.id} was started, and is gone")
            continue
        if run.status != "completed" and not (run.status == "cancelled" and talk.interrupted_at is not None):
            world.wrong(f"{talk.id} ({talk.form}) is {run.status}: {world.mirror.text(run.error)}")
        for reader in talk.readers:
            if problem := reader.problem(talk, run):
                world.wrong(f"a reader of {talk.id} ({talk.form}): {problem}; it was told {reader.told}")
        if run.status == "completed" and talk.form != "written":
            result = talk.readers[0].result(run)
            if not talk.stored or any(stored != result for stored in talk.stored):
                world.wrong(f"{talk.id} said {result}, and what was stored is {talk.stored}")
