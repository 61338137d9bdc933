"""Workflows written as plain functions: the same features, driven from a thread, replayed alike."""

import asyncio
import threading

import pytest

from perdure import Retry, SyncContext, Transaction
from perdure.errors import ChildFailed, NotInWorkflow, ReceiveTimedOut, RunTimedOut


class Broken(Exception):
    pass


def child(ctx: SyncContext, n: int) -> int:
    ctx.sleep(10)
    if n < 0:
        raise Broken(f"negative {n}")
    return n * 2


def sleeper(ctx: SyncContext, seconds: int) -> int:
    ctx.sleep(seconds)
    return seconds


def test_steps_sleeps_and_failures(lab):
    """A plain workflow would not run steps, sleep, retry, catch errors, or would repeat them on replay."""
    ran = []

    def flaky() -> str:
        ran.append(1)
        if len(ran) < 3:
            raise Broken
        return "third"

    async def coroutine(n: int) -> int:
        await asyncio.sleep(5)
        return n

    def flow(ctx: SyncContext) -> list:
        out = [ctx.step(coroutine, 7), ctx.step("flaky", flaky, retry=Retry(delay=60, backoff=1, jitter=0))]
        ctx.sleep(60)
        try:
            ctx.step("bad", lambda: (_ for _ in ()).throw(Broken("caught")))
        except Broken as error:
            out.append(str(error))
        ctx.log.info("done")
        return out

    ended = lab.finish(flow)
    assert (ended.value, ended.seconds, len(ran)) == ([7, "third", "caught"], 185, 3)
    assert ended.keys("step_completed") == ["coroutine", "flaky"]


def test_signals_children_and_maps(lab):
    """Waiting for signals and children, mapping and scopes would not work in a plain workflow."""

    def flow(ctx: SyncContext) -> dict:
        with ctx.scope("part"):
            name = ctx.receive("name", str)
        try:
            ctx.receive("never", timeout=5)
        except ReceiveTimedOut:
            missing = ctx.receive("never", timeout=5, default="nothing")
        started = ctx.start("child", 4)
        called = ctx.call("child", 5)
        try:
            ctx.call("child", -1)
        except ChildFailed as error:
            failed = str(error.cause)
        return {
            "name": name, "missing": missing, "children": [started.result(), called], "failed": failed,
            "mapped": ctx.map(lab.app().step(int), ["1", "2"], concurrency=1),
        }  # fmt: skip

    async def main():
        async with lab.worker(flow, child) as app:
            await app.start("flow", id="r")
            await lab.until(app, "r", "waiting")
            await app.signal("r", "name", "ann")
            ended = await lab.ended(app, "r", "flow")
            assert ended.value == {
                "name": "ann", "missing": "nothing", "children": [8, 10], "failed": "negative -1", "mapped": [1, 2],
            }  # fmt: skip
            assert ended.keys("signal_received") == ["part/name"]
            await lab.check_replay(app, ended, "flow")

    lab.play(main)


def test_timeouts_in_a_plain_workflow(lab):
    """A plain workflow could bound nothing but signals, or would not get out of what takes too long."""

    async def slow() -> str:
        await asyncio.sleep(50)
        return "slow"

    def flow(ctx: SyncContext) -> list:
        out = []
        with ctx.timeout(60):
            out.append(ctx.step(slow))
        for _ in range(2):
            try:
                with ctx.timeout(20):
                    ctx.step(slow)
            except TimeoutError:
                out.append("over")
        with pytest.raises(Broken), ctx.timeout(20):
            raise Broken
        try:
            with ctx.timeout(30), ctx.timeout(60):
                ctx.receive("never")
        except TimeoutError:
            out.append("over too")
        return out

    ended = lab.finish(flow)
    assert (ended.value, ended.seconds) == (["slow", "over", "over", "over too"], 120)


def test_races_in_a_plain_workflow(lab):
    """A plain workflow could not go on with the child that is ready first."""

    def flow(ctx: SyncContext) -> list:
        children = [ctx.start("sleeper", seconds) for seconds in (30, 10, 20)]
        return [*ctx.race(*children), children[0].result()]

    ended = lab.finish(flow, others=(sleeper,))
    assert (ended.value, ended.seconds) == ([1, 10, 30], 30)


def test_facts_in_a_plain_workflow(lab):
    """Time, chance, events, patches and the run's id would differ from those of coroutines."""
    seen = []

    def flow(ctx: SyncContext) -> str:
        seen.append((ctx.now(), ctx.uuid(), ctx.random().random(), ctx.patched("p")))
        ctx.emit("hello", 1)
        ctx.annotate("note", 2)
        ctx.sleep(60)
        return ctx.run_id

    ended = lab.finish(flow, id="r")
    assert (ended.value, ended.keys("emitted"), ended.keys("annotated")) == ("r", ["hello"], ["note"])
    assert len(set(seen)) == 1
    assert seen[0][3] is True


