"""Fork: a new run that has done what another did up to some step, and leaves the other alone."""

import asyncio
from datetime import timedelta

import pytest

from perdure import Context, Limits
from perdure.engine.definition import Step, StepOptions
from perdure.errors import RunCancelled, RunFailed, RunNotFound, StartConflict, StepNotFound
from perdure.model.entry import OUTCOMES


async def forked(app, run_id, **options):
    """Fork and wait for the end: the handle and the result."""
    fork = await app.client.fork(run_id, **options)
    return fork, await fork.result()


def test_a_finished_run_completes_again(desk):
    """A fork of everything would do something again, end otherwise, or touch the run it came from."""

    async def flow(ctx: Context, name: str) -> list:
        await ctx.sleep(10)
        await ctx.emit("half way", 1)
        return [name, await ctx.step("one", desk.body("one")), await ctx.receive("go", str), str(ctx.uuid())]

    async def main(app):
        run = await app.start("flow", "x", id="r", tags=["blue"])
        await app.signal("r", "go", "on")
        result = await run.result()
        before = await desk.events(app, "r")
        await asyncio.sleep(1000)
        fork, again = await forked(app, "r")
        assert (again, desk.ran) == (result, {"one": 1})
        info = await fork.info()
        last = before[-2].seq
        assert (info.forked_from, info.generation, info.workflow) == (f"r@{last}", 1, "flow")
        assert await app.client.tags(fork.id) == ["blue"]
        events = await desk.events(app, fork.id)
        assert [event.seq for event in events] == list(range(1, last + 3))
        assert [event.kind for event in events[last:]] == ["forked", "completed"]
        assert [(event.kind, event.key, event.at) for event in events[:last]] == [
            (event.kind, event.key, event.at) for event in before[:last]
        ]
        assert await desk.events(app, "r") == before

    desk.play(main, flow)


def test_every_step_of_a_flow(desk):
    """From some step the fork would end otherwise, do a step again that it has, or not do one that it lacks."""

    async def double(ctx: Context, number: int) -> int:
        await ctx.sleep(5)
        return await ctx.step("double", desk.body("double", 2 * number))

    async def flow(ctx: Context) -> list:
        found = [await ctx.step("one", desk.body("one"))]
        async with ctx.timeout(60):
            found.append(await ctx.step("two", desk.body("two")))
        found += await asyncio.gather(ctx.call("double", 3), ctx.step("three", desk.body("three")), ctx.sleep(7))
        await ctx.sleep(timedelta(days=1))
        return [*found, await ctx.step("four", desk.body("four"))]

    result = ["one", "two", 6, "three", None, "four"]

    async def main(app):
        run = await app.start("flow", id="r")
        assert await run.result() == result
        source = await desk.events(app, "r")
        keys = [event.key for event in source if event.kind in OUTCOMES]
        assert len(keys) == 7
        for place, key in enumerate(keys):
            await asyncio.sleep(100_000)
            desk.ran.clear()
            fork, again = await forked(app, "r", before=key)
            assert again == result
            kept = {entry.rpartition("/")[2] for entry in keys[:place]}
            assert (key, dict(desk.ran)) == (key, dict.fromkeys({"one", "two", "double", "three", "four"} - kept, 1))
            seqs = [event.seq for event in await desk.events(app, fork.id)]
            assert seqs == list(range(1, len(seqs) + 1))
        assert await desk.events(app, "r") == source

    desk.play(main, flow, double)


def test_in_the_middle_of_a_gather_of_children(desk):
    """A branch that had ended would be done again, or the fork would wait for a child that is not its own."""

    async def child(ctx: Context, seconds: float) -> str:
        await ctx.step("begin", desk.body(seconds))
        await ctx.sleep(seconds)
        return ctx.run_id

    async def flow(ctx: Context) -> list[str]:
        return await asyncio.gather(*[ctx.call("child", seconds) for seconds in (10, 20, 30)])

    async def main(app):
        run = await app.start("flow", id="r")
        await asyncio.sleep(15)
        running = await app.client.fork("r", id="f")
        theirs = ["r/~1/child", "r/~2/child", "r/~3/child"]
        assert await run.result() == theirs
        assert await running.result() == ["r/~1/child", "f/~2/child", "f/~3/child"]
        assert desk.ran == {10: 1, 20: 2, 30: 2}
        info = await app.handle("f/~2/child").info()
        assert (info.parent, info.root) == ((await running.info()).number,) * 2
        _, last = await forked(app, "r", before="~3/child", id="g")
        assert last == ["r/~1/child", "r/~2/child", "g/~3/child"]
        assert await app.handle("r").result() == theirs

    desk.play(main, flow, child)


