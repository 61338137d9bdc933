"""Several workers on one file: a run has one owner, wherever its coroutine once stood."""

import asyncio
from contextlib import AsyncExitStack, aclosing
from functools import partial

import pytest

from perdure import Context, Retry, RunEvent, current_step
from perdure.errors import StepTimedOut
from perdure.store.changes import Changes
from perdure.store.operation import Operation
from perdure.worker import claims, worker


async def block(ctx: Context, seconds: float) -> None:
    await ctx.step("hold", lambda: asyncio.sleep(seconds))


async def crew(lab, stack, *workflows, count=2, **options):
    """Several workers of one run each, on the same file."""
    changes = Changes()
    apps = [
        lab.app(*workflows, changes=changes, cached_runs=10, options={"concurrency": 1}, **options)
        for _ in range(count)
    ]
    for app in apps:
        await stack.enter_async_context(app)
    return apps


def test_a_coroutine_that_stood_still_meanwhile_is_not_used(lab):
    """I1: a worker would go on with a parked coroutine although another one drove the run in between."""
    places = []

    async def flow(ctx: Context) -> list[int]:
        out = []
        for n in range(3):
            out.append(await ctx.step("where", lambda n=n: places.append(n) or n))
            await ctx.sleep(100)
        return out

    async def main():
        async with AsyncExitStack() as stack:
            first, second = await crew(lab, stack, flow, block)
            handle = await first.start("flow", id="r")
            await lab.until(first, "r", "waiting")
            assert first.worker.statistics["parked"] == 1
            await first.start("block", 150.0)  # so that the second takes the run up at 100 s
            await asyncio.sleep(101 - lab.seconds())
            assert second.worker.statistics["parked"] == 1
            await asyncio.sleep(151 - lab.seconds())
            await second.start("block", 300.0)  # so that the first takes it up again at 200 s
            ended = await lab.ended(first, "r")
            assert (await handle.result(), places, ended.seconds) == ([0, 1, 2], [0, 1, 2], 300)
            assert [event.seq for event in ended.events] == list(range(1, len(ended.events) + 1))
            owners = await lab.sql(first, "select epoch from perdure_runs where id = 'r'")
            assert owners[0][0] >= 4

    lab.play(main)


def test_a_parked_coroutine_goes_on_where_it_stood(lab):
    """A worker that parked a run would replay it although nobody owned it in between."""
    begun = []

    async def flow(ctx: Context) -> int:
        begun.append(1)
        await ctx.sleep(100)
        await ctx.sleep(100)
        return len(begun)

    async def main():
        async with lab.worker(flow, cached_runs=10) as app:
            assert await (await app.start("flow")).result() == 1

    lab.play(main)


def test_eviction_is_not_seen(lab):
    """A run whose coroutine had to make room would not go on, or see its eviction."""
    seen = []

    async def flow(ctx: Context, n: int) -> int:
        try:
            await ctx.sleep(100 + n)
        except BaseException as error:
            seen.append(type(error).__name__)
            raise
        finally:
            await ctx.step("after", lambda: None)
        return n

    async def main():
        async with lab.worker(flow, cached_runs=2) as app:
            handles = [await app.start("flow", n) for n in range(6)]
            assert [await handle.result() for handle in handles] == list(range(6))
            ended = await lab.ended(app, handles[0].id)
            assert [event.kind for event in ended.events] == ["timer_set", "timer_fired", "step_completed", "completed"]

    lab.play(main)


def test_steps_of_a_zombie_count_for_nothing(lab):
    """I1: a body that ends after its worker was declared dead would be recorded beside the new owner's."""
    ran = []

    async def body() -> str:
        ran.append(1)
        me = len(ran)
        await asyncio.sleep(1000 if me == 1 else 5)
        return f"by {me}"

    async def flow(ctx: Context) -> str:
        return await ctx.step(body)

    async def main():
        changes = Changes()
        async with lab.app(flow, changes=changes, lease=30) as zombie:
            await zombie.start("flow", id="r")
            await asyncio.sleep(1)
            zombie.worker._sweep_timer.cancel()  # its heart stops, its body goes on
            async with lab.app(flow, changes=changes, lease=30) as heir:
                ended = await lab.ended(heir, "r", "flow")
                assert (ended.value, len(ran)) == ("by 2", 2)
                await asyncio.sleep(2000)
                assert await lab.journal(heir, "r") == ended.events

    lab.play(main)


