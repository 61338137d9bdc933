"""Sagas: what undoes the steps of runs that do not end well."""

import asyncio
from functools import partial

import pytest

from perdure import App, ChildFailed, Context, Retry, SyncContext, Terminal, Transaction
from perdure.errors import IllegalMove, InvalidName, InvalidOption, RunTimedOut


class World:
    """What is booked, and all that happened to it, in order."""

    def __init__(self):
        self.log = []
        self.failing = {}

    def book(self, name, nights=1):
        self.log.append(f"+{name}")
        return f"id of {name}"

    def cancel(self, booking):
        name = booking.removeprefix("id of ")
        if self.failing.get(name, 0):
            self.failing[name] -= 1
            self.log.append(f"!{name}")
            raise ConnectionError(f"cannot cancel {name}")
        self.log.append(f"-{name}")

    def closure(self, name, after=0.0):
        async def book():
            await asyncio.sleep(after)
            return self.book(name)

        return book


@pytest.fixture
def world():
    return World()


def boom():
    raise ValueError("no luck")


def patient(times):
    return Retry(max_attempts=times, delay=10, jitter=0)


def test_undone_in_reverse(lab, world):  # B090, B091, B094
    """Compensations run in another order than the reverse of completion, or also where nothing was done."""

    async def flow(ctx: Context) -> None:
        book = App().step(compensate=world.cancel)(world.book)
        await ctx.step(book, "hotel")
        await ctx.step("note", lambda: 1)
        await ctx.step("car", lambda: world.book("car"), compensate=world.cancel)
        await ctx.step("fails", boom, compensate=world.cancel)

    ended = lab.finish(flow)
    assert ended.status == "failed"
    assert str(ended.error) == "no luck"
    assert world.log == ["+hotel", "+car", "-car", "-hotel"]
    assert ended.keys("step_completed")[-2:] == ["car#compensate", "book#compensate"]
    (plan,) = ended.data("compensating")
    assert plan == {"error": "ValueError: no luck", "steps": ["car", "book"]}


def test_order_of_completion_counts(lab, world):  # B090
    """Steps that ran at once are undone in the order of their code instead of the reverse of their ends."""

    async def flow(ctx: Context) -> None:
        await asyncio.gather(
            *(
                ctx.step(f"{name}", world.closure(name, after), compensate=world.cancel)
                for name, after in (("slow", 3), ("quick", 1), ("middle", 2))
            )
        )
        raise ValueError("no luck")

    assert lab.finish(flow).status == "failed"
    assert world.log == ["+quick", "+middle", "+slow", "-slow", "-middle", "-quick"]


def test_without_anything_to_undo(lab, world):  # B095
    """A run whose first step fails goes through a rollback of nothing."""

    async def flow(ctx: Context) -> None:
        await ctx.step("fails", boom, compensate=world.cancel)

    ended = lab.finish(flow)
    assert [event.kind for event in ended.events] == ["step_failed", "failed"]


def test_completed_runs_keep_what_they_did(lab, world):
    """A run that handled its error itself, or had none, is undone."""

    async def flow(ctx: Context) -> str:
        await ctx.step("car", lambda: world.book("car"), compensate=world.cancel)
        try:
            await ctx.step("fails", boom)
        except ValueError:
            return "took the bus"

    assert lab.finish(flow).value == "took the bus"
    assert world.log == ["+car"]


def test_what_a_compensation_is_given(lab):  # B091
    """A compensation lacks the step's result or arguments, or gets more than it takes."""
    seen = []

    def order(item, count=1, *, colour="red"):
        return f"{count} {item}"

    def nothing():
        seen.append(())

    def some(result, item):
        seen.append((result, item))

    def everything(result, *args, **kwargs):
        seen.append((result, args, kwargs))

    def named(result, *, colour):
        seen.append((result, colour))

    def by_name(result, item, count):
        seen.append((result, item, count))

    async def flow(ctx: Context) -> None:
        step = App().step(order)
        for undo in (nothing, some, everything, named):
            await ctx.step(step.options(compensate=undo), "chair", 2, colour="blue")
        await ctx.step(step.options(compensate=by_name), "chair", count=3)
        raise ValueError("no luck")

    lab.finish(flow)
    assert seen == [
        ("3 chair", "chair", 3), ("2 chair", "blue"), ("2 chair", ("chair", 2), {"colour": "blue"}), ("2 chair", "chair"), (),
    ]  # fmt: skip


