"""One workflow function on other engines: the one in memory, and perdure itself, pass the same cases."""

import asyncio
import random

import pytest

from perdure import App, RunFailed, Step, WorkerOptions, current_step
from perdure.clock import SystemClock
from perdure.errors import BlockingCall, Divergence, InvalidOption, NotInWorkflow, Stalled
from perdure.platform import BodyFailed, run_on
from perdure.testing import run_virtual
from perdure.testing.conformance import CASES
from perdure.testing.platform import Kept, MemoryEngine, MemoryPlatform


class Perdure:
    """perdure as an engine under test: the functions are its workflows."""

    def __init__(self, clock, path) -> None:
        self.clock = clock
        self.path = path
        self.workflows = {}
        self.app = None

    async def start(self, run_id, fn, *args):
        self.workflows[run_id] = fn
        if self.app is None:
            await self._open()
        else:
            self.app.workflow(name=run_id)(fn)
        await self.app.start(run_id, *args, id=run_id)

    async def _open(self):
        options = WorkerOptions(lease=30, cached_runs=0, hold=0.1)
        self.app = App(f"sqlite:///{self.path}", clock=self.clock, worker=options, synchronous="NORMAL")
        for name, fn in self.workflows.items():
            self.app.workflow(name=name)(fn)
        await self.app.__aenter__()

    async def event(self, run_id, name, data):
        await self.app.signal(run_id, name, data)

    async def crash(self):
        self.app.worker.kill()
        await self.app.__aexit__(None, None, None)
        await self._open()

    async def result(self, run_id):
        try:
            return await self.app.handle(run_id, run_id).result()
        except RunFailed as failed:
            raise failed.cause from None

    async def again(self, run_id):
        await self.app.client.rerun(run_id, before=None)
        return await self.result(run_id)

    async def close(self):
        if self.app is not None:
            await self.app.__aexit__(None, None, None)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_engine_in_memory(case):
    """W1: The reference would not do what it says that adapters must."""
    run_virtual(lambda clock: case(MemoryEngine(clock)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_perdure_itself(case, tmp_path):
    """W5: a function would do something else on perdure than elsewhere."""

    async def main(clock):
        engine = Perdure(clock, tmp_path / "perdure.db")
        try:
            await case(engine)
        finally:
            await engine.close()

    run_virtual(main)


class Spy(MemoryPlatform):
    """Notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__("run-1", Kept(lambda: None, ()), SystemClock())
        self.asked = []

    async def do(self, name, body, *, retry, timeout):
        self.asked.append((name, retry.max_attempts, timeout))
        return await super().do(name, body, retry=retry, timeout=timeout)

    async def sleep(self, name, seconds):
        self.asked.append((name, seconds))
        await super().sleep(name, seconds)

    async def wait_for_event(self, name, event, timeout):
        self.asked.append((name, event, timeout))
        return await super().wait_for_event(name, event, timeout)


def test_what_the_engine_sees():
    """W2 W3: names would change from execution to execution, or the engine not learn what to do."""

    async def order(ctx, item):
        await ctx.step("charge", lambda: item, timeout=5)
        await ctx.step("charge", lambda: item)
        with ctx.scope("after"):
            await ctx.sleep(60)
            return [ctx.run_id, await ctx.receive("approval", timeout=90, default=None)]

    async def main(_clock):
        spy = Spy()
        assert await run_on(spy, order, "chair") == ["run-1", None]
        assert spy.asked == [
            ("order/~begin", 1, None), ("order/charge", 1, 5.0), ("order/charge#2", 1, None), ("order/after/sleep", 60.0),
            ("order/after/approval", "approval", 90.0), ("order/after/approval~at", 1, None),
        ]  # fmt: skip

    run_virtual(main)


def played(fn, kept=None):
    """Execute a function on the engine in memory; what is kept of it can be given to another execution."""
    kept = kept or Kept(fn, ())
    return run_virtual(lambda clock: run_on(MemoryPlatform("r", kept, clock), fn))


def test_only_several_at_once_need_an_order():
    """Each step would cost an engine one more entry, or races would be decided anew on replay."""

    async def pause(ctx, seconds):
        await ctx.sleep(seconds)

    async def order(ctx):
        await ctx.step("alone", lambda: 1)
        await asyncio.gather(pause(ctx, 3), pause(ctx, 1), pause(ctx, 2))

    kept = Kept(order, ())
    played(order, kept)
    orders = {name: text.partition(":")[2] for name, text in kept.answers.items() if "~order" in name}
    assert orders == {"order/~order": '["~2/sleep"]', "order/~order#2": '["~3/sleep"]'}


def test_an_order_that_the_code_does_not_know():
    """Changed code would take any branch, and the engine not notice, as all names are still asked for."""

    async def order(ctx):
        await asyncio.wait({asyncio.create_task(ctx.sleep(1)), asyncio.create_task(ctx.sleep(2))})

    kept = Kept(order, ())
    played(order, kept)
    kept.answers["order/~order"] = '0:["~7/sleep"]'
    with pytest.raises(Divergence, match=r"~7/sleep.*\n.*~1/sleep"):
        played(order, kept)


@pytest.mark.parametrize("together", [True, False])
def test_an_event_is_not_lost_to_a_receive_that_was_given_up(together):
    """On replay the event would go to a wait that nobody waits for, and the run hang for ever."""

    async def order(ctx):
        other = asyncio.create_task(ctx.receive("go")) if together else None
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(5):
                await ctx.receive("go")
        except TimeoutError:
            await (other or ctx.receive("go"))

    with pytest.raises(NotInWorkflow, match="timeout="):
        played(order)


def test_a_receive_that_ends_by_itself_may_be_followed_by_another():
    """Nobody could wait twice for the same signal."""

    async def order(ctx):
        return [await ctx.receive("go", timeout=5, default=n) for n in range(2)]

    assert played(order) == [0, 1]


def test_the_code_between_steps_is_as_on_perdure():
    """It would do what is not repeated on replay, or wait for ever."""

    async def blocking(_ctx):
        await asyncio.to_thread(print)

    async def stalled(_ctx):
        await asyncio.get_running_loop().create_future()

    async def from_a_body(ctx):
        await ctx.step("outer", lambda: ctx.step("inner", lambda: 1))

    for fn, error in ((blocking, BlockingCall), (stalled, Stalled), (from_a_body, NotInWorkflow)):
        with pytest.raises(error):
            played(fn)


class Slow(MemoryPlatform):
    """An engine that takes its time for everything, another one in each execution."""

    chance = random.Random(0)

    async def _pause(self):
        await asyncio.sleep(self.chance.random())

    async def do(self, name, body, *, retry, timeout):
        await self._pause()
        try:
            return await super().do(name, body, retry=retry, timeout=timeout)
        finally:
            await self._pause()

    async def sleep(self, name, seconds):
        await super().sleep(name, seconds)
        await self._pause()


@pytest.mark.parametrize("seed", range(30))
def test_cut_anywhere_and_executed_again_it_takes_the_same_way(seed):
    """Two executions would see outcomes in another order, and both branches be taken."""
    ways = []
    chance = random.Random(seed)

    async def work(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    async def flow(ctx):
        way = []
        ways.append(way)

        async def branch(name):
            for n in range(3):
                try:
                    async with asyncio.timeout(1.5):
                        await ctx.step(work, chance.random() * 3)
                    way.append(f"{name}{n}")
                except TimeoutError:
                    way.append(f"{name}{n} late")
                    await ctx.sleep(0.5)

        pending = {asyncio.create_task(branch(name), name=name) for name in "abc"}
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            way.append([task.get_name() for task in done])
            await ctx.step(work, 0)
        return way

    async def main(clock):
        kept = Kept(flow, ())
        Slow.chance = chance
        for _ in range(6):
            execution = asyncio.create_task(run_on(Slow("r", kept, clock), flow))
            await asyncio.wait({execution}, timeout=chance.random() * 12)
            execution.cancel()
            await asyncio.gather(execution, return_exceptions=True)
        return [await run_on(Slow("r", kept, clock), flow) for _ in range(2)]

    first, second = run_virtual(main)
    assert first == second
    assert all(way == first[: len(way)] for way in ways)


def test_an_engine_that_breaks_off_is_not_the_functions_affair():
    """A function would take an engine's trouble for a step's failure, and do the wrong thing about it."""
    told = []

    class Broken(Spy):
        async def sleep(self, name, seconds):
            raise ConnectionError(name)

    async def order(ctx):
        try:
            await ctx.sleep(1)
        except Exception as error:  # noqa: BLE001 - nothing of it may come here
            told.append(error)
        finally:
            try:
                await ctx.step("clean up", lambda: told.append("cleaned up"))
            except Exception as error:  # noqa: BLE001 - as above
                told.append(error)

    with pytest.raises(ConnectionError):
        asyncio.run(run_on(Broken(), order))
    assert told == []


@pytest.mark.parametrize(
    "options",
    [{"at_most_once": True}, {"total_timeout": 5}, {"compensate": lambda: None}],
    ids=lambda options: next(iter(options)),
)
def test_what_only_perdure_gives_is_refused(options):
    """W5: an option would be ignored, and the step not be what its author believes."""

    async def order(ctx):
        await ctx.step("charge", lambda: 1, **options)

    async def main(_clock):
        with pytest.raises(InvalidOption, match=f"{next(iter(options))}.*only perdure itself"):
            await run_on(Spy(), order)

    run_virtual(main)


def test_nothing_is_emitted_elsewhere():
    """W4: an event would vanish."""

    async def order(ctx):
        await ctx.emit("shipped")

    async def main(_clock):
        with pytest.raises(NotInWorkflow, match="shipped"):
            await run_on(Spy(), order)

    run_virtual(main)


def test_a_body_elsewhere_keeps_nothing_and_may_wait():
    """A body would believe that it has kept something, or could not wait in a thread."""

    async def soon() -> int:
        return 3

    def body() -> int:
        with pytest.raises(NotInWorkflow, match="no artifacts"):
            _ = current_step().artifacts
        return current_step().wait(soon())

    async def order(ctx):
        return await ctx.step("body", body)

    assert asyncio.run(run_on(MemoryPlatform("r", Kept(order, ()), SystemClock()), order)) == 3


def test_only_coroutine_functions():
    """A plain function would get a context whose methods it cannot await."""
    with pytest.raises(InvalidOption, match="coroutine function"):
        asyncio.run(run_on(Spy(), lambda ctx: 1))


def test_an_engine_that_fails_by_itself_is_not_mistaken_for_a_step():
    """An engine's own trouble would be caught as a step's failure."""

    class Broken(Spy):
        async def do(self, name, body, *, retry, timeout):
            raise ConnectionError(name)

    async def order(ctx):
        return 1

    with pytest.raises(ConnectionError):
        asyncio.run(run_on(Broken(), order))


def test_a_failure_is_kept_as_it_was_told():
    """An adapter that keeps only a message would lose class and fields."""

    async def body(_attempt):
        raise BodyFailed("the text")

    async def main(_clock):
        kept = Kept(lambda: None, ())
        for _ in range(2):
            with pytest.raises(BodyFailed) as failed:
                await MemoryPlatform("r", kept, SystemClock()).do(
                    "n", body, retry=Step(print).settings.retry, timeout=None
                )
            assert (failed.value.text, failed.value.retry_in) == ("the text", None)

    run_virtual(main)
