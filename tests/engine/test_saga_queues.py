"""Sagas beside what came from elsewhere: queues, versions and observers."""

import asyncio

import pytest

from perdure import Context, Dedupe, Flow, Observer


class Watch(Observer):
    """What was told of steps."""

    def __init__(self):
        self.ended = []

    def step_ended(self, run, step, error, at):
        self.ended.append((step.key, type(error).__name__ if error else None))


class World:
    """A step that succeeds, and a compensation of it that waits, or fails, as long as it is told to."""

    def __init__(self):
        self.log = []
        self.broken = False
        self.begun, self.goes_on = asyncio.Event(), asyncio.Event()

    async def undo(self, name):
        self.begun.set()
        await self.goes_on.wait()
        if self.broken:
            raise ConnectionError("cannot be undone")
        self.log.append(f"-{name}")


def crew(lab, world, **settings):
    async def trip(ctx: Context, name: str) -> None:
        await ctx.step("book", lambda: name, compensate=world.undo)
        raise ValueError("no luck")

    async def other(ctx: Context) -> str:
        return await ctx.step("other", lambda: "done")

    app = lab.app((trip, {"queue": "q"}), (other, {"queue": "q"}), **settings)
    app.queue("q", concurrency=1)
    return app


def test_a_run_that_compensates_keeps_its_slot_until_its_compensation_is_paused(lab):
    """A second run begins beside one that is still at work, or a run that waits for an operator blocks its queue."""

    async def main():
        world = World()
        async with crew(lab, world) as app:
            trip = await app.start("trip", "car", id="trip")
            await world.begun.wait()
            second = await app.start("other", id="other")
            await asyncio.sleep(60)
            assert (await trip.info()).status == "compensating"
            assert (await second.info()).status == "queued"
            world.broken = True
            world.goes_on.set()
            await lab.until(app, "trip", "paused")
            assert await second.result() == "done"
            world.broken = False
            await app.client.compensate("trip", "retry")
            assert (await lab.ended(app, "trip")).status == "failed"
            assert world.log == ["-car"]
            assert await (await app.start("other")).result() == "done", "the slot is free again"

    lab.play(main)


def test_a_run_that_compensates_ends_its_rollback_when_it_is_cancelled_in_a_queue(lab):
    """A cancellation takes the run out of its compensation, or out of its queue's count."""

    async def main():
        world = World()
        async with crew(lab, world) as app:
            trip = await app.start("trip", "car", id="trip")
            await world.begun.wait()
            await trip.cancel("never mind")
            assert (await trip.info()).status == "compensating"
            world.goes_on.set()
            await lab.ended(app, "trip")
            assert world.log == ["-car"]
            assert await (await app.start("other")).result() == "done"

    lab.play(main)


def test_a_run_that_compensates_ends_its_rollback_when_another_one_replaces_it(lab):
    """A replacement by key leaves half of a rollback undone."""

    async def main():
        world = World()
        async with crew(lab, world) as app:
            first = await app.start("trip", "car", id="first", dedupe=Dedupe("k", then="replace"))
            await world.begun.wait()
            await app.start("trip", "train", id="second", dedupe=Dedupe("k", then="replace"))
            assert (await first.info()).status == "compensating"
            world.goes_on.set()
            await lab.ended(app, "first")
            await lab.ended(app, "second")
            assert world.log == ["-car", "-train"]

    lab.play(main)


@pytest.mark.parametrize("broken", [False, True])
def test_an_observer_hears_of_compensations_as_steps(lab, broken):
    """Spans and counts leave out what undoes."""

    async def main():
        world, watch = World(), Watch()
        world.goes_on.set()
        world.broken = broken
        async with crew(lab, world, observers=[watch]) as app:
            await app.start("trip", "car", id="trip")
            if broken:
                await lab.until(app, "trip", "paused")
            else:
                await lab.ended(app, "trip")
        assert watch.ended == [("book", None), ("book#compensate", "ConnectionError" if broken else None)]

    lab.play(main)


def test_versions_of_a_flow_stand_beside_each_other(lab):
    """A flow takes no version, or its child is looked for by a name without one."""

    def flow(said):
        return Flow("trip").step("say", lambda _state: said).child("inner", "inner")

    async def inner(ctx: Context, _input: object = None) -> int:
        return await ctx.step("one", lambda: 1)

    async def main():
        workflows = [(inner, {"version": "7"}), (flow("old"), {"version": "1"}), (flow("new"), {"version": "2"})]
        async with lab.worker(*workflows) as app:
            assert (await (await app.start("trip")).result())["say"] == "new"
            assert await (await app.start("trip", version="1")).result() == {"say": "old", "inner": 1}

    lab.play(main)