def test_a_child_that_nobody_waits_for(desk):
    """A fork would begin a child of long ago once more, or not begin one that its part had not seen the end of."""

    async def child(ctx: Context) -> None:
        await ctx.step("begin", desk.body("child"))
        await ctx.sleep(10)

    async def flow(ctx: Context) -> str:
        await ctx.start("child", detached=True)
        await ctx.step("one", desk.body("one"))
        await ctx.sleep(100)
        return await ctx.step("two", desk.body("two"))

    async def main(app):
        await (await app.start("flow", id="r")).result()
        assert desk.ran == {"child": 1, "one": 1, "two": 1}
        await forked(app, "r")
        await forked(app, "r", before="two")
        assert desk.ran == {"child": 1, "one": 1, "two": 2}
        await forked(app, "r", before="sleep")
        assert desk.ran == {"child": 2, "one": 1, "two": 3}

    desk.play(main, flow, child)


def test_a_run_whose_body_is_in_progress(desk):
    """A fork of a running run would lack what is done, or wait for the other's body."""
    may_end = asyncio.Event()

    async def flow(ctx: Context) -> list[str]:
        async def long() -> str:
            desk.ran["long"] += 1
            await may_end.wait()
            return "long"

        return [await ctx.step("one", desk.body("one")), await ctx.step("long", long)]

    async def main(app):
        run = await app.start("flow", id="r")
        await asyncio.sleep(1)
        fork = await app.client.fork("r")
        await asyncio.sleep(1)
        assert desk.ran == {"one": 1, "long": 2}
        may_end.set()
        assert await asyncio.gather(run.result(), fork.result()) == [["one", "long"]] * 2

    desk.play(main, flow)


def test_time_and_chance_of_the_kept_part_are_the_other_runs(desk):
    """A step's arguments that came from ctx.now() or ctx.uuid() would differ, and the fork would diverge."""

    async def flow(ctx: Context) -> str:
        async def note(at: str, chance: str) -> str:
            return f"{at} {chance}"

        noted = await ctx.step(note, ctx.now().isoformat(), str(ctx.uuid()))
        await ctx.step("last", desk.body("last"))
        return noted

    async def main(app):
        await asyncio.sleep(5)
        run = await app.start("flow", id="r")
        result = await run.result()
        await asyncio.sleep(100_000)
        fork, again = await forked(app, "r", before="last")
        assert again == result
        assert (await forked(app, fork.id, before="last"))[1] == result
        assert (await forked(app, "r", before=""))[1] != result

    desk.play(main, flow)


def test_of_a_fork_and_of_a_rerun(desk):
    """A history that was cut before would be cut at the wrong place, or in the wrong order."""

    async def note(name: str, at: str) -> str:
        desk.ran[name] += 1
        return name

    async def flow(ctx: Context) -> list[str]:
        # The time is an argument, so that a step which is kept tells whether it passed as before.
        steps = {name: Step(note, StepOptions(name=name)) for name in ("one", "two", "three")}
        return [await ctx.step(step, name, str(ctx.now())) for name, step in steps.items()] + [str(ctx.now())]

    async def main(app):
        run = await app.start("flow", id="r")
        await run.result()
        for before in ("two", "three"):
            await asyncio.sleep(100)
            await app.client.rerun("r", before=before)
            result = await run.result()
        desk.ran.clear()
        fork, again = await forked(app, "r")
        assert (again, desk.ran) == (result, {})
        second, _ = await forked(app, fork.id, before="three")
        assert desk.ran == {"three": 1}
        await app.client.rerun(second.id, before="two")
        assert (await second.result())[:3] == ["one", "two", "three"]
        assert desk.ran == {"two": 1, "three": 2}

    desk.play(main, flow)


def test_of_a_run_that_continued_as_new(desk):
    """The fork would look for its steps under other keys than those that it has."""

    async def flow(ctx: Context, number: int = 0) -> list:
        noted = await ctx.step("one", desk.body("one"))
        if number == 0:
            ctx.continue_as_new(1)
        return [number, noted, await ctx.step("two", desk.body("two"))]

    async def main(app):
        run = await app.start("flow", id="r")
        assert await run.result() == [1, "one", "two"]
        key = [event.key for event in await desk.events(app, "r")][-2]
        desk.ran.clear()
        assert (await forked(app, "r"))[1] == [1, "one", "two"]
        assert desk.ran == {}
        assert (await forked(app, "r", before=key))[1] == [1, "one", "two"]
        assert desk.ran == {"two": 1}
        assert (await forked(app, "r", before=""))[1] == [1, "one", "two"]
        assert desk.ran == {"one": 1, "two": 2}

    desk.play(main, flow)


