import asyncio
from collections import Counter
from datetime import timedelta
from functools import partial

import pytest

from perdure import App, Context, Retry, SyncContext, Transaction, current_step
from perdure.engine.current import StepInfo
from perdure.errors import RunFailed
from perdure.testing.crash import AFTER, BEFORE, CrashMismatch, Outcome, Passage, Trap, _differences
from perdure.testing.kit import Kit
from perdure.testing.wait import NotEnded

app = App("sqlite:////nowhere/crash.db")
began: Counter[str] = Counter()


@app.step(retry=Retry(max_attempts=4, delay=30))
async def flaky(name: str) -> str:
    began[name] += 1
    if current_step().attempt < 3:
        raise ConnectionError(name)
    return f"{name} at last"


def read(name: str) -> str:
    began[name] += 1
    return name.upper()


def book(transaction: Transaction, cents: int) -> int:
    transaction.execute("create table if not exists ledger (cents integer)")
    transaction.execute("insert into ledger values (?)", (cents,))
    return transaction.execute("select count(*) from ledger")[0][0]


@app.workflow
async def child(ctx: Context, n: int) -> str:
    await ctx.emit("child", n)
    text = await ctx.step(read, f"child {n}")
    await ctx.sleep(60)
    return f"{text} {ctx.uuid()}"


@app.workflow
def plain(ctx: SyncContext, n: int) -> list[object]:
    first = ctx.step(read, "plain")
    ctx.emit("plain", first)
    ctx.sleep(timedelta(days=1))
    answer = ctx.receive("answer", int, timeout=timedelta(days=30), default=0)
    return [first, answer, ctx.call(child, n), str(ctx.now()), str(ctx.uuid())]


@app.workflow
async def everything(ctx: Context, n: int) -> dict[str, object]:
    gathered = await asyncio.gather(ctx.step(flaky, "one"), ctx.step(read, "two"), ctx.call(child, n))
    async with asyncio.TaskGroup() as group:
        grouped = [group.create_task(ctx.step("three", lambda: 3)), group.create_task(ctx.receive("go", str))]
    await ctx.emit("half way", gathered[0])
    try:
        async with asyncio.timeout(3600):
            await ctx.receive("never")
    except TimeoutError:
        await ctx.emit("gave up")
    booked = await ctx.transaction(book, 5)
    raced = await ctx.race(ctx.sleep(10), ctx.sleep(20))
    mapped = await ctx.map(child, [10, 11], concurrency=1)
    return {
        "gathered": gathered, "grouped": [task.result() for task in grouped], "booked": booked, "raced": raced[0],
        "mapped": mapped, "now": ctx.now(), "chance": ctx.random().random(),
    }  # fmt: skip


@pytest.fixture
def kit(tmp_path):
    began.clear()
    with Kit(app, tmp_path) as kit:
        yield kit


async def send_go(run):
    await asyncio.sleep(3600)
    await run.signal("go", "went")


def test_a_workflow_of_everything_bears_every_crash(kit):
    """Crashes would change what gather, TaskGroup, timers, retries, children, signals, events or transactions do."""
    report = kit.crash_everywhere(everything, 1, meanwhile=send_go)
    assert report.result["grouped"] == [3, "went"]
    assert report.result["booked"] == 1
    assert report.kills == 2 * len(report.commits) > 40
    assert any("half way" in held for held in report.commits)
    assert began["one"] > 3 * report.kills  # three attempts each time, and more where one was interrupted


def test_a_plain_workflow_bears_every_crash(kit):
    """Crashes would change what a workflow in a thread does."""

    async def answer(run):
        await asyncio.sleep(2 * 86_400)
        await run.signal("answer", 42)

    report = kit.crash_everywhere(plain, 3, meanwhile=answer)
    assert report.result[:2] == ["PLAIN", 42]
    assert "step completed 'read', emitted 'plain', timer set 'sleep'" in report.commits


def test_a_step_that_emits_bears_every_crash(kit):
    """A crash between two words of a step would lose words that came before its outcome, or the outcome."""

    async def talking() -> int:
        for word in range(3):
            current_step().emit("word", word)
            await asyncio.sleep(1)
        return 3

    @kit.app.workflow(name="talking_flow")
    async def talking_flow(ctx: Context) -> int:
        return await ctx.step(talking)

    report = kit.crash_everywhere(talking_flow)
    assert report.result == 3
    assert [held for held in report.commits if "emitted" in held] == ["step emitted 'talking'"] * 3
    assert report.repeated == {"talking": 7}


