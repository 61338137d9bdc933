"""Prune: what ended long ago goes with all that belongs to it, and nothing else does."""

import asyncio
from datetime import timedelta

import apsw
import pytest

from perdure import App, Context, Limits, WorkerOptions
from perdure.errors import InvalidOption, RunCancelled, RunFailed, RunNotFound
from perdure.model.run import RunFilter
from perdure.model.status import Status
from perdure.store.queries import statements
from perdure.testing.time import run_virtual

DAY = 86_400
TABLES = ("runs", "journal", "inbox", "tags", "blob_refs", "blobs")


async def leaf(ctx: Context, seconds: float) -> None:
    await ctx.sleep(seconds)


async def tree(ctx: Context, seconds: float = 0, text: str = "") -> str:
    if seconds:
        await ctx.start("leaf", seconds, detached=True, id=f"{ctx.run_id}-leaf")
    await ctx.receive("go", timeout=1, default=None)
    if text == "fail":
        raise ValueError(text)
    return await ctx.call("tree", 0, text) if seconds else await ctx.step("echo", lambda: text)


@pytest.fixture
def play(tmp_path):
    """Run a coroutine function with an open app in virtual time."""

    def run(main):
        async def virtual(clock):
            worker, limits = WorkerOptions(lease=10 * DAY, cached_runs=0), Limits(inline_bytes=50)
            url = f"sqlite:///{tmp_path / 'retention.db'}"
            app = App(url, clock=clock, worker=worker, limits=limits, synchronous="NORMAL")
            for workflow in (leaf, tree):
                app.workflow(workflow)
            async with app:
                await main(app)
                assert [finding for finding in await app.client.doctor() if finding.severity != "note"] == []

        run_virtual(virtual)

    return run


async def sizes(app):
    """Rows of each table."""
    found = {}
    for table in TABLES:
        ((found[table],),) = await app.client.store.select(f"select count(*) from perdure_{table}")
    return found


def test_a_tree_goes_whole_when_its_time_has_come(play):
    """A finished run would stay for ever, go too early, or leave rows behind that grow with each run."""

    async def main(app):
        run = await app.start("tree", 5, "x" * 100, id="old", tags=["t"])
        for number in range(3):
            await run.signal("go", "y" * 100, key=f"key {number}")
        await run.signal("never", "z" * 100)
        assert await run.result() == "x" * 100
        await asyncio.sleep(DAY)
        before = await sizes(app)
        assert (before["runs"], before["inbox"] > 0, before["blobs"] > 2) == (3, True, True)
        assert await app.client.prune(older_than=timedelta(days=2)) == 0
        assert await sizes(app) == before
        assert await app.client.prune(older_than=timedelta(hours=12)) == 3
        assert await sizes(app) == dict.fromkeys(TABLES, 0)
        with pytest.raises(RunNotFound):
            await run.info()

    play(main)


def test_a_tree_with_an_unfinished_run_stays(play):
    """A run that goes on would lose its parent, or a finished child would go before its tree."""

    async def main(app):
        run = await app.start("tree", 10 * DAY, id="root")
        await run.result()
        await asyncio.sleep(5 * DAY)
        assert await app.client.prune(older_than=DAY) == 0
        assert (await sizes(app))["runs"] == 3
        await app.handle("root-leaf").result()
        # The tree's age is that of its first run.
        assert await app.client.prune(older_than=DAY) == 3

    play(main)


def test_a_run_that_is_run_again_stays(play):
    """The old end of a run would have it removed while its new generation goes on."""

    async def main(app):
        run = await app.start("tree", id="r")
        await run.result()
        await asyncio.sleep(DAY)
        await app.client.rerun("r")
        assert await app.client.prune(older_than=10) == 0
        await run.result()
        assert await app.client.prune(older_than=10) == 0
        await asyncio.sleep(20)
        assert await app.client.prune(older_than=10) == 1

    play(main)


def test_only_the_statuses_asked_for(play):
    """Whoever keeps failed runs to look at them would lose them."""

    async def main(app):
        done = await app.start("tree", id="done")
        failed = await app.start("tree", 0, "fail", id="failed")
        cancelled = await app.start("tree", id="cancelled")
        await cancelled.cancel()
        await done.result()
        with pytest.raises(RunFailed):
            await failed.result()
        with pytest.raises(RunCancelled):
            await cancelled.result()
        await asyncio.sleep(DAY)
        for status, run_id in ((Status.CANCELLED, "cancelled"), (Status.COMPLETED, "done"), (Status.FAILED, "failed")):
            assert await app.handle(run_id).info()
            assert await app.client.prune(older_than=1, statuses=[status]) == 1
            with pytest.raises(RunNotFound):
                await app.handle(run_id).info()

    play(main)