def test_compensations_without_a_name(lab, world):
    """A partial or an object that can be called is refused when it is needed."""

    class Cancel:
        def __call__(self, booking):
            world.cancel(booking)

    async def flow(ctx: Context) -> None:
        await ctx.step("car", lambda: world.book("car"), compensate=partial(World.cancel, world))
        await ctx.step("hut", lambda: world.book("hut"), compensate=Cancel())
        raise ValueError("no luck")

    assert str(lab.finish(flow).error) == "no luck"
    assert world.log == ["+car", "+hut", "-hut", "-car"]


def test_compensation_that_cannot_be_called(lab, world):
    """A mistake in a compensation's signature comes out when it is needed, and something cannot be undone."""

    def odd(result, other):
        raise AssertionError

    async def flow(ctx: Context) -> None:
        await ctx.step("car", lambda: world.book("car"), compensate=odd)

    ended = lab.finish(flow)
    assert isinstance(ended.error, InvalidOption)
    assert "compensate" in str(ended.error)
    assert world.log == []
    with pytest.raises(InvalidOption, match="neither a step nor a function"):
        App().step(compensate="refund")


@pytest.mark.parametrize("attempts", [None, 3])
def test_compensations_are_tried_again(lab, world, attempts):
    """A compensation has one try (W07), or not its own policy."""
    world.failing["car"] = 2
    undo = world.cancel if attempts is None else App().step(retry=patient(attempts))(world.cancel)

    async def flow(ctx: Context) -> None:
        await ctx.step("car", lambda: world.book("car"), compensate=undo)
        raise ValueError("no luck")

    ended = lab.finish(flow)
    assert world.log == ["+car", "!car", "!car", "-car"]
    assert ended.keys("attempt_failed") == ["car#compensate"] * 2
    assert ended.seconds == (30 if attempts else pytest.approx(1.5, abs=1.5))


def test_status_while_it_is_undone(lab, world):  # W17
    """A run that waits in its rollback looks like one that goes on."""
    world.failing["car"] = 1

    async def flow(ctx: Context) -> None:
        undo = App().step(retry=Retry(delay=3600, jitter=0, cap=3600))(world.cancel)
        await ctx.step("car", lambda: world.book("car"), compensate=undo)
        raise ValueError("no luck")

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", id="r")
            info = await lab.until(app, "r", "compensating")
            assert info.due_at is not None
            await app.cancel("r", "too late")  # W07: does not abandon it half done
            assert (await app.handle("r").info()).status == "compensating"
            ended = await lab.ended(app, "r", "flow")
            assert (ended.status, str(ended.error)) == ("failed", "no luck")
            await lab.check_replay(app, ended, "flow")

    lab.play(main)
    assert world.log == ["+car", "!car", "-car"]


async def stuck(lab, app):
    await app.start("flow", id="r")
    return await lab.until(app, "r", "paused")


def trip(world, attempts=1, **options):
    async def flow(ctx: Context) -> None:
        undo = App().step(retry=patient(attempts))(world.cancel)
        await ctx.step("hotel", lambda: world.book("hotel"), compensate=undo)
        await ctx.step("car", lambda: world.book("car"), compensate=undo)
        await ctx.step("train", lambda: world.book("train"), compensate=undo)
        raise ValueError("no luck")

    return (flow, options | {"name": "flow"})


@pytest.mark.parametrize("decision", ["retry", "skip", "done"])
def test_compensation_that_keeps_failing(lab, world, decision):  # B093, W07
    """A rollback that cannot go on hides, or nobody can make it go on."""
    world.failing["car"] = 2

    async def main():
        async with lab.worker(trip(world, 2)) as app:
            info = await stuck(lab, app)
            assert info.reason["code"] == "compensation_failed"
            assert info.reason["key"] == "car#compensate"
            assert "cannot cancel car" in info.reason["message"]
            assert world.log == ["+hotel", "+car", "+train", "-train", "!car", "!car"]
            with pytest.raises(IllegalMove, match="stopped by 'car#compensate'"):
                await app.client.compensate("r", decision, step="hotel")
            with pytest.raises(InvalidOption):
                await app.client.compensate("r", "forget")
            await app.client.compensate("r", decision, step="car", remark="by phone")
            ended = await lab.ended(app, "r", "flow")
            assert (ended.status, str(ended.error)) == ("failed", "no luck")
            resolved = [] if decision == "retry" else [{"decision": decision, "remark": "by phone"}]
            assert ended.data("step_resolved") == resolved
            with pytest.raises(IllegalMove):
                await app.client.compensate("r", decision)
            await lab.check_replay(app, ended, "flow")

    lab.play(main)
    assert world.log[6:] == ["-car", "-hotel"] if decision == "retry" else ["-hotel"]


