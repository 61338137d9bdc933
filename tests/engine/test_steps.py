"""Steps: results and names, retries to the second, timeouts, interrupted attempts."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import PlainSerializer

from perdure import Context, Retry, RetryAfter, Terminal, current_step
from perdure.errors import RetryAfter as StoredRetryAfter
from perdure.errors import StepInterrupted, StepTimedOut

Loud = Annotated[str, PlainSerializer(str.upper)]


class Declined(Exception):
    def __init__(self, card: str, cents: int) -> None:
        super().__init__(f"{card} declined for {cents}")
        self.card = card
        self.cents = cents


class Flaky(Exception):
    pass


def failing(times: int, error=Flaky):
    """A body that fails so often, and notes each attempt."""
    attempts = []

    def body() -> str:
        attempts.append(current_step().attempt)
        if len(attempts) <= times:
            raise error(f"attempt {len(attempts)}")
        return f"after {len(attempts)}"

    return body, attempts


# ----------------------------------------------------------------------------------- results and names
def test_a_step_gives_its_result(lab):
    """1-1: the simplest run of all would not complete, or not with its result."""

    async def flow(ctx: Context) -> int:
        return await ctx.step("one", lambda: 41) + 1

    ended = lab.finish(flow)
    assert (ended.value, ended.status) == (42, "completed")
    assert ended.keys("step_completed") == ["one"]
    assert [event.seq for event in ended.events] == [1, 2]


def test_a_step_is_recorded_under_its_name(lab):
    """1-2: a name given by the user, by options or by the function itself would not reach the journal."""

    def charge() -> int:
        return 1

    async def flow(ctx: Context) -> None:
        step = lab_step(charge)
        await ctx.step("explicit", charge)
        await ctx.step(charge)
        await ctx.step(step.options(name="optional"))

    def lab_step(fn):
        return lab.app().step(fn)

    ended = lab.finish(flow)
    assert ended.keys("step_completed") == ["explicit", "charge", "optional"]


def test_repeated_names_are_numbered(lab):
    """Two calls of one step in one place would share a key, and the second would get the first's result."""

    async def flow(ctx: Context) -> list[int]:
        return [await ctx.step("pick", lambda i=i: i) for i in range(3)]

    ended = lab.finish(flow)
    assert ended.value == [0, 1, 2]
    assert ended.keys("step_completed") == ["pick", "pick#2", "pick#3"]


def test_the_second_step_uses_the_first_ones_result(lab):
    """1-3: outcomes would be recorded out of order, or not be handed on."""

    async def flow(ctx: Context) -> int:
        first = await ctx.step("first", lambda: 20)
        return await ctx.step("second", lambda: first + 1)

    ended = lab.finish(flow)
    assert ended.value == 21
    assert ended.data("step_completed") == [20, 21]


def test_nested_results_survive(lab):
    """1-4: objects within arrays within objects would come back changed."""
    deep = {"a": [1, {"b": [None, True, {"c": "ü"}]}], "d": {"e": 1.5, "f": []}}

    async def flow(ctx: Context) -> dict:
        return await ctx.step("deep", lambda: deep)

    assert lab.finish(flow).value == deep


def test_none_is_a_result(lab):
    """1-5: a step that returned None would count as not done, and run again."""
    ran = []

    async def flow(ctx: Context) -> list:
        value = await ctx.step("nothing", lambda: ran.append(1))
        await ctx.sleep(10)
        return [value]

    ended = lab.finish(flow)
    assert (ended.value, ran) == ([None], [1])


def test_a_steps_type_decides_how_it_is_stored(lab):
    """1-6, 3-14: a serialiser declared for one step's result would not be applied, or only on replay (I5)."""

    async def flow(ctx: Context) -> list[str]:
        before = await ctx.step("loud", lambda: "quiet", returns=Loud)
        await ctx.sleep(10)
        return [before, await ctx.step("plain", lambda: "quiet")]

    ended = lab.finish(flow)
    assert ended.value == ["QUIET", "quiet"]


def test_a_finished_step_is_not_run_again(lab):
    """1-8, 1-9: a wake-up after a wait would run the step once more, or lose its value."""
    ran = []

    async def flow(ctx: Context) -> list:
        value = await ctx.step("once", lambda: ran.append(1) or {"n": len(ran)})
        await ctx.sleep(60)
        return [value, ctx.now().isoformat()]

    ended = lab.finish(flow)
    assert ended.value[0] == {"n": 1}
    assert ran == [1]
    assert ended.seconds == 60


