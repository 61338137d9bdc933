"""The same id is the same run: what it has done is replayed, whoever calls, on every store."""

import asyncio
from datetime import UTC, datetime

import pytest

from perdure import (
    LeaseHeld,
    ManifestMismatch,
    ReceiveTimedOut,
    RunCancelled,
    RunFailed,
    RunPaused,
    StartConflict,
    Status,
    Suspended,
    Terminal,
    run_durable,
)
from perdure.errors import ArgumentsChanged, Divergence, InvalidOption, StoreClosed


def test_the_second_call_gives_the_first_ones_result(place):
    """S1 S7 R2 R19 D1 S22 S34: a finished call would be executed, and billed, again."""

    async def work(ctx):
        parts = [await ctx.step(name, place.body(name)) for name in ("a", "b")]
        return "".join(parts)

    async def main():
        first = await place.call("r", work, manifest={"job": 1})
        second = await place.call("r", work, manifest={"job": 1})
        assert first.result == second.result == "ab"
        assert place.ran == {"a": 1, "b": 1}
        assert first.record.status == Status.COMPLETED
        assert first.record.finished_at == second.record.finished_at
        assert [(step.key, step.sort, step.status, step.value) for step in second.steps] == [
            ("a", "step", "completed", "a"), ("b", "step", "completed", "b"),
        ]  # fmt: skip
        assert first.steps == second.steps

    place.play(main)


def test_another_manifest_is_refused(place):
    """S2 I6 I7 E2 E1: two jobs that share an id by mistake would share their results."""

    async def work(ctx):
        return await ctx.step("a", place.body("a"))

    async def main():
        await place.call("r", work, manifest={"input": {"x": 1, "y": [1, 2]}, "task": "t"}, tags=["one"])
        await place.call("r", work, manifest={"task": "t", "input": {"y": [1, 2], "x": 1}}, tags=["two"])
        for other in (
            {"input": {"x": 1, "y": [2, 1]}, "task": "t"},
            None,
            {"input": {"x": 1.0, "y": [1, 2]}, "task": "t"},
        ):
            with pytest.raises(ManifestMismatch) as refused:
                await place.call("r", work, manifest=other)
            assert refused.value.recorded != refused.value.given
        assert place.ran == {"a": 1}

    place.play(main)


def test_another_manifest_is_told_before_the_lease(place):
    """S2: whoever has the wrong job would wait for the lease of the right one first."""
    go = asyncio.Event()

    async def work(ctx):
        await ctx.step("a", go.wait)

    async def main():
        async with place.process() as one, place.process() as other:
            holding = asyncio.create_task(run_durable("r", work, store=one, manifest=1))
            await asyncio.sleep(0.1)
            with pytest.raises(ManifestMismatch):
                await run_durable("r", work, store=other, manifest=2)
            with pytest.raises(LeaseHeld):
                await run_durable("r", work, store=other, manifest=1)
            go.set()
            await holding

    place.play(main)


def test_a_second_executor_is_refused_with_holder_and_deadline(place):
    """S3 T7: two processes would execute one run, or the second would not know whom to wait for."""
    go = asyncio.Event()

    async def work(ctx):
        await ctx.step("a", go.wait)
        return await ctx.step("b", place.body("b"))

    async def main():
        async with place.process() as one, place.process() as other:
            holding = asyncio.create_task(run_durable("r", work, store=one))
            await asyncio.sleep(0.1)
            with pytest.raises(LeaseHeld) as held:
                await run_durable("r", work, store=other)
            assert held.value.holder == one.worker.id
            assert datetime.fromisoformat(held.value.until) > datetime.fromtimestamp(place.clock.now() / 1e6, UTC)
            with pytest.raises(LeaseHeld):
                await run_durable("r", work, store=other, wait=5)
            assert 5 <= place.seconds() < 6
            waiting = asyncio.create_task(run_durable("r", work, store=other, wait=None))
            await asyncio.sleep(1)
            go.set()
            assert (await holding).result == (await waiting).result == "b"
        assert place.ran == {"b": 1}

    place.play(main)


def test_a_caller_that_leaves_gives_the_run_back(place):
    """R17: a cancelled call would go on in secret, or hold the run until its lease ends."""
    begun, ended = asyncio.Event(), []

    async def slow():
        begun.set()
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def work(ctx):
        await ctx.step("a", place.body("a"))
        if not ended:
            await ctx.step("slow", slow)
        return await ctx.step("slow", place.body("quick"))

    async def main():
        async with place.process() as app:
            call = asyncio.create_task(run_durable("r", work, store=app))
            await begun.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (await run_durable("r", work, store=app, wait=5)).result == "quick"
        assert ended == ["cancelled"]
        assert place.ran == {"a": 1, "quick": 1}
        assert place.seconds() < 10

    place.play(main)


