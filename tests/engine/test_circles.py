"""Runs that are over leave nothing behind, nor to the cyclic garbage collector (docs/adr/0019-no-circles.md)."""

import asyncio
import gc
import weakref
from functools import wraps

import pytest

from perdure import Context
from perdure.engine.definition import Registry


async def step(n: int) -> dict[str, int]:
    return {"n": n}


def plain(n: int) -> int:
    return n


class Large:
    """What a step's function closes over."""

    def add(self, n: int) -> int:
        return n + 1


async def many_things(ctx: Context, n: int) -> int:
    total = sum([(await ctx.step(step, i))["n"] for i in range(n)])
    await asyncio.gather(*[ctx.step(step, i) for i in range(n)])
    await ctx.sleep(5)
    await ctx.emit("seen", total)
    return total + await ctx.receive("never", int, timeout=5, default=1)


def left_behind(lab, name, *arguments):
    """How many objects a further run leaves to the collector, after a few have warmed up what is made once."""
    found = []

    async def main():
        async with lab.worker(many_things) as app:

            async def once():
                await (await app.start(name, *arguments)).result()
                await asyncio.sleep(1)

            for _ in range(3):
                await once()
            gc.collect()
            gc.disable()
            try:
                await once()
                found.append(gc.collect())
            finally:
                gc.enable()

    lab.play(main)
    return found[0]


def test_a_run_that_is_over_leaves_nothing_to_the_collector(lab):
    """Each step would leave a circle, and the collector look through all living runs to find it."""
    assert left_behind(lab, "many_things", 20) == 0


def test_a_run_that_is_parked_without_a_cache_goes_quietly(lab, caplog):
    """A worker that keeps no parked runs would say of each that it cannot go on."""

    async def main():
        async with lab.worker(many_things, cached_runs=0) as app:
            assert await (await app.start("many_things", 2)).result() == 2
            assert app.worker.statistics == {"driven": 0, "parked": 0}

    lab.play(main)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_run_is_put_aside_without_a_look_at_all_tasks_of_the_process(lab, monkeypatch):
    """With 100,000 sleeping runs a worker would look through as many tasks for each that it no longer keeps."""

    async def parallel(ctx: Context) -> list:
        await asyncio.gather(*[ctx.step(step, i) for i in range(2)], ctx.sleep(100))
        raise ValueError("undo")

    async def undone(ctx: Context) -> None:
        await ctx.step("do", lambda: 1, compensate=lambda: 2)
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.sleep(1000))
            await ctx.sleep(1)
            raise ValueError("undo")

    def all_tasks(*_):
        raise AssertionError("looked at")

    async def main():
        async with lab.worker(parallel, undone, many_things, cached_runs=1) as app:
            monkeypatch.setattr(asyncio, "all_tasks", all_tasks)
            runs = [await app.start("parallel"), await app.start("undone"), await app.start("many_things", 3)]
            return [(await lab.ended(app, run.id)).status for run in runs]

    assert lab.play(main) == ["failed", "failed", "completed"]


@pytest.mark.parametrize("made", ["local", "method", "wrapper"])
def test_a_function_that_a_run_makes_for_a_step_goes_with_the_run(lab, made):
    """I10: each run would leave what its functions close over in the worker's memory, for ever."""
    kept = []

    async def flow(ctx: Context) -> int:
        large = Large()
        kept.append(weakref.ref(large))

        def local(n: int) -> int:
            return large.add(n)

        fn = {"local": local, "method": large.add, "wrapper": wraps(plain)(local)}[made]
        return await ctx.step(fn, 1) + await ctx.step(fn, 2)

    async def main():
        async with lab.worker(flow) as app:
            assert [await (await app.start("flow")).result() for _ in range(3)] == [5, 5, 5]
            gc.collect()
            assert [ref() for ref in kept] == [None] * 3

    lab.play(main)


def test_a_function_of_a_module_is_made_a_step_once():
    """Each ``ctx.step(fn, …)`` would look at the function anew, for 80 µs."""
    registry = Registry()
    assert [registry.step_of(fn) is registry.step_of(fn) for fn in (plain, step, len, Large.add)] == [True] * 4
    large = Large()
    assert registry.step_of(large.add).returns is registry.step_of(Large().add).returns
