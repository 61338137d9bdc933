"""Rerun: the same run in a new generation, from any of its steps, with nothing lost and nothing told twice."""

import asyncio
from datetime import timedelta

import pytest

from perdure import Context, Limits, Retry
from perdure.client.restart import snapshot
from perdure.errors import IllegalMove, RunCancelled, RunFailed, RunNotFound, StepNotFound
from perdure.model.entry import OUTCOMES
from perdure.store.operation import Operation


async def again(app, run_id, before=""):
    """Rerun and wait for the end."""
    await app.client.rerun(run_id, before=before)
    return await app.handle(run_id).result()


def test_from_the_beginning(desk):
    """The new generation would keep old outcomes, or the old one's history and result would be lost."""

    async def flow(ctx: Context) -> int:
        desk.ran["flow"] += 1
        return await ctx.step("count", lambda: desk.ran["flow"])

    async def main(app):
        run = await app.start("flow", id="r")
        first = await run.result()
        assert await again(app, "r") > first
        info = await run.info()
        assert (info.status, info.generation) == ("completed", 2)
        events = await desk.events(app, "r")
        assert [event.kind for event in events] == [
            "step_completed", "completed", "rerun", "step_completed", "completed",
        ]  # fmt: skip
        assert events[2].data == {
            "keep": 0, "generation": 2, "previous": {"status": "completed", "output": str(first), "error": None},
        }  # fmt: skip

    desk.play(main, flow)


def test_from_every_step_of_a_flow_with_children_timers_and_signals(desk):
    """From some step the result would differ, a kept step would run again, or a dropped one would not."""

    async def double(ctx: Context, number: int) -> int:
        await ctx.sleep(5)
        return await ctx.step("double", desk.body(f"double {number}", 2 * number))

    async def flow(ctx: Context) -> list:
        found = [await ctx.step("one", desk.body("one"))]
        async with ctx.timeout(60):
            found.append(await ctx.step("two", desk.body("two")))
        found.append(await ctx.receive("go", str))
        found += await asyncio.gather(
            ctx.call("double", 3), ctx.step("three", desk.body("three")), ctx.receive("go", str), ctx.sleep(7)
        )
        await ctx.sleep(timedelta(days=1))
        found.append(await ctx.step("four", desk.body("four")))
        found.append(await ctx.call("double", 4))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ctx.step(name, desk.body(name))) for name in ("five", "six")]
        return found + [task.result() for task in tasks]

    result = ["one", "two", "a", 6, "three", "b", None, "four", 8, "five", "six"]
    bodies = {"one", "two", "double 3", "three", "four", "double 4", "five", "six"}

    async def main(app):
        run = await app.start("flow", id="r")
        await app.signal("r", "go", "a", key="k")
        await app.signal("r", "go", "b")
        assert await run.result() == result
        keys = [event.key for event in await desk.events(app, "r") if event.kind in OUTCOMES]
        assert len(keys) == 12
        for key in keys:
            await asyncio.sleep(100_000)
            desk.ran.clear()
            # The order within the gather may be another one in each generation.
            history = (await snapshot(app.client.store, "r")).history
            cut = next(place for place, entry in enumerate(history) if entry.key == key and entry.kind in OUTCOMES)
            done = {entry.key.split("/")[-1] for entry in history[:cut] if entry.kind == "step_completed"}
            begun = [entry.key for entry in history[:cut] if entry.kind == "child_started"]
            assert await again(app, "r", key) == result
            # A child that has ended is not begun again: its end is told again, unless its start is dropped.
            told = {name for name, start in (("double 3", "~1/double"), ("double 4", "double")) if start in begun}
            assert (key, dict(desk.ran)) == (key, dict.fromkeys(bodies - done - told, 1))
            assert not await app.client.store.rows("mail", f"[{(await run.info()).number}]")
        desk.ran.clear()
        assert await again(app, "r", None) == result
        assert desk.ran == {}
        assert (await run.info()).generation == len(keys) + 2

    desk.play(main, flow, double)