def test_a_failed_run_is_failed(place):
    """R5 R19: a job that has failed would be executed again by each caller that only wants to know."""

    def fail():
        place.ran["pay"] += 1
        raise ValueError("no money")

    async def work(ctx):
        await ctx.step("pay", fail)

    async def main():
        for _ in range(2):
            error = await place.failure("r", work)
            assert (type(error), str(error)) == (ValueError, "no money")
        assert place.ran == {"pay": 1}

    place.play(main)


def test_a_failed_run_goes_on_where_it_failed_when_asked(place):
    """S6 S14 R6 I6 M2: it would pay twice, branch otherwise than before, or read as failed while it is executed."""
    seen = []

    def sold_out():
        place.ran["reserve"] += 1
        raise Terminal("sold out")

    async def flaky(app):
        place.ran["flaky"] += 1
        if place.ran["flaky"] < 3:
            raise ValueError("down")
        seen.append((await app.handle("r").info()).status)
        return "up"

    def make(app):
        async def work(ctx):
            await ctx.step("a", place.body("a"))
            try:
                way = await ctx.step("reserve", sold_out)
            except Terminal as error:
                way = f"waiting list: {error}"
            return f"{way}, {await ctx.step('flaky', lambda: flaky(app))}"

        return work

    async def call(**options):
        async with place.process() as app:
            return await run_durable("r", make(app), store=app, **options)

    async def main():
        for again in (False, True):
            with pytest.raises(RunFailed, match="down"):
                await call(again=again)
        done = await call(again=True)
        assert done.result == "waiting list: sold out, up"
        assert seen == [Status.RUNNING]
        assert place.ran == {"a": 1, "reserve": 1, "flaky": 3}
        assert [(step.key, step.status) for step in done.steps] == [
            ("a", "completed"), ("reserve", "failed"), ("flaky", "completed"),
        ]  # fmt: skip
        assert isinstance(done.steps[1].error, Terminal)
        assert done.record.generation == 3
        assert (await call(again=True)).record.generation == 3, "it has completed: there is nothing to do again"

    place.play(main)


def test_again_is_about_what_was_before_the_call(place):
    """A first call with again=True would be executed twice when it fails at once."""

    def fail():
        place.ran["fail"] += 1
        raise ValueError("no")

    async def at_once(ctx):
        place.ran["begun"] += 1
        raise ValueError("no")

    async def work(ctx):
        await ctx.step("fail", fail)

    async def main():
        for n, fn in enumerate([work, at_once]):
            assert isinstance(await place.failure(f"r{n}", fn, again=True), ValueError)
        assert place.ran == {"fail": 1, "begun": 1}

    place.play(main)


def test_a_function_that_failed_by_itself_replays_everything(place):
    """A repaired function would do finished steps again."""

    def make(*, broken):
        async def work(ctx):
            first = await ctx.step("a", place.body("a"))
            if broken:
                raise KeyError(first)
            return first + await ctx.step("b", place.body("b"))

        return work

    async def main():
        assert isinstance(await place.failure("r", make(broken=True)), KeyError)
        assert (await place.call("r", make(broken=False), again=True)).result == "ab"
        assert place.ran == {"a": 1, "b": 1}

    place.play(main)


def test_a_wait_that_was_over_is_waited_for_again(place):
    """Asked again, it would be over again at once, for ever."""

    async def work(ctx):
        return await ctx.receive("approval", timeout=3600)

    async def main():
        assert isinstance(await place.failure("r", work), ReceiveTimedOut)
        async with place.process() as app:
            again = asyncio.create_task(run_durable("r", work, store=app, again=True))
            await asyncio.sleep(1800)
            await app.signal("r", "approval", "late")
            assert (await again).result == "late"

    place.play(main)


def test_reordered_steps_are_found_with_their_place_and_both_labels(place):
    """R1 R3 S15 I9 R13: a result would be given to another step than the one that it is of."""

    def make(*names):
        async def work(ctx):
            for name in names:
                await ctx.step(name, place.body(name))
            return await ctx.receive("end")

        return work

    async def main():
        assert isinstance(await place.call("r", make("a", "b"), suspend=True), Suspended)
        async with place.process() as app:
            await app.signal("r", "end", 1)
        with pytest.raises(Divergence) as found:
            await place.call("r", make("b", "a"))
        assert not isinstance(found.value, ArgumentsChanged)
        assert found.value.seq == 1
        assert "'a'" in found.value.recorded
        assert any("'b'" in asked for asked in found.value.requested)
        assert place.ran == {"a": 1, "b": 1}
        # The code is put right again: nobody has to resume anything.
        assert (await place.call("r", make("a", "b"))).result == 1
        assert place.ran == {"a": 1, "b": 1}

    place.play(main)


