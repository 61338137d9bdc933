"""
An engine in memory that workflow functions run on through `run_on`: to read before writing an adapter, and for tests.

`perdure.testing.conformance` has the cases that it, and every adapter, must pass.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from perdure.clock import Clock
from perdure.codec.value import codec_for
from perdure.model.retry import Retry
from perdure.platform.context import run_on
from perdure.platform.engine import BodyFailed


@dataclass
class Kept:
    """
    What the engine keeps of one run, whatever becomes of its processes.

    Attributes:
        answers: What was answered under each name: a text, None for a wait that was over, or a failure.
        attempts: How many attempts each body has had.
        times: When each sleep or wait is over, by the loop's clock.
        events: Events that no wait has taken yet, by their senders' name for them.
        came: Set when an event has come.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    answers: dict[str, str | BodyFailed | None] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    events: defaultdict[str, deque[str]] = field(default_factory=lambda: defaultdict(deque))
    came: asyncio.Event = field(default_factory=asyncio.Event)


class MemoryPlatform:
    """The adapter: one execution of one run. It is a `Platform`."""

    def __init__(self, run_id: str, kept: Kept, clock: Clock) -> None:
        self._run_id = run_id
        self._clock = clock
        self._kept = kept
        self._asked: set[str] = set()

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._run_id

    @property
    def clock(self) -> Clock:
        """Tells the time."""
        return self._clock

    async def do(self, name: str, body: Callable[[int], Awaitable[str]], *, retry: Retry, timeout: float | None) -> str:  # noqa: ARG002 - the body applies both by itself
        """See `Platform.do`."""
        kept = self._kept
        self._once(name)
        while name not in kept.answers:
            await self._until(kept.times.get(name))
            attempt = kept.attempts.get(name, 0) + 1
            try:
                kept.answers[name] = await body(attempt)
            except BodyFailed as failed:
                kept.attempts[name] = attempt
                if failed.retry_in is None:
                    kept.answers[name] = BodyFailed(failed.text)
                else:
                    kept.times[name] = self._time() + failed.retry_in
        answer = kept.answers[name]
        if isinstance(answer, str):
            return answer
        raise BodyFailed(answer.text if answer else "")

    async def sleep(self, name: str, seconds: float) -> None:
        """See `Platform.sleep`."""
        self._once(name)
        await self._until(self._kept.times.setdefault(name, self._time() + seconds))

    async def wait_for_event(self, name: str, event: str, timeout: float | None) -> str | None:
        """See `Platform.wait_for_event`."""
        kept = self._kept
        self._once(name)
        until = None if timeout is None else kept.times.setdefault(name, self._time() + timeout)
        while name not in kept.answers:
            if kept.events[event]:
                kept.answers[name] = kept.events[event].popleft()
            elif until is not None and self._time() >= until:
                kept.answers[name] = None
            else:
                kept.came.clear()
                await asyncio.wait({asyncio.ensure_future(kept.came.wait())}, timeout=until and until - self._time())
        answer = kept.answers[name]
        return answer if isinstance(answer, str) else None

    def _once(self, name: str) -> None:
        assert name not in self._asked, f"{name!r} was asked for twice in one execution"  # noqa: S101 - a contract
        self._asked.add(name)

    async def _until(self, time: float | None) -> None:
        if time is not None:
            await asyncio.sleep(max(0.0, time - self._time()))

    @staticmethod
    def _time() -> float:
        return asyncio.get_running_loop().time()


class MemoryEngine:
    """
    The engine: it keeps runs, executes their functions, and executes them again after a crash.

    It is a `perdure.testing.conformance.Harness`; use it inside `run_virtual`, where waiting takes no time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._runs: dict[str, Kept] = {}
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def start(self, run_id: str, fn: Callable[..., Any], *args: Any) -> None:
        """Begin a run."""
        self._runs[run_id] = Kept(fn, args)
        self._execute(run_id)

    async def event(self, run_id: str, name: str, data: Any) -> None:
        """Send an event to a run."""
        kept = self._runs[run_id]
        kept.events[name].append(codec_for(Any).encode(data, f"Event {name!r}"))
        kept.came.set()

    async def crash(self) -> None:
        """The process dies, and another one executes all runs that have not ended."""
        interrupted = [run_id for run_id, task in self._tasks.items() if not task.done()]
        for run_id in interrupted:
            self._tasks[run_id].cancel()
        await asyncio.gather(*[self._tasks[run_id] for run_id in interrupted], return_exceptions=True)
        for run_id in interrupted:
            self._execute(run_id)

    async def result(self, run_id: str) -> Any:
        """Wait for a run's end; raises what its function raised."""
        while True:
            task = self._tasks[run_id]
            await asyncio.wait({task})
            if not task.cancelled():
                return task.result()

    async def again(self, run_id: str) -> Any:
        """Execute an ended run once more, from what is kept of it."""
        self._execute(run_id)
        return await self.result(run_id)

    def _execute(self, run_id: str) -> None:
        kept = self._runs[run_id]
        platform = MemoryPlatform(run_id, kept, self._clock)
        self._tasks[run_id] = asyncio.create_task(run_on(platform, kept.fn, *kept.args))
