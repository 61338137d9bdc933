"""Sleeping, asyncio's own timers, and polling: whatever waits for a time."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from perdure import Context
from perdure.errors import InvalidOption


class TooManyPolls(Exception):
    pass


# ---------------------------------------------------------------------------------------------- sleep
def test_one_sleep(lab):
    """2-1: a run would not go on after its sleep, or go on early or late."""

    async def flow(ctx: Context) -> str:
        await ctx.sleep(5)
        return "awake"

    ended = lab.finish(flow)
    assert (ended.value, ended.seconds) == ("awake", 5)
    assert [event.kind for event in ended.events] == ["timer_set", "timer_fired", "completed"]


def test_a_sleep_is_named_by_its_scope(lab):
    """2-2: two waits could not be told apart in the journal."""

    async def flow(ctx: Context) -> None:
        with ctx.scope("cool off"):
            await ctx.sleep(5)
        await ctx.sleep(1)

    assert lab.finish(flow).keys("timer_fired") == ["cool off/sleep", "sleep"]


def test_two_sleeps_in_sequence(lab):
    """2-3: the second wait would begin at the wrong time, or count from the run's start."""
    owners = []

    async def flow(ctx: Context) -> str:
        await ctx.sleep(5)
        await ctx.sleep(7)
        return "both"

    async def main():
        async with lab.worker(flow) as app:
            handle = await app.start("flow")
            for moment in (2, 8):
                await asyncio.sleep(moment - lab.seconds())
                info = await handle.info()
                owners.append((info.status, info.owner, (info.due_at - datetime(2025, 6, 15, 15, 6, 40, tzinfo=UTC))))
            ended = await lab.ended(app, handle.id)
            assert (ended.value, ended.times("timer_fired"), ended.seconds) == ("both", [5, 12], 12)
        assert owners == [("waiting", None, timedelta(seconds=5)), ("waiting", None, timedelta(seconds=12))]

    lab.play(main)


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        (timedelta(minutes=2), 120),
        (timedelta(hours=1), 3600),
        (timedelta(days=400), 400 * 86_400),
        (0.25, 0.25),
        (0, 0),
    ],
)
def test_durations(lab, duration, seconds):
    """2-4, 2-5: minutes, hours or fractions would be taken for something else."""

    async def flow(ctx: Context) -> float:
        before = ctx.now()
        await ctx.sleep(duration)
        return (ctx.now() - before).total_seconds()

    ended = lab.finish(flow, settings={"lease": 40 * 86_400})
    assert (ended.value, ended.seconds) == (seconds, seconds)


def test_sleep_until_a_time(lab):
    """A time in another zone would be misread; a time in the past would never come."""
    moment = datetime(2025, 6, 15, 17, 6, 41, tzinfo=UTC).astimezone(tz=None)

    async def flow(ctx: Context) -> str:
        await ctx.sleep(moment)
        await ctx.sleep(datetime(1999, 1, 1, tzinfo=UTC))
        return ctx.now().isoformat()

    ended = lab.finish(flow)
    assert (ended.value, ended.seconds) == ("2025-06-15T17:06:41+00:00", 7201)


@pytest.mark.parametrize(
    "wrong",
    [-1, float("nan"), float("inf"), "5", None, True, timedelta(days=-1), datetime(2030, 1, 1)],  # noqa: DTZ001
)
def test_sleeps_that_cannot_be(lab, wrong):
    """A negative, endless, nameless or zoneless wait would be taken for some other, or kill the worker."""

    async def flow(ctx: Context) -> None:
        await ctx.sleep(wrong)

    ended = lab.finish(flow)
    assert (ended.status, type(ended.error)) == ("failed", InvalidOption)
    assert ended.keys("timer_set") == []


def test_a_sleep_goes_on_across_restarts(lab):
    """A restart in the middle of a sleep would begin it anew, or end it."""

    async def flow(ctx: Context) -> str:
        await ctx.sleep(100)
        return "awake"

    async def main():
        for moment in (30, 60):
            async with lab.worker(flow) as app:
                await app.start("flow", id="r")
                await asyncio.sleep(moment - lab.seconds())
        async with lab.worker(flow) as app:
            ended = await lab.ended(app, "r")
            assert (ended.value, ended.seconds) == ("awake", 100)

    lab.play(main)


