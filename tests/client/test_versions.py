"""Versions of a workflow side by side: runs stay with theirs, until somebody moves them."""

import asyncio

import pytest

from perdure import Context
from perdure.errors import (
    DuplicateName,
    IllegalMove,
    InvalidName,
    InvalidOption,
    RunFinished,
    StartConflict,
    UnknownWorkflow,
)
from perdure.model.run import RunFilter


async def one(ctx: Context, n: int = 0) -> str:
    await ctx.step("first", str)
    await ctx.receive("go")
    return f"one {n}"


async def two(ctx: Context, n: int = 0) -> str:
    await ctx.step("first", str)
    await ctx.receive("go")
    await ctx.step("second", str)
    return f"two {n}"


async def other(ctx: Context, n: int = 0) -> str:
    await ctx.step("not first", str)
    return f"other {n}"


def versions(app, **functions):
    return {version: app.workflow(name="pay", version=version.strip("v"))(fn) for version, fn in functions.items()}


def test_runs_begin_with_the_newest_version_and_stay_with_it(desk):
    """A deployment of a new version would change the code under runs that are on their way."""

    async def before(app):
        versions(app, v=one)
        await app.start("pay", 1, id="a")
        await app.signal("a", "other", 1)

    async def after(app):
        # Registered in another order than their age.
        named = versions(app, v10=two, v9=other, v=one)
        await app.start("pay", 2, id="b")
        await app.start(named["v"], 3, id="c")
        await app.start("pay", 4, id="d", version="9")
        for run in "abc":
            await app.signal(run, "go")
        results = [await app.handle(run).result() for run in "abcd"]
        assert results == ["one 1", "two 2", "one 3", "other 4"]
        found = {run.id: (run.workflow, run.version) for run in (await app.client.runs(RunFilter(workflow="pay")))[0]}
        assert found == {"a": ("pay", ""), "b": ("pay", "10"), "c": ("pay", ""), "d": ("pay", "9")}
        (listed,), _ = await app.client.runs(RunFilter(workflow="pay", version="9"))
        assert listed.id == "d"
        assert len((await app.client.runs(RunFilter(workflow="pay", version="")))[0]) == 2

    desk.play(before)
    desk.play(after)


def test_the_same_start_after_a_deployment_is_the_same_run(desk):
    """A caller that repeats a start would be refused because a newer version was deployed in between."""

    async def main(app):
        named = versions(app, v1=one)
        await app.start("pay", 1, id="a")
        app.workflow(name="pay", version="2")(two)
        await app.start("pay", 1, id="a")
        await app.start(named["v1"], 1, id="a")
        assert (await app.handle("a").info()).version == "1"
        with pytest.raises(StartConflict, match="'pay@1' instead of 'pay@2'"):
            await app.start("pay", 1, id="a", version="2")

    desk.play(main)


def test_names_and_versions_that_cannot_be_are_refused(desk):
    """Code would be registered that no run could find."""
    app = desk.app()
    versions(app, v1=one)
    with pytest.raises(DuplicateName, match="pay@1"):
        app.workflow(name="pay", version="1")(two)
    with pytest.raises(InvalidName):
        app.workflow(name="pay@1")
    with pytest.raises(InvalidName):
        app.workflow(version=2)
    with pytest.raises(InvalidOption):
        RunFilter(version="2")

    async def main(app):
        with pytest.raises(UnknownWorkflow, match="pay@3"):
            await app.start("pay", version="3")

    desk.play(main)


def test_a_child_stays_with_the_version_that_was_the_newest_at_its_start(desk):
    """A replay after a deployment would look for another child than was started, and the parent be paused."""

    async def parent(ctx: Context) -> list[str]:
        first = await ctx.start("pay", 1)
        await ctx.receive("more")
        return [await first.result(), await ctx.call("pay", 2), await ctx.call("pay", 3, version="1")]

    async def before(app):
        versions(app, v1=one)
        await app.start("parent", id="p")

    async def after(app):
        versions(app, v1=one, v2=other)
        await app.signal("p", "more")
        await app.signal("p/pay", "go")
        handle = app.handle("p")
        await asyncio.sleep(1)
        children, _ = await app.client.runs(RunFilter(parent="p", workflow="pay", version="1"))
        assert len(children) == 2
        await app.signal(children[0].id, "go")
        assert await handle.result() == ["one 1", "other 2", "one 3"]

    desk.play(before, parent)
    desk.play(after, parent)