def test_transactions_in_a_plain_workflow(lab):
    """ctx.transaction would not work in a plain workflow."""

    def create(tx: Transaction) -> int:
        tx.execute("create table if not exists mine (n integer)")
        tx.execute("insert into mine values (7)")
        return tx.execute("select sum(n) from mine")[0][0]

    def flow(ctx: SyncContext) -> int:
        return ctx.transaction(create)

    assert lab.finish(flow).value == 7


def test_continue_as_new_in_a_plain_workflow(lab):
    """continue_as_new would return, or end a plain workflow."""

    def flow(ctx: SyncContext, n: int) -> int:
        if n < 5:
            ctx.continue_as_new(n + 1)
        return n

    assert lab.finish(flow, 0).value == 5


def test_cancelling_a_plain_workflow(lab):
    """A plain workflow would not see its cancellation, not clean up, or leave its thread behind."""
    ran, before = [], workflow_threads()

    def flow(ctx: SyncContext) -> None:
        try:
            ctx.sleep(1_000_000)
        finally:
            ctx.step("clean", lambda: ran.append("clean"))

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", id="r")
            await lab.until(app, "r", "waiting")
            await app.cancel("r", "enough")
            ended = await lab.ended(app, "r", "flow")
            assert (ended.status, ended.error.reason, ran) == ("cancelled", "enough", ["clean"])
            await lab.check_replay(app, ended, "flow")

    lab.play(main)
    assert all_end(workflow_threads() - before)


def test_a_deadline_of_a_plain_workflow(lab):
    """A plain workflow would not be held to its deadline."""

    def flow(ctx: SyncContext) -> None:
        ctx.receive("never")

    ended = lab.finish(flow, timeout=30)
    assert (type(ended.error), ended.seconds) == (RunTimedOut, 30)


def workflow_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "perdure-workflow"}


def all_end(threads: set[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(10)
    return not any(thread.is_alive() for thread in threads)


def test_threads_end_with_their_runs(lab):
    """Parked, evicted or given-up plain workflows would leave threads behind, one per run."""
    before = workflow_threads()

    def flow(ctx: SyncContext) -> None:
        try:
            ctx.receive("never")
        finally:
            ctx.sleep(1)

    async def main():
        async with lab.worker(flow, cached_runs=3) as app:
            for n in range(10):
                await app.start("flow", id=f"r{n}")
                await lab.until(app, f"r{n}", "waiting")
            assert app.worker.statistics["parked"] == 3

    lab.play(main)
    assert all_end(workflow_threads() - before)


def test_a_workflow_that_swallows_everything_can_still_be_evicted(lab):
    """A plain workflow that catches BaseException would hold its thread, or the worker, for ever."""
    caught = []

    def flow(ctx: SyncContext) -> str:
        for _ in range(1000):
            try:
                ctx.receive("never")
            except BaseException as error:  # noqa: BLE001 - this is what is tested
                caught.append(type(error).__name__)
        return "never"

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", id="r")
            info = await lab.until(app, "r", "waiting")
            assert info.waiting_for == ["signal:never"]
            assert [event.kind for event in await lab.journal(app, "r")] == ["receive_started"]

    lab.play(main)


def test_the_context_of_a_plain_workflow_in_another_thread(lab):
    """Another thread could use the context, and the journal get an order of chance."""

    def flow(ctx: SyncContext) -> str:
        out = []

        def elsewhere() -> None:
            for use in (lambda: ctx.step("x", lambda: 1), lambda: ctx.sleep(1), ctx.now, lambda: ctx.emit("x")):
                try:
                    use()
                except NotInWorkflow as error:
                    out.append(error.code)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        ctx.step("after", lambda: 1)
        return ",".join(out)

    ended = lab.finish(flow)
    assert ended.value == ",".join(["not_in_workflow"] * 4)
    assert ended.keys("step_completed") == ["after"]


@pytest.mark.parametrize("times", [2])
def test_crashes_of_plain_workflows(lab, times):
    """A plain workflow would not go on where it stood after a crash."""
    ran = []

    async def dying(n: int) -> int:
        ran.append(n)
        if ran.count(n) == 1 and n < times:
            lab.die()
        return n

    def flow(ctx: SyncContext) -> int:
        return sum(ctx.step(dying, n) for n in range(4))

    ended = lab.survive(flow)
    assert (ended.value, ran) == (6, [0, 0, 1, 1, 2, 3])
