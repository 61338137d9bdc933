"""I7: random interleavings of plain asyncio, replayed whole and from any cut, take the same course."""

import asyncio
import random

import pytest

from perdure import Context, Retry

SEEDS = range(40)


class Unlucky(Exception):
    pass


def bodies(seed):
    """Steps that end after seeded times, often at the same moment; now and then one fails."""
    chance = random.Random(seed)

    async def body(name: str, value: int) -> int:
        await asyncio.sleep(chance.choice([0, 0, 0.01, 0.02, 0.02, 1, 30]))
        if chance.random() < 0.1:
            raise Unlucky(f"{name}:{value}")
        return value

    return body


class Play:
    """One run's workflow: every construct of asyncio that people use, nested, with a trace of what happened when."""

    def __init__(self, ctx: Context, body) -> None:
        self.ctx = ctx
        self.body = body
        self.trace = []

    async def step(self, name, value):
        retry = Retry(max_attempts=2, delay=5) if value % 3 == 0 else Retry(max_attempts=1)
        return await self.ctx.step(self.options(name, retry), name, value)

    def options(self, name, retry):
        return self.ctx._registry.step_of(self.body).options(name=name, retry=retry)

    async def branch(self, n):
        try:
            a = await self.step("a", n)
            b = await self.step("b", a * 10)
            self.trace.append(("b", n))
            if len(self.trace) % 2:
                await asyncio.sleep(n % 3)
                self.trace.append(("odd", await self.step("odd", 1)) if n % 2 else "even")
        except Unlucky as error:
            self.trace.append(("unlucky", str(error)))
            return -n
        return b

    async def gathering(self):
        got = await asyncio.gather(*[self.branch(n) for n in range(4)], return_exceptions=True)
        self.trace.append(("gathered", [repr(each) for each in got]))

    async def first_of_several(self):
        tasks = {asyncio.ensure_future(self.branch(10 + n)) for n in range(4)}
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        self.trace.append(("first", [repr(task.exception() or task.result()) for task in done], len(pending)))
        for task in list(pending)[:2]:
            task.cancel()
        for task in pending:
            try:
                self.trace.append(("rest", await task))
            except (Unlucky, asyncio.CancelledError) as error:
                self.trace.append(("rest", repr(error)))

    async def as_they_come(self):
        for future in asyncio.as_completed([self.branch(20 + n) for n in range(3)]):
            try:
                self.trace.append(("completed", await future))
            except Unlucky as error:
                self.trace.append(("failed", str(error)))

    async def group(self):
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.step("grouped", n)) for n in (1, 2, 4, 5)]
                group.create_task(self.branch(30))
            self.trace.append(("group", [task.result() for task in tasks]))
        except* Unlucky as errors:
            self.trace.append(
                ("group", [str(error) for error in errors.exceptions], [task.cancelled() for task in tasks])
            )

    async def with_limits(self):
        try:
            self.trace.append(("in time", await asyncio.wait_for(asyncio.shield(self.branch(40)), 10)))
        except TimeoutError:
            self.trace.append("too late")
        try:
            async with asyncio.timeout(0.015):
                await self.step("limited", 50)
                self.trace.append("within")
        except (TimeoutError, Unlucky) as error:
            self.trace.append(repr(error))

    async def talking(self):
        queue, lock, event = asyncio.Queue(2), asyncio.Lock(), asyncio.Event()

        async def producer(n):
            for k in range(3):
                async with lock:
                    await asyncio.sleep(0)
                await queue.put((n, await self.branch(60 + n * 3 + k)))
            event.set()

        async def consumer():
            for _ in range(6):
                self.trace.append(("consumed", await queue.get()))

        await asyncio.gather(producer(0), producer(1), consumer())
        await event.wait()

    async def all(self):
        parts = [self.gathering, self.first_of_several, self.as_they_come, self.group, self.with_limits, self.talking]
        order = self.ctx.random().sample(parts, len(parts))
        await asyncio.gather(order[0](), order[1](), order[2]())
        for part in order[3:5]:
            await part()
        with self.ctx.scope("last"):
            await asyncio.gather(order[5](), self.ctx.emit("midway", len(self.trace)))
        return [repr(each) for each in self.trace]


@pytest.mark.parametrize("seed", SEEDS)
def test_any_interleaving_replays_alike(lab, seed):
    """Replay, whole or from a cut on, would wake tasks in another order and take other branches than the live run."""
    rng = random.Random(seed * 7919)
    ran = []
    inner = bodies(seed)

    async def body(name: str, value: int) -> int:
        ran.append((name, value))
        return await inner(name, value)

    async def flow(ctx: Context) -> list[str]:
        return await Play(ctx, body).all()

    cached = rng.choice([0, 1000])

    async def main():
        async with lab.worker(flow, cached_runs=cached) as app:
            await app.start("flow", id="r")
            ended = await lab.ended(app, "r")
            assert ended.status == "completed", ended.error
            begun = len(ran)
            await lab.check_replay(app, ended)
            assert len(ran) == begun, "a replay of the whole journal ran a body"
            cut = rng.randrange(1, len(ended.events))
            await lab.rerun(app, "r", cut)
            again = await lab.ended(app, "r")
            assert again.status == "completed", again.error
            kept = {event.key for event in ended.events[:cut] if event.kind == "step_completed"}
            anew = [event.key for event in again.events[len(ended.events) :] if event.kind == "step_completed"]
            assert not kept & set(anew), "a step that was kept was recorded once more"
            assert len(anew) == len(set(anew))
            begun = len(ran)
            await lab.check_replay(app, again)
            assert len(ran) == begun, "a replay of the continued journal ran a body"

    lab.play(main)


@pytest.mark.parametrize("seed", range(12))
def test_any_interleaving_survives_crashes(lab, seed):
    """Workers that die in the middle of anything would lose steps, record them twice, or confuse the order."""
    rng = random.Random(seed)
    inner = bodies(seed)
    begun, deaths = [], sorted(rng.sample(range(1, 40), 4))

    async def body(name: str, value: int) -> int:
        begun.append((name, value))
        if deaths and len(begun) >= deaths[0]:
            deaths.pop(0)
            lab.die()
        return await inner(name, value)

    async def flow(ctx: Context) -> list[str]:
        return await Play(ctx, body).all()

    ended = lab.survive(flow)
    assert ended.status == "completed", ended.error
    done = [event.key for event in ended.events if event.kind in {"step_completed", "step_failed"}]
    assert len(done) == len(set(done))
    assert [event.seq for event in ended.events] == list(range(1, len(ended.events) + 1))
    assert len(deaths) < 4
