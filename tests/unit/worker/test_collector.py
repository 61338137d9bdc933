"""How often the garbage collector looks while a worker serves crowds."""

import asyncio
import gc

import pytest

from perdure import App, Context
from perdure.clock import SystemClock
from perdure.testing.time import VirtualClock, VirtualLoop
from perdure.worker.calls import CROWD
from perdure.worker.collector import YOUNG, Collector


class Loop:
    """Keeps the timers that are set; the test lets them fire."""

    def __init__(self):
        self.timers = []

    def call_later(self, _seconds, callback):
        self.timers.append((asyncio.TimerHandle(0, callback, (), self), callback))
        return self.timers[-1][0]

    def get_debug(self):
        return False

    def _timer_handle_cancelled(self, _handle):
        pass

    def fire(self):
        (handle, callback), self.timers = self.timers.pop(), []
        if not handle.cancelled():
            callback()


@pytest.fixture(autouse=True)
def thresholds():
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)


def test_it_looks_less_often_until_crowds_have_gone():
    """A quarter of the time went into looks that found nothing, or a program would keep more garbage for ever."""
    loop = Loop()
    collector = Collector(loop, SystemClock())
    collector.crowd()
    collector.crowd()
    assert gc.get_threshold() == (YOUNG, 10, 10)
    loop.fire()
    assert gc.get_threshold() == (YOUNG, 10, 10)
    loop.fire()
    assert gc.get_threshold() == (700, 10, 10)
    assert loop.timers == []


def test_a_worker_that_leaves_puts_it_back():
    """The worker's loop ends, and with it the timer that would have done so."""
    loop = Loop()
    collector = Collector(loop, SystemClock())
    collector.crowd()
    collector.restore()
    collector.restore()
    assert gc.get_threshold() == (700, 10, 10)
    loop.fire()
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.parametrize("young", [0, YOUNG + 1])
def test_a_program_with_settings_of_its_own_is_left_alone(young):
    """A program that has switched the collector off would find it on, or looking more often than it wants."""
    gc.set_threshold(young, 5, 5)
    collector = Collector(Loop(), SystemClock())
    collector.crowd()
    collector.restore()
    assert gc.get_threshold() == (young, 5, 5)


def test_settings_that_a_program_makes_meanwhile_stay():
    """The worker would undo what it did not do."""
    collector = Collector(Loop(), SystemClock())
    collector.crowd()
    gc.set_threshold(1_000, 10, 10)
    collector.restore()
    assert gc.get_threshold() == (1_000, 10, 10)


def test_a_simulation_leaves_no_trace():
    """The second of two equal simulations in one process would find the collector as the first one left it."""
    loop, virtual = Loop(), VirtualLoop()
    Collector(loop, VirtualClock(virtual)).crowd()
    virtual.close()
    assert gc.get_threshold() == (700, 10, 10)
    assert loop.timers == []


def test_runs_that_begin_together_are_a_crowd():
    """Most of the looks would come while the first bodies have not even begun."""
    app, seen = App("sqlite://"), []

    @app.step
    async def look() -> None:
        seen.append(gc.get_threshold()[0])

    @app.workflow
    async def workflow(ctx: Context) -> None:
        await ctx.step(look)

    async def main() -> None:
        async with app:
            handles = await asyncio.gather(*[app.start(workflow) for _ in range(CROWD)])
            await asyncio.gather(*[handle.result() for handle in handles])

    asyncio.run(main())
    assert seen == [YOUNG] * CROWD
    assert gc.get_threshold() == (700, 10, 10)