def test_steps_that_are_missing_are_found(place):
    """R9: trailing steps that were removed would go unnoticed."""

    async def before(ctx):
        await ctx.step("a", place.body("a"))
        await ctx.step("b", place.body("b"))
        await ctx.receive("end")

    async def after(ctx):
        await ctx.step("a", place.body("a"))

    async def main():
        await place.call("r", before, suspend=True)
        async with place.process() as app:
            await app.signal("r", "end")
        with pytest.raises(Divergence, match="'b'"):
            await place.call("r", after)

    place.play(main)


def test_changed_arguments_are_found(place):
    """R8 E3: the result for one customer would be given out for another."""

    def charge(cents):
        place.ran[cents] += 1

    def make(cents):
        async def work(ctx):
            await ctx.step(charge, cents)
            await ctx.receive("end")

        return work

    async def main():
        await place.call("r", make(100), suspend=True)
        async with place.process() as app:
            await app.signal("r", "end")
        with pytest.raises(ArgumentsChanged, match="charge"):
            await place.call("r", make(200))
        await place.call("r", make(100))
        assert place.ran == {100: 1}

    place.play(main)


def test_time_and_chance_are_the_same_on_replay(place):
    """R10: a replay would branch on another date, or pay under another key."""
    seen = []

    async def work(ctx):
        await ctx.step("a", place.body("a"))
        seen.append((ctx.now(), ctx.uuid(), ctx.random().random()))
        await ctx.receive("end", timeout=3600, default=None)
        seen.append((ctx.now(), ctx.uuid(), ctx.random().random()))

    async def main():
        await place.call("r", work, suspend=True)
        await asyncio.sleep(600)
        await place.call("r", work)

    place.play(main)
    assert len(seen) == 3
    assert seen[0] == seen[1]
    assert seen[2][0] > seen[1][0]
    assert not set(seen[2][1:]) & set(seen[1][1:])


def test_what_is_returned_is_what_a_replay_returns(place):
    """R4 I5 S21 S33: code that works on the first execution would break on the second one."""
    kinds = []

    async def work(ctx):
        value = await ctx.step("a", lambda: {"at": (1, 2), "when": datetime(2026, 1, 1, tzinfo=UTC)})
        kinds.append([type(part) for part in value.values()])
        await ctx.receive("end")

    async def main():
        await place.call("r", work, suspend=True)
        async with place.process() as app:
            await app.signal("r", "end")
        await place.call("r", work)

    place.play(main)
    assert len(kinds) == 2
    assert kinds[0] == kinds[1]


def test_plain_functions_too(place):
    """A script without async could not use it."""

    def work(ctx):
        first = ctx.step("a", place.body("a"))
        ctx.sleep(3600)
        return [first, ctx.receive("end", timeout=5, default="none came")]

    async def main():
        assert (await place.call("r", work)).result == ["a", "none came"]
        assert (await place.call("r", work)).result == ["a", "none came"]
        assert place.ran == {"a": 1}

    place.play(main)


def test_a_waiting_run_has_no_owner_and_needs_no_process(place):
    """R12 M4: each waiting run would keep a process busy, and a restart would begin its timeout anew."""

    async def work(ctx):
        await ctx.step("a", place.body("a"))
        return await ctx.receive("approval", timeout=3600)

    async def main():
        first = await place.call("r", work, suspend=True)
        assert isinstance(first, Suspended)
        assert (first.waiting_for, first.record.status, first.record.owner) == (["signal:approval"], "waiting", None)
        assert [step.key for step in first.steps] == ["a"]
        await asyncio.sleep(1800)
        second = await place.call("r", work, suspend=True)
        assert (second.until, second.waiting_for) == (first.until, first.waiting_for)
        await asyncio.sleep(1801)
        assert isinstance(await place.failure("r", work), ReceiveTimedOut)
        assert 3600 < place.seconds() < 3603
        assert place.ran == {"a": 1}

    place.play(main)


def test_a_caller_that_sits_it_out_holds_nothing_either(place):
    """A message from elsewhere would not reach a run whose caller waits for it, or only after a poll."""

    async def work(ctx):
        return await ctx.receive("approval")

    async def main():
        async with place.process() as app:
            sitting = asyncio.create_task(run_durable("r", work, store=app))
            await asyncio.sleep(3600)
            assert (await app.handle("r").info()).owner is None
            sent = place.seconds()
            async with place.process() as other:
                await other.signal("r", "approval", "yes")
            assert (await sitting).result == "yes"
            assert place.seconds() - sent < 1

    place.play(main)


def test_a_cancelled_run_says_so_and_goes_on_when_asked(place):
    """A run that an operator has ended would be executed by the next call as if nothing had happened."""

    async def work(ctx):
        await ctx.step("a", place.body("a"))
        return await ctx.receive("end", timeout=60, default="time")

    async def main():
        await place.call("r", work, suspend=True)
        async with place.process() as app:
            await app.cancel("r", "not now")
        for _ in range(2):
            with pytest.raises(RunCancelled, match="not now"):
                await place.call("r", work)
        assert (await place.call("r", work, again=True)).result == "time"
        assert place.ran == {"a": 1}

    place.play(main)


