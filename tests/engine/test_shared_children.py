"""One chosen id in several calls of a parent: all of them mean the same child, and each hears how it ends."""

import asyncio

import pytest

from perdure import App, Context
from perdure.errors import ChildFailed, StartConflict


async def slow(ctx: Context, seconds: float) -> float:
    await ctx.sleep(seconds)
    return seconds


async def at_once(ctx: Context, seconds: float) -> float:
    return seconds


async def sour(ctx: Context, seconds: float) -> float:
    await ctx.sleep(seconds)
    raise ValueError("sour")


async def told(awaitable):
    try:
        return await awaitable
    except StartConflict as error:
        return f"conflict {error.run_id}"
    except ChildFailed as error:
        return f"{error.status}: {error.cause}"


# ------------------------------------------------------------------------------- programs, with what they must give
async def together(ctx: Context, name: str) -> list:
    return await asyncio.gather(*(told(ctx.call(name, 20.0, id="x")) for _ in range(3)))


async def one_after_the_other(ctx: Context, name: str) -> list:
    first, second = await ctx.start(name, 20.0, id="x"), await ctx.start(name, 20.0, id="x")
    return [await told(first.result()), await told(second.result())]


async def the_second_first(ctx: Context, name: str) -> list:
    first, second = await ctx.start(name, 20.0, id="x"), await ctx.start(name, 20.0, id="x")
    return [await told(second.result()), await told(first.result())]


async def steps_between(ctx: Context, name: str) -> list:
    first = await ctx.start(name, 20.0, id="x")
    await ctx.step("between", lambda: None)
    second = await ctx.start(name, 20.0, id="x")
    await ctx.step("behind", lambda: None)
    found = [await told(first.result())]
    await ctx.sleep(60)
    return [*found, await told(second.result())]


async def later(ctx: Context, name: str) -> list:
    first, second = await ctx.start(name, 20.0, id="x"), await ctx.start(name, 20.0, id="x")
    await ctx.sleep(60)
    return await asyncio.gather(told(first.result()), told(second.result()))


async def one_that_was_waited_for(ctx: Context, name: str) -> list:
    first = await told(ctx.call(name, 20.0, id="x"))
    await ctx.sleep(60)
    return [first, *await asyncio.gather(told(ctx.call(name, 20.0, id="x")), told(ctx.call(name, 20.0, id="x")))]


async def an_id_of_perdures(ctx: Context, name: str) -> list:
    first, second = await ctx.start(name, 20.0, id=f"{ctx.run_id}/{name}#2"), await ctx.start(name, 20.0)
    assert first.id == second.id
    found = [await told(first.result())]
    await ctx.sleep(60)
    return [*found, await told(second.result()), await told(ctx.call(name, 20.0, id=first.id))]


PROGRAMS = [
    together, one_after_the_other, the_second_first, steps_between, later, one_that_was_waited_for, an_id_of_perdures,
]  # fmt: skip


@pytest.fixture
def perdure_app():
    app = App("sqlite://")
    for workflow in (slow, at_once, *PROGRAMS, *CONFLICTS):
        app.workflow(workflow)
    return app


@pytest.mark.parametrize("cached", [0, 10])
@pytest.mark.parametrize(("child", "end"), [(slow, 20.0), (at_once, 20.0), (sour, "failed: sour")])
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_call_hears_of_the_end(lab, program, child, end, cached):
    """A parent that asks for one id twice would wait for ever: the end was told to one call only (I8)."""
    ended = lab.finish(program, child.__name__, others=[child], settings={"cached_runs": cached})
    assert ended.value
    assert set(ended.value) == {end}
    assert ended.seconds < 100


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_call_hears_of_the_end_whatever_dies(perdure_kit, program):
    """A worker that dies between two calls' ends would leave the second without its own (I8, I9)."""
    assert set(perdure_kit.crash_everywhere(program.__name__, "slow").result) == {20.0}


async def at_one_time(ctx: Context, name: str, seconds: float) -> list:
    return await asyncio.gather(told(ctx.call("slow", 20.0, id="x")), told(ctx.call(name, seconds, id="x")))


async def both_later(ctx: Context, name: str, seconds: float) -> list:
    first, second = await ctx.start("slow", 20.0, id="x"), await ctx.start(name, seconds, id="x")
    await ctx.sleep(60)
    return [await told(first.result()), await told(second.result())]


async def the_other_first(ctx: Context, name: str, seconds: float) -> list:
    first, second = await ctx.start("slow", 20.0, id="x"), await ctx.start(name, seconds, id="x")
    await ctx.step("between", lambda: None)
    found = await told(second.result())
    return [await told(first.result()), found]


