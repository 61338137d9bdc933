"""ctx.map: many items, with a limit on how many at once and rules for how many may fail."""

import asyncio
from typing import Annotated

import pytest
from pydantic import PlainSerializer

from perdure import Context, MapResult
from perdure.errors import InvalidName, InvalidOption, TooFewSucceeded

Loud = Annotated[str, PlainSerializer(str.upper)]


class Bad(Exception):
    pass


def worker(*failing):
    """A step's body that fails for these items; and what it was called with."""
    ran = []

    async def work(item: int) -> int:
        ran.append(item)
        if item in failing:
            raise Bad(f"item {item}")
        return item * 10

    return work, ran


def outcome(result: MapResult) -> dict:
    """What is compared: everything there is to say about a map with limits."""
    return {
        "results": result.results, "failed": {str(place): str(error) for place, error in result.errors.items()},
        "total": result.total, "reason": result.reason, "ok": result.ok,
    }  # fmt: skip


def mapped(lab, failing=(), items=4, *, ended=False, **limits):
    """Run one map over a range of items, one at a time unless said otherwise."""
    work, ran = worker(*failing)

    async def flow(ctx: Context) -> dict | list:
        got = await ctx.map(lab.app().step(work), range(items), **{"concurrency": 1} | limits)
        return outcome(got) if isinstance(got, MapResult) else got

    done = lab.finish(flow)
    return (done, ran) if ended else (done.value, ran)


# --------------------------------------------------------------------------------------- without limits
def test_results_in_the_order_of_the_items(lab):
    """9-1, 9-2: results would come in the order of their ends, or only with a name given."""

    async def work(seconds: int) -> int:
        await asyncio.sleep(seconds)
        return seconds

    async def flow(ctx: Context) -> list[int]:
        return await ctx.map(lab.app().step(work), [30, 10, 20])

    ended = lab.finish(flow)
    assert (ended.value, ended.seconds) == ([30, 10, 20], 30)
    assert ended.keys("step_completed") == ["work[1]/work", "work[2]/work", "work[0]/work"]


def test_a_function_of_the_workflows_own(lab):
    """9-3: a coroutine function with several steps, and the item's place, could not be mapped."""

    async def flow(ctx: Context) -> list[str]:
        async def one(pair: tuple[int, str]) -> str:
            place, item = pair
            first = await ctx.step("first", item.upper)
            await ctx.sleep(5)
            return await ctx.step("second", lambda: f"{place}{first}")

        return await ctx.map(one, enumerate("abc"))

    ended = lab.finish(flow)
    assert ended.value == ["0A", "1B", "2C"]
    assert ended.keys("step_completed")[:2] == ["one[0]/first", "one[1]/first"]


def test_children_for_items(lab):
    """A workflow could not be mapped over items, each as a child run of its own."""

    async def child(ctx: Context, n: int) -> int:
        await ctx.sleep(n)
        return n * n

    async def main():
        registered = []

        async def flow(ctx: Context) -> list[int]:
            return await ctx.map(registered[0], [3, 1, 2])

        app = lab.app(flow)
        registered.append(app.workflow(child))
        async with app:
            ended = await lab.ended(app, (await app.start("flow", id="p")).id)
            assert (ended.value, ended.seconds) == ([9, 1, 4], 3)
            assert sorted(data["id"] for data in ended.data("child_started")) == [
                f"p/child[{n}]/child" for n in range(3)
            ]

    lab.play(main)


def test_no_items(lab):
    """8-5, 9-4: an empty list would hang, or not be a success."""
    assert mapped(lab, items=0) == ([], [])
    lab.path = lab.path.with_suffix(".2")
    value, _ = mapped(lab, items=0, tolerate=0)
    assert value == {"results": [], "failed": {}, "total": 0, "reason": "all_completed", "ok": True}


def test_without_limits_the_first_failure_is_raised(lab):
    """9-6: a failing item would be swallowed, or the others go on for nobody."""
    cancelled = []

    async def work(item: int) -> int:
        try:
            await asyncio.sleep(item)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise
        if item == 10:
            raise Bad("item 10")
        return item

    async def flow(ctx: Context) -> None:
        await ctx.map(lab.app().step(work), [5, 1000, 10, 2000])

    ended = lab.finish(flow)
    assert (ended.status, str(ended.error), type(ended.error), ended.seconds) == ("failed", "item 10", Bad, 10)
    assert sorted(cancelled) == [1000, 2000]


@pytest.mark.parametrize("limits", [{}, {"tolerate": 0}])
def test_concurrency(lab, limits):
    """8-11, 9-11: more items than allowed would run at once, or fewer; or results lose their order."""
    now, most = [], []

    async def work(item: int) -> int:
        now.append(item)
        most.append(len(now))
        await asyncio.sleep(10 - item)
        now.remove(item)
        return item

    async def flow(ctx: Context) -> list[int]:
        got = await ctx.map(lab.app().step(work), range(7), concurrency=2, **limits)
        return got.results if limits else got

    ended = lab.finish(flow)
    assert (ended.value, max(most)) == (list(range(7)), 2)
    assert ended.seconds == 26


