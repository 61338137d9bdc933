"""Plain asyncio in a workflow, live and replayed: gather, groups, waits, shields, queues; and ctx.race."""

import asyncio
import gc

import pytest

from perdure import Context
from perdure.errors import BlockingCall, Stalled


class Broken(Exception):
    pass


def timed(seconds, value, ran=None):
    """A body that takes so long, and notes how it ended."""

    async def body():
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            (ran if ran is not None else []).append(("cancelled", value))
            raise
        (ran if ran is not None else []).append(("done", value))
        if isinstance(value, Exception):
            raise value
        return value

    return body


# ------------------------------------------------------------------------------------ gather and groups
def test_gather_gives_results_by_place(lab):
    """8-1, 8-2, 8-4: results of branches would come in the order of their ends, or of one type only."""

    async def flow(ctx: Context) -> list:
        got = await asyncio.gather(
            ctx.step("slow", timed(30, {"n": 1})), ctx.step("quick", timed(10, None)), ctx.step("text", timed(20, "x"))
        )
        await ctx.sleep(5)
        return got

    ended = lab.finish(flow)
    assert (ended.value, ended.seconds) == ([{"n": 1}, None, "x"], 35)
    assert ended.keys("step_completed") == ["~2/quick", "~3/text", "~1/slow"]


def test_gather_of_nothing(lab):
    """8-5: no branches at all would hang the run."""

    async def flow(ctx: Context) -> list:
        return await asyncio.gather()

    assert lab.finish(flow).value == []


def test_gather_raises_the_first_failure_and_the_others_go_on(lab):
    """A failing branch would cancel its siblings, which asyncio.gather does not."""
    ran = []

    async def flow(ctx: Context) -> str:
        try:
            await asyncio.gather(ctx.step("bad", timed(5, Broken("first"), ran)), ctx.step("good", timed(10, 1, ran)))
        except Broken as error:
            await ctx.sleep(60)
            return str(error)

    ended = lab.finish(flow)
    assert (ended.value, ended.seconds) == ("first", 65)
    assert [how for how, _ in ran] == ["done", "done"]


def test_gather_with_failures_as_results(lab):
    """8-16: return_exceptions=True would not give each branch's own failure, of its class."""

    async def flow(ctx: Context) -> list[str]:
        got = await asyncio.gather(
            *[ctx.step(f"s{n}", timed(n, Broken(n) if n % 2 else n)) for n in range(4)], return_exceptions=True
        )
        return [repr(each) for each in got]

    assert lab.finish(flow).value == ["0", "Broken(1)", "2", "Broken(3)"]


def test_a_finished_branch_is_not_run_again(lab):
    """8-14: a branch that waits would make its finished sibling run again on resume."""
    ran = []

    async def waits(ctx: Context) -> str:
        await ctx.sleep(60)
        return await ctx.step("late", lambda: ran.append("late") or "late")

    async def flow(ctx: Context) -> list[str]:
        return await asyncio.gather(ctx.step("early", lambda: ran.append("early") or "early"), waits(ctx))

    assert lab.finish(flow).value == ["early", "late"]
    assert ran == ["early", "late"]


def test_branches_in_branches(lab):
    """8-21: nested branches would share keys, or mix up their results."""

    async def branch(ctx: Context, n: int) -> list[int]:
        return await asyncio.gather(*[ctx.step("leaf", timed((7 * n + m) % 4, 10 * n + m)) for m in range(3)])

    async def flow(ctx: Context) -> list[list[int]]:
        return await asyncio.gather(*[branch(ctx, n) for n in range(3)])

    ended = lab.finish(flow)
    assert ended.value == [[0, 1, 2], [10, 11, 12], [20, 21, 22]]
    assert len(set(ended.keys("step_completed"))) == 9


def test_a_task_group_cancels_the_siblings_of_a_failure(lab):
    """A group would wait for branches that can no longer matter, or leave them running; or replay otherwise."""
    ran = []

    async def flow(ctx: Context) -> list[str]:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.step("bad", timed(5, Broken("boom"))))
                group.create_task(ctx.step("slow", timed(1000, 1, ran)))
                group.create_task(ctx.sleep(5000))
                group.create_task(ctx.receive("never"))
        except* Broken as errors:
            await ctx.sleep(60)
            caught = [str(error) for error in errors.exceptions]
        return caught

    ended = lab.finish(flow)
    assert (ended.value, ended.seconds) == (["boom"], 65)
    assert ran == [("cancelled", 1)]
    assert ended.keys("step_cancelled") == ["~2/slow"]


def test_a_task_group_that_fails_the_run(lab):
    """I6: a group of errors would not fail the run as that group, with its members' classes and fields."""

    async def flow(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step("a", timed(5, Broken("a"))))
            group.create_task(ctx.step("b", timed(5, ValueError("b"))))

    ended = lab.finish(flow)
    assert type(ended.error) is ExceptionGroup
    assert ended.status == "failed"
    assert repr(ended.error.exceptions[0]) == "Broken('a')"