def test_a_sleep_that_ended_while_nobody_worked(lab):
    """A run whose time came while no worker was there would be forgotten."""

    async def flow(ctx: Context) -> str:
        await ctx.sleep(100)
        return ctx.now().isoformat()

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", id="r")
            await lab.until(app, "r", "waiting")
        await asyncio.sleep(1000 - lab.seconds())
        async with lab.worker(flow) as app:
            assert (await lab.ended(app, "r")).seconds == 1000

    lab.play(main)


def test_sleepers_of_one_worker_wake_each_at_its_time(lab):
    """Only the first of several sleeping runs would be woken, or all of them at the first one's time."""

    async def flow(ctx: Context, seconds: int) -> int:
        await ctx.sleep(seconds)
        return seconds

    async def main():
        async with lab.worker(flow) as app:
            handles = [await app.start("flow", seconds) for seconds in (30, 10, 20, 10)]
            ended = [await lab.ended(app, handle.id) for handle in handles]
            assert [each.seconds for each in ended] == [30, 10, 20, 10]

    lab.play(main)


# ---------------------------------------------------------------------------------- asyncio's own timers
def test_asyncio_sleep_is_durable(lab):
    """asyncio.sleep in a workflow would keep the run in memory, or begin anew after a restart."""

    async def flow(ctx: Context) -> str:
        await asyncio.sleep(0)
        return await asyncio.sleep(3600, "slept")

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", id="r")
            assert (await lab.until(app, "r", "waiting")).owner is None
        async with lab.worker(flow) as app:
            ended = await lab.ended(app, "r")
            assert (ended.value, ended.seconds) == ("slept", 3600)

    lab.play(main)


def test_asyncio_timeout_is_durable(lab):
    """A timeout around durable operations would count from the last restart, or not interrupt them."""

    async def flow(ctx: Context) -> list[str]:
        out = []
        try:
            async with asyncio.timeout(100):
                await ctx.sleep(1000)
        except TimeoutError:
            out.append(f"timeout {ctx.now():%H:%M:%S}")
        try:
            async with ctx.timeout(timedelta(seconds=10)):
                await ctx.receive("never")
        except TimeoutError:
            out.append(f"ctx.timeout {ctx.now():%H:%M:%S}")
        async with asyncio.timeout(10):
            out.append(await ctx.step("quick", lambda: "in time"))
        return out

    ended = lab.finish(flow)
    assert ended.value == ["timeout 15:08:20", "ctx.timeout 15:08:30", "in time"]
    assert ended.seconds == 110


def test_wait_for_cancels_what_takes_too_long(lab):
    """asyncio.wait_for would not time out durably, or leave the step behind that it gave up."""
    ran, cancelled = [], []

    async def slow() -> None:
        ran.append(1)
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    async def flow(ctx: Context) -> str:
        try:
            await asyncio.wait_for(ctx.step(slow), 5)
        except TimeoutError:
            return "gave up"

    ended = lab.finish(flow)
    assert (ended.value, ended.seconds, ran, cancelled) == ("gave up", 5, [1], [1])
    assert ended.keys("step_cancelled") == ["slow"] or ended.keys("step_cancelled") == ["~1/slow"]


def test_a_timeout_in_the_past_of_a_replay(lab):
    """A step done in time would be timed out by a replay that comes after the timeout's end."""

    async def flow(ctx: Context) -> str:
        async with asyncio.timeout(10):
            value = await ctx.step("quick", lambda: "in time")
        await ctx.sleep(1000)
        return value

    assert lab.finish(flow).value == "in time"


# --------------------------------------------------------------------------------------------- polling
def counting():
    polls = []

    def check(*state):
        polls.append(state)
        return len(polls)

    return check, polls


