"""Child runs: called, started and awaited later, failed, detached, cancelled, with ids of their own."""

import asyncio
from dataclasses import dataclass
from typing import Annotated

import pytest
from pydantic import BaseModel, PlainSerializer, PlainValidator

from perdure import Context, Retry, RunFilter
from perdure.errors import ChildFailed, DuplicateName, InvalidInput, RunCancelled, StartConflict, UnknownWorkflow
from perdure.model.status import Status


class Order(BaseModel):
    id: str
    lines: list[dict[str, int]]


@dataclass
class Bill:
    total: int


class NoStock(Exception):
    def __init__(self, item: str) -> None:
        super().__init__(f"no {item} left")
        self.item = item


Rot = Annotated[
    str, PlainSerializer(lambda text: text[::-1]), PlainValidator(lambda text: text if text.islower() else text.lower())
]


async def echo(ctx: Context, value: object) -> object:
    return value


async def empty_handed(ctx: Context, item: str) -> None:
    raise NoStock(item)


async def slow(ctx: Context, seconds: float) -> float:
    await ctx.sleep(seconds)
    return seconds


# ------------------------------------------------------------------------------------------------ call
def test_call_gives_the_childs_result(lab):
    """5-1, 5-2: a parent would not get what its child returned, or the journal would not name the child."""

    async def flow(ctx: Context) -> str:
        return await ctx.call("echo", "hello")

    ended = lab.finish(flow, others=[echo], id="p")
    assert ended.value == "hello"
    assert ended.data("child_started") == [{"id": "p/echo", "workflow": "echo"}]
    assert ended.keys("child_completed") == ["echo"]


@pytest.mark.parametrize("value", [{"a": [1, {"b": None}], "c": "ü"}, None, [], "x" * 1_000_000])
def test_values_to_and_from_children(lab, value):
    """5-3, 5-4, 5-7: nested data, None, or a payload of a megabyte would not survive the way there and back."""

    async def flow(ctx: Context) -> object:
        return await ctx.call("echo", value)

    assert lab.finish(flow, others=[echo]).value == value


def test_a_failed_child_fails_its_parent(lab):
    """5-5: a child's failure would be lost, or not say which child and why."""

    async def flow(ctx: Context) -> None:
        await ctx.call("empty_handed", "milk")

    ended = lab.finish(flow, others=[empty_handed], id="p")
    assert (ended.status, type(ended.error)) == ("failed", ChildFailed)
    assert (ended.error.run_id, ended.error.status) == ("p/empty_handed", "failed")
    assert (type(ended.error.cause), str(ended.error.cause), ended.error.cause.item) == (
        NoStock,
        "no milk left",
        "milk",
    )
    assert ended.error.__cause__ is ended.error.cause


def test_a_failed_child_may_be_caught(lab):
    """5-6, 5-10, I6: a caught failure would be another one on resume, or the child be run again."""
    ran = []

    async def flow(ctx: Context) -> str:
        try:
            await ctx.call("empty_handed", "milk")
        except ChildFailed as error:
            seen = f"{error} / {error.cause.item}"
        ran.append(seen)
        await ctx.sleep(60)
        return "fallback"

    ended = lab.finish(flow, others=[empty_handed], id="p")
    assert (ended.value, len(ended.keys("child_started"))) == ("fallback", 1)
    assert set(ran) == {"Child run 'p/empty_handed' has failed: NoStock: no milk left / milk"}


def test_a_finished_child_is_not_called_again(lab):
    """5-9, 5-11, 5-12, 5-13, 5-14: steps, waits, scopes and other children around it would start a child anew."""
    ran = []

    async def child(ctx: Context, n: int) -> int:
        ran.append(n)
        return n * 10

    async def flow(ctx: Context) -> int:
        total = await ctx.step("before", lambda: 1)
        total += await ctx.call("child", 1)
        await ctx.sleep(60)
        with ctx.scope("inner"):
            total += await ctx.call("child", 2)
        total += await ctx.call("child", 3)
        await ctx.sleep(60)
        return total + await ctx.step("after", lambda: 1000)

    ended = lab.finish(flow, others=[child], id="p")
    assert (ended.value, ran) == (1061, [1, 2, 3])
    assert [data["id"] for data in ended.data("child_started")] == ["p/child", "p/inner/child", "p/child#2"]


