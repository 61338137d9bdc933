"""One workflow function on other engines: the one in memory, and perdure itself, pass the same cases."""

import asyncio

import pytest

from perdure import App, RunFailed, Step, WorkerOptions, current_step
from perdure.clock import SystemClock
from perdure.errors import InvalidOption, NotInWorkflow
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
        self.app = App(f"sqlite:///{self.path}", clock=self.clock, worker=options, synchronous="OFF")
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