def test_an_operators_pause_holds_until_it_is_overruled(place):
    """A call would undo what an operator has decided."""

    async def work(ctx):
        return await ctx.receive("end", timeout=60, default="time")

    async def main():
        await place.call("r", work, suspend=True)
        async with place.process() as app:
            await app.client.pause("r", "look at it first")
        with pytest.raises(RunPaused, match="look at it first") as paused:
            await place.call("r", work)
        assert paused.value.reason == "operator"
        assert (await place.call("r", work, again=True)).result == "time"

    place.play(main)


def test_a_deadline_counts_from_the_first_call(place):
    """A run without end would be given its whole time again by each call."""

    async def work(ctx):
        await ctx.sleep(7200)

    async def main():
        await place.call("r", work, suspend=True, timeout=3600)
        await asyncio.sleep(3000)
        await place.failure("r", work, timeout=3600)
        assert 3600 <= place.seconds() < 3700

    place.play(main)


def test_a_history_that_would_grow_is_begun_anew(place):
    """A function that runs for ever would come to the limit of its history, or lose its manifest on the way."""

    async def work(ctx):
        n = await ctx.step("count", place.body("count", place.ran["count"] + 1))
        await ctx.sleep(60)
        if n < 4:
            ctx.continue_as_new()
        return n

    async def main():
        done = await place.call("r", work, manifest={"job": 1})
        assert done.result == 4
        assert len(done.steps) == 2, "only the last round's"
        with pytest.raises(ManifestMismatch):
            await place.call("r", work, manifest={"job": 2})
        assert (await place.call("r", work, manifest={"job": 1})).result == 4
        assert place.ran == {"count": 4}

    place.play(main)


def test_children_of_the_apps_workflows(place):
    """A durable call could not hand work to workflows."""

    async def double(ctx, n: int) -> int:
        return 2 * n

    async def work(ctx):
        return await ctx.call("double", 21)

    async def main():
        async with place.process() as app:
            app.workflow(double)
            assert (await run_durable("r", work, store=app)).result == 42

    place.play(main)


def test_ordinary_workers_leave_them_alone(place):
    """A worker without the function would take the run, and put it aside as unknown."""

    async def work(ctx):
        return await ctx.receive("go")

    async def main():
        await place.call("r", work, suspend=True)
        async with place.process() as app:
            await app.signal("r", "go", 1)
            await asyncio.sleep(120)
            info = await app.handle("r").info()
            assert info.status in {Status.WAITING, Status.QUEUED}
            assert info.owner is None
            assert "run_durable" in info.stuck
            findings = await app.client.doctor()
            assert [found.code for found in findings if found.severity != "note"] == []
            assert any(found.code == "lone" for found in findings)
        assert (await place.call("r", work)).result == 1

    place.play(main)


def test_an_id_of_a_workflows_run_is_refused(place):
    """A call would answer with the result of something else."""

    async def other(ctx) -> int:
        return 1

    async def main():
        async with place.process() as app:
            app.workflow(other)
            await (await app.start("other", id="r")).result()
            with pytest.raises(StartConflict, match="workflow 'other'"):
                await run_durable("r", lambda ctx: 1, store=app)

    place.play(main)


@pytest.mark.parametrize(
    "fn", [3, lambda: 1, lambda ctx, more: 1, lambda ctx, *, more: 1], ids=["none", "no context", "more", "keyword"]
)
def test_what_cannot_be_executed_is_refused(place, fn):
    """The mistake would be stored as a failed run."""

    async def main():
        with pytest.raises(InvalidOption, match="fn"):
            await place.call("r", fn)

    place.play(main)


def test_a_coroutine_in_disguise_is_refused(place):
    """`lambda ctx: work(ctx, 1)` would store the name of a coroutine as the result."""

    async def work(ctx, n):
        return n

    async def main():
        assert isinstance(await place.failure("r", lambda ctx: work(ctx, 1)), InvalidOption)

    place.play(main)


def test_an_app_that_cannot_execute_is_refused(shared):
    """The call would wait for a worker that nobody has started."""

    async def main():
        app = shared.app()
        with pytest.raises(StoreClosed):
            await run_durable("r", lambda ctx: 1, store=app)
        async with app.connected():
            with pytest.raises(InvalidOption, match="worker"):
                await run_durable("r", lambda ctx: 1, store=app)

    shared.play(main)


def test_a_database_in_memory_needs_an_app():
    """What a call has done would be gone with it, without a word."""
    with pytest.raises(InvalidOption, match="memory"):
        asyncio.run(run_durable("r", lambda ctx: 1, store="sqlite://"))