def test_a_run_is_moved_to_another_version(desk):
    """A mistake in a version could not be put right for the runs that are pinned to it."""

    async def before(app):
        versions(app, v1=one)
        await app.start("pay", 1, id="a")

    async def after(app):
        versions(app, v1=one, v2=two)
        await app.move_version("a", "2")
        assert (await app.handle("a").info()).version == "2"
        await app.move_version("a", "2")  # where it is already
        await app.signal("a", "go")
        assert await app.handle("a").result() == "two 1"
        assert await desk.data(app, "a", "moved") == [{"from": "1", "to": "2"}]
        with pytest.raises(RunFinished):
            await app.move_version("a", "1")

    desk.play(before)
    desk.play(after)


def test_a_parked_coroutine_of_the_old_version_is_not_used_after_a_move(desk):
    """A worker that has the run in memory would go on with the old code (the new epoch tells it)."""

    async def main(app):
        versions(app, v1=one, v2=two)
        await app.start("pay", 1, id="a", version="1")
        await asyncio.sleep(1)
        assert app.worker.statistics["parked"] == 1
        await app.move_version("a", "2")
        await app.signal("a", "go")
        assert await app.handle("a").result() == "two 1"

    desk.play(main, cached_runs=100)


def test_a_move_to_code_that_disagrees_pauses_the_run_and_can_be_taken_back(desk):
    """A run that was moved by mistake would be lost."""

    async def before(app):
        versions(app, v1=one)
        await app.start("pay", 1, id="a")

    async def after(app):
        versions(app, v1=one, v3=other)
        await app.move_version("a", "3")
        await app.signal("a", "go")
        async for event in app.handle("a").events():
            if event.kind == "paused":
                break
        assert (await app.handle("a").info()).reason["code"] == "divergence"
        await app.move_version("a", "1")
        await app.client.resume("a")
        assert await app.handle("a").result() == "one 1"

    desk.play(before)
    desk.play(after)


def test_what_cannot_be_moved_is_refused(desk):
    """A run would be moved under its driver's hands, or to where no worker ever takes it."""

    async def main(app):
        blocked = versions(app, v1=held, v2=two)["v1"]
        await app.start(blocked, id="a")
        with pytest.raises(IllegalMove, match="pause it first"):
            await app.move_version("a", "2")
        with pytest.raises(UnknownWorkflow, match="pay@3"):
            await app.move_version("a", "3")

    async def held(ctx: Context) -> None:
        await ctx.step("hold", lambda: asyncio.sleep(100))

    desk.play(main, healthy=False)


def test_a_run_that_no_worker_has_the_code_of_says_so(desk):
    """A run whose version was retired too early would stay queued in silence (I8)."""

    async def before(app):
        versions(app, v1=one)
        await app.start("pay", id="old")

    async def after(app):
        versions(app, v2=two, v3=two)
        await asyncio.sleep(1)
        await app.signal("old", "go")
        stuck = "no live worker has version '1' of the workflow 'pay'; they have '2', '3'"
        assert (await app.handle("old").info()).stuck == stuck
        ((listed,), _) = await app.client.runs(RunFilter())
        assert listed.stuck == stuck
        (found,) = [finding for finding in await app.client.doctor() if finding.code == "no_compatible_worker"]
        assert found.examples == ["pay@1 (1)"]
        await app.move_version("old", "2")
        assert await app.handle("old").result() == "two 0"
        assert (await app.handle("old").info()).stuck == ""

    desk.play(before)
    desk.play(after)


def test_a_run_that_no_worker_is_there_for_says_so(desk):
    """Somebody who looks at a run that does not begin would not learn that all workers are gone."""

    async def main(app):
        versions(app, v1=one)
        await app.start("pay", id="a")
        await asyncio.sleep(1)
        await app.worker.stop()
        assert (await app.handle("a").info()).stuck == "", "it waits for a signal, and needs no worker meanwhile"
        await app.signal("a", "go")
        assert (await app.handle("a").info()).stuck == "no worker is alive"

    desk.play(main, healthy=False)