# ----------------------------------------------------------------------------------- waits of asyncio
def test_wait_for_the_first(lab):
    """asyncio.wait(FIRST_COMPLETED) would report another winner on replay."""

    async def flow(ctx: Context) -> list:
        tasks = [asyncio.create_task(ctx.step(f"s{n}", timed(seconds, n))) for n, seconds in enumerate((30, 10, 20))]
        out, pending = [], set(tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            out.append([task.result() for task in done])
            await ctx.sleep(1)
        return out

    assert lab.finish(flow).value == [[1], [2], [0]]


def test_wait_with_a_timeout(lab):
    """asyncio.wait(timeout=…) would not be durable, or tell another split on replay."""

    async def flow(ctx: Context) -> list[int]:
        tasks = [asyncio.create_task(ctx.step("s", timed(seconds, seconds))) for seconds in (5, 50, 500)]
        done, pending = await asyncio.wait(tasks, timeout=60)
        for task in pending:
            task.cancel()
        await ctx.sleep(100)
        return [len(done), len(pending), sum(task.result() for task in done)]

    ended = lab.finish(flow)
    assert (ended.value, ended.seconds) == ([2, 1, 55], 160)


def test_as_completed_of_coroutines(lab):
    """I7: as_completed makes tasks in the order of a set of coroutines, by their addresses: another one each time."""

    async def branch(ctx: Context, n: int) -> int:
        return await ctx.step("s", timed(60 - 10 * n, n)) * 10

    async def flow(ctx: Context) -> list[int]:
        out = []
        for future in asyncio.as_completed(branch(ctx, n) for n in range(6)):
            out.append(await future)
            await ctx.sleep(1)
        return out

    ended = lab.finish(flow)
    assert ended.value == [50, 40, 30, 20, 10, 0]
    assert ended.keys("step_completed") == [f"~{n}/s" for n in (6, 5, 4, 3, 2, 1)]


def test_as_completed_with_a_timeout(lab):
    """The timeout of as_completed would not be durable."""

    async def flow(ctx: Context) -> list:
        out = []
        try:
            for future in asyncio.as_completed([ctx.step("a", timed(5, 1)), ctx.step("b", timed(500, 2))], timeout=60):
                out.append(await future)
        except TimeoutError:
            out.append("timeout")
        return out

    ended = lab.finish(flow)
    assert (ended.value, ended.seconds) == ([1, "timeout"], 60)


def test_shield_keeps_a_step_going(lab):
    """A shielded step would be cancelled with the wait for it, or its late result be lost."""
    ran = []

    async def flow(ctx: Context) -> list:
        step = asyncio.ensure_future(ctx.step("work", timed(30, "late", ran)))
        try:
            await asyncio.wait_for(asyncio.shield(step), 10)
        except TimeoutError:
            out = ["not yet"]
        await ctx.sleep(5)
        return [*out, await step]

    ended = lab.finish(flow)
    assert (ended.value, ended.seconds, ran) == (["not yet", "late"], 30, [("done", "late")])


def test_events_queues_and_locks_between_tasks(lab):
    """Tasks of one workflow could not talk to each other by asyncio's means, or not in the same order on replay."""

    async def producer(ctx: Context, n: int, queue, lock) -> None:
        for k in range(2):
            async with lock:
                await ctx.sleep(n + 1)
            await queue.put(f"{n}{k}")

    async def flow(ctx: Context) -> list[str]:
        queue, lock, ready, semaphore = asyncio.Queue(1), asyncio.Lock(), asyncio.Event(), asyncio.Semaphore(2)

        async def consumer() -> list[str]:
            await ready.wait()
            got = []
            for _ in range(6):
                got.append(await queue.get())
                async with semaphore:
                    await ctx.step("consume", lambda: None)
            return got

        async with asyncio.TaskGroup() as group:
            result = group.create_task(consumer())
            for n in range(3):
                group.create_task(producer(ctx, n, queue, lock))
            await ctx.sleep(3)
            ready.set()
        return result.result()

    ended = lab.finish(flow)
    assert sorted(ended.value) == ["00", "01", "10", "11", "20", "21"]
    assert ended.seconds == 12


def test_a_background_task_that_is_left_behind(lab):
    """A task that still waits when the workflow returns would keep the run, or write into its ended journal."""
    late = []

    async def background(ctx: Context) -> None:
        try:
            await ctx.sleep(1000)
        finally:
            late.append("closed")
            await ctx.step("too late", lambda: late.append("ran"))

    async def flow(ctx: Context) -> str:
        asyncio.create_task(background(ctx)).set_name("left behind")
        await ctx.sleep(1)
        return "done"

    ended = lab.finish(flow)
    assert (ended.value, ended.seconds) == ("done", 1)
    assert set(late) == {"closed"}


def test_an_error_in_a_background_task_is_logged(lab, caplog):
    """An error that nobody awaits would vanish without a line."""

    async def background() -> None:
        raise Broken("unseen")

    async def flow(ctx: Context) -> None:
        task = asyncio.create_task(background())
        await ctx.sleep(1)
        del task

    assert lab.finish(flow).status == "completed"
    assert "exception was never retrieved" in caplog.text


def test_an_error_that_is_awaited_later_is_not_reported(lab, caplog):
    """A failed task that the workflow still awaits would be reported as unseen whenever its run leaves memory."""

    async def flow(ctx: Context) -> str:
        task = asyncio.create_task(ctx.step("bad", timed(1, Broken("seen"))))
        await ctx.sleep(60)
        try:
            await task
        except Broken as error:
            return str(error)

    gc.collect()  # what other tests have left behind
    caplog.clear()
    assert lab.finish(flow).value == "seen"
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_asynchronous_generators(lab):
    """An async generator around steps would not be closed, or not replay."""
    closed = []

    async def pages(ctx: Context):
        try:
            for n in range(10):
                yield await ctx.step("page", lambda n=n: [n] * n)
        finally:
            closed.append(1)

    async def flow(ctx: Context) -> int:
        total = 0
        async for page in pages(ctx):
            total += len(page)
            if total >= 6:
                break
            await ctx.sleep(1)
        return total

    ended = lab.finish(flow)
    assert ended.value == 6
    assert len(ended.keys("step_completed")) == 4


# ------------------------------------------------------------------------------------------------ race
def test_race_gives_the_winner_and_cancels_the_others(lab):
    """The losers of a race would go on running, or another one win on replay."""
    ran = []

    async def flow(ctx: Context) -> list:
        place, value = await ctx.race(
            ctx.step("slow", timed(1000, "slow", ran)),
            ctx.step("quick", timed(10, "quick", ran)),
            ctx.sleep(500),
            ctx.receive("x"),
        )
        await ctx.sleep(60)
        return [place, value]

    ended = lab.finish(flow)
    assert (ended.value, ended.seconds) == ([1, "quick"], 70)
    assert ran == [("done", "quick"), ("cancelled", "slow")]
    assert ended.keys("step_cancelled") == ["~1/slow"]


def test_race_of_a_signal_and_a_time(lab):
    """The most common race of all would not be decided by what came first."""

    async def flow(ctx: Context) -> list:
        return list(await ctx.race(ctx.receive("approve", str), ctx.sleep(100)))

    async def main():
        async with lab.worker(flow) as app:
            for answered in (True, False):
                handle = await app.start("flow")
                await lab.until(app, handle.id, "waiting")
                if answered:
                    await app.signal(handle.id, "approve", "yes")
                assert await handle.result() == ([0, "yes"] if answered else [1, None])

    lab.play(main)


def test_race_cancels_a_losing_child(lab):
    """A child run that lost a race would go on for nobody."""

    async def child(ctx: Context) -> None:
        await ctx.sleep(1000)

    async def flow(ctx: Context) -> int:
        place, _ = await ctx.race(ctx.call("child", id="child"), ctx.sleep(10))
        return place

    async def main():
        async with lab.worker(flow, child) as app:
            ended = await lab.ended(app, (await app.start("flow")).id)
            assert ended.value == 1
            loser = await lab.ended(app, "child")
            assert (loser.status, loser.seconds) == ("cancelled", 10)

    lab.play(main)


def test_race_of_failures_and_of_nothing(lab):
    """A race won by a failure would not raise it; a race of nothing would hang."""

    async def flow(ctx: Context) -> list[str]:
        out = []
        try:
            await ctx.race(ctx.step("bad", timed(1, Broken("lost"))), ctx.sleep(100))
        except Broken as error:
            out.append(str(error))
        try:
            await ctx.race()
        except ValueError:
            out.append("value error")
        except Exception as error:  # noqa: BLE001 - its code is compared
            out.append(error.code)
        return out

    assert lab.finish(flow).value == ["lost", "invalid_option"]


# --------------------------------------------------------------------------------------------- misuse
def test_a_workflow_that_waits_for_nothing_is_ended(lab):
    """An Event that nobody sets would leave the run waiting for ever, without a word."""

    async def flow(ctx: Context) -> None:
        await ctx.step("before", lambda: 1)
        await asyncio.Event().wait()

    ended = lab.finish(flow, id="r")
    assert (ended.status, type(ended.error)) == ("failed", Stalled)
    assert "would wait for ever" in str(ended.error)


@pytest.mark.parametrize(
    "call",
    [
        lambda: asyncio.to_thread(print), lambda: asyncio.get_running_loop().run_in_executor(None, print),
        lambda: asyncio.open_connection("127.0.0.1", 1), lambda: asyncio.create_subprocess_exec("true"),
        lambda: asyncio.get_running_loop().getaddrinfo("localhost", 1),
        lambda: asyncio.get_running_loop().call_soon_threadsafe(print),
        lambda: asyncio.get_running_loop().run_forever(),
        lambda: asyncio.get_running_loop().add_reader(0, print), lambda: asyncio.get_running_loop().stop(),
    ],
)  # fmt: skip
def test_io_in_a_workflow_is_refused(lab, call):
    """A socket, thread or process in a workflow would not be repeatable; the error must say what to do instead."""

    async def flow(ctx: Context) -> None:
        made = call()
        if asyncio.iscoroutine(made):
            await made

    ended = lab.finish(flow)
    assert (ended.status, type(ended.error)) == ("failed", BlockingCall)
    assert "Do it in a step" in str(ended.error)
