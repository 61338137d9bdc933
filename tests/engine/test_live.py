"""What steps emit while they run: in the journal at once, in order, fenced, bounded, and no part of any replay."""

import asyncio
import random
import statistics
import threading
from datetime import timedelta

import pytest

from perdure import Limits, Retry, Step, Terminal, Transaction, current_step
from perdure.engine.definition import StepOptions
from perdure.errors import NotInWorkflow, NotSerializable, Overloaded, PayloadTooLarge, StepOver, TooManyEntries
from perdure.store.operation import Operation

EMITTED = "step_emitted"


def emitted(events, key=None):
    return [event.data["value"] for event in events if event.kind == EMITTED and key in {None, event.key}]


def test_events_come_before_their_steps_outcome(lab):
    """A reader would be told that a step is done, and then get more of it."""

    async def talk():
        step = current_step()
        for word in ("to", "be"):
            step.emit("word", word)
        await asyncio.sleep(1)
        step.emit("word", "or")
        return "not"

    async def flow(ctx):
        return await ctx.step(talk)

    ended = lab.finish(flow)
    assert ended.value == "not"
    assert [(e.seq, e.kind, e.key, e.attempt) for e in ended.events] == [
        (1, EMITTED, "talk", 1), (2, EMITTED, "talk", 1), (3, EMITTED, "talk", 1),
        (4, "step_completed", "talk", 1), (5, "completed", "", None),
    ]  # fmt: skip
    assert ended.data(EMITTED)[0] == {"topic": "word", "value": "to"}
    assert ended.times(EMITTED) == [0, 0, 1]


def test_readers_see_them_while_the_step_runs(lab):
    """A token would reach its reader with the whole answer only."""

    async def talk():
        for n in range(3):
            current_step().emit("n", n)
            await asyncio.sleep(10)

    async def flow(ctx):
        await ctx.step(talk)

    async def main():
        async with lab.worker(flow) as app:
            run = await app.start("flow")
            return [(event.kind, lab.seconds()) async for event in run.events()]

    seen = lab.play(main)
    assert [kind for kind, _ in seen] == [EMITTED] * 3 + ["step_completed", "completed"]
    assert all(abs(at - 10 * n) < 0.02 for n, (_, at) in enumerate(seen[:3])), seen


@pytest.mark.parametrize("pause", [0, 10], ids=["quick", "slow"])
def test_readers_are_handed_what_is_committed(lab, pause):
    """Each reader of an answer would read each of its words from the store; a slow one would miss some or stall."""
    asked = []

    async def talk():
        for n in range(300):
            current_step().emit("n", n)
            await asyncio.sleep(1)

    async def flow(ctx):
        await ctx.step(talk)

    async def main():
        async with lab.worker(flow) as app:
            rows = app.client.store.rows

            async def counted(name, *parameters):
                asked.append(name)
                return await rows(name, *parameters)

            app.client.store.rows = counted
            run, seen = await app.start("flow"), []
            async for event in run.events():
                seen.append(event)
                await asyncio.sleep(pause)
            return seen

    seen = lab.play(main)
    assert emitted(seen) == list(range(300))
    assert [event.seq for event in seen] == list(range(1, 303))
    assert asked.count("entries") < 10


def test_a_plain_function_emits_from_its_thread(lab):
    """A step that is no coroutine could not tell how far it is."""

    def talk():
        step = current_step()
        helpers = [threading.Thread(target=step.emit, args=("n", n)) for n in range(20)]
        for helper in helpers:
            helper.start()
        for helper in helpers:
            helper.join()
        return "done"

    async def flow(ctx):
        return await ctx.step(talk)

    ended = lab.finish(flow)
    assert sorted(emitted(ended.events)) == list(range(20))
    assert ended.events[-2].kind == "step_completed"


def test_a_failed_attempts_events_stay_and_say_whose_they_are(lab):
    """A reader could not tell the second attempt's text from the first one's, or would lose what it has read."""

    async def talk():
        step = current_step()
        step.emit("try", step.attempt)
        if step.attempt < 3:
            raise OSError("cut off")

    talk_on = Step(talk, StepOptions(retry=Retry(max_attempts=3, delay=5, jitter=0)))

    async def flow(ctx):
        await ctx.step(talk_on)

    ended = lab.finish(flow)
    assert [(e.kind, e.attempt) for e in ended.events[:-1]] == [
        (EMITTED, 1), ("attempt_failed", 1), (EMITTED, 2), ("attempt_failed", 2), (EMITTED, 3), ("step_completed", 3),
    ]  # fmt: skip