def test_bodies_that_ran_twice_are_told(kit):
    """Users could not tell which of their steps have to bear being run again."""

    @app.workflow(name="three_steps")
    async def three_steps(ctx: Context) -> None:
        for place in range(3):
            await ctx.step(f"step {place}", began.total)

    report = kit.crash_everywhere(three_steps)
    assert report.commits == (
        "step completed 'step 0'",
        "step completed 'step 1'",
        "step completed 'step 2', completed",
    )
    # Each body is repeated when its outcome is lost; after the commit before that, it has not begun.
    assert set(report.repeated) == {"step 0", "step 1", "step 2"}
    assert set(report.repeated.values()) == {1}


def test_a_counter_between_steps_is_found(kit):
    """An effect outside of steps, which each replay repeats, would go unnoticed until a crash in production."""
    calls = []

    @app.workflow(name="counting")
    async def counting(ctx: Context) -> int:
        calls.append("replayed code")
        await ctx.step("work", lambda: None)
        return len(calls)

    with pytest.raises(CrashMismatch, match=r"result of run 'crashing': 1 without the kill, 2 with it") as caught:
        kit.crash_everywhere(counting, before=calls.clear)
    assert (caught.value.commit, caught.value.when) == (1, BEFORE)
    assert caught.value.held == "step completed 'work', completed"


def test_a_branch_by_chance_is_found(kit):
    """Code that decides otherwise on replay would go unnoticed until it diverges in production."""
    names = iter(f"step {number}" for number in range(1000))

    @app.workflow(name="wandering")
    async def wandering(ctx: Context) -> None:
        await ctx.step(next(names), lambda: None)
        await ctx.sleep(60)

    with pytest.raises(CrashMismatch, match="disagree at journal entry 1") as caught:
        kit.crash_everywhere(wandering)
    assert isinstance(caught.value.__cause__, NotEnded)
    assert (caught.value.commit, caught.value.when) == (1, AFTER)


def test_an_event_that_differs_is_found(kit):
    """Watchers of a run would see other events after a crash."""
    calls = []

    @app.workflow(name="telling")
    async def telling(ctx: Context) -> None:
        calls.append("replayed code")
        await ctx.step("work", lambda: None)
        await ctx.emit("calls", len(calls))

    with pytest.raises(CrashMismatch, match=r"events of run 'crashing': \{'calls': 1\} without the kill"):
        kit.crash_everywhere(telling, before=calls.clear)


def test_an_effect_that_a_second_attempt_doubles_is_found_by_observing(kit):
    """A step that charges twice when it is interrupted would go unnoticed, as results are the same."""
    charged = []

    @app.workflow(name="charging")
    async def charging(ctx: Context) -> str:
        return await ctx.step("charge", lambda: charged.append(5))

    @app.workflow(name="charging_once")
    async def charging_once(ctx: Context) -> str:
        def charge() -> None:
            if "key" not in charged:
                charged.append("key")

        return await ctx.step("charge", charge)

    kit.crash_everywhere(charging)
    with pytest.raises(CrashMismatch, match=r"observed: \[5\] without the kill, \[5, 5\] with it"):
        kit.crash_everywhere(charging, before=charged.clear, observe=charged.copy)
    kit.crash_everywhere(charging_once, before=charged.clear, observe=charged.copy)


def test_bodies_in_threads_do_the_same_in_each_passage(kit):
    """A crash test would pass or fail by chance, as a thread that outlives its worker does its work or not."""

    @app.workflow(name="threads")
    async def threads(ctx: Context) -> None:
        def work(name: str) -> None:
            began[name] += 1

        await asyncio.gather(*(ctx.step(f"work {number}", partial(work, f"{number}")) for number in range(8)))

    courses = []
    for _ in range(3):
        course = []
        report = kit.crash_everywhere(threads, before=began.clear, observe=lambda: course.append(dict(began)))  # noqa: B023
        courses.append((course, report.repeated))
    assert courses[0] == courses[1] == courses[2]
    assert courses[0][0][1] == dict.fromkeys("01234567", 2)  # all of them had begun when the first commit was lost


def test_a_part_of_the_result_can_be_left_out_of_the_comparison(kit):
    """A workflow whose result rightly depends on how long steps took could not be tested."""

    @app.workflow(name="timing")
    async def timing(ctx: Context) -> dict[str, object]:
        done = await asyncio.gather(
            ctx.step("long", lambda: asyncio.sleep(9, "long")), ctx.step("short", lambda: asyncio.sleep(5, "short"))
        )
        return {"done": done, "at": ctx.now()}

    with pytest.raises(CrashMismatch, match="result of run"):
        kit.crash_everywhere(timing)
    report = kit.crash_everywhere(timing, key=lambda result: result["done"])
    assert report.result["done"] == ["long", "short"]


