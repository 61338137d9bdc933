"""Events: of several under one name the first counts, for everybody."""

import asyncio

import pytest

from perdure import RunFinished, RunNotFound, emit_event, run_durable
from perdure.durable import find_event


async def listens(ctx):
    return await ctx.receive("news", timeout=3600)


def test_the_first_event_wins(place):
    """S24 S26 R14 R15 M8: the run would act on news that were overtaken, or their teller not know that he came late."""

    async def main():
        async with place.process() as app:
            call = asyncio.create_task(run_durable("r", listens, store=app))
            await asyncio.sleep(1)
            assert await find_event("r", "news", store=app) is None
            first = await emit_event("r", "news", {"n": 1}, store=app)
            assert (first.accepted, first.data) == (True, {"n": 1})
            assert (await call).result == {"n": 1}
            # Later ones change nothing, also when the run is over.
            for n in (2, 3):
                later = await emit_event("r", "news", {"n": n}, store=app)
                assert (later.accepted, later.data, later.emitted_at) == (False, {"n": 1}, first.emitted_at)
            assert await find_event("r", "news", store=app) == later

    place.play(main)


def test_many_at_once_agree_on_the_first(place):
    """S25: two tellers at the same moment would both be told that they were first."""

    async def main():
        await place.call("r", listens, suspend=True)
        async with place.process() as one, place.process() as other:
            told = await asyncio.gather(*[
                emit_event("r", "news", n, store=app) for n, app in enumerate([one, other] * 10)
            ])  # fmt: skip
        assert sum(event.accepted for event in told) == 1
        assert len({event.data for event in told}) == 1
        assert (await place.call("r", listens)).result == told[0].data

    place.play(main)


def test_an_event_that_came_before_the_wait_is_not_lost(place):
    """A fast answer would be missed by a run that is not so far yet."""

    async def late(ctx):
        await ctx.sleep(60)
        return await ctx.receive("news", timeout=1)

    async def main():
        await place.call("r", late, suspend=True)
        async with place.process() as app:
            await emit_event("r", "news", "x" * 100_000, store=app)
        assert (await place.call("r", late)).result == "x" * 100_000

    place.play(main)


def test_a_replay_does_not_look_for_the_event_again(place):
    """R11: a replay would wait for an event that the run had already."""

    async def twice(ctx):
        return [await listens(ctx), await ctx.receive("more", timeout=3600)]

    async def main():
        await place.call("r", twice, suspend=True)
        async with place.process() as app:
            await emit_event("r", "news", 1, store=app)
        assert (await place.call("r", twice, suspend=True)).waiting_for == ["signal:more"]
        async with place.process() as app:
            await emit_event("r", "more", 2, store=app)
        assert (await place.call("r", twice)).result == [1, 2]

    place.play(main)


def test_what_cannot_be_told_is_refused(place):
    """S25: an event for a run that is not there, or is over, would vanish."""

    async def quick(ctx):
        return 1

    async def main():
        await place.call("r", quick)
        async with place.process() as app:
            with pytest.raises(RunNotFound):
                await emit_event("nobody", "news", 1, store=app)
            with pytest.raises(RunFinished):
                await emit_event("r", "news", 1, store=app)

    place.play(main)


def test_by_url(tmp_path):
    """A script could not tell another script's run anything."""
    url = f"sqlite:///{tmp_path / 'events.db'}"

    async def main():
        await run_durable("r", listens, store=url, suspend=True)
        assert (await emit_event("r", "news", 1, store=url)).accepted
        call = asyncio.create_task(run_durable("r", listens, store=url))
        assert (await call).result == 1
        assert (await find_event("r", "news", store=url)).data == 1

    asyncio.run(main())