def test_a_failure_is_replayed_as_the_same_failure(lab):
    """1-10, I6: on resume the body would run again, or another error than the recorded one would be raised."""
    ran, seen = [], []

    def pay() -> None:
        ran.append(1)
        raise Declined("visa", 300)

    async def flow(ctx: Context) -> str:
        try:
            await ctx.step(pay)
        except Declined as error:
            seen.append((str(error), error.card, error.cents, type(error)))
        await ctx.sleep(60)
        return "done"

    ended = lab.finish(flow)
    assert (ended.value, ran) == ("done", [1])
    assert len(seen) > 2
    assert set(seen) == {("visa declined for 300", "visa", 300, Declined)}


def test_an_uncaught_failure_fails_the_run(lab):
    """1-19: a run whose step raised, without a retry policy, would not fail, or lose class, message and fields."""
    body, attempts = failing(99, lambda _: Declined("amex", 1))

    async def flow(ctx: Context) -> None:
        await ctx.step("pay", body)

    ended = lab.finish(flow)
    assert (ended.status, attempts) == ("failed", [1])
    assert type(ended.error) is Declined
    assert (str(ended.error), ended.error.card, ended.error.cents) == ("amex declined for 1", "amex", 1)
    assert "next_at" not in ended.data("step_failed")[0]


def test_a_caught_failure_lets_a_fallback_run(lab):
    """1-20: except around a step would not work as in any Python code."""

    async def flow(ctx: Context) -> str:
        try:
            return await ctx.step("first", failing(99)[0])
        except Flaky:
            return await ctx.step("fallback", lambda: "plan b")

    ended = lab.finish(flow)
    assert (ended.value, ended.status) == ("plan b", "completed")
    assert [event.kind for event in ended.events] == ["step_failed", "step_completed", "completed"]


def test_sync_steps_run_in_threads_and_async_ones_on_the_loop(lab):
    """A plain function would block the loop, or a coroutine function would not share it with the application."""
    places = {}

    def plain() -> None:
        places["plain"] = threading.current_thread() is threading.main_thread()

    async def coroutine() -> None:
        places["coroutine"] = threading.current_thread() is threading.main_thread()
        await asyncio.sleep(5)

    async def flow(ctx: Context) -> None:
        await ctx.step(plain)
        await ctx.step(coroutine)

    assert lab.finish(flow).seconds == 5
    assert places == {"plain": False, "coroutine": True}


def test_arguments_reach_the_body_as_they_are(lab):
    """Arguments would be turned into JSON on their way to the body, though only results are stored."""
    seen = []

    def body(first, *more, word="x", **others) -> None:
        seen.append((first, more, word, others))

    thing = object()

    async def flow(ctx: Context) -> None:
        await ctx.step(body, thing, 2, 3, word=(1, 2), extra=None)

    lab.finish(flow)
    assert seen == [(thing, (2, 3), (1, 2), {"extra": None})]


# -------------------------------------------------------------------------------------------- retries
def test_a_failed_attempt_is_made_again_after_its_delay(lab):
    """1-11: the retry would not happen, not park the run, or not say which attempt it was."""
    body, attempts = failing(1)

    async def flow(ctx: Context) -> str:
        return await ctx.step("flaky", body, retry=Retry(max_attempts=3, delay=30, jitter=0))

    ended = lab.finish(flow)
    assert (ended.value, attempts, ended.seconds) == ("after 2", [1, 2], 30)
    assert [(e.kind, e.attempt) for e in ended.events[:2]] == [("attempt_failed", 1), ("step_completed", 2)]


def test_the_last_failure_has_no_next_attempt(lab):
    """1-12: a step would be tried more or less often than allowed, or its end would promise another attempt."""
    body, attempts = failing(99)

    async def flow(ctx: Context) -> str:
        return await ctx.step("doomed", body, retry=Retry(max_attempts=4, delay=1, backoff=1, jitter=0))

    ended = lab.finish(flow)
    assert (ended.status, attempts, str(ended.error)) == ("failed", [1, 2, 3, 4], "attempt 4")
    assert ["next_at" in data for data in ended.data("attempt_failed")] == [True] * 3
    assert ended.keys("step_failed") == ["doomed"]


