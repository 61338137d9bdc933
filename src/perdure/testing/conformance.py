"""
What every engine must hold to that workflow functions run on: cases for an adapter's tests.

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
    def test_adapter(case):
        run_virtual(lambda clock: case(MyHarness(clock)))  # or asyncio.run, where time is real

A case raises AssertionError, saying what would go wrong. perdure itself passes them too.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from perdure.engine.current import current_step
from perdure.engine.definition import Step, StepOptions
from perdure.errors import ReceiveTimedOut, StepTimedOut
from perdure.errors.user import RetryAfter, Terminal
from perdure.model.retry import Retry
from perdure.platform.steps import Steps

QUICK = Retry(max_attempts=3, delay=1, jitter=0)


class Harness(Protocol):
    """An engine under test, with perdure's adapter for it. Time is real, or that of a virtual loop."""

    async def start(self, run_id: str, fn: Callable[..., Any], *args: Any) -> None:
        """Begin a run of a workflow function, ``async def fn(ctx: Steps, …)``."""

    async def event(self, run_id: str, name: str, data: Any) -> None:
        """Send an event to a run."""

    async def crash(self) -> None:
        """Let the process that executes the runs die, and another one go on with them."""

    async def result(self, run_id: str) -> Any:
        """Wait for a run's end; raises what its function raised."""

    async def again(self, run_id: str) -> Any:
        """Execute an ended run once more from what is kept of it, as after a crash at its very end."""


Case = Callable[[Harness], Awaitable[None]]
CASES: list[Case] = []


def case(test: Case) -> Case:
    """Make it one of the cases."""
    CASES.append(test)
    return test


class Boom(Exception):
    """An error with a field."""

    def __init__(self, message: str, part: int) -> None:
        super().__init__(message)
        self.part = part


@case
async def finished_steps_are_not_run_again(engine: Harness) -> None:
    """A crash costs only what had not ended."""
    ran: Counter[str] = Counter()
    reached = asyncio.Event()

    async def note(name: str) -> str:
        ran[name] += 1
        return name

    async def work(ctx: Steps) -> list[str]:
        done = [await ctx.step(note, name) for name in "ab"]
        reached.set()
        done.append(await ctx.receive("go", str))
        return [*done, await ctx.step(note, "c")]

    await engine.start("r", work)
    await reached.wait()
    await engine.crash()
    await engine.event("r", "go", "on")
    assert await engine.result("r") == ["a", "b", "on", "c"], "results differ after a crash"
    assert await engine.again("r") == ["a", "b", "on", "c"], "a replay of all gives something else"
    assert ran == {"a": 1, "b": 1, "c": 1}, f"finished bodies ran again: {ran}"


@case
async def an_interrupted_body_runs_again(engine: Harness) -> None:
    """What was cut off is done, at least once."""
    begun: list[int] = []
    reached = asyncio.Event()

    async def slow() -> str:
        begun.append(current_step().attempt)
        reached.set()
        await asyncio.sleep(60 if len(begun) == 1 else 0)
        return "done"

    async def work(ctx: Steps) -> str:
        return await ctx.step(slow)

    await engine.start("r", work)
    await reached.wait()
    await engine.crash()
    assert await engine.result("r") == "done"
    assert len(begun) == 2, f"the body ran {len(begun)} times"


@case
async def failures_are_replayed_as_failures(engine: Harness) -> None:
    """The same class, message and fields, without the body; the same branch."""
    ran: Counter[str] = Counter()

    async def fail() -> None:
        ran["fail"] += 1
        message = "sold out"
        raise Boom(message, 7)

    async def work(ctx: Steps) -> str:
        try:
            await ctx.step(fail)
        except Boom as error:
            told = f"{error} {error.part}"
        return f"{told} {await ctx.step('next', lambda: 'waiting list')}"

    await engine.start("r", work)
    assert await engine.result("r") == "sold out 7 waiting list"
    assert await engine.again("r") == "sold out 7 waiting list", "the replay took another branch"
    assert ran == {"fail": 1}, "a failure on record was tried again"


@case
async def an_uncaught_failure_ends_the_run(engine: Harness) -> None:
    """Whoever waits for the run sees the step's own error."""

    async def fail() -> None:
        message = "no"
        raise Boom(message, 1)

    async def work(ctx: Steps) -> None:
        await ctx.step(fail)

    await engine.start("r", work)
    for _ in range(2):
        try:
            await engine.result("r")
        except Boom as error:
            assert (str(error), error.part) == ("no", 1)
        else:
            raise AssertionError


