"""What a workflow says and what it takes for time and chance: once, and the same on every replay."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from perdure import Context
from perdure.errors import NotInWorkflow, NotSerializable, PayloadTooLarge
from perdure.model.limits import Limits


async def watched(app, run_id, **options):
    return [event async for event in app.handle(run_id).events(**options)]


# ---------------------------------------------------------------------------------------- emit, annotate
def test_events_appear_once_and_in_order(lab):
    """An event would be emitted again on replay, out of order with the steps around it, or without its data."""

    async def flow(ctx: Context) -> None:
        await ctx.emit("begun", {"by": ctx.run_id})
        await ctx.step("work", lambda: 1)
        await ctx.emit("progress", [1, 2])
        await ctx.sleep(60)
        await ctx.emit("progress")
        await ctx.annotate("reviewed", "fine")
        await ctx.sleep(60)

    ended = lab.finish(flow, id="r")
    told = [(event.kind, event.key, event.data) for event in ended.events if event.kind in {"emitted", "annotated"}]
    assert told == [
        ("emitted", "begun", {"name": "begun", "data": {"by": "r"}}),
        ("emitted", "progress", {"name": "progress", "data": [1, 2]}),
        ("emitted", "progress#2", {"name": "progress", "data": None}),
        ("annotated", "reviewed", {"name": "reviewed", "data": "fine"}),
    ]
    assert [event.kind for event in ended.events][:3] == ["emitted", "step_completed", "emitted"]


def test_an_event_is_visible_before_the_next_step_begins(lab):
    """I2: a body could run while what was told before it is not durable yet."""
    seen = []

    async def body() -> None:
        seen.extend(event.data["name"] for event in await watched(lab.working, "r", follow=False))

    async def flow(ctx: Context) -> None:
        await ctx.emit("before")
        await ctx.step(body)

    async def main():
        async with lab.worker(flow) as app:
            lab.working = app
            await app.start("flow", id="r")
            await app.handle("r").result()

    lab.play(main)
    assert seen == ["before"]


def test_watching_a_run(lab):
    """A watcher would miss entries, see some twice, or not end with the run; a cursor would not resume."""

    async def flow(ctx: Context) -> None:
        for n in range(3):
            await ctx.emit("n", n)
            await ctx.sleep(10)

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", id="r")
            everything, tail = await asyncio.gather(watched(app, "r"), watched(app, "r", after=4))
            assert [event.seq for event in everything] == list(range(1, 11))
            assert tail == everything[4:]
            assert everything[-1].kind == "completed"

    lab.play(main)


def test_a_watcher_that_fails_changes_nothing(lab):
    """Whoever looks at a run could break it, or change what it records."""

    async def flow(ctx: Context) -> str:
        for n in range(3):
            await ctx.emit("n", n)
            await ctx.sleep(10)
        return "done"

    async def fail(app) -> None:
        async for event in app.handle("r").events():
            raise ZeroDivisionError(event.seq)

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", id="r")
            failed = await asyncio.gather(*[fail(app) for _ in range(2)], return_exceptions=True)
            assert [type(error) for error in failed] == [ZeroDivisionError] * 2
            assert await app.handle("r").result() == "done"
            kinds = [event.kind for event in await watched(app, "r")]
            assert kinds == ["emitted", "timer_set", "timer_fired"] * 3 + ["completed"]

    lab.play(main)


def test_events_that_cannot_be_stored(lab):
    """An event without a JSON form, or one too large, would be cut, or break the run's journal."""

    async def flow(ctx: Context) -> list[str]:
        out = []
        for data in (object(), "x" * 5000):
            try:
                await ctx.emit("e", data)
            except (NotSerializable, PayloadTooLarge) as error:
                out.append(error.code)
        await ctx.sleep(60)
        await ctx.emit("e", "fits")
        return out

    ended = lab.finish(flow, settings={"limits": Limits(payload_bytes=4000)})
    assert ended.value == ["not_serializable", "payload_too_large"]
    assert [data["data"] for data in ended.data("emitted")] == ["fits"]