def test_large_payloads_outlive_the_run_they_came_from(desk):
    """A fork would lose its input and results when the run that it was forked from is pruned."""

    async def child(ctx: Context, text: str) -> int:
        await ctx.sleep(10)
        return len(text)

    async def flow(ctx: Context, text: str) -> list:
        got = await ctx.step("got", lambda: text * 2)
        number = await ctx.call("child", got)
        return [len(text), len(got), number, await ctx.step("last", desk.body("last"))]

    async def main(app):
        run = await app.start("flow", "x" * 1000, id="r")
        result = await run.result()
        assert result == [1000, 2000, 2000, "last"]
        fork = await app.client.fork("r", before="child", id="f")
        await asyncio.sleep(1)
        assert await app.client.prune(older_than=0) == 2
        assert await fork.result() == result
        with pytest.raises(RunNotFound):
            await run.result()

    desk.play(main, flow, child, limits=Limits(inline_bytes=100))


def test_of_a_run_that_was_cancelled_or_failed(desk):
    """A fork would be born cancelled, or would not fail as the other did."""

    async def flow(ctx: Context) -> str:
        await ctx.step("one", desk.body("one"))
        await ctx.sleep(100)
        raise ValueError(await ctx.step("two", desk.body("two")))

    async def main(app):
        run = await app.start("flow", id="r")
        await asyncio.sleep(10)
        await app.cancel("r")
        with pytest.raises(RunCancelled):
            await run.result()
        fork = await app.client.fork("r")
        with pytest.raises(RunFailed, match="two"):
            await fork.result()
        with pytest.raises(RunFailed, match="two"):
            await forked(app, fork.id)
        assert desk.ran == {"one": 1, "two": 1}

    desk.play(main, flow)


def test_ids(desk):
    """The same fork twice would be two runs, or another run's id would be taken, or its journal written to."""

    async def child(ctx: Context) -> None:
        await ctx.sleep(100)

    async def flow(ctx: Context) -> str:
        await ctx.step("one", desk.body("one"))
        await ctx.call("child")
        return "done"

    async def main(app):
        await (await app.start("flow", id="r")).result()
        first = await app.client.fork("r", before="child", id="f")
        assert (await app.client.fork("r", before="child", id="f")).id == first.id
        with pytest.raises(StartConflict, match="origin"):
            await app.client.fork("r", before="", id="f")
        await app.start("flow", id="taken", delay=50)
        await app.start("child", id="g/child")
        for taken in ("taken", "g"):
            with pytest.raises(StartConflict):
                await app.client.fork("r", before="child", id=taken)
        assert await desk.kinds(app, "taken") == []
        with pytest.raises(RunNotFound):
            await app.handle("g").info()
        with pytest.raises(RunNotFound):
            await app.client.fork("nobody")
        with pytest.raises(StepNotFound, match="nowhere"):
            await app.client.fork("r", before="nowhere")
        assert await first.result() == "done"

    desk.play(main, flow, child)


def test_the_deadline_counts_from_the_fork(desk):
    """A fork of an old run would be over its deadline before it begins, or have none."""

    async def flow(ctx: Context) -> str:
        await ctx.sleep(40)
        await ctx.step("one", desk.body("one"))
        await ctx.receive("go")
        return "done"

    async def main(app):
        run = await app.start("flow", id="r", timeout=100)
        with pytest.raises(RunFailed, match="deadline"):
            await run.result()
        await asyncio.sleep(1000)
        begun = desk.clock.now()
        with pytest.raises(RunFailed, match="deadline"):
            await forked(app, "r", before="one")
        assert (desk.clock.now() - begun) / 1_000_000 == pytest.approx(100, abs=1)
        assert desk.ran == {"one": 2}

    desk.play(main, flow)


def test_a_fork_waits_for_signals_of_its_own(desk):
    """What was said to one run would be taken for said to another."""

    async def flow(ctx: Context) -> str:
        return await ctx.receive("go", str, timeout=60, default="nothing")

    async def main(app):
        run = await app.start("flow", id="r")
        await app.signal("r", "go", "on")
        assert await run.result() == "on"
        assert await (await app.client.fork("r", before="", id="f")).result() == "nothing"
        await app.client.rerun("r", before="")
        assert await run.result() == "on"

    desk.play(main, flow)