def test_all_attempts_again(lab, world):
    """After an operator's retry a compensation has one attempt only, or stops for ever."""
    world.failing["car"] = 3

    async def main():
        async with lab.worker(trip(world, 2)) as app:
            await stuck(lab, app)
            await app.client.resume("r")  # the same as "retry"
            ended = await lab.ended(app, "r", "flow")
            assert [event.attempt for event in ended.events if event.key == "car#compensate"] == [1, 2, 3, 4]

    lab.play(main)
    assert world.log[4:] == ["!car"] * 3 + ["-car", "-hotel"]


def test_in_parallel(lab, world):
    """Compensations that may run at once wait for each other, or one that fails keeps the others from it."""
    world.failing["car"] = 1

    async def main():
        async with lab.worker(trip(world, compensate_in_parallel=True)) as app:
            info = await stuck(lab, app)
            assert info.reason["key"] == "car#compensate"
            assert sorted(world.log[3:]) == ["!car", "-hotel", "-train"]
            await app.client.compensate("r", "retry")
            ended = await lab.ended(app, "r", "flow")
            assert ended.status == "failed"
            await lab.check_replay(app, ended, "flow")

    lab.play(main)
    assert sorted(world.log[6:]) == ["-car"]


def test_partly_failed_parallel_step(lab, world):  # W06, W26
    """What succeeded beside a step that failed stays done, also if it ended later; or the rollback overtakes it."""

    async def flow(ctx: Context) -> None:
        async def fail():
            await asyncio.sleep(2)
            raise ValueError("no luck")

        await asyncio.gather(
            ctx.step("early", world.closure("early", 1), compensate=world.cancel),
            ctx.step("fails", fail),
            ctx.step("late", world.closure("late", 9), compensate=world.cancel),
            ctx.step("never", world.closure("never", 9)),
        )

    ended = lab.finish(flow)
    assert ended.status == "failed"
    assert world.log == ["+early", "+late", "-late", "-early"]
    assert ended.keys("step_cancelled") == ["~4/never"]


def test_what_runs_when_it_fails_is_not_tried_again(lab, world):
    """The rollback waits for all the attempts of a step whose result nobody wants any more."""
    tried = []

    async def flaky():
        await asyncio.sleep(5)
        tried.append(1)
        raise ConnectionError

    async def flow(ctx: Context) -> None:
        await ctx.step("hotel", lambda: world.book("hotel"), compensate=world.cancel)
        more = ctx.step("flaky", flaky, retry=Retry(max_attempts=None), compensate=world.cancel)
        await asyncio.gather(more, ctx.step("fails", boom))

    ended = lab.finish(flow)
    assert (ended.seconds, tried, world.log) == (5, [1], ["+hotel", "-hotel"])


def test_given_up_by_a_timeout(lab, world):
    """A step that a timeout gave up, but that had its effect, stays done."""

    async def flow(ctx: Context) -> None:
        with pytest.raises(TimeoutError):
            async with ctx.timeout(3):
                await ctx.step("slow", world.closure("slow", 5), compensate=world.cancel)
        await ctx.step("fails", boom)

    lab.finish(flow)
    assert world.log == ["+slow", "-slow"]


@pytest.mark.parametrize(("option", "asked"), [(False, False), (True, False), (False, True)])
def test_cancelled(lab, world, option, asked):
    """A cancelled run is undone without anybody asking for it, or not when somebody does."""

    async def flow(ctx: Context) -> None:
        await ctx.step("car", lambda: world.book("car"), compensate=world.cancel)
        await ctx.sleep(1e6)

    async def main():
        async with lab.worker((flow, {"compensate_on_cancel": option, "name": "flow"})) as app:
            await app.start("flow", id="r")
            await lab.until(app, "r", "waiting")
            await app.cancel("r", "changed my mind", compensate=asked)
            ended = await lab.ended(app, "r", "flow")
            assert ended.status == "cancelled"
            assert "changed my mind" in str(ended.error)
            await lab.check_replay(app, ended, "flow")

    lab.play(main)
    assert world.log == (["+car", "-car"] if option or asked else ["+car"])