def test_names_of_items(lab):
    """8-3, 9-13: a given name would change the result, or not reach the journal; two maps would share keys."""
    work, _ = worker()

    async def flow(ctx: Context) -> list:
        step = lab.app().step(work)
        return [await ctx.map(step, [1], name="mine"), await ctx.map(step, [2], name="mine"), await ctx.map(step, [3])]

    ended = lab.finish(flow)
    assert ended.value == [[10], [20], [30]]
    assert ended.keys("step_completed") == ["mine[0]/work", "mine#2[0]/work", "work[0]/work"]


def test_there_are_no_entries_but_the_items_own(lab):
    """8-12, 9-12: a map or a branch would cost journal entries of its own."""
    ended, _ = mapped(lab, items=3, ended=True)
    assert [event.kind for event in ended.events] == ["step_completed"] * 3 + ["completed"]


# ------------------------------------------------------------------------------------- failures and limits
def test_no_failure_tolerated(lab):
    """8-6, 9-5: with tolerate=0 the map would go on behind the first failure, or raise it."""
    value, ran = mapped(lab, failing=[1], tolerate=0)
    assert ran == [0, 1]
    assert value == {
        "results": [0], "failed": {"1": "item 1"}, "total": 2, "reason": "failure_tolerance_exceeded", "ok": False,
    }  # fmt: skip


def test_unwrap_fails_the_run(lab):
    """8-7, 9-6: a map that went badly could not be turned into a failure, or would not say how badly, and why."""
    work, _ = worker(1)

    async def flow(ctx: Context) -> list[int]:
        return (await ctx.map(lab.app().step(work), range(4), concurrency=1, tolerate=0)).unwrap()

    ended = lab.finish(flow)
    assert (ended.status, type(ended.error)) == ("failed", TooFewSucceeded)
    assert (ended.error.succeeded, ended.error.failed, ended.error.total) == (1, 1, 2)
    assert repr(ended.error.__cause__) == "Bad('item 1')"


def test_enough_successes(lab):
    """8-8, 9-7: with two of four needed, the others would still be begun."""
    value, ran = mapped(lab, min_success=2)
    assert ran == [0, 1]
    assert value == {"results": [0, 10], "failed": {}, "total": 2, "reason": "min_success_reached", "ok": True}


def test_enough_successes_cancel_what_runs(lab):
    """Items that run when enough have succeeded would be waited for."""

    async def work(item: int) -> int:
        await asyncio.sleep(item)
        return item

    async def flow(ctx: Context) -> dict:
        return outcome(await ctx.map(lab.app().step(work), [1, 2, 3000, 4000], min_success=2))

    ended = lab.finish(flow)
    assert (ended.seconds, ended.value["results"], ended.value["total"]) == (2, [1, 2], 4)
    assert sorted(ended.keys("step_cancelled")) == ["work[2]/work", "work[3]/work"]


def test_one_failure_tolerated(lab):
    """8-9, 9-8: with one failure allowed and one there, the map would stop, or count as a full success."""
    value, ran = mapped(lab, failing=[1], tolerate=1)
    assert ran == [0, 1, 2, 3]
    assert value == {
        "results": [0, 20, 30],
        "failed": {"1": "item 1"},
        "total": 4,
        "reason": "all_completed",
        "ok": False,
    }


def test_two_failures_where_one_is_tolerated(lab):
    """8-10, 9-9: the second failure would not stop the map."""
    value, ran = mapped(lab, failing=[0, 1], tolerate=1)
    assert ran == [0, 1]
    assert (value["reason"], value["total"], value["ok"]) == ("failure_tolerance_exceeded", 2, False)


@pytest.mark.parametrize(
    ("failing", "ran", "reason"), [([0, 1], 2, "failure_tolerance_exceeded"), ([0], 4, "all_completed")]
)
def test_a_share_of_failures(lab, failing, ran, reason):
    """8-13, 8-22, 9-10: a quarter of four allowed: two failures would not stop it, or exactly a quarter would."""
    value, done = mapped(lab, failing=failing, tolerate=0.25)
    assert (len(done), value["reason"]) == (ran, reason)


def test_all_fail_within_tolerance(lab):
    """8-16: failures that are all tolerated would stop the map, or make it a success."""
    value, ran = mapped(lab, failing=range(4), tolerate=4)
    assert (len(ran), value["reason"], value["ok"], len(value["failed"])) == (4, "all_completed", False, 4)


def test_min_success_never_reached(lab):
    """8-17: without a tolerance all items would not be tried, or the shortage not be told."""
    value, ran = mapped(lab, failing=[0, 1, 3], min_success=2)
    assert (len(ran), value["reason"], value["ok"], value["results"]) == (4, "all_completed", False, [20])