def test_declared_types_reach_both_sides(lab):
    """5-15, 5-16: models would arrive as dicts, or a type's own serialiser would not be used."""
    seen = []

    async def bill(ctx: Context, order: Order) -> Bill:
        seen.append(type(order))
        return Bill(sum(line["cents"] for line in order.lines))

    async def backwards(ctx: Context, text: Rot) -> Rot:
        seen.append(text)
        return text

    async def flow(ctx: Context) -> list:
        made = await ctx.call("bill", Order(id="1", lines=[{"cents": 5}, {"cents": 7}]))
        return [type(made).__name__, made.total, await ctx.call("backwards", "abc")]

    ended = lab.finish(flow, others=[bill, backwards])
    assert ended.value == ["Bill", 12, "abc"]
    assert seen[:2] == [Order, "cba"]


def test_children_at_once(lab):
    """Children awaited together would run one after the other, or mix up their results."""

    async def flow(ctx: Context) -> list[float]:
        return await asyncio.gather(*[ctx.call("slow", seconds) for seconds in (30.0, 10.0, 20.0)])

    ended = lab.finish(flow, others=[slow])
    assert (ended.value, ended.seconds) == ([30.0, 10.0, 20.0], 30)


def test_a_parent_waits_without_a_worker(lab):
    """A parent would keep its worker busy for as long as its child takes."""

    async def flow(ctx: Context) -> float:
        return await ctx.call("slow", 1000.0)

    async def main():
        async with lab.worker(flow, slow) as app:
            await app.start("flow", id="p")
            info = await lab.until(app, "p", "waiting")
            assert (info.owner, info.due_at, info.waiting_for) == (None, None, ["child:p/slow"])
            child = await app.handle("p/slow").info()
            assert (child.parent, child.root) == (info.number, info.number)
        async with lab.worker(flow, slow) as app:
            assert (await lab.ended(app, "p")).seconds == 1000

    lab.play(main)


def test_grandchildren(lab):
    """A tree of runs would lose its root, or deep ids would outgrow their limit."""

    async def down(ctx: Context, depth: int) -> int:
        return 1 + await ctx.call("down", depth - 1) if depth else 0

    async def main():
        async with lab.worker(down) as app:
            ended = await lab.ended(app, (await app.start("down", 60, id="root")).id)
            assert ended.value == 60
            roots = await lab.sql(app, "select distinct root from perdure_runs where parent is not null")
            longest = await lab.sql(app, "select max(length(id)), count(*) from perdure_runs")
            assert (roots, longest[0][1], longest[0][0] <= 200) == ([(ended.info.number,)], 61, True)

    lab.play(main)


# ----------------------------------------------------------------------------------------------- start
def test_start_now_and_await_later(lab):
    """A child started and awaited later would begin late, or its end be missed."""

    async def flow(ctx: Context) -> list[float]:
        child = await ctx.start("slow", 5.0)
        await ctx.sleep(60)
        return [await child.result(), await child.result()]

    ended = lab.finish(flow, others=[slow])
    assert (ended.value, ended.seconds) == ([5.0, 5.0], 60)
    assert ended.times("child_completed") == [60]


def test_a_child_that_nobody_awaits(lab):
    """A completed parent would take its unawaited children with it, or wait for them."""

    async def flow(ctx: Context) -> str:
        return (await ctx.start("slow", 100.0)).id

    async def main():
        async with lab.worker(flow, slow) as app:
            ended = await lab.ended(app, (await app.start("flow")).id)
            assert (ended.status, ended.seconds) == ("completed", 0)
            child = await lab.ended(app, ended.value)
            assert (child.status, child.seconds) == ("completed", 100)

    lab.play(main)


def test_options_of_a_child(lab):
    """An id, tags or a timeout given at the call would not be the child's."""

    async def flow(ctx: Context) -> str:
        try:
            await ctx.call("slow", 100.0, id="my-child", tags=["red", "blue"], timeout=10)
        except ChildFailed as error:
            return type(error.cause).__name__

    async def main():
        async with lab.worker(flow, slow) as app:
            ended = await lab.ended(app, (await app.start("flow")).id)
            assert (ended.value, ended.seconds) == ("RunTimedOut", 10)
            found, _ = await app.client.runs(RunFilter(tag="red"))
            assert [run.id for run in found] == ["my-child"]

    lab.play(main)


def test_an_id_that_another_run_has(lab):
    """An explicit id that is taken would give the parent another run's result, or hang."""

    async def flow(ctx: Context, taken: str) -> str:
        try:
            return str(await ctx.call("echo", "mine", id=taken))
        except StartConflict as error:
            await ctx.sleep(60)
            return f"conflict {error.run_id}"

    async def main():
        async with lab.worker(flow, echo, slow) as app:
            await (await app.start("echo", "other", id="same workflow")).result()
            await app.start("slow", 5.0, id="other workflow")
            for taken in ("same workflow", "other workflow"):
                ended = await lab.ended(app, (await app.start("flow", taken)).id, "flow")
                assert ended.value == f"conflict {taken}"
                await lab.check_replay(app, ended, "flow")

    lab.play(main)