def test_signals_come_back_once_and_in_their_order(desk):
    """A dropped signal would be lost, come twice, overtake another, or its key would be forgotten."""

    async def flow(ctx: Context) -> list[str]:
        first = [await ctx.receive("go", str) for _ in range(3)]
        await ctx.sleep(10)  # so that it has not ended before it is sent more
        return [*first, await ctx.receive("go", str)]

    async def main(app):
        run = await app.start("flow", id="r")
        assert await app.signal("r", "go", "a")
        assert await app.signal("r", "go", "b", key="b")
        assert await app.signal("r", "go", "c")
        await asyncio.sleep(1)
        await app.client.pause("r")
        assert await app.signal("r", "go", "d")
        for before in ("go#2", "go", "go#3", ""):
            await app.client.rerun("r", before=before)
            assert await run.result() == ["a", "b", "c", "d"]
        await app.client.rerun("r", before="go#2")
        assert not await app.signal("r", "go", "another b", key="b")
        await app.signal("r", "go", "e")
        assert await run.result() == ["a", "b", "c", "d"]
        received = await desk.data(app, "r", "signal_received")
        assert (received[:3], received[-3:], "another b" in received) == (["a", "b", "c"], ["b", "c", "d"], False)

    desk.play(main, flow)


def test_a_kept_signal_does_not_come_back(desk):
    """A signal whose entry is kept would be told again, as entries of the same commit are dropped."""

    async def flow(ctx: Context) -> list[str]:
        first = await ctx.receive("go", str)
        await ctx.emit("got", first)
        with_default = await ctx.receive("go", str, timeout=10, default="nothing")
        return [first, with_default]

    async def main(app):
        run = await app.start("flow", id="r")
        await app.signal("r", "go", "a", key="a")
        assert await run.result() == ["a", "nothing"]
        assert await again(app, "r", "go#2") == ["a", "nothing"]
        assert await again(app, "r", "go") == ["a", "nothing"]

    desk.play(main, flow)


def test_a_large_signal_comes_back_whole(desk):
    """A payload that is kept apart would come back as the name of its blob."""

    async def flow(ctx: Context) -> list[int]:
        return [len(await ctx.receive("go", str)), len(await ctx.receive("go", str))]

    async def main(app):
        run = await app.start("flow", id="r")
        await app.signal("r", "go", "x" * 100_000)
        await app.signal("r", "go", "y" * 50_000, key="k")
        assert await run.result() == [100_000, 50_000]
        assert await again(app, "r") == [100_000, 50_000]

    desk.play(main, flow)


def test_a_child_that_was_run_again_first(desk):
    """After its failed child was put right, the parent would still see the old failure, or wait for ever."""
    broken = [True]

    async def child(ctx: Context) -> str:
        await ctx.sleep(1)
        if broken[0]:
            raise ValueError("broken")
        return await ctx.step("mended", desk.body("mended"))

    async def parent(ctx: Context) -> str:
        await ctx.step("before", desk.body("before"))
        return await ctx.call("child")

    async def main(app):
        run = await app.start("parent", id="p")
        with pytest.raises(RunFailed, match="broken"):
            await run.result()
        with pytest.raises(RunFailed, match="broken"):
            await again(app, "p", "child")
        broken[0] = False
        assert await again(app, "p/child") == "mended"
        assert await again(app, "p", "child") == "mended"
        assert desk.ran == {"before": 1, "mended": 1}
        assert len(await desk.data(app, "p", "child_started")) == 1

    desk.play(main, child, parent)


def test_a_parent_is_not_told_twice(desk):
    """A parent that has its child's result would take the new generation's for something else, or stumble."""

    async def child(ctx: Context) -> int:
        desk.ran["child"] += 1
        return desk.ran["child"]

    async def parent(ctx: Context) -> list:
        first = await ctx.call("child", id="c")
        go = await ctx.receive("go", str)
        return [first, go, await ctx.call("child")]

    async def main(app):
        run = await app.start("parent", id="p")
        await asyncio.sleep(1)
        old = await app.handle("c").result()
        assert await again(app, "c") > old
        await asyncio.sleep(1)
        assert await desk.status(app, "p") == "waiting"
        await app.signal("p", "go", "on")
        assert (await run.result())[:2] == [old, "on"]
        ends = [event for event in await desk.events(app, "p") if event.kind == "child_completed"]
        assert [event.key for event in ends] == ["child", "child#2"]

    desk.play(main, child, parent)