def test_what_was_claimed_under_an_earlier_identity_is_read_late(lab, monkeypatch):
    """I8: its journal would be driven instead of that of the newer claim, in vain, and then nobody would drive the run."""
    real, slow = claims.load_journals, []

    async def load_journals(store, runs):
        read = await real(store, runs)
        await asyncio.sleep(slow.pop() if slow and runs else 0)
        return read

    async def flow(ctx: Context) -> None:
        await ctx.sleep(10)
        await ctx.step("hold", lambda: asyncio.sleep(200))

    async def main():
        monkeypatch.setattr(claims, "load_journals", load_journals)
        async with lab.worker(flow, lease=30) as app:
            await app.start("flow", id="r")
            await lab.until(app, "r", "waiting")
            slow.append(100)
            await asyncio.sleep(20)
            await app.client.store.apply(Operation([("declare_dead", (app.worker.number, lab.clock.now()))]))
            async with asyncio.timeout(300):
                await lab.ended(app, "r")

    lab.play(main)


@pytest.mark.parametrize("restart", [False, True])
def test_total_timeout_counts_from_the_first_attempt(lab, restart):
    """The time for all attempts would begin anew with every worker."""
    attempts = []

    def broken() -> None:
        attempts.append(current_step().attempt)
        raise ValueError

    async def flow(ctx: Context) -> None:
        await ctx.step("s", broken, retry=Retry(max_attempts=None, delay=50, backoff=1, jitter=0), total_timeout=120)

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", id="r")
            await asyncio.sleep(10)
            if not restart:
                await app.handle("r").info()
                await asyncio.sleep(300)
        async with lab.worker(flow) as app:
            ended = await lab.ended(app, "r")
            assert (type(ended.error), attempts, ended.seconds) == (StepTimedOut, [1, 2, 3], 100)

    lab.play(main)


def test_a_delayed_start(lab):
    """A run started with a delay would begin at once, or its time and deadline count from its beginning."""

    async def flow(ctx: Context) -> str:
        begun = ctx.now()
        await ctx.sleep(1000)
        return str(begun)

    async def main():
        async with lab.worker(flow) as app:
            handle = await app.start("flow", delay=60, timeout=100)
            info = await handle.info()
            assert (info.status, info.started_at) == ("queued", None)
            ended = await lab.ended(app, handle.id)
            assert (ended.seconds, ended.info.started_at.second) == (100, 40)
            assert (ended.info.started_at - ended.info.created_at).total_seconds() == 60

    lab.play(main)


def test_what_becomes_due_while_the_worker_reads_when_to_look_again(lab, monkeypatch):
    """An answer that another one has overtaken would put the worker's look off to a time that it was before."""
    real, slow = worker.look_ahead, []

    async def look_ahead(store, now):
        found = await real(store, now)
        if slow:
            await asyncio.sleep(slow.pop())
        return found

    async def main():
        monkeypatch.setattr(worker, "look_ahead", look_ahead)
        async with lab.worker(block) as app:
            await app.start("block", 0, id="tomorrow", delay=86_400)
            await asyncio.sleep(1)
            slow.append(5)
            await app.start("block", 0, id="the day after", delay=2 * 86_400)
            await asyncio.sleep(1)
            await app.start("block", 0, id="r", delay=60)
            assert 60 <= (await lab.ended(app, "r")).seconds < 70

    lab.play(main)


def test_what_becomes_due_while_a_start_has_the_last_place(lab, monkeypatch):
    """A start of what was started before gives its place back, and nobody would look who waits for it."""

    async def main():
        async with lab.worker(block, options={"concurrency": 1}) as app:
            await (await app.start("block", 0, id="before")).result()
            await app.start("block", 0, id="r", delay=10)
            await asyncio.sleep(8)
            store, loop = app.client.store, asyncio.get_running_loop()
            with monkeypatch.context() as patch:
                patch.setattr(store, "submit", partial(loop.call_later, 5, store.submit))
                again = asyncio.create_task(app.start("block", 0, id="before"))
                await asyncio.sleep(1)
            await again
            assert (await lab.ended(app, "r")).seconds < 60

    lab.play(main)