@case
async def retries_are_counted_and_spaced(engine: Harness) -> None:
    """A policy holds: so many attempts, so far apart; then the last error."""
    times: list[float] = []
    loop = asyncio.get_running_loop()

    async def flaky(good: int) -> int:
        times.append(loop.time())
        if len(times) < good:
            message = f"attempt {len(times)}"
            raise Boom(message, len(times))
        return len(times)

    step: Any = Step(flaky, StepOptions(retry=QUICK))

    async def work(ctx: Steps, good: int) -> int:
        return int(await ctx.step(step, good))

    await engine.start("good", work, 3)
    assert await engine.result("good") == 3
    assert times[1] - times[0] >= 1
    assert times[2] - times[1] >= 2, "the delays do not grow"
    times.clear()
    await engine.start("bad", work, 9)
    try:
        await engine.result("bad")
    except Boom as error:
        assert error.part == 3, "another error than the last one"
    assert len(times) == 3, f"{len(times)} attempts instead of 3"


@case
async def terminal_and_retry_after_are_heard(engine: Harness) -> None:
    """A body decides that there is no use, or when to come back."""
    ran: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def give_up() -> None:
        ran["give up"] += 1
        message = "never"
        raise Terminal(message)

    async def later() -> float:
        ran["later"] += 1
        if ran["later"] == 1:
            raise RetryAfter(30)
        return loop.time() - begun

    async def work(ctx: Steps) -> float:
        try:
            await ctx.step("give up", give_up, retry=QUICK)
        except Terminal:
            return await ctx.step("later", later, retry=QUICK)
        return 0

    await engine.start("r", work)
    assert await engine.result("r") >= 30, "the body was called again before the time that it had asked for"
    assert ran == {"give up": 1, "later": 2}


@case
async def attempts_have_their_timeout(engine: Harness) -> None:
    """A body that hangs does not keep the run for ever."""

    async def hang() -> None:
        await asyncio.sleep(3600)

    async def work(ctx: Steps) -> str:
        try:
            await ctx.step("hang", hang, timeout=5)
        except StepTimedOut as error:
            return error.scope
        return "it did not time out"

    await engine.start("r", work)
    assert await engine.result("r") == "attempt"


@case
async def values_have_their_types(engine: Harness) -> None:
    """What a step gives is what a replay gives, and what its annotation says."""
    seen: list[Any] = []

    async def when() -> datetime:
        return datetime(2026, 1, 2, tzinfo=UTC)

    def pair() -> tuple[int, str]:
        return 1, "one"

    async def work(ctx: Steps) -> list[str]:
        found = [await ctx.step(when), await ctx.step(pair)]
        seen.append(found)
        return [type(each).__name__ for each in found]

    await engine.start("r", work)
    assert await engine.result("r") == ["datetime", "tuple"]
    await engine.again("r")
    assert seen[0] == seen[1], "the replay has other values"


@case
async def time_and_chance_are_the_same_on_replay(engine: Harness) -> None:
    """A replay decides as the first execution did."""
    seen: list[Any] = []

    async def work(ctx: Steps) -> None:
        await ctx.step("a", lambda: 1)
        first = ctx.now()
        await ctx.sleep(60)
        assert ctx.now() - first >= timedelta(seconds=60), "time stood still during a sleep"
        await ctx.receive("nothing", timeout=3600, default=None)
        assert ctx.now() - first >= timedelta(seconds=3660), "time stood still during a wait"
        seen.append((first, ctx.now(), ctx.uuid(), ctx.uuid(), ctx.random().random()))

    await engine.start("r", work)
    await engine.result("r")
    await engine.start("other", work)
    await engine.result("other")
    await engine.again("r")
    assert seen[0] == seen[2], f"time or chance changed: {seen[0]}, {seen[2]}"
    assert len({*seen[0][2:], *seen[1][2:]}) == 6, "chance repeats itself"


@case
async def waits_go_on_through_a_crash(engine: Harness) -> None:
    """A sleep or a timeout does not begin anew with each process."""
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def work(ctx: Steps) -> str:
        await ctx.sleep(1000)
        try:
            return await ctx.receive("answer", str, timeout=1000)
        except ReceiveTimedOut:
            return "nobody answered"

    await engine.start("r", work)
    for _ in range(3):
        await asyncio.sleep(400)
        await engine.crash()
    assert await engine.result("r") == "nobody answered"
    assert 2000 <= loop.time() - begun < 2200, f"it took {loop.time() - begun} s instead of 2000"


@case
async def events_are_neither_lost_nor_given_twice(engine: Harness) -> None:
    """One that came before the wait counts; two go to two waits, in their order."""

    async def work(ctx: Steps) -> list[Any]:
        await ctx.sleep(100)
        first = await ctx.receive("news", dict)
        return [first, await ctx.receive("news", timeout=50, default="none"), await ctx.receive("news", default=0)]

    await engine.start("r", work)
    await engine.event("r", "news", {"n": 1})
    await asyncio.sleep(120)
    await engine.crash()
    await asyncio.sleep(60)
    await engine.event("r", "news", 2)
    assert await engine.result("r") == [{"n": 1}, "none", 2]
    assert await engine.again("r") == [{"n": 1}, "none", 2]