def test_a_take_over_goes_on_behind_them(lab):
    """The next worker would give an entry a number that is taken, and never store anything."""
    bodies = []

    async def talk():
        bodies.append(current_step().attempt)
        for n in range(5):
            current_step().emit("n", n)
        if len(bodies) == 1:
            await current_step().flush()
            lab.die()
            await asyncio.sleep(10)
        return "done"

    async def flow(ctx):
        await ctx.step("before", lambda: 1)
        return await ctx.step(talk)

    ended = lab.survive(flow)
    assert ended.value == "done"
    assert [e.seq for e in ended.events] == list(range(1, len(ended.events) + 1))
    assert emitted(ended.events) == [*range(5), *range(5)]


def test_flush_waits_until_it_is_durable(lab):
    """Whoever sends something out after a flush could tell of what a crash then takes back."""
    found = []

    async def talk():
        step = current_step()
        step.emit("n", 1)
        await step.flush()
        found.extend(await lab.sql(lab.working, "select count(*) from perdure_journal where kind = ?", EMITTED))
        await step.flush()  # nothing waits: at once

    async def flow(ctx):
        await ctx.step(talk)

    async def main():
        async with lab.worker(flow) as app:
            lab.working = app
            await (await app.start("flow")).result()

    lab.play(main)
    assert found == [(1,)]


def test_many_steps_share_a_commit(lab):
    """2,000 tokens a second would cost 2,000 fsyncs: at most one in 20 entries is allowed."""

    async def talk(start):
        await asyncio.sleep(start)
        for n in range(200):
            current_step().emit("token", n)
            await asyncio.sleep(0.025)
        await over.wait()

    async def flow(ctx):
        # 50 steps, one token every 25 ms each, spread evenly: 2,000 a second
        await asyncio.gather(*(ctx.step(talk, n * 0.0005) for n in range(50)))

    async def main():
        async with lab.worker(flow) as app:
            run = await app.start("flow", id="r")
            before = app.client.store.commits
            await asyncio.sleep(6)
            commits = app.client.store.commits - before
            over.set()
            await run.result()
            return len(emitted(await lab.journal(app, "r"))), commits

    over = asyncio.Event()
    entries, commits = lab.play(main)
    assert entries == 10_000
    assert commits <= 500, commits


async def tell(lab, late, count):
    """Emit every 25 ms, and note how long each took to be stored."""
    for n in range(count):
        asked = lab.clock.now()
        current_step().emit("n", n)
        await current_step().flush()
        late.append(lab.clock.now() - asked)
        await asyncio.sleep(0.025)


@pytest.mark.parametrize(("steps", "median_us", "most_us"), [(10, 0, 500), (25, 2_000, 12_000)])
def test_few_steps_wait_less(lab, steps, median_us, most_us):
    """Ten answers that stream at the same time would each be as late as if there were fifty."""
    late = []

    async def talk(start):
        await asyncio.sleep(start)
        await tell(lab, late, 80)

    async def flow(ctx):
        chance = random.Random(5)
        await asyncio.gather(*(ctx.step(talk, chance.uniform(0, 0.1)) for _ in range(steps)))

    lab.finish(flow)
    assert len(late) == 80 * steps
    assert statistics.median(late) <= median_us, statistics.median(late)
    assert max(late) <= most_us


def test_a_lone_stream_does_not_wait(lab):
    """One reader of one stream would wait for company that does not come."""
    late = []

    async def talk():
        await tell(lab, late, 20)

    async def flow(ctx):
        await ctx.step(talk)

    lab.finish(flow)
    assert late[:20] == [0] * 20


def test_a_replay_does_not_load_them(lab):
    """A run that has streamed a book would read it again on every wake-up, and a history's limit would end it."""
    loaded = []

    async def talk():
        for n in range(500):
            current_step().emit("n", n)

    async def flow(ctx):
        for _ in range(3):
            await ctx.step(talk)
            await ctx.sleep(60)
        return "done"

    async def main():
        async with lab.worker(flow, limits=Limits(history_entries=20)) as app:
            rows = app.client.store.rows

            async def watched(name, *parameters):
                found = await rows(name, *parameters)
                if name == "history":
                    loaded.append(len(found))
                return found

            app.client.store.rows = watched
            return await (await app.start("flow")).result()

    assert lab.play(main) == "done"
    assert loaded
    assert max(loaded) < 20


