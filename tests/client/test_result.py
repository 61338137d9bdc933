"""Waiting for a run to end: what it costs, and what it gives however the run ends and whoever drives it."""

import asyncio

import pytest

from perdure import App, Context, RunCancelled, RunFailed, run_durable
from perdure.errors import PerdureError, StoreClosed


async def waits(ctx: Context, text: str) -> str:
    """Wait for a step of a second, then end as the text says."""

    async def slow() -> str:
        await asyncio.sleep(1)
        return text

    found = await ctx.step("slow", slow)
    if found == "fail":
        raise ValueError(found)
    return found


async def sleeps(ctx: Context) -> str:
    await ctx.sleep(60)
    return "woken"


def looks(app):
    """The statements that read a run, from now on."""
    seen, rows = [], app.client.store.rows

    async def counting(name, *parameters):
        if name in {"run_by_id", "blobs"}:
            seen.append(name)
        return await rows(name, *parameters)

    app.client.store.rows = counting
    return seen


@pytest.mark.parametrize("text", ["done", "long " * 20_000])
def test_the_end_of_a_run_that_is_driven_here_is_known_without_a_look(desk, text):
    """Each result would cost three queries: round trips on Postgres."""

    async def main(app):
        run = await app.start("waits", text)
        seen = looks(app)
        assert await run.result() == text
        assert seen == ([] if text == "done" else ["blobs"])

    desk.play(main, waits)


def test_it_fails_as_the_run_did(desk):
    """The error would be another one than that which is stored."""

    async def main(app):
        run = await app.start("waits", "fail")
        with pytest.raises(RunFailed) as found:
            await run.result()
        assert isinstance(found.value.__cause__, ValueError)
        with pytest.raises(RunFailed) as again:
            await run.result()
        assert str(again.value.__cause__) == str(found.value.__cause__)

    desk.play(main, waits)


def test_a_cancellation_is_told_with_its_reason(desk):
    """Who waits would not learn why."""

    async def main(app):
        run = await app.start("waits", "x")
        waiting = asyncio.ensure_future(run.result())
        await asyncio.sleep(0)
        await run.cancel("no longer wanted")
        with pytest.raises(RunCancelled, match="no longer wanted"):
            await waiting

    desk.play(main, waits)


def test_a_run_that_was_parked_meanwhile_is_waited_for(desk):
    """Whoever began to wait while the run was driven here would wait for ever, or take its parking for its end."""

    async def main(app):
        run = await app.start("sleeps")
        assert await asyncio.gather(run.result(), run.result(), app.handle(run.id).result()) == ["woken"] * 3

    desk.play(main, sleeps)


def test_whoever_waits_when_the_app_is_closed_is_told():
    """A request that waits for a run would stand still for ever while its server goes down."""

    async def receives(ctx: Context) -> str:
        return await ctx.receive("go")

    async def main():
        app = App("sqlite://")
        app.workflow(receives)
        async with app:
            run = await app.start("receives")
            events = run.events()
            await anext(events)
            waiting = [asyncio.ensure_future(one) for one in (run.result(), anext(events))]
            durable = asyncio.ensure_future(run_durable("d", receives, store=app))
            while (await app.client.counts()).get("waiting") != 2:  # noqa: ASYNC110 - parking is told to nobody
                await asyncio.sleep(0)
        for one in waiting:
            with pytest.raises(StoreClosed):
                await one
        with pytest.raises(PerdureError):
            await durable

    asyncio.run(main())
