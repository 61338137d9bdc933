"""Pause and resume: a run comes to rest, keeps what comes meanwhile, and goes on where it was."""

import asyncio

import pytest

from perdure import Context
from perdure.engine.drive import Driver
from perdure.engine.writer import Writer
from perdure.errors import IllegalMove, RunCancelled, RunFailed, RunFinished, RunNotFound, RunTimedOut
from perdure.store.base import BaseStore
from perdure.store.operation import Operation


@pytest.mark.parametrize("cached", [0, 10])
def test_a_sleeping_run_is_paused_at_once_and_resumed(desk, cached):
    """A paused run would be woken by its timer, or go on with the coroutine of before the pause."""

    async def flow(ctx: Context) -> str:
        await ctx.step("first", desk.body("first"))
        await ctx.sleep(100)
        return await ctx.step("second", desk.body("second"))

    async def main(app):
        run = await app.start("flow", id="r")
        await asyncio.sleep(10)
        await app.client.pause("r", "lunch")
        info = await run.info()
        assert (info.status, info.owner, info.due_at, info.waiting_for) == ("paused", None, None, [])
        assert (info.reason["code"], info.reason["message"]) == ("operator", "lunch")
        await asyncio.sleep(1000)
        assert await desk.status(app, "r") == "paused"
        assert desk.ran == {"first": 1}
        await app.client.resume("r")
        assert await run.result() == "second"
        assert desk.ran == {"first": 1, "second": 1}
        kinds = ["step_completed", "timer_set", "paused", "resumed", "timer_fired", "step_completed", "completed"]
        assert await desk.kinds(app, "r") == kinds
        ((paused, resumed),) = [[event for event in await desk.events(app, "r") if event.seq in (3, 4)]]
        assert (paused.data["message"], resumed.data) == ("lunch", {})

    desk.play(main, flow, cached_runs=cached)


def test_a_running_body_ends_before_the_pause(desk):
    """A body in progress would be cut off by the pause, run again after it, or lead to the next body."""

    begun, may_end = asyncio.Event(), asyncio.Event()

    async def flow(ctx: Context) -> list[str]:
        async def long() -> str:
            desk.ran["long"] += 1
            begun.set()
            await may_end.wait()
            return "long"

        return [await ctx.step("long", long), await ctx.step("next", desk.body("next"))]

    async def main(app):
        run = await app.start("flow", id="r")
        await begun.wait()
        await app.client.pause("r")
        await asyncio.sleep(5)
        assert await desk.status(app, "r") == "running"
        may_end.set()
        await asyncio.sleep(1)
        assert await desk.status(app, "r") == "paused"
        assert desk.ran == {"long": 1}
        assert await desk.kinds(app, "r") == ["step_completed", "paused"]
        await app.client.resume("r")
        assert await run.result() == ["long", "next"]
        assert desk.ran == {"long": 1, "next": 1}

    desk.play(main, flow)


def test_a_deadline_holds_for_a_body_that_ends_before_the_pause(desk):
    """When a timer had fired meanwhile, nobody would look at the clock before the body has ended by itself."""

    async def flow(ctx: Context) -> None:
        hang = asyncio.ensure_future(ctx.step("hang", asyncio.Event().wait))
        await ctx.sleep(20)
        await hang

    async def main(app):
        run = await app.start("flow", id="r", timeout=60)
        await asyncio.sleep(10)
        await app.client.pause("r")
        async with asyncio.timeout(51):
            with pytest.raises(RunFailed) as failed:
                await run.result()
        assert isinstance(failed.value.cause, RunTimedOut)

    desk.play(main, flow)


def test_what_comes_for_a_paused_run_is_kept(desk):
    """A signal, or a child's end, that comes during a pause would be lost, or would end the pause."""

    async def child(ctx: Context) -> str:
        await ctx.sleep(50)
        return "child"

    async def flow(ctx: Context) -> list[str]:
        return await asyncio.gather(ctx.call("child"), ctx.receive("go", str))

    async def main(app):
        run = await app.start("flow", id="r")
        await asyncio.sleep(10)
        await app.client.pause("r")
        assert await app.signal("r", "go", "now")
        await asyncio.sleep(100)
        assert await desk.status(app, "r") == "paused"
        await app.client.resume("r")
        assert await run.result() == ["child", "now"]

    desk.play(main, flow, child)


def test_a_queued_run_is_paused_before_it_begins(desk):
    """A run that nobody has claimed could not be held back."""

    async def flow(ctx: Context) -> str:
        return await ctx.step("only", desk.body("only"))

    async def main(app):
        run = await app.start("flow", id="r", delay=50)
        await app.client.pause("r")
        await asyncio.sleep(100)
        assert desk.ran == {}
        await app.client.resume("r")
        assert await run.result() == "only"

    desk.play(main, flow)