def test_a_rerun_and_a_fork_leave_them_out(lab):
    """A fork would hand readers half a text of a step that it does again."""

    async def talk():
        current_step().emit("n", 1)
        return 1

    async def flow(ctx):
        return [await ctx.step(talk), await ctx.step(talk)]

    async def main():
        async with lab.worker(flow) as app:
            run = await app.start("flow", id="r")
            await run.result()
            await app.client.fork("r", before="talk#2", id="f")
            await app.handle("f").result()
            await app.client.rerun("r", before="talk#2")
            assert await run.result() == [1, 1]
            return [[e.kind for e in await lab.journal(app, each)] for each in ("r", "f")]

    run, fork = lab.play(main)
    once = [EMITTED, "step_completed"]
    assert run == [*once, *once, "completed", "rerun", *once, "completed"]
    assert fork == ["step_completed", "forked", *once, "completed"]


def test_continue_as_new_forgets_them(lab):
    """A run without end would keep every token it ever sent."""

    async def talk():
        current_step().emit("n", 1)

    async def flow(ctx, left: int):
        await ctx.step(talk)
        return ctx.continue_as_new(left - 1) if left else "done"

    async def main():
        async with lab.worker(flow) as app:
            await (await app.start("flow", 3, id="r")).result()
            return [e.kind for e in await lab.journal(app, "r")]

    assert lab.play(main) == ["continued", EMITTED, "step_completed", "completed"]


def test_a_cancelled_run_keeps_what_was_said(lab):
    """Who stops an answer would lose the words that came just before."""

    async def talk():
        current_step().emit("n", 1)
        await asyncio.sleep(0.001)
        current_step().emit("n", 2)
        await asyncio.sleep(1000)

    async def flow(ctx):
        await ctx.step(talk)

    async def main():
        async with lab.worker(flow) as app:
            run = await app.start("flow", id="r")
            async for event in run.events():
                if event.kind == EMITTED:
                    break
            await asyncio.sleep(0.002)  # the second one waits for company
            await run.cancel()
            return (await lab.ended(app, "r")).events

    events = lab.play(main)
    assert emitted(events) == [1, 2]
    assert events[-1].kind == "cancelled"


def test_a_body_whose_time_is_over_cannot_emit(lab):
    """A thread that runs on after its timeout would add to an attempt that has ended."""
    said, go_on, ended = [], threading.Event(), threading.Event()

    def talk():
        step = current_step()
        step.emit("n", 1)
        go_on.wait(10)
        try:
            step.emit("n", 2)
        except StepOver as over:
            said.append(str(over))
            raise
        finally:
            ended.set()

    async def flow(ctx):
        try:
            await ctx.step(Step(talk, StepOptions(timeout=0.05)))
        except TimeoutError:
            go_on.set()
            ended.wait(10)
        return "went on"

    async def main():
        async with lab.worker(flow) as app:
            run = await app.start("flow", id="r")
            assert await run.result() == "went on"
            return await lab.journal(app, "r")

    events = lab.play_on_real_clock(main)
    assert emitted(events) == [1]
    assert "is over" in said[0]


def test_a_lost_run_interrupts_its_body(lab):
    """A zombie's words would get into the journal of whoever goes on, or it would go on paying for a model."""
    interrupted = []

    async def talk():
        try:
            for n in range(1_000):
                current_step().emit("n", n)
                await asyncio.sleep(1)
        except asyncio.CancelledError:
            interrupted.append(lab.seconds())
            raise

    async def flow(ctx):
        await ctx.step(talk)

    async def main():
        async with lab.worker(flow) as app:
            run = await app.start("flow", id="r")
            async for event in run.events():
                if event.kind == EMITTED and event.data["value"] == 3:
                    break
            row = await app.client.row("r")  # as others do when they hold this worker for dead
            await app.client.store.apply(Operation([("release", (row.number, row.epoch, lab.clock.now() + 10**12))]))
            await asyncio.sleep(30)
            return await lab.journal(app, "r")

    events = lab.play(main)
    assert emitted(events) == [0, 1, 2, 3]
    assert len(interrupted) == 1
    assert interrupted[0] < 6


def test_what_waits_is_bounded(lab):
    """A body that emits faster than the disk takes it would fill the memory."""

    async def hasty():
        for n in range(60):
            current_step().emit("n", n)

    async def polite():
        for n in range(60):
            current_step().emit("n", n)
            if n % 20 == 0:
                await current_step().flush()

    async def flow(ctx):
        await ctx.step(polite)
        await ctx.step(hasty)

    ended = lab.finish(flow, settings={"limits": Limits(emitted_waiting=50)})
    assert isinstance(ended.error, Overloaded)
    assert "flush()" in str(ended.error)
    assert emitted(ended.events, "polite") == list(range(60))
    assert len(emitted(ended.events, "hasty")) == 50


