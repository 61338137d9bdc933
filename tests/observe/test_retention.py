"""A worker removes what ended long ago: nothing else, a little at a time, and not all workers at once."""

import asyncio
import logging
from contextlib import AsyncExitStack
from datetime import timedelta
from itertools import pairwise

import pytest

from perdure import App, Context, WorkerOptions
from perdure.errors import InvalidOption, StoreBusy
from perdure.store import prune
from perdure.worker import retention

DAY = 86_400


async def leaf(ctx: Context, n: int) -> int:
    return n


async def tree(ctx: Context) -> int:
    return await ctx.step("one", lambda: 1) + await ctx.call("leaf", 2)


async def endless(ctx: Context) -> None:
    await ctx.call("leaf", 1)
    await ctx.receive("never")


async def ids(app):
    return {row[0] for row in await app.client.store.select("select id from perdure_runs")}


async def count(app, table):
    ((found,),) = await app.client.store.select(f"select count(*) from perdure_{table}")
    return found


def test_after_thirty_days(play):
    """A database would grow for ever unless its operator had read that it does; or lose what ended last week."""

    async def main(app):
        for n in range(3):
            await (await app.start("tree", id=f"t{n}", tags=["x"])).result()
        await app.start("endless", id="e")
        await asyncio.sleep(29 * DAY)
        await (await app.start("tree", id="young")).result()
        assert len(await ids(app)) == 10
        await asyncio.sleep(1.3 * DAY)
        assert {run_id.split("/")[0] for run_id in await ids(app)} == {"e", "young"}
        assert len(await ids(app)) == 4
        assert (await count(app, "tags"), await count(app, "runs")) == (0, 4)
        assert [finding for finding in await app.client.doctor() if finding.severity != "note"] == []
        again = await app.start("tree", id="t0")
        assert await again.result() == 3

    play(main, leaf, tree, endless)


@pytest.mark.parametrize(
    ("age", "days", "left"), [(None, 100, 2), (timedelta(days=40), 39, 2), (3_600, 0.05, 0), (0, 0.01, 0)]
)
def test_as_configured(play, age, days, left):
    """What was asked to be kept would be gone, or the other way round."""

    async def main(app):
        await (await app.start("tree")).result()
        await asyncio.sleep(days * DAY)
        assert await count(app, "runs") == left

    play(main, leaf, tree, worker={"retention": age})


def test_one_worker_at_a_time(play, monkeypatch):
    """Each of fifty workers would look for old runs every hour, and they would get into each other's way."""
    rounds = []
    real = retention.prune_some

    async def counted(store, *args):
        rounds.append(store)
        return await real(store, *args)

    monkeypatch.setattr(retention, "prune_some", counted)

    async def main(app):
        async with AsyncExitStack() as stack:
            apps = [await stack.enter_async_context(app.variant()) for _ in range(4)]
            await asyncio.sleep(60 * 3_600)
            assert len({id(other.client.store) for other in apps}) == 4
        return len(rounds)

    assert play(main, leaf, opened=False) in {10, 11}, "every six hours, whoever does it"


def test_little_by_little(play, monkeypatch):
    """A worker that finds a million old runs would keep everybody else from writing."""
    sizes = []
    real = retention.prune_some

    async def seen(store, before, statuses, trees):
        removed = await real(store, before, statuses, trees)
        sizes.append((removed, trees, asyncio.get_running_loop().time()))
        return removed

    monkeypatch.setattr(retention, "prune_some", seen)

    async def main(app):
        for handle in [await app.start("leaf", n) for n in range(120)]:
            await handle.result()
        await asyncio.sleep(31 * DAY)
        assert await count(app, "runs") == 0

    play(main, leaf)
    busy = [size for size in sizes if size[0]]
    assert [removed for removed, _, _ in busy] == [50, 50, 20]
    assert [round(later[2] - earlier[2], 2) for earlier, later in pairwise(busy)] == [0.05, 0.05]


def test_the_number_of_trees_follows_the_time_they_take(tmp_path):
    """Where trees are large, each transaction would take seconds; where they are small, the work would never end."""

    class Real:
        virtual = False

    keeper = retention.Retention(None, Real(), 60)
    for _ in range(10):
        keeper._learn(0.001)
    assert keeper._trees == retention.MOST
    for _ in range(10):
        keeper._learn(1.0)
    assert keeper._trees == retention.FEWEST


def test_stopping_ends_it(play, monkeypatch):
    """A worker that is told to leave would go on to prune, and be killed over it."""

    async def many(*_):
        removed.append(1)
        return 50

    removed = []
    monkeypatch.setattr(retention, "prune_some", many)

    async def main(app):
        async with app.variant():
            await asyncio.sleep(retention.FIRST_S + 1)
            assert removed
        so_far = len(removed)
        await asyncio.sleep(3_600)
        assert len(removed) == so_far

    play(main, leaf, opened=False)


def test_a_database_that_fails_is_tried_again(play, monkeypatch, caplog):
    """One failure would keep a worker from pruning for the rest of its life."""
    real, failures = prune.prune_some, [StoreBusy("locked"), StoreBusy("locked")]

    async def failing(*args):
        if failures:
            raise failures.pop()
        return await real(*args)

    monkeypatch.setattr(retention, "prune_some", failing)

    async def main(app):
        await (await app.start("tree")).result()
        await asyncio.sleep(600)
        assert await count(app, "runs") == 0

    with caplog.at_level(logging.WARNING, "perdure.worker"):
        play(main, leaf, tree, worker={"retention": 60})
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "cannot remove old runs now, trying again later"
    ] * 2


@pytest.mark.parametrize("age", [-1, "30d", float("nan")])
def test_what_is_no_age(age):
    """A mistyped age would be found when the runs are gone."""
    with pytest.raises(InvalidOption, match="retention"):
        WorkerOptions(retention=age)


@pytest.mark.parametrize(("text", "age"), [("never", None), ("7d", timedelta(days=7)), ("60", timedelta(minutes=1))])
def test_from_the_environment(monkeypatch, text, age):
    """A container could not be told how long to keep runs."""
    monkeypatch.setenv("PERDURE_RETENTION", text)
    assert App.from_env(url="sqlite://").worker_options.retention == age
    monkeypatch.setenv("PERDURE_RETENTION", "a while")
    with pytest.raises(InvalidOption, match="PERDURE_RETENTION"):
        App.from_env(url="sqlite://")


def test_the_shortest_age_counts(play):
    """A worker that keeps everything longer would always come first, and nothing would ever be removed."""

    async def main(app):
        async with app.variant(worker=WorkerOptions(lease=DAY, retention=timedelta(days=300))) as longer:
            await (await longer.start("tree")).result()
            async with app.variant(worker=WorkerOptions(lease=DAY, retention=timedelta(days=3))):
                await asyncio.sleep(4 * DAY)
                assert await count(longer, "runs") == 0

    play(main, leaf, tree, opened=False)