def test_pausing_again_changes_nothing(desk):
    """Two operators at once would leave two entries, or the second would get an error."""

    async def flow(ctx: Context) -> str:
        return await ctx.receive("go", str)

    async def main(app):
        await app.start("flow", id="r")
        await asyncio.sleep(1)
        await asyncio.gather(*[app.client.pause("r", reason) for reason in ("one", "two", "three")])
        await app.client.pause("r", "four")
        assert (await desk.kinds(app, "r")).count("paused") == 1
        ended = await asyncio.gather(*[app.client.resume("r") for _ in range(3)], return_exceptions=True)
        assert sorted(type(error).__name__ for error in ended) == ["IllegalMove", "IllegalMove", "NoneType"]
        assert (await desk.kinds(app, "r")).count("resumed") == 1
        await app.signal("r", "go", "on")
        assert await app.handle("r").result() == "on"

    desk.play(main, flow)


def test_an_old_request_to_pause_does_not_outlive_the_pause(desk):
    """A request that committed together with the pause itself would pause the run again when it is resumed."""

    async def flow(ctx: Context) -> str:
        return await ctx.receive("go", str)

    async def main(app):
        await app.start("flow", id="r")
        await asyncio.sleep(1)
        await app.client.pause("r")
        late = ("send", ("r", "control:pause", None, '"late"', desk.clock.now()))
        assert await app.client.store.apply(Operation([late]))
        await app.client.resume("r")
        await asyncio.sleep(1)
        assert await desk.status(app, "r") == "waiting"
        await app.signal("r", "go", "on")
        assert await app.handle("r").result() == "on"

    desk.play(main, flow)


@pytest.mark.parametrize("moment", [99.9999, 100, 100.0001])
def test_a_pause_at_the_moment_of_waking(desk, moment):
    """A run that is claimed just while it is paused would be paused and go on at once, or be lost."""

    async def flow(ctx: Context) -> str:
        await ctx.sleep(100)
        await ctx.sleep(100)
        return "awake"

    async def main(app):
        runs = [await app.start("flow") for _ in range(5)]
        await asyncio.sleep(moment)
        await asyncio.gather(*[app.client.pause(run.id) for run in runs])
        await asyncio.sleep(1)
        assert {await desk.status(app, run.id) for run in runs} == {"paused"}
        await asyncio.sleep(1000)
        for run in runs:
            await app.client.resume(run.id)
        assert await asyncio.gather(*[run.result() for run in runs]) == ["awake"] * 5

    desk.play(main, flow)


def test_a_paused_run_can_be_cancelled(desk):
    """Whoever pauses a run and then gives it up would have to resume it first."""

    async def flow(ctx: Context) -> None:
        await ctx.sleep(1000)

    async def main(app):
        run = await app.start("flow", id="r")
        await asyncio.sleep(1)
        await app.client.pause("r")
        await app.cancel("r", "enough")
        with pytest.raises(RunCancelled, match="enough"):
            await run.result()

    desk.play(main, flow)


def test_a_run_that_is_about_to_pause_can_be_cancelled(desk):
    """Whoever cancels a run that was asked to pause would find it paused, and never ended."""
    may_end = asyncio.Event()

    async def flow(ctx: Context) -> None:
        try:
            await ctx.step("hang", may_end.wait)
        finally:
            await ctx.step("clean up", desk.body("clean up"))

    async def main(app):
        run = await app.start("flow", id="r")
        await asyncio.sleep(1)
        await app.client.pause("r")
        await app.cancel("r")
        with pytest.raises(RunCancelled):
            await run.result()
        assert desk.ran == {"clean up": 1}

    desk.play(main, flow)


def test_a_run_that_is_being_paused_can_be_cancelled(desk, monkeypatch):
    """A request that is stored before the pause is, and after it was decided, would be heard when somebody resumes."""
    real = Writer.send

    def send(writer, record, written):
        late = any(name == "pause_own" for name, _ in record.lines)
        asyncio.get_running_loop().call_later(5 * late, real, writer, record, written)

    async def flow(ctx: Context) -> None:
        await ctx.step(asyncio.sleep, 5)
        await ctx.step("hang", asyncio.Event().wait)

    async def main(app):
        monkeypatch.setattr(Writer, "send", send)
        run = await app.start("flow", id="r")
        await asyncio.sleep(1)
        await app.client.pause("r")
        await asyncio.sleep(6)
        await app.cancel("r")
        async with asyncio.timeout(60):
            with pytest.raises(RunCancelled):
                await run.result()

    desk.play(main, flow)


def slow_pauses(monkeypatch):
    """Let it take 5 seconds until a pause of the worker's own is stored; returns how many there were."""
    real, paused = BaseStore.submit, []

    def submit(store, operation, done):
        if any(name == "pause_own" for name, _ in operation.lines):
            paused.append(1)
            asyncio.get_running_loop().call_later(5, real, store, operation, done)
        else:
            real(store, operation, done)

    monkeypatch.setattr(BaseStore, "submit", submit)
    return paused