def test_a_thread_waits_for_room(lab):
    """A plain function, which cannot await a flush, would fail or fill the memory."""

    def talk():
        for n in range(500):
            current_step().emit("n", n)

    async def flow(ctx):
        return await ctx.step(talk)

    async def main():
        async with lab.worker(flow, limits=Limits(emitted_waiting=50)) as app:
            await app.start("flow", id="r")
            return await lab.ended(app, "r")

    ended = lab.play_on_real_clock(main)
    assert (ended.error, emitted(ended.events)) == (None, list(range(500)))


def test_a_run_cannot_emit_without_end(lab):
    """A step that loops would fill the disk."""

    async def talk():
        for n in range(100):
            current_step().emit("n", n)
            await current_step().flush()

    async def flow(ctx):
        await ctx.step(talk)

    ended = lab.finish(flow, settings={"limits": Limits(emitted_entries=70)})
    assert isinstance(ended.error, TooManyEntries)
    assert len(emitted(ended.events)) == 70


@pytest.mark.parametrize(
    ("value", "error"),
    [(object(), NotSerializable), ("x" * 2_000, PayloadTooLarge)],
    ids=["no JSON", "too large"],
)
def test_what_cannot_be_stored_is_refused_where_it_is_emitted(lab, value, error):
    """A bad value would make the whole run's next commit fail."""

    async def talk():
        current_step().emit("n", 1)
        current_step().emit("n", value)

    async def flow(ctx):
        await ctx.step(talk)

    ended = lab.finish(flow, settings={"limits": Limits(payload_bytes=1_000, inline_bytes=100)})
    assert isinstance(ended.error, error)
    assert emitted(ended.events) == [1]


def test_large_values_come_back_whole(lab):
    """A large entry would be told to readers by its blob's name."""

    async def talk():
        current_step().emit("page", "x" * 5_000)

    async def flow(ctx):
        await ctx.step(talk)

    ended = lab.finish(flow, settings={"limits": Limits(inline_bytes=100)})
    assert emitted(ended.events) == ["x" * 5_000]


def test_a_transaction_cannot_emit(lab):
    """Half of a transaction would be visible before it commits, or after it was rolled back."""

    def save(transaction: Transaction):
        current_step().emit("saved", 1)

    async def flow(ctx):
        await ctx.transaction(save)

    ended = lab.finish(flow)
    assert isinstance(ended.error, NotInWorkflow)
    assert emitted(ended.events) == []


def test_they_wait_while_a_transaction_commits(lab):
    """An entry would take the number that a transaction's outcome was promised, and the run would be stuck."""

    async def talk():
        for n in range(50):
            current_step().emit("n", n)
            await asyncio.sleep(0.001)

    def save(transaction: Transaction):
        transaction.execute("create table if not exists t (n integer)")
        transaction.execute("insert into t values (1)")

    async def flow(ctx):
        async def many():
            for _ in range(10):
                await ctx.transaction(save)

        await asyncio.gather(ctx.step(talk), many())

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", id="r")
            ended = await lab.ended(app, "r")
            return ended, await lab.sql(app, "select count(*) from t")

    ended, rows = lab.play_on_real_clock(main)
    assert (ended.error, rows) == (None, [(10,)])
    assert emitted(ended.events) == list(range(50))
    assert [e.seq for e in ended.events] == list(range(1, len(ended.events) + 1))


def test_a_run_that_kills_its_worker_is_put_aside_in_spite_of_what_it_emits(lab):
    """A step that takes the process down after its first token would do so for ever."""

    async def deadly():
        current_step().emit("n", 1)
        await current_step().flush()
        lab.die()
        await asyncio.sleep(1_000)

    async def flow(ctx):
        await ctx.step(deadly)

    async def main():
        for number in range(12):
            async with lab.worker(flow, lease=30) as app:
                lab.working, lab.dead = app, asyncio.Event()
                if number == 0:
                    await app.start("flow", id="r")
                waits = asyncio.ensure_future(lab.dead.wait())
                await asyncio.wait([waits], timeout=timedelta(minutes=5).total_seconds())
                info = await app.handle("r").info()
                if info.status == "paused":
                    return info.reason["code"]
        return "never"

    assert lab.play(main) == "poison"


def test_an_error_of_the_body_comes_behind_what_it_emitted(lab):
    """A reader would see a step fail, and then hear from it."""

    async def talk():
        current_step().emit("n", 1)
        raise Terminal("no more")

    async def flow(ctx):
        await ctx.step(talk)

    ended = lab.finish(flow)
    assert [e.kind for e in ended.events] == [EMITTED, "step_failed", "failed"]