def test_one_id_twice_in_one_parent(lab):
    """Two calls with one id and one workflow in the same parent would start two runs."""
    ran = []

    async def child(ctx: Context, n: int) -> int:
        ran.append(n)
        return n

    async def flow(ctx: Context) -> list:
        return [await ctx.call("child", 1, id="shared"), await ctx.call("child", 1, id="shared")]

    ended = lab.finish(flow, others=[child])
    assert (ended.value, ran) == ([1, 1], [1])


def test_a_crash_around_the_start_of_a_child(lab):
    """A parent that dies right after starting a child would start a second one, or never hear of the first."""
    ran = []

    async def child(ctx: Context) -> str:
        await ctx.sleep(100)
        ran.append(1)
        return "grown up"

    async def flow(ctx: Context) -> str:
        born = await ctx.start("child")
        await ctx.step("die", body)
        return await born.result()

    deaths = []

    async def body() -> None:
        if not deaths:
            deaths.append(1)
            lab.die()

    ended = lab.survive(flow, others=[child])
    assert (ended.value, ran) == ("grown up", [1])


def test_a_childs_end_survives_the_death_of_its_parents_worker(lab):
    """I9: a child that ended while nobody drove its parent would never be noticed."""

    async def flow(ctx: Context) -> float:
        return await ctx.call("slow", 50.0)

    async def main():
        async with lab.worker(flow, slow) as app:
            await app.start("flow", id="p")
            await lab.until(app, "p", "waiting")
        async with lab.worker(slow) as app:
            assert (await lab.ended(app, "p/slow")).seconds == 50
        async with lab.worker(flow, slow) as app:
            assert (await lab.ended(app, "p")).value == 50.0

    lab.play(main)


# ------------------------------------------------------------------------------------- the end of a parent
@pytest.mark.parametrize("how", ["fails", "cancelled"])
def test_children_end_with_their_parent_unless_detached(lab, how):
    """Cancelling or failing a parent would leave its children running, or stop the detached ones as well."""

    async def flow(ctx: Context) -> None:
        await ctx.start("slow", 1000.0, id="attached")
        await ctx.start("slow", 1000.0, id="detached", detached=True)
        await ctx.sleep(10)
        if how == "fails":
            raise NoStock("parents")
        await ctx.sleep(10_000)

    async def main():
        async with lab.worker(flow, slow) as app:
            await app.start("flow", id="p")
            await asyncio.sleep(20)
            if how == "cancelled":
                await app.cancel("p", "enough")
            attached = await lab.ended(app, "attached")
            assert (attached.status, type(attached.error)) == ("cancelled", RunCancelled)
            assert attached.seconds < 100
            assert (await lab.ended(app, "detached")).status == "completed"

    lab.play(main)


def test_giving_up_a_call_cancels_the_child(lab):
    """A parent that stops waiting for a ctx.call would leave the child running for nobody."""

    async def flow(ctx: Context) -> str:
        try:
            async with asyncio.timeout(10):
                await ctx.call("slow", 1000.0, id="child")
        except TimeoutError:
            pass
        await ctx.sleep(100)
        return "went on"

    async def main():
        async with lab.worker(flow, slow) as app:
            await app.start("flow", id="p")
            await lab.until(app, "p", "waiting")
            child = await lab.ended(app, "child")
            assert (child.status, child.seconds) == ("cancelled", 10)
            ended = await lab.ended(app, "p", "flow")
            assert (ended.value, ended.seconds) == ("went on", 110)
            await lab.check_replay(app, ended, "flow")

    lab.play(main)


def test_a_cancelled_child_is_told_to_its_parent(lab):
    """A child cancelled by an operator would leave its parent waiting, or look like a failure of its own."""

    async def flow(ctx: Context) -> str:
        try:
            await ctx.call("slow", 1000.0, id="child")
        except ChildFailed as error:
            return f"{error.status}: {error.cause}"

    async def main():
        async with lab.worker(flow, slow) as app:
            await app.start("flow", id="p")
            await lab.until(app, "p", "waiting")
            await app.cancel("child", "not needed")
            ended = await lab.ended(app, "p", "flow")
            assert ended.value == "cancelled: Run 'child' was cancelled: not needed."

    lab.play(main)