# -------------------------------------------------------------------------------------- time and chance
def test_time_stands_still_between_outcomes(lab):
    """ctx.now() would differ from replay to replay, or not move with what happened."""
    seen = []

    async def flow(ctx: Context) -> list[str]:
        times = [ctx.now()]
        await ctx.step("a", lambda: asyncio.sleep(7))
        times += [ctx.now(), ctx.now()]
        await ctx.sleep(timedelta(minutes=1))
        times.append(ctx.now())
        seen.append(times)
        return [time.isoformat() for time in times]

    ended = lab.finish(flow)
    begin = datetime(2025, 6, 15, 15, 6, 40, tzinfo=UTC)
    assert ended.value == [(begin + timedelta(seconds=seconds)).isoformat() for seconds in (0, 7, 7, 67)]
    assert seen[0] == seen[-1]


def test_time_is_that_of_the_first_start(lab):
    """A run taken over later would see another beginning."""
    seen = []

    async def flow(ctx: Context) -> None:
        seen.append((ctx.now(), asyncio.get_running_loop().time()))
        await ctx.receive("never", timeout=500, default=None)

    lab.finish(flow)
    assert len(set(seen)) == 1
    assert len(seen) >= 3


def test_chance_is_the_same_on_replay_and_differs_between_runs(lab):
    """ctx.uuid() and ctx.random() would be new on each replay, repeat within a run, or be equal in two runs."""
    seen = []

    async def branch(ctx: Context) -> list:
        return [str(ctx.uuid()), ctx.random().random()]

    async def flow(ctx: Context) -> list:
        out = [str(ctx.uuid()), str(ctx.uuid()), ctx.random().random(), ctx.random().random()]
        for part in await asyncio.gather(branch(ctx), branch(ctx)):
            out += part
        with ctx.scope("s"):
            out.append(str(ctx.uuid()))
        await ctx.sleep(60)
        seen.append((ctx.run_id, json.dumps([*out, str(ctx.uuid())])))
        return out

    first = lab.finish(flow, id="one").value
    second = lab.finish(flow, id="two").value
    assert len(set(first + second)) == len(first) + len(second)
    assert len({text for run, text in seen if run == "one"}) == 1
    assert sum(1 for run, _ in seen if run == "one") == 2
    assert first[0][14] == "4", "a UUID of version 4"


def test_time_and_chance_cost_no_commits(lab):
    """now, uuid and random would write to the journal."""

    async def flow(ctx: Context) -> None:
        for _ in range(50):
            ctx.now(), ctx.uuid(), ctx.random().random()
        await ctx.step("x", lambda: None)

    ended = lab.finish(flow)
    assert [event.kind for event in ended.events] == ["step_completed", "completed"]


def test_sequential_steps_cost_one_commit_each(lab):
    """I2: n steps would take more than n + 1 commits, or fewer than are needed before the next effect."""

    async def flow(ctx: Context) -> None:
        for n in range(20):
            await ctx.step("s", lambda n=n: n)

    async def main():
        async with lab.worker(flow) as app:
            handle = await app.start("flow", id="warm")
            await handle.result()
            before = app.client.store.commits
            await (await app.start("flow", id="r")).result()
            assert app.client.store.commits - before <= 22

    lab.play(main)


def test_ids_and_facts_of_the_run(lab):
    """A workflow could not tell which run it is."""

    async def flow(ctx: Context) -> str:
        return ctx.run_id

    assert lab.finish(flow, id="order 7/ä").value == "order 7/ä"


# ------------------------------------------------------------------------------------ where it may be used
@pytest.mark.parametrize(
    "use", ["now", "uuid", "random", "patched", "step", "sleep", "receive", "emit", "scope", "start", "map"]
)
def test_the_context_is_for_the_workflow_only(lab, use):
    """Using the context inside a step's body would write into the journal in an order of chance."""

    async def flow(ctx: Context) -> str:
        async def body() -> str:
            try:
                await used(ctx, use)
            except NotInWorkflow as error:
                return error.code

        return await ctx.step("outer", body)

    ended = lab.finish(flow)
    assert (ended.value, len(ended.events)) == ("not_in_workflow", 2)


async def used(ctx: Context, use: str) -> None:
    if use in {"now", "uuid", "random"}:
        getattr(ctx, use)()
    elif use == "patched":
        ctx.patched("p")
    elif use == "scope":
        with ctx.scope("s"):
            pass
    elif use == "step":
        await ctx.step("inner", lambda: 1)
    elif use == "sleep":
        await ctx.sleep(1)
    elif use == "map":
        await ctx.map(ctx.sleep, [1])
    else:
        await getattr(ctx, use)("flow")