@pytest.mark.parametrize("moment", ["paused", "waiting"])
def test_a_child_runs_again_before_its_parent_has_looked(desk, moment):
    """The parent would take a child that runs again for one that has ended, without a result."""

    async def child(ctx: Context) -> int:
        await ctx.sleep(10)
        desk.ran["child"] += 1
        return await ctx.step("count", lambda: desk.ran["child"])

    async def parent(ctx: Context) -> int:
        return await ctx.call("child")

    async def main(app):
        run = await app.start("parent", id="p")
        await asyncio.sleep(5)
        await app.client.pause("p")
        await asyncio.sleep(10)
        await app.client.rerun("p/child")
        if moment == "waiting":
            await app.client.resume("p")
            await asyncio.sleep(2)
            assert await desk.status(app, "p") == "waiting"
        else:
            await asyncio.sleep(20)
            await app.client.resume("p")
        assert await run.result() > 1
        assert not await app.client.store.rows("mail", f"[{(await run.info()).number}]")

    desk.play(main, child, parent)


def test_a_child_that_ended_unread_is_told_of_once(desk):
    """The end of a child that waits in the inbox would be there twice, and one of them for ever."""

    async def child(ctx: Context) -> str:
        await ctx.sleep(10)
        return "child"

    async def parent(ctx: Context) -> list[str]:
        first = asyncio.ensure_future(ctx.call("child"))
        await ctx.step("own", desk.body("own"))
        return [await first]

    async def main(app):
        run = await app.start("parent", id="p")
        await asyncio.sleep(5)
        await app.client.pause("p")
        await asyncio.sleep(10)
        assert await again(app, "p", "own") == ["child"]
        assert desk.ran == {"own": 2}
        assert not await app.client.store.rows("mail", f"[{(await run.info()).number}]")

    desk.play(main, child, parent)


def test_children_of_the_dropped_part_are_cancelled(desk):
    """A child that nobody waits for any more would go on beside its successor, or the successor would not begin."""

    async def child(ctx: Context) -> str:
        await ctx.sleep(100)
        return ctx.run_id

    async def parent(ctx: Context) -> list[str]:
        await ctx.step("before", desk.body("before"))
        detached = await ctx.start("child", detached=True)
        return [detached.id, await ctx.call("child")]

    async def main(app):
        run = await app.start("parent", id="p")
        await asyncio.sleep(10)
        await app.client.pause("p")
        await app.client.rerun("p", before="before")
        with pytest.raises(RunCancelled, match="run again"):
            await app.handle("p/child#2").result()
        assert await run.result() == ["p/child@2", "p/child#2@2"]
        assert await desk.status(app, "p/child") == "completed"

    desk.play(main, child, parent)


def test_a_child_with_an_id_of_its_own_is_found_as_it_ended(desk):
    """What has a name of the user's choice would be done twice."""

    async def child(ctx: Context) -> int:
        desk.ran["child"] += 1
        return desk.ran["child"]

    async def parent(ctx: Context) -> list[int]:
        return [await ctx.call("child", id="c"), await ctx.call("child")]

    async def main(app):
        assert await (await app.start("parent", id="p")).result() == [1, 2]
        assert await again(app, "p") == [1, 3]

    desk.play(main, child, parent)