async def the_other_behind_the_end(ctx: Context, name: str, seconds: float) -> list:
    first = await ctx.start("slow", 20.0, id="x")
    await ctx.sleep(60)
    found = await told(ctx.call(name, seconds, id="x"))
    return [await told(first.result()), found]


async def the_other_behind_the_result(ctx: Context, name: str, seconds: float) -> list:
    return [await told(ctx.call("slow", 20.0, id="x")), await told(ctx.call(name, seconds, id="x"))]


CONFLICTS = [at_one_time, both_later, the_other_first, the_other_behind_the_end, the_other_behind_the_result]
OTHERS = [("at_once", 5.0), ("at_once", 20.0), ("slow", 5.0)]
"""Another workflow, with other input and with the same; the same workflow with other input."""


@pytest.mark.parametrize("cached", [0, 10])
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("program", CONFLICTS)
def test_two_children_under_one_id(lab, program, other, cached):
    """A refusal would be told to the other call, or be lost, or the child's end be told to both, who want others."""
    ended = lab.finish(program, *other, others=[slow, at_once], settings={"cached_runs": cached})
    assert ended.value == [20.0, "conflict x"]


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("program", CONFLICTS)
def test_two_children_under_one_id_whatever_dies(perdure_kit, program, other):
    """A worker that dies would take the refusal with it."""
    assert perdure_kit.crash_everywhere(program.__name__, *other).result == [20.0, "conflict x"]


@pytest.mark.parametrize("cached", [0, 10])
def test_a_refusal_that_nobody_waits_for_yet(lab, cached):
    """A parent that parks or dies before it asks would wait for a run that is not its child."""

    async def flow(ctx: Context) -> str:
        child = await ctx.start("at_once", 5.0, id="others")
        await ctx.sleep(60)
        return await told(child.result())

    async def main():
        async with lab.worker(flow, at_once, cached_runs=cached) as app:
            await (await app.start("at_once", 5.0, id="others")).result()
            ended = await lab.ended(app, (await app.start("flow")).id, "flow")
            assert ended.value == "conflict others"
            await lab.check_replay(app, ended, "flow")

    lab.play(main)


def test_a_call_that_is_given_up_leaves_the_child_to_the_other(lab):
    """One call's timeout would cancel the child that another call waits for."""

    async def flow(ctx: Context) -> list:
        async def impatient():
            try:
                async with asyncio.timeout(10):
                    return await ctx.call("slow", 20.0, id="x")
            except TimeoutError:
                return "gave up"

        return await asyncio.gather(impatient(), told(ctx.call("slow", 20.0, id="x")))

    assert lab.finish(flow, others=[slow]).value == ["gave up", 20.0]


def test_the_end_is_taken_once(lab):
    """The message of the child's end would stay in the inbox, or be taken for each call (I9)."""

    async def main():
        async with lab.worker(together, slow) as app:
            ended = await lab.ended(app, (await app.start("together", "slow")).id)
            assert ended.value == [20.0, 20.0, 20.0]
            assert await lab.sql(app, "select topic from perdure_inbox") == []
            assert [finding for finding in await app.client.doctor() if finding.severity != "note"] == []

    lab.play(main)


def test_another_round_with_other_input(lab):
    """What begins anew with other input would get the result of the round before."""

    async def flow(ctx: Context, n: int, found: list) -> list:
        found.append(await told(ctx.call("at_once", float(n), id="x")))
        if n > 1:
            ctx.continue_as_new(n - 1, found)
        return [*found, await told(ctx.call("at_once", 2.0, id="x"))]

    assert lab.finish(flow, 2, [], others=[at_once]).value == [2.0, "conflict x", 2.0]


@pytest.mark.parametrize("cached", [0, 10])
def test_newer_code_keeps_the_child_that_was_started(lab, cached):
    """A deploy that changes what a child is given would take the parent's own child from it."""
    given = 20.0

    async def flow(ctx: Context) -> list:
        child = await ctx.start("slow", given, id="x")
        await ctx.sleep(60)
        return [await told(child.result()), await told(ctx.call("slow", 20.0, id="x"))]

    async def main():
        nonlocal given
        async with lab.worker(flow, slow, cached_runs=cached) as app:
            run_id = (await app.start("flow")).id
            await asyncio.sleep(30)
        given = 7.0
        async with lab.worker(flow, slow, cached_runs=cached) as app:
            ended = await lab.ended(app, run_id, "flow")
            assert ended.value == [20.0, 20.0]

    lab.play(main)