@pytest.mark.parametrize("why", ["divergence", "mistake"])
def test_a_run_that_is_being_put_aside_can_be_cancelled(desk, monkeypatch, why):
    """As above, for a run whose code has changed, and for one that perdure cannot go on with."""
    paused = slow_pauses(monkeypatch)

    async def flow(ctx: Context) -> None:
        await ctx.step("was" if changed == [False] or why == "mistake" else "is", lambda: None)
        await ctx.sleep(10)
        await ctx.receive("never")

    def fail(*_):
        raise RuntimeError("a mistake of ours")

    changed = [False]

    async def main(app):
        run = await app.start("flow", id="r")
        await asyncio.sleep(1)
        changed.append(True)
        with monkeypatch.context() as broken:
            if why == "mistake":
                broken.setattr(Driver, "_wake", fail)
            await asyncio.sleep(11)
        assert len(paused) == 1
        await app.cancel("r")
        async with asyncio.timeout(60):
            with pytest.raises(RunCancelled):
                await run.result()
        assert len(paused) == 1

    desk.play(main, flow)


def test_a_run_that_cannot_even_end_is_put_aside_for_good(desk, monkeypatch):
    """It would be claimed and put aside again and again, as often as the database can."""
    paused = slow_pauses(monkeypatch)

    async def flow(ctx: Context) -> None:
        await ctx.receive("never")

    def fail(*_):
        raise RuntimeError("a mistake of ours")

    async def main(app):
        with monkeypatch.context() as broken:
            broken.setattr(Driver, "_wake", fail)
            run = await app.start("flow", id="r")
            await asyncio.sleep(1)
            await app.cancel("r")
            await asyncio.sleep(100)
            assert (len(paused), (await run.info()).status) == (2, "paused")
        await app.client.resume("r")
        async with asyncio.timeout(60):
            with pytest.raises(RunCancelled):
                await run.result()

    desk.play(main, flow)


def test_what_cannot_be_paused_or_resumed(desk):
    """A run that has ended or is ending would be disturbed, or the caller would not learn why not."""

    async def flow(ctx: Context) -> None:
        try:
            await ctx.receive("never")
        finally:
            await ctx.sleep(20)

    async def quick(ctx: Context) -> None:
        pass

    async def main(app):
        with pytest.raises(RunNotFound):
            await app.client.pause("nobody")
        with pytest.raises(RunNotFound):
            await app.client.resume("nobody")
        await app.start("flow", id="r")
        await asyncio.sleep(1)
        with pytest.raises(IllegalMove, match="waiting"):
            await app.client.resume("r")
        await app.cancel("r")
        await asyncio.sleep(1)
        with pytest.raises(IllegalMove, match="cancelling"):
            await app.client.pause("r")
        await (await app.start("quick", id="q")).result()
        with pytest.raises(RunFinished):
            await app.client.pause("q")
        with pytest.raises(IllegalMove, match="completed"):
            await app.client.resume("q")
        await asyncio.sleep(100)
        assert await desk.status(app, "r") == "cancelled"

    desk.play(main, flow, quick)


def test_a_diverged_run_goes_on_without_the_entry_it_stumbled_over(desk):
    """An operator who knows that a removed step does not matter could not get the run over it."""

    async def flow(ctx: Context) -> str:
        await ctx.step("gone", desk.body("gone"))
        await ctx.sleep(100)
        return await ctx.step("last", desk.body("last"))

    async def changed(ctx: Context) -> str:
        await ctx.sleep(100)
        return await ctx.step("last", desk.body("last"))

    changed.__name__ = "flow"

    async def before(app):
        await app.start("flow", id="r")
        await asyncio.sleep(10)
        await app.client.pause("r")
        with pytest.raises(IllegalMove, match="diverge"):
            await app.client.resume("r", skip=True)

    async def after(app):
        await app.client.resume("r")
        await asyncio.sleep(1)
        info = await app.handle("r").info()
        assert (info.status, info.reason["code"], info.reason["seq"]) == ("paused", "divergence", 1)
        await app.client.resume("r", skip=True)
        assert await app.handle("r").result() == "last"
        assert await desk.data(app, "r", "skipped") == [{"seq": 1}]
        assert desk.ran == {"gone": 1, "last": 1}

    desk.play(before, flow)
    desk.play(after, changed)


def test_a_run_of_a_dead_worker_is_paused_by_the_next_one(desk):
    """A request to pause that the worker did not live to see would be forgotten at the take-over."""

    never = asyncio.Event()

    async def flow(ctx: Context) -> str:
        async def hang() -> str:
            desk.ran["hang"] += 1
            if desk.ran["hang"] == 1:
                await never.wait()
            return "done"

        return await ctx.step("hang", hang)

    async def main(app):
        await app.start("flow", id="r")
        await asyncio.sleep(1)
        app.worker.kill()
        await app.client.pause("r")
        async with desk.app(flow) as other:
            await asyncio.sleep(3 * 86_400)
            assert await desk.status(other, "r") == "paused"
            assert desk.ran == {"hang": 1}
            await other.client.resume("r")
            assert await other.handle("r").result() == "done"

    desk.play(main, flow, healthy=False)
