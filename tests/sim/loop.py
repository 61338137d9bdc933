"""
One event loop that stands for several processes, in virtual time.

Every callback belongs to the process in whose context it was scheduled. Each process keeps the order of its own
callbacks, as asyncio promises; which process goes next is left to chance. A dead process runs nothing any more, a
frozen one goes on later: exactly what SIGKILL and SIGSTOP do, without the code under test knowing of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any

from perdure.errors import EngineSignal
from perdure.testing.time import Deadlock, VirtualLoop


class Killed(BaseException):
    """The process ends in the middle of a callback; nothing in it may notice."""


class Lane:
    """
    The callbacks of one process.

    Attributes:
        alive: A dead lane runs nothing.
        frozen_until: Loop time before which nothing of it runs.
        fuse: Callbacks that it may still run before it is killed; None for any number.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.queue: deque[asyncio.Handle] = deque()
        self.alive = True
        self.frozen_until = 0.0
        self.fuse: int | None = None
        self._context = copy_context()
        self._context.run(LANE.set, self)

    @property
    def context(self) -> Context:
        """A context that marks what is scheduled in it as this lane's."""
        return self._context.copy()

    def end(self) -> None:
        """From now on nothing of it runs."""
        self.alive = False
        self.queue.clear()

    def burn(self) -> None:
        """The fuse has burnt down; overridden by what can be killed."""


LANE: ContextVar[Lane | None] = ContextVar("sim_lane", default=None)


class SimLoop(VirtualLoop):
    """
    The loop of a simulated world.

    Args:
        chance: Decides which process goes next.

    Attributes:
        steps: Callbacks run so far.
        before_step: Called before a callback of a process runs.
        before_rest: Called when everything waits, with the time at which something goes on.
        acted: When a process has last done something.
        answers_by: When the last call in a thread is answered.
        problems: Errors that nobody handled.
    """

    def __init__(self, chance: Random) -> None:
        super().__init__()
        self.chance = chance
        self.world = Lane("world")
        self.lanes: list[Lane] = [self.world]
        self.steps = 0
        self.before_step: Callable[[Lane], None] | None = None
        self.before_rest: Callable[[float], None] | None = None
        self.acted = self.answers_by = 0.0
        self.problems: list[str] = []
        self._kept: set[asyncio.Task[Any]] = set()

    def _run_once(self) -> None:
        while not self._stopping:  # type: ignore[attr-defined]
            self._sort_in()
            now = self._virtual
            lanes = [lane for lane in self.lanes if lane.queue and lane.frozen_until <= now]
            if not lanes:
                self._let_time_pass()
                continue
            lane = lanes[0] if len(lanes) == 1 else lanes[int(self.chance.random() * len(lanes))]
            handle = lane.queue.popleft()
            if handle._cancelled:
                continue
            if lane is not self.world and not self._allowed(lane):
                continue
            handle._run()

    def _allowed(self, lane: Lane) -> bool:
        self.steps += 1
        self.acted = self._virtual
        if self.before_step is not None:
            self.before_step(lane)
        if lane.fuse is not None:
            lane.fuse -= 1
            if lane.fuse < 0:
                lane.burn()
        return lane.alive

    def _sort_in(self) -> None:
        ready = self._ready  # type: ignore[attr-defined]
        while ready:
            handle = ready.popleft()
            lane = handle._context.get(LANE) or self.world
            if lane.alive:
                lane.queue.append(handle)

    def _let_time_pass(self) -> None:
        """Jump to the next timer, or to where a frozen process goes on; sort the timers that are due in."""
        timers = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0]._cancelled:
            heapq.heappop(timers)._scheduled = False
        times = [lane.frozen_until for lane in self.lanes if lane.queue and lane.alive]
        if timers:
            times.append(timers[0]._when)
        if not times:
            problem = "everything waits and no timer is set"
            raise Deadlock(problem)
        until = max(self._virtual, min(times))
        if self.before_rest is not None:
            self.before_rest(until)
        self._virtual = until
        while timers and timers[0]._when <= self._virtual:
            handle = heapq.heappop(timers)
            handle._scheduled = False
            if not handle._cancelled:
                self._ready.append(handle)  # type: ignore[attr-defined]

    def keep_tasks(self) -> None:
        """A process ends: what its tasks stand in must not be cleaned up as if it were alive."""
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            self._kept.add(task)

    def close(self) -> None:
        """Drop all tasks without a word, then close the loop."""
        self.keep_tasks()
        for task in self._kept:
            with contextlib.suppress(Exception):
                task.get_coro().close()  # type: ignore[union-attr]
        super().close()

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run it on the loop's own thread, in virtual time: real threads would make every run another one."""
        future = self.create_future()

        def run() -> None:
            try:
                result = func(*args)
            except (Exception, EngineSignal) as error:  # noqa: BLE001 - handed to whoever waits
                outcome: tuple[Callable[[Any], None], Any] = (future.set_exception, error)
            else:
                outcome = (future.set_result, result)
            delay = self.chance.choice((0.0, 0.01, 0.2))
            self.answers_by = max(self.answers_by, self.time() + delay)
            self.call_later(delay, finish, *outcome)

        def finish(settle: Callable[[Any], None], value: Any) -> None:
            if not future.done():
                settle(value)

        self.call_soon(run)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """An error that no code has handled is a finding; the end of a process is none."""
        error = context.get("exception")
        if not isinstance(error, Killed):
            self.problems.append(f"{context.get('message')}: {type(error).__name__}: {error}")
