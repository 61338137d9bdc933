"""Children whose ids are taken: the parent learns it, also when its worker dies before it has."""

import asyncio

import pytest

from perdure import Context
from perdure.errors import StartConflict


async def other(ctx: Context) -> str:
    await ctx.sleep(100)
    return ctx.run_id


def conflicts(*names):
    async def flow(ctx: Context) -> list[str]:
        found = []
        for name in names:
            try:
                found.append(await ctx.call("other", id=name))
            except StartConflict as error:
                found.append(f"{error.run_id} is taken")
        return found

    return flow


def test_two_of_them(desk):
    """The second conflict would be taken for the first one told again, and the parent wait for ever."""

    async def main(app):
        for name in ("x", "y"):
            await app.start("other", id=name)
        run = await app.start("flow")
        async with asyncio.timeout(1000):
            assert await run.result() == ["x is taken", "y is taken"]

    desk.play(main, conflicts("x", "y"), other)


@pytest.mark.parametrize(("mine", "result"), [(False, "x is taken"), (True, "x")])
def test_the_worker_dies_before_the_parent_knows(desk, mine, result):
    """The parent would wait for ever for a run that is not its child, or for a child that ended before."""
    flow = conflicts("x", "x") if mine else conflicts("x")

    async def main(app):
        if not mine:
            await app.start("other", id="x")
        asked = []

        def die(driver, child):
            if asked or not mine:
                app.worker.kill()
            asked.append(child.child_id)

        if not mine:
            app.worker.check_child = die
        await app.start("flow", id="p")
        await asyncio.sleep(10)
        app.worker.check_child = die
        asked.append("x")
        await asyncio.sleep(200)
        assert app.worker.statistics == {"driven": 0, "parked": 0}
        async with desk.app(flow, other) as second:
            async with asyncio.timeout(3 * 86_400):
                found = await second.handle("p").result()
            assert found == [result] * len(found)

    desk.play(main, flow, other, healthy=False)


def test_the_worker_dies_and_the_id_looks_like_one_of_perdures_own(desk):
    """As above, for an id that the workflow has made of its own run's."""
    flow = conflicts("p/x")

    async def main(app):
        await app.start("other", id="p/x")
        app.worker.check_child = lambda *_: app.worker.kill()
        await app.start("flow", id="p")
        await asyncio.sleep(200)
        assert app.worker.statistics == {"driven": 0, "parked": 0}
        async with desk.app(flow, other) as second:
            async with asyncio.timeout(3 * 86_400):
                assert await second.handle("p").result() == ["p/x is taken"]

    desk.play(main, flow, other, healthy=False)


@pytest.mark.parametrize("cached", [0, 10])
def test_an_id_that_perdure_has_made_up(desk, cached):
    """A parent that was parked with its child's start would wait for ever, as nobody told it whose the child is."""

    async def flow(ctx: Context) -> str:
        try:
            return await ctx.call("other")
        except StartConflict as error:
            return f"{error.run_id} is taken"

    async def main(app):
        await app.start("other", id="p/other")
        run = await app.start("flow", id="p")
        async with asyncio.timeout(10):
            assert await run.result() == "p/other is taken"

    desk.play(main, flow, other, cached_runs=cached)