def test_the_default_policy(lab, monkeypatch):
    """1-13: Retry() would not be 6 attempts from 1 s, doubling, up to 60 s, with full jitter."""
    monkeypatch.setattr("perdure.ids.jitter", lambda: 0.25)
    body, _ = failing(2)

    async def flow(ctx: Context) -> str:
        return await ctx.step("flaky", body, retry=Retry())

    ended = lab.finish(flow)
    assert (ended.value, ended.times("attempt_failed"), ended.seconds) == ("after 3", [0, 0.75], 0.75 + 1.5)
    assert Retry() == Retry(max_attempts=6, delay=1.0, backoff=2.0, cap=60.0, jitter=1.0, on=(Exception,), never=())
    assert Retry().next_delay(6, Flaky(), 0) is None


def test_without_a_policy_there_is_one_attempt(lab):
    """A step without a policy would be repeated, though its author never said that it may be."""
    body, attempts = failing(1)

    async def flow(ctx: Context) -> str:
        return await ctx.step("careful", body)

    assert lab.finish(flow).status == "failed"
    assert attempts == [1]


def test_delays_are_exact(lab):
    """1-14: 2 s, times 3, no jitter would not wait exactly 2 and then 6 seconds."""
    body, _ = failing(2)

    async def flow(ctx: Context) -> str:
        return await ctx.step("flaky", body, retry=Retry(delay=2, backoff=3, jitter=0))

    ended = lab.finish(flow)
    assert ended.times("attempt_failed") == [0, 2]
    assert ended.seconds == 2 + 6


def test_delays_are_capped(lab):
    """A long series of failures would wait longer than the cap."""
    body, _ = failing(5)

    async def flow(ctx: Context) -> str:
        return await ctx.step("flaky", body, retry=Retry(delay=10, backoff=10, cap=timedelta(minutes=1), jitter=0))

    assert lab.finish(flow).times("attempt_failed") == [0, 10, 70, 130, 190]


def test_only_listed_errors_are_tried_again(lab):
    """1-15, 1-16: on= and never= would not decide, or not never= before on=."""
    tried, tried_runs = failing(1, Flaky)
    excluded, excluded_runs = failing(1, ValueError)
    never, never_runs = failing(1, UnicodeError)

    async def flow(ctx: Context) -> list[str]:
        out = [await ctx.step("tried", tried, retry=Retry(on=(Flaky,)))]
        for name, body, policy in (
            ("excluded", excluded, Retry(on=(Flaky,))),
            ("never", never, Retry(on=(ValueError,), never=(UnicodeError,))),
        ):
            try:
                await ctx.step(name, body, retry=policy)
            except ValueError as error:
                out.append(type(error).__name__)
        return out

    assert lab.finish(flow).value == ["after 2", "ValueError", "UnicodeError"]
    assert (tried_runs, excluded_runs, never_runs) == ([1, 2], [1], [1])


def test_terminal_ends_a_step_at_once(lab):
    """A body that knows that trying again is pointless would be tried again."""
    body, attempts = failing(99, Terminal)

    async def flow(ctx: Context) -> None:
        await ctx.step("lost", body, retry=Retry(max_attempts=9))

    ended = lab.finish(flow)
    assert (type(ended.error), str(ended.error), attempts) == (Terminal, "attempt 1", [1])


def test_retry_after_overrides_the_delay_but_counts(lab):
    """A body that knows when to come back would be ignored, or could go on for ever."""
    attempts = []

    def busy() -> None:
        attempts.append(1)
        raise RetryAfter(timedelta(minutes=len(attempts)), "rate limit")

    async def flow(ctx: Context) -> None:
        await ctx.step(busy_step(ctx))

    def busy_step(_ctx):
        return lab.app().step(retry=Retry(max_attempts=3, delay=1))(busy)

    ended = lab.finish(flow)
    assert ended.times("attempt_failed") == [0, 60]
    assert (ended.seconds, len(attempts)) == (180, 3)
    assert type(ended.error) is StoredRetryAfter
    assert (str(ended.error), ended.error.delay_s) == ("rate limit", 180)