def test_a_failure_must_stay_the_same_too(kit):
    """A workflow that ends by an error could not be tested, or could end by another one after a crash."""
    calls = []

    @app.workflow(name="failing")
    async def failing(ctx: Context, at_most: int) -> None:
        calls.append("replayed code")
        await ctx.step("work", lambda: None)
        raise LookupError(f"missing {min(len(calls), at_most)}")

    assert kit.crash_everywhere(failing, 1).result is None
    with pytest.raises(CrashMismatch, match="LookupError: missing 1' without the kill"):
        kit.crash_everywhere(failing, 2, before=calls.clear)
    with pytest.raises(RunFailed, match="missing"):
        kit.run(failing, 1)


def test_each_passage_begins_with_the_kits_database_as_it_is(kit):
    """What a test sets up would be missing, or crashes would leave their marks in it."""

    @app.workflow(name="keeping_books")
    async def keeping_books(ctx: Context) -> int:
        return await ctx.transaction(book, 1)

    assert kit.run(keeping_books) == 1
    assert kit.crash_everywhere(keeping_books).result == 2
    assert kit.run(keeping_books) == 2


def test_mocks_hold_during_crashes(kit):
    """A crash test would call the real services."""
    with kit.mock(read, side_effect=lambda name: name[::-1]) as mock:
        report = kit.crash_everywhere(child, 4)
    assert report.result.startswith("4 dlihc ")
    assert began.total() == 0
    assert mock.count > report.kills


def test_a_workflow_that_does_not_end_is_no_mismatch(kit):
    """A forgotten signal would be blamed on the first crash."""

    @app.workflow(name="forgotten")
    async def forgotten(ctx: Context) -> None:
        await ctx.receive("never")

    with pytest.raises(NotEnded, match="waits for signal:never"):
        kit.crash_everywhere(forgotten, within=timedelta(days=60))


def test_nothing_is_left_behind(kit):
    """Each crash test would fill the disk a little more."""
    kit.crash_everywhere(child, 1)
    assert {path.name for path in kit.folder.iterdir()} <= {"perdure.db", "perdure.db-wal", "perdure.db-shm"}


def test_a_body_that_ran_though_its_outcome_was_durable_is_told():
    """An engine that runs finished steps again would pass, as long as the results are the same."""

    def passage(*bodies: str) -> Passage:
        made = Passage(Trap(1, AFTER), outcomes={"r": Outcome("completed", 1, None, {})})
        made.durable, made.kept = {("r", "charge", 2)}, {("r", "charge", 2), ("r", "refund", 3)}
        made.bodies[1].extend(StepInfo("r", "pay", key, 1) for key in bodies)
        return made

    assert _differences(passage(), passage("refund")) == []
    (problem,) = _differences(passage(), passage("charge", "refund"))
    assert problem == "step 'charge' of run 'r' ran again though its outcome was durable"


undone: list[str] = []


def reserve(name: str) -> str:
    undone.append(f"+{name}")
    return name


@app.step(retry=Retry(max_attempts=2, delay=60))
async def unbook(name: str) -> None:
    if name == "car" and current_step().attempt == 1:
        raise ConnectionError(name)
    undone.append(f"-{name}")


@app.workflow
async def tour(ctx: Context, days: int) -> str:
    await ctx.step("guide", partial(reserve, "guide"), compensate=unbook)
    await ctx.sleep(60)
    if days > 3:
        raise ValueError("too long")
    return "toured"


@app.workflow(compensate_in_parallel=True)
async def at_once(ctx: Context) -> None:
    await asyncio.gather(*(ctx.step(name, partial(reserve, name), compensate=unbook) for name in ("boat", "car")))
    await ctx.call(tour, 9)


@app.workflow
async def journey(ctx: Context) -> None:
    await ctx.step("hotel", partial(reserve, "hotel"), compensate=unbook)
    await ctx.call(tour, 1, compensate=unbook)
    late = asyncio.create_task(ctx.step("car", partial(reserve, "car"), compensate=unbook))
    await ctx.call(at_once)
    await late


def test_a_saga_bears_every_crash(kit):  # B092
    """A crash between a step and its compensation, while it is undone or at a fan-in would leave something done."""

    def balance() -> dict[str, int]:
        # A body may run twice when its worker dies in it; what must not be is that its undoing does not.
        return {name: undone.count(f"-{name}") > 0 for name in ("hotel", "toured", "car", "guide", "boat")}

    report = kit.crash_everywhere(journey, before=undone.clear, observe=balance)
    assert report.kills > 20
    assert report.result is None
    assert balance() == dict.fromkeys(("hotel", "toured", "car", "guide", "boat"), True)
    assert any("compensating 'compensate'" in held for held in report.commits)
    assert {"hotel#compensate", "car#compensate"} <= {key.rpartition("/")[2] for key in report.repeated}