def test_in_batches_and_up_to_a_limit(play):
    """One huge transaction would keep all writers waiting, or a limit would not be kept."""

    async def main(app):
        runs = [await app.start("tree", id=f"r{number:02}") for number in range(20)]
        await asyncio.gather(*[run.result() for run in runs])
        await asyncio.sleep(DAY)
        before = app.client.store.commits
        assert await app.client.prune(older_than=1, trees=3, most=7) == 7
        assert app.client.store.commits - before == 4
        left, _ = await app.client.runs(RunFilter(oldest_first=True))
        assert len(left) == 13
        other = await app.start("tree", id="other")
        assert sum(await asyncio.gather(*[app.client.prune(older_than=1, trees=2) for _ in range(3)])) == 13
        assert await other.result() == ""
        assert (await sizes(app))["runs"] == 1

    play(main)


def test_what_others_share_survives(play):
    """A payload that two runs have in common would go with the first of them."""

    async def main(app):
        await (await app.start("tree", 0, "x" * 100, id="old")).result()
        await asyncio.sleep(DAY)
        young = await app.start("tree", 0, "x" * 100, id="young")
        await asyncio.sleep(0)
        assert await app.client.prune(older_than=DAY / 2) == 1
        assert await young.result() == "x" * 100

    play(main)


def test_payloads_of_refused_messages_go(play):
    """Whoever sends large signals to runs that are not there would fill the disk for good."""

    async def main(app):
        for number in range(5):
            with pytest.raises(RunNotFound):
                await app.signal("nobody", "go", f"{number}" * 100)
        (note,) = [finding for finding in await app.client.doctor() if finding.code == "blob_unused"]
        assert (note.count, note.severity) == (5, "note")
        assert await app.client.prune(older_than=DAY, trees=2) == 0
        assert (await sizes(app))["blobs"] == 0

    play(main)


def test_workers_that_left_are_forgotten(tmp_path):
    """Each restart would leave a row for ever; or a worker that owns runs would be forgotten, and they be lost."""

    async def main(clock):
        def open_app():
            app = App(f"sqlite:///{tmp_path / 'w.db'}", clock=clock, worker=WorkerOptions(lease=10 * DAY))
            app.workflow(leaf)
            return app

        for _ in range(3):
            async with open_app():
                await asyncio.sleep(1)
        async with open_app() as app:
            assert len(await app.client.workers()) == 4
            await app.client.prune(older_than=DAY)
            assert len(await app.client.workers()) == 4
            await asyncio.sleep(2 * DAY)
            await app.client.prune(older_than=DAY)
            (left,) = await app.client.workers()
            assert left.state == "alive"

    run_virtual(main)


@pytest.mark.parametrize(
    "options",
    [
        {"statuses": [Status.RUNNING]},
        {"statuses": []},
        {"trees": 0},
        {"most": 0},
        {"older_than": -1},
        {"older_than": "1d"},
    ],
)
def test_what_cannot_be_pruned(play, options):
    """A mistyped option would remove what somebody needs."""

    async def main(app):
        await (await app.start("tree")).result()
        await asyncio.sleep(DAY)
        with pytest.raises(InvalidOption):
            await app.client.prune(**{"older_than": 1} | options)
        assert (await sizes(app))["runs"] == 1

    play(main)


def test_the_cost_does_not_grow_with_what_stays(tmp_path):
    """Pruning a few runs of a million would read, or sort, the whole table for each batch."""

    async def main(clock):
        async with App(f"sqlite:///{tmp_path / 'plan.db'}", clock=clock):
            pass

    run_virtual(main)
    connection = apsw.Connection(str(tmp_path / "plan.db"))
    connection.execute("create temp table perdure_doomed (number integer primary key)")
    dropping = [sql for name, sql in statements("sqlite").items() if name == "doom" or name.startswith("drop_")]
    for statement in dropping:
        plan = connection.execute(f"explain query plan {statement.sql}", (1,) * len(statement.parameters))
        steps = [row[3] for row in plan]
        # What may be read as a whole: the chosen trees, the statuses asked for, and the names of large payloads.
        small = ("SCAN tree", "SCAN t", "SCAN (subquery", "SCAN json_each", "SCAN b USING COVERING INDEX")
        assert [step for step in steps if step.startswith("SCAN") and not step.startswith(small)] == [], statement.name
        assert not any("TEMP B-TREE" in step for step in steps), statement.name