# ---------------------------------------------------------------------------------------------- misuse
def test_children_that_cannot_be_started(lab):
    """An unknown workflow, wrong input or a bad id would start something, or take the worker down."""

    async def flow(ctx: Context) -> list[str]:
        out = []
        for call in (
            lambda: ctx.call("nobody"), lambda: ctx.call("slow", "soon"), lambda: ctx.call("slow"),
            lambda: ctx.call("slow", 1, 2),
            lambda: ctx.call("echo", object()), lambda: ctx.call("echo", 1, id=""),
            lambda: ctx.call("echo", 1, tags=[""]), lambda: ctx.call("echo", 1, tags="abc"),
            lambda: ctx.call("echo", 1, timeout=-1), lambda: ctx.call("echo", 1, id=7),
        ):  # fmt: skip
            try:
                await call()
            except Exception as error:  # noqa: BLE001 - the classes are compared below
                out.append(type(error).__name__)
        return out

    ended = lab.finish(flow, others=[slow, echo])
    assert ended.value == [
        UnknownWorkflow.__name__, InvalidInput.__name__, "InvalidInput", "InvalidInput", "NotSerializable",
        "InvalidName", "InvalidName", "InvalidName", "InvalidOption", "InvalidName",
    ]  # fmt: skip
    assert ended.keys("child_started") == []


def test_two_workflows_of_one_name(lab):
    """A second workflow would silently replace the first under its name."""
    with pytest.raises(DuplicateName):
        lab.app(echo, (slow, {"name": "echo"}))


def test_retrying_a_child_means_calling_it_again(lab):
    """A failed child called again in a loop would give the old failure for ever."""
    attempts = []

    async def child(ctx: Context) -> str:
        attempts.append(ctx.run_id)
        await ctx.step("work", lambda: None, retry=Retry())
        if len(attempts) < 3:
            raise NoStock("luck")
        return "third time"

    async def flow(ctx: Context) -> str:
        while True:
            try:
                return await ctx.call("child")
            except ChildFailed:
                await ctx.sleep(10)

    ended = lab.finish(flow, others=[child], id="p")
    assert (ended.value, ended.seconds, ended.status) == ("third time", 20, Status.COMPLETED)
    assert len(ended.keys("child_failed")) == 2


def test_waiting_for_a_started_child_may_be_given_up(lab):
    """A wait for a started child that times out would cancel the child, or spoil every later wait for it."""

    async def flow(ctx: Context) -> list:
        child = await ctx.start("slow", 100.0)
        waited = 0
        while True:
            try:
                async with asyncio.timeout(30):
                    return [await child.result(), waited]
            except TimeoutError:
                waited += 1

    ended = lab.finish(flow, others=[slow])
    assert (ended.value, ended.seconds) == ([100.0, 3], 100)


@pytest.mark.parametrize("how", ["call", "start"])
def test_a_detached_child_survives_although_it_is_awaited(lab, how):
    """A detached child would be cancelled with its parent, if the parent happens to wait for it."""

    async def flow(ctx: Context) -> float:
        if how == "call":
            return await ctx.call("slow", 100.0, id="child", detached=True)
        return await (await ctx.start("slow", 100.0, id="child", detached=True)).result()

    async def main():
        async with lab.worker(flow, slow) as app:
            await app.start("flow", id="p")
            await lab.until(app, "p", "waiting")
            await app.cancel("p")
            assert (await lab.ended(app, "p")).status == "cancelled"
            child = await lab.ended(app, "child")
            assert (child.status, child.seconds) == ("completed", 100)

    lab.play(main)


def test_a_deadline_of_the_parent_ends_its_children(lab):
    """Children would outlive a parent that ran out of time."""

    async def flow(ctx: Context) -> float:
        return await ctx.call("slow", 1000.0, id="child")

    async def main():
        async with lab.worker(flow, slow) as app:
            parent = await lab.ended(app, (await app.start("flow", timeout=10)).id)
            assert (parent.status, parent.seconds) == ("failed", 10)
            assert (await lab.ended(app, "child")).status == "cancelled"

    lab.play(main)


def test_a_child_taken_back_before_it_was_stored(lab):
    """A child started and given up in the same breath would run all the same."""
    ran = []

    async def child(ctx: Context) -> None:
        await ctx.step("work", lambda: ran.append(1))

    async def flow(ctx: Context) -> str:
        task = asyncio.create_task(ctx.call("child", id="child"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await ctx.sleep(60)
        return "went on"

    async def main():
        async with lab.worker(flow, child) as app:
            ended = await lab.ended(app, (await app.start("flow")).id, "flow")
            assert ended.value == "went on"
            assert ((await lab.ended(app, "child")).status, ran) == ("cancelled", [])
            await lab.check_replay(app, ended, "flow")

    lab.play(main)