def test_a_long_back_off_parks_the_run_and_a_short_one_holds_it(lab):
    """A run would keep its worker for a whole back-off of an hour, or write twice for one of 50 ms."""
    body, _ = failing(2)
    delays = iter([3600, 0.05])

    def flaky() -> str:
        try:
            return body()
        except Flaky:
            raise RetryAfter(next(delays)) from None

    async def flow(ctx: Context) -> str:
        return await ctx.step("flaky", flaky, retry=Retry())

    async def main():
        async with lab.worker(flow) as app:
            handle = await app.start("flow")
            info = await lab.until(app, handle.id, "waiting")
            assert (info.owner, info.due_at.timestamp()) == (None, lab.clock.now() // 1_000_000 + 3600)
            assert app.worker.statistics == {"driven": 0, "parked": 0}
            await asyncio.sleep(3600.02)
            info = await handle.info()
            assert (info.status, info.owner) == ("running", app.worker.number)
            assert await handle.result() == "after 3"

    lab.play(main)


def test_total_timeout_bounds_all_attempts(lab):
    """A step would go on being tried behind the time that all attempts together may take."""
    body, attempts = failing(99)

    async def flow(ctx: Context) -> str:
        try:
            await ctx.step("slow", body, retry=Retry(max_attempts=None, delay=4, backoff=1, jitter=0), total_timeout=10)
        except StepTimedOut as error:
            return f"{error.scope} {error.seconds} {error.key} {type(error.__cause__).__name__}"

    ended = lab.finish(flow)
    assert ended.value == "total 10.0 slow Flaky"
    assert (attempts, ended.seconds) == ([1, 2, 3], 8)


def test_total_timeout_interrupts_the_attempt_that_crosses_it(lab):
    """An attempt begun shortly before the end of the step's time would run on behind it."""
    attempts = []

    async def slow() -> None:
        attempts.append(current_step().attempt)
        await asyncio.sleep(7)
        raise Flaky

    async def flow(ctx: Context) -> None:
        await ctx.step("slow", slow, retry=Retry(delay=1, jitter=0), total_timeout=10)

    ended = lab.finish(flow)
    assert (attempts, ended.seconds, ended.error.scope) == ([1, 2], 10, "total")


def test_an_attempt_has_a_timeout(lab):
    """A coroutine that hangs would hold its run for ever, or not be told that its time is over."""
    attempts, cancelled = [], []

    async def hangs() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                cancelled.append(1)
                raise
        return "second"

    async def flow(ctx: Context) -> str:
        return await ctx.step("hangs", hangs, timeout=5, retry=Retry(delay=1, jitter=0))

    ended = lab.finish(flow)
    assert (ended.value, ended.seconds, cancelled) == ("second", 6, [1])
    assert ended.data("attempt_failed")[0]["error"]["type"] == "perdure.errors:StepTimedOut"


def test_a_thread_that_hangs_is_given_up(lab):
    """A plain function that hangs would hold its run for ever, or its late result would still count."""
    attempts, go_on = [], threading.Event()

    def hangs() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            go_on.wait(30)
            return "too late"
        go_on.set()
        return "second"

    async def flow(ctx: Context) -> str:
        return await ctx.step("hangs", hangs, timeout=0.02, retry=Retry(max_attempts=None, delay=0))

    async def main():
        async with lab.worker(flow) as app:
            ended = await lab.ended(app, (await app.start("flow")).id)
            assert ended.value == "second"
            *failed, completed, end = [event.kind for event in ended.events]
            # On a busy machine a thread that does not hang may take too long as well.
            assert (set(failed), completed, end) == ({"attempt_failed"}, "step_completed", "completed")

    lab.play_on_real_clock(main)


def test_the_error_of_a_timed_out_attempt(lab):
    """A timeout would not be a TimeoutError, or not say which step, which limit and how long."""

    async def flow(ctx: Context) -> None:
        await ctx.step("hangs", lambda: asyncio.sleep(99), timeout=timedelta(seconds=5))

    ended = lab.finish(flow)
    assert isinstance(ended.error, TimeoutError)
    assert type(ended.error) is StepTimedOut
    assert (ended.error.key, ended.error.seconds, ended.error.scope, ended.seconds) == ("hangs", 5.0, "attempt", 5)


# ------------------------------------------------------------------------------- death of the worker
def test_at_most_once_fails_when_its_worker_dies(lab):
    """1-17: a body that may run once per attempt would run again after a crash, or its run would wait for ever."""
    ran = []

    async def transfer() -> None:
        ran.append(current_step().attempt)
        lab.die()

    async def flow(ctx: Context) -> None:
        await ctx.step("transfer", transfer, at_most_once=True)

    ended = lab.survive(flow)
    assert (ended.status, ran) == ("failed", [1])
    assert type(ended.error) is StepInterrupted
    assert (ended.error.key, ended.error.attempt) == ("transfer", 1)


def test_at_most_once_with_a_retry_runs_once_per_attempt(lab):
    """1-18: an interrupted attempt would not count, or not be followed by the next one."""
    ran = []

    async def transfer() -> str:
        ran.append(current_step().attempt)
        if len(ran) == 1:
            lab.die()
        return "sent"

    async def flow(ctx: Context) -> str:
        return await ctx.step("transfer", transfer, at_most_once=True, retry=Retry(delay=1, jitter=0, on=()))

    ended = lab.survive(flow)
    assert (ended.value, ran) == ("sent", [1, 2])
    assert [event.kind for event in ended.events if event.key] == [
        "attempt_started", "attempt_failed", "attempt_started", "step_completed",
    ]  # fmt: skip


def test_a_plain_step_runs_again_when_its_worker_dies(lab):
    """Without at_most_once a crash inside the body would lose the step, or count as a failed attempt."""
    ran = []

    async def fetch() -> str:
        ran.append(current_step().attempt)
        if len(ran) == 1:
            lab.die()
        return "fetched"

    async def flow(ctx: Context) -> str:
        first = await ctx.step("first", lambda: "kept")
        return first + " " + await ctx.step("fetch", fetch)

    ended = lab.survive(flow)
    assert (ended.value, ran) == ("kept fetched", [1, 1])
    assert ended.keys("step_completed") == ["first", "fetch"]


def test_attempts_are_counted_across_workers(lab):
    """A step that has failed twice would begin to count anew on the next worker, or be due at once."""
    body, attempts = failing(2)

    async def flow(ctx: Context) -> str:
        return await ctx.step("flaky", body, retry=Retry(max_attempts=3, delay=50, backoff=1, jitter=0))

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", id="r")
            await lab.until(app, "r", "waiting")
        async with lab.worker(flow) as app:
            ended = await lab.ended(app, "r")
            assert (ended.value, ended.times("attempt_failed"), attempts) == ("after 3", [0, 50], [1, 2, 3])

    lab.play(main)


def test_idempotency_key_is_stable_over_attempts(lab):
    """A payment provider would see another key for each attempt, or the same one for two steps."""
    keys = []

    def pay() -> None:
        info = current_step()
        keys.append((info.idempotency_key, info.run_id, info.workflow, info.key))
        if len(keys) == 1:
            raise Flaky

    async def flow(ctx: Context) -> None:
        await ctx.step("pay", pay, retry=Retry(delay=100))
        await ctx.step("pay", pay)

    lab.finish(flow, id="order-1")
    assert keys == [("order-1/pay", "order-1", "flow", "pay")] * 2 + [("order-1/pay#2", "order-1", "flow", "pay#2")]


def test_what_is_done_again_has_another_idempotency_key(lab):
    """A service would give a rerun the answer that it gave before, and nothing would be done anew."""
    keys = []

    def pay() -> None:
        keys.append(current_step().idempotency_key)

    async def flow(ctx: Context) -> None:
        await ctx.step("reserve", pay)
        await ctx.step("pay", pay)

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", id="r")
            await lab.ended(app, "r")
            for before in ("pay", ""):
                await app.client.rerun("r", before=before)
                await lab.ended(app, "r")

    lab.play(main)
    assert keys == ["r/reserve", "r/pay", "r/pay@2", "r/reserve@3", "r/pay@3"]


def test_the_attempt_is_known_to_the_body_and_only_there(lab):
    """ctx.attempt would lie, or have a meaning outside a body."""
    attempts = []

    async def flow(ctx: Context) -> str:
        async def body() -> None:
            attempts.append(ctx.attempt)
            if ctx.attempt == 1:
                raise Flaky

        await ctx.step("two", body, retry=Retry(delay=0))
        try:
            return str(ctx.attempt)
        except Exception as error:  # noqa: BLE001 - whatever it is, is asserted
            return error.code

    assert lab.finish(flow).value == "not_in_workflow"
    assert attempts == [1, 2]


def test_a_step_that_returns_an_awaitable_is_awaited(lab):
    """A lambda around a coroutine function would store the coroutine instead of its result."""

    async def fetch(n: int) -> int:
        await asyncio.sleep(1)
        return n

    async def flow(ctx: Context) -> int:
        return await ctx.step("wrapped", lambda: fetch(3))

    assert lab.finish(flow).value == 3


def test_time_of_attempts_is_recorded(lab):
    """The journal would not tell how long a body took."""

    async def slow() -> None:
        await asyncio.sleep(2.5)

    async def flow(ctx: Context) -> None:
        await ctx.sleep(10)
        await ctx.step(slow)

    (event,) = [event for event in lab.finish(flow).events if event.kind == "step_completed"]
    assert event.started_at == datetime(2025, 6, 15, 15, 6, 50, tzinfo=UTC)
    assert event.at - event.started_at == timedelta(seconds=2.5)