@case
async def concurrent_branches_keep_their_own(engine: Harness) -> None:
    """Branches that ask for steps of the same name do not get each other's results."""
    ran: Counter[str] = Counter()
    parked = asyncio.Event()

    async def note(name: str, seconds: float) -> str:
        await asyncio.sleep(seconds)
        ran[name] += 1
        return name

    async def branch(ctx: Steps, name: str, seconds: float) -> list[str]:
        return [await ctx.step(note, f"{name}{n}", seconds) for n in range(2)]

    async def work(ctx: Steps) -> list[Any]:
        found = await asyncio.gather(branch(ctx, "slow", 3), branch(ctx, "quick", 1))
        with ctx.scope("after"):
            last = await ctx.step(note, "last", 0)
        parked.set()
        await ctx.receive("go")
        return [*found, [last]]

    await engine.start("r", work)
    await parked.wait()
    await engine.crash()
    await engine.event("r", "go", None)
    assert await engine.result("r") == [["slow0", "slow1"], ["quick0", "quick1"], ["last"]]
    assert set(ran.values()) == {1}, f"bodies ran again: {ran}"


@case
async def the_first_of_several_stays_the_first(engine: Harness) -> None:
    """What came second, and is there when a crash is over, does not come first then: one branch is taken, not both."""
    took: list[str] = []
    reached = asyncio.Event()

    async def model() -> str:
        await asyncio.sleep(10)
        return "answer"

    async def take(branch: str) -> str:
        took.append(branch)
        return branch

    async def work(ctx: Steps) -> str:
        answer, timer = asyncio.ensure_future(ctx.step(model)), asyncio.ensure_future(ctx.sleep(5))
        done, _ = await asyncio.wait({answer, timer}, return_when=asyncio.FIRST_COMPLETED)
        name = "main" if answer in done else "fallback"
        branch = await ctx.step(name, lambda: take(name), returns=str)
        late = await answer
        reached.set()
        await ctx.receive("go")
        return f"{branch}, then {late}"

    await engine.start("r", work)
    await reached.wait()
    await engine.crash()
    await engine.event("r", "go", None)
    assert await engine.result("r") == "fallback, then answer", "after a crash another outcome came first"
    assert await engine.again("r") == "fallback, then answer", "a replay took another branch"
    assert took == ["fallback"], f"branches taken: {took}"


@case
async def outcomes_come_again_in_their_order(engine: Harness) -> None:
    """A function that goes by who is ready first does the same with all of them there."""
    reached = asyncio.Event()

    async def after(name: str, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return name

    async def work(ctx: Steps) -> list[str]:
        branches = [ctx.step(after, name, seconds) for name, seconds in (("c", 9), ("a", 3), ("b", 6))]
        found = [await each for each in asyncio.as_completed(branches)]
        found += [await ctx.step(after, name, 0) for name in found]
        reached.set()
        await ctx.receive("go")
        return found

    await engine.start("r", work)
    await reached.wait()
    await engine.crash()
    await engine.event("r", "go", None)
    assert await engine.result("r") == [*"abcabc"]
    assert await engine.again("r") == [*"abcabc"], "a replay has another order"


@case
async def what_is_given_up_has_no_outcome(engine: Harness) -> None:
    """A step that has lost against a timeout does not win on replay, though its body could end then."""
    seconds = [60.0]
    reached = asyncio.Event()

    async def slow() -> str:
        await asyncio.sleep(seconds[0])
        return "in time"

    async def work(ctx: Steps) -> str:
        try:
            async with asyncio.timeout(5):
                found = await ctx.step(slow)
        except TimeoutError:
            found = await ctx.step("late", lambda: "late")
        reached.set()
        await ctx.receive("go")
        return str(found)

    await engine.start("r", work)
    await reached.wait()
    seconds[0] = 0
    await engine.crash()
    await engine.event("r", "go", None)
    assert await engine.result("r") == "late"
    assert await engine.again("r") == "late", "a replay took another branch"


@case
async def timers_of_asyncio_are_durable(engine: Harness) -> None:
    """`asyncio.sleep` and `asyncio.timeout` would begin anew with each process, or end when another one looks."""
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def work(ctx: Steps) -> str:
        await asyncio.sleep(1000)
        try:
            async with asyncio.timeout(1000):
                return str(await ctx.receive("answer", str))
        except TimeoutError:
            return "nobody answered"

    await engine.start("r", work)
    for _ in range(3):
        await asyncio.sleep(400)
        await engine.crash()
    assert await engine.result("r") == "nobody answered"
    assert 2000 <= loop.time() - begun < 2200, f"it took {loop.time() - begun} s instead of 2000"


@case
async def bodies_know_their_key(engine: Harness) -> None:
    """Services can be given a key that is the same for every attempt, and another one for every step."""
    keys: list[str] = []

    async def call() -> None:
        keys.append(current_step().idempotency_key)
        if len(keys) == 1:
            message = "again"
            raise Boom(message, 0)

    async def work(ctx: Steps) -> None:
        for _ in range(2):
            await ctx.step("call", call, retry=QUICK)

    await engine.start("r", work)
    await engine.result("r")
    assert keys[0] == keys[1] != keys[2], keys