def test_a_step_gets_all_its_attempts_and_its_time_again(desk):
    """A step that failed for good would fail at once when it is run again, as its attempts and time are used up."""
    down = [True]

    async def flow(ctx: Context) -> list[str]:
        async def call() -> str:
            desk.ran["call"] += 1
            if down[0] or desk.ran["call"] < 3:
                raise ConnectionError("down")
            return "up"

        retry = Retry(max_attempts=3, delay=10, jitter=0, backoff=1)
        patient = ctx.step("patient", call, retry=retry, total_timeout=100)
        careful = ctx.step("careful", desk.body("careful"), at_most_once=True)
        async with ctx.timeout(100):
            return await asyncio.gather(patient, careful)

    async def main(app):
        run = await app.start("flow", id="r")
        with pytest.raises(RunFailed, match="down"):
            await run.result()
        assert desk.ran == {"call": 3, "careful": 1}
        await asyncio.sleep(100_000)
        down[0] = False
        desk.ran.clear()
        assert await again(app, "r", "~1/patient") == ["up", "careful"]
        assert desk.ran == {"call": 3}
        desk.ran.clear()
        desk.ran["call"] = 2
        await asyncio.sleep(100_000)
        assert await again(app, "r", "~2/careful") == ["up", "careful"]
        assert desk.ran == {"call": 3, "careful": 1}

    desk.play(main, flow)


def test_an_attempt_of_unknown_outcome_is_not_made_again(desk):
    """A body that may run once at most, and that was cut off, would run twice because a run was run again."""

    async def flow(ctx: Context) -> list[str]:
        async def hang() -> None:
            desk.ran["hang"] += 1
            await asyncio.sleep(1000)

        async def fail() -> None:
            await asyncio.sleep(10)
            raise ValueError("first")

        return await asyncio.gather(ctx.step("hang", hang, at_most_once=True), ctx.step("fail", fail))

    async def main(app):
        run = await app.start("flow", id="r")
        with pytest.raises(RunFailed, match="first"):
            await run.result()
        with pytest.raises(RunFailed, match="may run at most once"):
            await again(app, "r", "~2/fail")
        assert desk.ran == {"hang": 1}

    desk.play(main, flow)


def test_spans_stand_still_and_dates_do_not(desk):
    """A rerun of last week's run would find its timeouts over; or it would put off a date."""

    async def flow(ctx: Context) -> list:
        day = ctx.now() + timedelta(days=1)
        first = asyncio.ensure_future(ctx.sleep(day))

        async def slow() -> str:
            await asyncio.sleep(20)
            return "slow"

        async with ctx.timeout(60):
            value = await ctx.step("slow", slow)
        answer = await ctx.receive("never", str, timeout=60, default="no")
        before = ctx.now()
        await first
        return [value, answer, (ctx.now() - before).total_seconds() > 0]

    async def main(app):
        run = await app.start("flow", id="r")
        assert await run.result() == ["slow", "no", True]
        await asyncio.sleep(7 * 86_400)
        begun = desk.clock.now()
        assert await again(app, "r", "slow") == ["slow", "no", False]
        assert (desk.clock.now() - begun) / 1_000_000 == pytest.approx(80, abs=1)

    desk.play(main, flow)


def test_the_beginning_is_now(desk):
    """A run that begins anew would live in the past: its sleeps, timeouts and children's deadlines would be over."""

    async def child(ctx: Context) -> str:
        await ctx.sleep(10)
        return "child"

    async def flow(ctx: Context) -> list:
        async with ctx.timeout(60):
            return [ctx.now().isoformat(), await ctx.call("child", timeout=60)]

    async def main(app):
        run = await app.start("flow", id="r")
        first = await run.result()
        await asyncio.sleep(86_400)
        second = await again(app, "r")
        assert (second[0] > first[0], second[1]) == (True, "child")

    desk.play(main, flow, child)


