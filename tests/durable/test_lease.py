"""Who may execute a run: one at a time, and whoever is not the one any more is told."""

import asyncio
import logging
import threading

import pytest

from perdure import App, LeaseLost, run_durable
from perdure.durable import opened
from perdure.engine.writer import Writer


def test_a_lost_lease_cancels_the_body_and_tells_the_caller(shared):
    """R16 R17 R18 E4: what runs here would go on beside the one who has the run now, and end it as failed."""
    begun, seen = asyncio.Event(), []

    async def slow():
        seen.append("begun")
        begun.set()
        try:
            # The second time so long that the first one notices before the run has ended, a third of a lease at most.
            await asyncio.sleep(1000 if len(seen) == 1 else 25)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return "done"

    async def work(ctx):
        await ctx.step("a", shared.body("a"))
        return await ctx.step("slow", slow)

    async def main():
        async with shared.process(lease=30) as one, shared.process(lease=30) as other:
            call = asyncio.create_task(run_durable("r", work, store=one))
            await begun.wait()
            row = await one.client.row("r")
            # As another worker does that has not heard of this one for longer than its lease.
            await one.client.store.apply(declared_dead(one.worker.number, shared.clock.now()))
            assert (await run_durable("r", work, store=other, wait=60)).result == "done"
            with pytest.raises(LeaseLost) as lost:
                await call
            assert (lost.value.run_id, lost.value.code) == ("r", "lease_lost")
            ended = await one.client.row("r")
            assert (ended.status, ended.epoch > row.epoch) == ("completed", True)
            # Nothing of the first one has come to the journal, and it may call again.
            assert (await run_durable("r", work, store=one)).result == "done"
        # Both look for the dead at the same time, and either may be the quicker.
        assert sorted(seen) == ["begun", "begun", "cancelled"]
        assert shared.ran == {"a": 1}

    shared.play(main)


def declared_dead(number, now):
    from perdure.store.operation import Operation  # noqa: PLC0415 - only this test speaks to the store

    operation = Operation(makes_due=True)
    operation.add("declare_dead", number, now)
    return operation


def test_the_end_of_the_app_ends_the_calls_on_it(shared):
    """A call in another task would wait for ever for a worker that has left; or its run would be nobody's."""

    async def slow(ctx):
        await ctx.step("a", shared.body("a"))
        return await ctx.step("slow", lambda: asyncio.sleep(1000))

    async def waits(ctx):
        return await ctx.receive("go", timeout=50_000, default="time")

    async def main():
        async with shared.process() as app:
            calls = [asyncio.create_task(run_durable(fn.__name__, fn, store=app)) for fn in (slow, waits)]
            await asyncio.sleep(1)
        for call in calls:
            with pytest.raises(LeaseLost, match="closed"):
                await call
        async with shared.process() as app:
            row = await app.client.row("slow")
            assert (row.status, row.owner) == ("queued", None)
            assert (await run_durable("waits", waits, store=app)).result == "time"
        assert shared.ran == {"a": 1}

    shared.play(main)


def test_a_caller_that_leaves_before_anything_was_stored_leaves_nothing_behind(place):
    """A run that was inserted for a caller who is gone would be put aside as unknown."""

    async def work(ctx):
        return await ctx.step("a", place.body("a"))

    async def main():
        async with place.process() as app:
            for turns in range(6):
                call = asyncio.create_task(run_durable(f"r{turns}", work, store=app))
                for _ in range(turns):
                    await asyncio.sleep(0)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
            await asyncio.sleep(10)
            assert (await app.client.counts()).get("paused", 0) == 0
            for turns in range(6):
                assert (await run_durable(f"r{turns}", work, store=app, wait=5)).result == "a"

    place.play(main)


def test_a_hundred_calls_by_url_share_one_worker_and_leave_it(tmp_path, caplog):
    """R20 S30: Each call would open the database and beat for itself."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    workers = []

    async def one(ctx):
        return await ctx.step("a", lambda: 1)

    async def main():
        with caplog.at_level(logging.WARNING):
            done = await asyncio.gather(*[run_durable(f"r{n}", one, store=url) for n in range(100)])
        assert [each.result for each in done] == [1] * 100
        async with App(url).connected() as app:
            workers.extend(await app.client.workers())
        assert not opened._shared[asyncio.get_running_loop()]

    asyncio.run(main())
    assert [worker.state for worker in workers] == ["left"]
    assert not [thread for thread in threading.enumerate() if thread.name == "perdure-heartbeat"]
    assert caplog.records == []


def test_calls_at_once_share_commits_and_ask_little(place):
    """A thousand jobs at once would cost a thousand commits, or a crowd of queries each."""

    async def body():
        return 1

    async def one(ctx):
        return await ctx.step("a", body)

    async def main():
        async with place.process() as app:
            await run_durable("first", one, store=app)
            store = app.client.store
            asked, rows = [], store.rows

            async def counted(name, *parameters):
                asked.append(name)
                return await rows(name, *parameters)

            store.rows = counted
            before = store.commits
            await asyncio.gather(*[run_durable(f"r{n}", one, store=app) for n in range(200)])
            assert store.commits - before <= 6
            assert len(asked) <= 3 * 200 + 10, {name: asked.count(name) for name in asked}

    place.play(main)


def test_a_caller_that_leaves_while_it_claims_leaves_nothing_behind(place):
    """A run that was claimed for a caller who is gone would be owned, and driven by nobody, for ever."""

    async def work(ctx):
        await ctx.receive("go")
        return await ctx.step("a", place.body("a"))

    async def main():
        async with place.process() as app:
            for turns in range(30):
                await run_durable(f"r{turns}", work, store=app, suspend=True)
                await app.signal(f"r{turns}", "go")
                call = asyncio.create_task(run_durable(f"r{turns}", work, store=app))
                for _ in range(turns):
                    await asyncio.sleep(0)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
            await asyncio.sleep(10)
            for turns in range(30):
                row = await app.client.row(f"r{turns}")
                assert row.finished or row.owner is None
                assert (await run_durable(f"r{turns}", work, store=app, wait=5)).result == "a"

    place.play(main)


def test_a_caller_that_leaves_while_its_run_is_parked_takes_its_function_along(place, monkeypatch):
    """The next call on the run would go on with the function of the caller that has left."""
    real = Writer.send

    def send(writer, record, written):
        late = any(name == "park" for name, _ in record.lines)
        asyncio.get_running_loop().call_later(5 * late, real, writer, record, written)

    async def main():
        monkeypatch.setattr(Writer, "send", send)
        async with place.app(cached_runs=10) as app:
            for caller in "ab":

                async def work(ctx, caller=caller):
                    await ctx.sleep(100)
                    return caller

                call = asyncio.create_task(run_durable("r", work, store=app))
                await asyncio.sleep(2)
                if caller == "a":
                    call.cancel()
                    await asyncio.gather(call, return_exceptions=True)
                    await asyncio.sleep(10)
            assert (await call).result == "b"

    place.play(main)