async def poll(ctx: Context, check, *, until, every=2, most=None, state=None, name="check"):
    """What the scenarios call wait_for_condition: a loop of a step and a sleep."""
    for _ in range(most or 1000):
        state = await ctx.step(name, lambda state=state: check(state))
        if until(state):
            return state
        await ctx.sleep(every)
    raise TooManyPolls(f"max attempts: {most}")


def test_poll_until_a_threshold(lab):
    """6-1, 6-3, 6-5: polls would be lost or repeated by the restarts between them, nameless, or not 2 s apart."""
    check, polls = counting()

    async def flow(ctx: Context) -> int:
        return await poll(ctx, check, until=lambda n: n >= 3, name="job ready")

    ended = lab.finish(flow)
    assert (ended.value, len(polls)) == (3, 3)
    assert ended.keys("step_completed") == ["job ready", "job ready#2", "job ready#3"]
    assert ended.times("step_completed") == [0, 2, 4]


def test_a_poll_that_is_true_at_once_does_not_wait(lab):
    """6-2: a fulfilled condition would still suspend the run."""
    check, _ = counting()

    async def flow(ctx: Context) -> int:
        return await poll(ctx, check, until=lambda n: n >= 1)

    ended = lab.finish(flow)
    assert (ended.value, ended.seconds, ended.keys("timer_set")) == (1, 0, [])


def test_each_poll_gets_the_last_ones_state(lab):
    """6-4: what one poll returned would not reach the next one after a restart."""

    async def flow(ctx: Context) -> list[int]:
        return await poll(ctx, lambda seen: [*seen, len(seen)], until=lambda seen: len(seen) == 4, state=[7])

    assert lab.finish(flow).value == [7, 1, 2, 3]


def test_polls_may_be_limited(lab):
    """6-6: a condition that never holds would be polled for ever."""
    check, polls = counting()

    async def flow(ctx: Context) -> None:
        await poll(ctx, check, until=lambda n: False, most=3)

    ended = lab.finish(flow)
    assert (ended.status, str(ended.error), len(polls)) == ("failed", "max attempts: 3", 3)


def test_a_poll_that_raises_fails_at_once(lab):
    """6-7, 6-8: an error of the check would be taken for "not yet", or could not be caught."""
    polls = []

    def broken(_state):
        polls.append(1)
        raise ValueError("no such job")

    async def flow(ctx: Context, caught: bool) -> str:
        try:
            return await poll(ctx, broken, until=bool)
        except ValueError:
            if not caught:
                raise
            return "recovered"

    failed = lab.finish(flow, False, id="failed")
    assert (failed.status, str(failed.error), len(polls)) == ("failed", "no such job", 1)
    assert lab.finish(flow, True, id="caught").value == "recovered"


@dataclass
class Progress:
    done: int
    at: datetime | None = None


def test_object_states_and_none(lab):
    """6-9, 6-10, 6-11: a state of a declared type, or one that ends as None, would come back as something else."""

    def more(state: Progress | None) -> Progress | None:
        if state.done == 2:
            return None
        return Progress(state.done + 1, datetime(2030, 1, state.done + 1, tzinfo=UTC))

    async def flow(ctx: Context) -> list[Progress | None]:
        states = [Progress(0)]
        while states[-1] is not None:
            states.append(await ctx.step(more, states[-1]))
            await ctx.sleep(1)
        return states

    ended = lab.finish(flow)
    days = [datetime(2030, 1, day, tzinfo=UTC) for day in (1, 2)]
    assert ended.value == [Progress(0), Progress(1, days[0]), Progress(2, days[1]), None]


def test_what_follows_a_finished_poll(lab):
    """6-12, 6-13: a finished poll would run again on resume, or not feed what comes next."""
    first, firsts = counting()
    seconds = []

    def second(state: int) -> int:
        seconds.append(state)
        return state + 10

    async def flow(ctx: Context) -> str:
        n = await poll(ctx, first, until=lambda n: n == 2)
        n = await poll(ctx, second, until=lambda n: n > 20, state=n, name="second")
        await ctx.sleep(10)
        return await ctx.step("use", lambda: f"got {n}")

    ended = lab.finish(flow)
    assert (ended.value, len(firsts), seconds) == ("got 22", 2, [2, 12])
