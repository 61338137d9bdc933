"""Programs that do not stay: run one thing and wait, or one round of what is due."""

import asyncio

import pytest

from perdure import Context, RunFailed
from perdure.oneshot import run_and_wait, tick


async def ship(ctx: Context, order: str) -> str:
    await ctx.step("label", lambda: "a label")
    return f"{order} shipped"


async def nap(ctx: Context) -> str:
    await ctx.sleep(60)
    return "rested"


async def fail(ctx: Context) -> None:
    raise ValueError("no")


def test_run_and_wait_brings_its_own_worker(office):  # A112
    """A script would wait for ever, as nobody drives its run; or leave its worker behind."""

    async def main():
        app, entries = office.app(ship, fail), []
        assert (
            await run_and_wait(app, "ship", "o", id="r", progress=lambda event: entries.append(event.kind))
            == "o shipped"
        )
        assert entries == ["step_completed", "completed"]
        assert app.worker is None
        with pytest.raises(RunFailed):
            await run_and_wait(app, "fail")
        async with app.connected():
            assert await run_and_wait(app, "ship", "p") == "p shipped"
            assert app.worker is None
        async with app:
            worker = app.worker
            assert await run_and_wait(app, "ship", "q") == "q shipped"
            assert app.worker is worker

    office.play(main)


def test_a_wait_that_is_over_leaves_the_run(office):  # A112
    """Whoever gives up waiting would cancel what others rely on."""

    async def main():
        app = office.app(nap)
        with pytest.raises(TimeoutError):
            await run_and_wait(app, "nap", wait=5, id="r")
        assert await run_and_wait(app, "nap", id="r") == "rested"

    office.play(main)


def test_a_round_does_what_is_due_and_ends(office):  # A113
    """A function that is called by cron would do nothing, or never end."""

    async def main():
        told = []
        app = office.app(ship, nap, fail)

        @app.sink("s", events="completed")
        async def sink(event) -> None:
            told.append(event.run_id)

        async with app.connected():
            for place in range(3):
                await app.start("ship", "o", id=f"s{place}")
            await app.start("nap", id="n")
            await app.start("fail", id="f")
        first = await tick(app)
        assert (first.claimed, first.ended, first.waiting, first.delivered, first.more) == (5, 4, 1, 3, False)
        assert sorted(told) == ["s0", "s1", "s2"]
        assert office.seconds() < 20
        assert (await tick(app)).claimed == 0
        await asyncio.sleep(60)
        third = await tick(app)
        assert (third.claimed, third.ended, third.delivered) == (1, 1, 1)
        await asyncio.sleep(31 * 86_400)
        assert (await tick(app)).pruned == 5

    office.play(main)


def test_a_round_is_bounded(office):  # A113
    """A backlog would keep a function alive beyond its limit."""

    async def main():
        async def slow(ctx: Context) -> None:
            for place in range(10):
                await ctx.step(f"s{place}", lambda: asyncio.sleep(5))

        app = office.app(slow)
        async with app.connected():
            await app.start("slow", id="r")
        first = await tick(app, seconds=12)
        assert (first.ended, first.waiting, first.more) == (0, 1, True)
        assert office.seconds() < 25
        while (await tick(app, seconds=12)).more:
            pass
        async with app.connected():
            assert (await app.handle("r").info()).finished

    office.play(main)