def test_deadline(lab, world):
    """A run that has passed its deadline is not undone, or the deadline cuts its rollback short."""
    world.failing["car"] = 3

    async def flow(ctx: Context) -> None:
        undo = App().step(retry=Retry(delay=100, jitter=0, cap=100))(world.cancel)
        await ctx.step("car", lambda: world.book("car"), compensate=undo)
        await ctx.sleep(1e6)

    ended = lab.finish(flow, timeout=60)
    assert isinstance(ended.error, RunTimedOut)
    assert world.log == ["+car", "!car", "!car", "!car", "-car"]
    assert ended.seconds == 360


def test_clean_up_that_takes_too_long(lab, world):
    """A clean-up without end keeps the run from being undone, or ends it without."""

    async def flow(ctx: Context) -> None:
        await ctx.step("car", lambda: world.book("car"), compensate=world.cancel)
        try:
            await ctx.sleep(1e6)
        finally:
            await ctx.receive("never")

    ended = lab.finish((flow, {"grace": 20}), timeout=60)
    assert isinstance(ended.error, RunTimedOut)
    assert world.log == ["+car", "-car"]
    assert ended.seconds == 80


async def ship(ctx: Context, item: str, *, fails: bool = False) -> str:
    await ctx.step("pack", lambda: WORLD[0].book(f"packed {item}"), compensate=WORLD[0].cancel)
    await ctx.sleep(60)
    if fails:
        raise Terminal("lost")
    return f"parcel of {item}"


WORLD = []


@pytest.fixture
def posted(world):
    WORLD[:] = [world]
    return world


def test_child_is_undone(lab, posted):  # W06
    """A completed child stays done, or its compensation does not know its result and input."""

    async def flow(ctx: Context) -> None:
        await ctx.call("ship", "chair", compensate=lambda parcel, item: posted.log.append(f"{parcel} {item} back"))
        raise ValueError("no luck")

    ended = lab.finish(flow, others=(ship,))
    assert posted.log == ["+packed chair", "parcel of chair chair back"]
    assert ended.keys("step_completed") == ["ship#compensate"]


def test_child_rolls_back_first(lab, posted):  # B101, B103, B105
    """A failed child leaves its own steps done, or its parent begins to undo before it has."""

    async def send(ctx: Context) -> None:
        await ctx.step("hotel", lambda: posted.book("hotel"), compensate=posted.cancel)
        await ctx.call("failing", compensate=posted.cancel)

    async def failing(ctx: Context) -> None:
        await ctx.step("pack", lambda: posted.book("pack"), compensate=posted.cancel)
        raise Terminal("lost")

    async def flow(ctx: Context) -> None:
        await ctx.step("car", lambda: posted.book("car"), compensate=posted.cancel)
        await ctx.call("send")

    ended = lab.finish(flow, others=(send, failing))
    assert isinstance(ended.error, ChildFailed)
    assert isinstance(ended.error.cause, ChildFailed)
    assert isinstance(ended.error.cause.cause, Terminal)
    assert posted.log == ["+car", "+hotel", "+pack", "-pack", "-hotel", "-car"]


@pytest.mark.parametrize("compensated", [True, False])
def test_child_beside_a_failure(lab, posted, compensated):  # W04, W06
    """A child that runs when its parent fails goes on, or keeps what it did, or is forgotten when it completes."""

    async def flow(ctx: Context) -> None:
        async def fail():
            await asyncio.sleep(30)
            raise ValueError("no luck")

        await ctx.step("car", lambda: posted.book("car"), compensate=posted.cancel)
        undo = {"compensate": posted.cancel} if compensated else {}
        await asyncio.gather(ctx.call("ship", "chair", id="c", **undo), ctx.step("fails", fail))

    async def main():
        async with lab.worker(flow, ship) as app:
            await app.start("flow", id="r")
            ended = await lab.ended(app, "r", "flow")
            child = await lab.ended(app, "c", "ship")
            assert (ended.status, child.status) == ("failed", "cancelled")
            await lab.check_replay(app, ended, "flow")

    lab.play(main)
    assert posted.log[:2] == ["+car", "+packed chair"]
    assert sorted(posted.log[2:]) == ["-car", "-packed chair"]