def test_a_cancelled_or_overdue_run_goes_on(desk):
    """What ended a run would end it again: the entry, the deadline, or a request that was never read."""

    async def flow(ctx: Context) -> str:
        await ctx.step("first", desk.body("first"))
        await ctx.sleep(100)
        return "rested"

    async def main(app):
        run = await app.start("flow", id="r")
        await asyncio.sleep(10)
        await app.cancel("r")
        with pytest.raises(RunCancelled):
            await run.result()
        # A second request that committed together with the end stays in the inbox.
        inbox = (
            "insert into perdure_inbox (run, topic, data, sent_at) "
            "select number, 'control:cancel', '\"late\"', 0 from perdure_runs where id = 'r'"
        )
        execute = lambda transaction: transaction.execute(inbox)  # noqa: E731
        await app.client.store.apply(Operation(body=lambda transaction: execute(transaction) and []))
        assert await again(app, "r", None) == "rested"
        late = await app.start("flow", timeout=50)
        with pytest.raises(RunFailed, match="deadline"):
            await late.result()
        assert await again(app, late.id, None) == "rested"
        assert desk.ran == {"first": 2}

    desk.play(main, flow)


def test_a_run_that_continued_as_new(desk):
    """It would begin before what continue_as_new has forgotten, or get signals of that time back."""

    async def flow(ctx: Context, number: int = 0) -> list:
        got = await ctx.receive("go", str)
        if number == 0:
            ctx.continue_as_new(1)
        return [number, got, await ctx.step("last", desk.body("last"))]

    async def main(app):
        run = await app.start("flow", id="r")
        await app.signal("r", "go", "a", key="a")
        await app.signal("r", "go", "b", key="b")
        assert await run.result() == [1, "b", "last"]
        assert await again(app, "r") == [1, "b", "last"]
        assert await again(app, "r", None) == [1, "b", "last"]
        (last,) = {event.key for event in await desk.events(app, "r") if event.kind == "step_completed"}
        assert await again(app, "r", last) == [1, "b", "last"]
        assert desk.ran == {"last": 3}

    desk.play(main, flow)


def test_the_longest_history_is_the_present_one(desk):
    """A run that is run again often, or that continues as new for ever, would fail as its journal is too long."""

    async def flow(ctx: Context, number: int) -> int:
        for _ in range(5):
            await ctx.step("one", desk.body("one"))
        if number:
            ctx.continue_as_new(number - 1)
        return number

    async def main(app):
        run = await app.start("flow", 10, id="r")
        assert await run.result() == 0
        for _ in range(10):
            assert await again(app, "r") == 0
        await app.client.rerun("r", before=None)
        assert await run.result() == 0

    desk.play(main, flow, limits=Limits(history_entries=20))


def test_two_operators_at_once(desk):
    """Two reruns at once would make two generations, or give signals back twice."""

    async def flow(ctx: Context) -> list[str]:
        return [await ctx.receive("go", str), await ctx.receive("go", str)]

    async def main(app):
        run = await app.start("flow", id="r")
        for text in ("a", "b"):
            await app.signal("r", "go", text)
        await run.result()
        ended = await asyncio.gather(
            *[app.client.rerun("r", before=before) for before in ("go#2", "", "go")], return_exceptions=True
        )
        # On a server the first may be through before another one asks.
        made = ended.count(None)
        assert made >= 1
        assert all(error is None or isinstance(error, IllegalMove) for error in ended)
        assert await run.result() == ["a", "b"]
        assert (await desk.kinds(app, "r")).count("rerun") == made
        assert (await run.info()).generation == 1 + made
        assert not await app.client.store.rows("mail", f"[{(await run.info()).number}]")

    desk.play(main, flow)


def test_what_cannot_be_run_again(desk):
    """A run that goes on would be torn out of its worker's hands, or the caller would not learn why not."""

    async def flow(ctx: Context) -> None:
        await ctx.step("done", desk.body("done"))
        await ctx.sleep(100)

    async def main(app):
        run = await app.start("flow", id="r")
        await asyncio.sleep(1)
        with pytest.raises(RunNotFound):
            await app.client.rerun("nobody")
        with pytest.raises(IllegalMove, match="waiting"):
            await app.client.rerun("r")
        await app.client.pause("r")
        for key in ("sleep", "other"):
            with pytest.raises(StepNotFound, match=key):
                await app.client.rerun("r", before=key)
        await again(app, "r", "done")
        assert (desk.ran, (await run.info()).generation) == ({"done": 2}, 2)

    desk.play(main, flow)