def test_more_runs_than_a_worker_takes(lab):
    """Runs beyond a worker's concurrency would be lost, or driven all the same."""
    now, most = [], []

    async def body(n: int) -> int:
        now.append(n)
        most.append(len(now))
        await asyncio.sleep(10)
        now.remove(n)
        return n

    async def flow(ctx: Context, n: int) -> int:
        return await ctx.step(body, n)

    async def main():
        async with lab.worker(flow, options={"concurrency": 3}) as app:
            handles = [await app.start("flow", n) for n in range(10)]
            assert [await handle.result() for handle in handles] == list(range(10))
            assert (max(most), lab.seconds()) == (3, 40)

    lab.play(main)


def test_leaving_lets_bodies_end_and_gives_runs_back(lab):
    """A worker that stops would cut off bodies that need a moment, begin new ones, or keep its runs."""
    ran = []

    async def body(n: int) -> int:
        ran.append(n)
        await asyncio.sleep(5)
        return n

    async def flow(ctx: Context) -> list[int]:
        return [await ctx.step(body, n) for n in range(3)]

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", id="r")
            await asyncio.sleep(1)
        assert (ran, lab.seconds()) == ([0], 5)
        async with lab.worker(flow) as app:
            info = await app.handle("r").info()
            ended = await lab.ended(app, "r")
            assert (ended.value, ran, ended.seconds, info.takeovers) == ([0, 1, 2], [0, 1, 2], 15, 0)

    lab.play(main)


def test_leaving_does_not_wait_for_ever(lab):
    """A body that takes longer than the drain time would keep its worker from stopping, or be lost."""
    ran = []

    async def body() -> str:
        ran.append(1)
        await asyncio.sleep(10_000 if len(ran) == 1 else 1)
        return "second"

    async def flow(ctx: Context) -> str:
        return await ctx.step(body)

    async def main():
        async with lab.worker(flow, options={"drain": 20}) as app:
            await app.start("flow", id="r")
            await asyncio.sleep(1)
        assert lab.seconds() == 21
        async with lab.worker(flow) as app:
            assert ((await lab.ended(app, "r")).value, len(ran)) == ("second", 2)

    lab.play(main)


def test_whoever_follows_a_run_hears_that_it_was_poison(lab):
    """I4: `--wait`, a tail and the testing kit would wait for ever for a run that has been put aside as poison."""
    options = {"most_takeovers": 3}

    async def deadly(ctx: Context) -> str:
        return await ctx.step("hold", lambda: asyncio.sleep(1000) if len(deaths) < 3 else "alive")

    async def main():
        changes = Changes()
        async with lab.app(block, lease=3, changes=changes, options=options, codec=Backwards()) as watcher:

            async def pauses() -> RunEvent:
                async with aclosing(watcher.handle("r").events()) as events:
                    return await anext(event async for event in events if event.kind == "paused")

            follows = None
            for _ in range(3):
                async with lab.app(deadly, lease=3, changes=changes, options=options, codec=Backwards()) as victim:
                    if not deaths:
                        await victim.start("deadly", id="r")
                        follows = asyncio.create_task(pauses())
                    await asyncio.sleep(10)
                    victim.worker.kill()
                    deaths.append(1)
            async with asyncio.timeout(10):
                paused = await follows
            info = await lab.until(watcher, "r", "paused")
            assert (info.reason["code"], paused.data) == ("poison", info.reason)
            assert [event.kind for event in await lab.journal(watcher, "r")] == ["paused"]
            ((stored,),) = await lab.sql(watcher, "select data from perdure_journal")
            assert stored.startswith("~backwards:")
            await watcher.client.resume("r")
        async with lab.worker(deadly, codec=Backwards()) as app:
            assert (await lab.ended(app, "r")).value == "alive"

    deaths = []
    lab.play(main)


class Backwards:
    """A codec."""

    name = "backwards"

    def encode(self, data: bytes) -> bytes:
        return data[::-1]

    decode = encode