def test_child_that_completes_all_the_same(lab, posted):
    """A child that was asked to end, but completed, is not undone."""

    async def stubborn(ctx: Context) -> str:
        try:
            await ctx.sleep(1000)
        except asyncio.CancelledError:
            return await ctx.step("book", lambda: posted.book("hut"))

    async def flow(ctx: Context) -> None:
        async def fail():
            await asyncio.sleep(30)
            raise ValueError("no luck")

        await asyncio.gather(ctx.call("stubborn", compensate=posted.cancel), ctx.step("fails", fail))

    ended = lab.finish(flow, others=(stubborn,))
    assert posted.log == ["+hut", "-hut"]
    assert ended.keys("child_completed") == ["~1/stubborn"]


def test_detached_children_cannot_be_undone(lab):
    """Two options that contradict each other are both accepted."""

    async def flow(ctx: Context) -> None:
        await ctx.call("flow", compensate=boom, detached=True)

    assert isinstance(lab.finish(flow).error, InvalidOption)


def test_plain_workflow_and_transaction(lab, world):
    """Plain functions and steps with rows of their own are not undone."""

    def insert(transaction: Transaction, name: str) -> str:
        return world.book(name)

    def flow(ctx: SyncContext) -> None:
        ctx.step("car", lambda: world.book("car"), compensate=world.cancel)
        ctx.transaction(App().step(compensate=world.cancel)(insert), "row")
        ctx.map(App().step(compensate=world.cancel)(world.book), ["a", "b"], concurrency=1)
        raise ValueError("no luck")

    lab.finish(flow)
    assert world.log == ["+car", "+row", "+a", "+b", "-b", "-a", "-row", "-car"]


def test_worker_dies_while_it_is_undone(lab, world):  # B092, B113
    """A take-over in the middle of a rollback repeats what was undone, or leaves the rest done."""
    deaths = [1]

    async def cancel(booking):
        world.cancel(booking)
        if booking == "id of car" and deaths:
            deaths.pop()
            lab.die()

    async def flow(ctx: Context) -> None:
        for name in ("hotel", "car", "train"):
            await ctx.step(name, lambda name=name: world.book(name), compensate=cancel)
        raise ValueError("no luck")

    assert lab.survive(flow).status == "failed"
    # The one during which the worker died runs twice: at least once is what a body is promised.
    assert world.log[3:] == ["-train", "-car", "-car", "-hotel"]


def test_stalled_with_something_to_undo(lab, world):
    """A run that cannot be made to undo what it did ends as failed all the same, and nobody sees it."""

    async def flow(ctx: Context) -> None:
        await ctx.step("car", lambda: world.book("car"), compensate=world.cancel)
        await asyncio.get_running_loop().create_future()

    async def main():
        async with lab.worker(flow) as app:
            info = await stuck(lab, app)
            assert info.reason["code"] == "stalled"
            await app.cancel("r", compensate=True)
            assert (await lab.ended(app, "r", "flow")).status == "cancelled"

    lab.play(main)
    assert world.log == ["+car", "-car"]


def test_names_of_compensations_are_taken():
    """A step could be named like another one's compensation, and their entries would be mixed up (W15)."""
    with pytest.raises(InvalidName, match="#compensate"):
        App().step(name="car#compensate")(boom)


def test_run_again_after_a_rollback(lab, world):
    """A rerun or fork takes what was undone for done, and goes on without it."""
    failing = [1]

    async def flow(ctx: Context) -> str:
        await ctx.step("plain", lambda: 1)
        await ctx.step("car", lambda: world.book("car"), compensate=world.cancel)
        await ctx.step("drive", lambda: 1 / 0 if failing else 1)
        return "arrived"

    async def main():
        async with lab.worker(flow) as app:
            run = await app.start("flow", id="r")
            assert (await lab.ended(app, "r", "flow")).status == "failed"
            failing.clear()
            for steer in (app.client.rerun, app.client.fork):
                with pytest.raises(IllegalMove, match="'car' would count as done"):
                    await steer("r", before="drive")
            await app.client.rerun("r", before="car")
            assert await run.result() == "arrived"

    lab.play(main)
    assert world.log == ["+car", "-car", "+car"]