def test_both_limits(lab):
    """8-18: of two limits the one that is hit first would not decide."""
    value, ran = mapped(lab, failing=[0, 1], min_success=2, tolerate=1)
    assert (ran, value["reason"], value["ok"]) == ([0, 1], "failure_tolerance_exceeded", False)
    lab.path = lab.path.with_suffix(".2")
    value, ran = mapped(lab, failing=[0], min_success=2, tolerate=1)
    assert (ran, value["reason"], value["ok"]) == ([0, 1, 2], "min_success_reached", True)


@pytest.mark.parametrize(
    "limits",
    [
        {"concurrency": 0},
        {"concurrency": -1},
        {"min_success": 0},
        {"tolerate": -1},
        {"tolerate": float("nan")},
        {"concurrency": "x"},
    ],
)
def test_limits_out_of_range(lab, limits):
    """8-19: a limit that makes no sense would be noticed only after something was begun, or hang the map."""
    ended, ran = mapped(lab, ended=True, **limits)
    assert (ended.status, type(ended.error), ran) == ("failed", InvalidOption, [])


def test_what_a_map_result_tells(lab):
    """8-20: what succeeded, what failed and with which error could not be told apart."""
    work, _ = worker(1)

    async def flow(ctx: Context) -> list:
        got = await ctx.map(lab.app().step(work), range(3), tolerate=1)
        assert isinstance(got, MapResult)
        return [got.succeeded == {0: 0, 2: 20}, got.results, repr(got.errors[1]), bool(got.errors), got.ok, got.total]

    assert lab.finish(flow).value == [True, [0, 20], "Bad('item 1')", True, False, 3]


# --------------------------------------------------------------------------------------- suspended, replayed
def test_a_wait_inside_an_item(lab):
    """9-15: an item that waits would make the finished ones run again."""
    ran = []

    async def flow(ctx: Context) -> list[int]:
        async def one(item: int) -> int:
            if item == 1:
                await ctx.sleep(60)
            return await ctx.step("work", lambda: ran.append(item) or item)

        return await ctx.map(one, range(3))

    assert lab.finish(flow).value == [0, 1, 2]
    assert ran == [0, 2, 1]


@pytest.mark.parametrize("failing", [(), (1,)])
def test_a_finished_map_is_not_run_again(lab, failing):
    """9-17, 9-18: a wait behind a finished map, also one with a failure, would run it again."""
    work, ran = worker(*failing)

    async def flow(ctx: Context) -> dict:
        got = await ctx.map(lab.app().step(work), range(3), tolerate=1)
        await ctx.sleep(60)
        return outcome(got)

    ended = lab.finish(flow)
    assert sorted(ran) == [0, 1, 2]
    assert ended.value["failed"] == {str(place): f"item {place}" for place in failing}


def test_large_results_altogether(lab):
    """9-16: a map whose results are large together would need a limit for the whole."""

    async def flow(ctx: Context) -> int:
        async def one(item: int) -> str:
            return await ctx.step("work", lambda: str(item) * 100_000)

        got = await ctx.map(one, range(10))
        await ctx.sleep(60)
        return sum(len(each) for each in got)

    assert lab.finish(flow).value == 1_000_000


def test_types_of_items_and_of_the_whole(lab):
    """8-15, 9-14, 9-19, 9-20: an item's own serialiser, or the whole result's, would not be used, or only once."""

    def work(item: str) -> Loud:
        return item

    def whole(parts: list[str]) -> Loud:
        return "+".join(parts)

    async def flow(ctx: Context) -> list:
        got = await ctx.map(lab.app().step(work), ["a", "b"])
        joined = await ctx.step(whole, [*got, "c"])
        await ctx.sleep(60)
        return [got, joined]

    assert lab.finish(flow).value == [["A", "B"], "A+B+C"]


def test_maps_in_maps(lab):
    """8-21: a map inside a map's item would share keys with its neighbours."""

    async def flow(ctx: Context) -> list[list[int]]:
        async def inner(n: int) -> list[int]:
            async def leaf(m: int) -> int:
                return await ctx.step("leaf", lambda: 10 * n + m)

            return await ctx.map(leaf, range(2), concurrency=1)

        return await ctx.map(inner, range(3), concurrency=2)

    ended = lab.finish(flow)
    assert ended.value == [[0, 1], [10, 11], [20, 21]]
    assert len(set(ended.keys("step_completed"))) == 6


def test_a_bad_name(lab):
    """A name that would make keys ambiguous would be taken."""

    async def flow(ctx: Context) -> None:
        await ctx.map(ctx.sleep, [1], name="a/b")

    assert type(lab.finish(flow).error) is InvalidName


def test_what_is_no_function(lab):
    """Something that cannot be called would fail as an internal error of the engine."""

    async def flow(ctx: Context) -> list[str]:
        out = []
        for fn, items in ((7, [1]), (None, [1]), ("name", [1])):
            try:
                await ctx.map(fn, items)
            except InvalidOption as error:
                out.append(error.code)
        return out

    assert lab.finish(flow).value == ["invalid_option"] * 3
