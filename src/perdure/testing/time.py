"""Virtual time: an event loop whose clock jumps to the next timer as soon as everything waits."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")
START = 1_750_000_000_000_000
"""Where virtual time begins, microseconds since 1970: 2025-06-15T15:06:40Z."""


class Deadlock(RuntimeError):
    """Everything waits, and no timer is set: the test would wait for ever."""


class _JumpingSelector(selectors.BaseSelector):
    """Waits for nothing but threads: where a real loop would sleep, time jumps."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if ready or timeout == 0:
            return ready
        if self._loop.in_threads:
            return self._real.select(None)
        if timeout is None:
            problem = "everything waits and no timer is set: the test would wait for ever"
            raise Deadlock(problem)
        self._loop.jump(timeout)
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def get_map(self) -> Any:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class VirtualLoop(asyncio.SelectorEventLoop):
    """
    An event loop in virtual time. Real sockets are not waited for; threads are.

    Attributes:
        in_threads: Calls that run in threads now; while there are any, time stands still.
    """

    def __init__(self) -> None:
        self._virtual = 0.0
        self.in_threads = 0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Seconds of virtual time since the loop was made."""
        return self._virtual

    def jump(self, seconds: float) -> None:
        """Let virtual time pass."""
        self._virtual += seconds

    def run_in_executor(self, executor: Executor | None, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]  # typeshed has it async-typed
        """Run a call in a thread; time stands still meanwhile."""
        self.in_threads += 1
        future = super().run_in_executor(executor, func, *args)

        def ended(_future: asyncio.Future[T]) -> None:
            self.in_threads -= 1

        future.add_done_callback(ended)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's name
        """Let the threads of asyncio.to_thread end; asyncio's own way would wait by this loop's time."""
        self.in_threads += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self.in_threads -= 1


class VirtualClock:
    """The clock that belongs to a virtual loop."""

    virtual = True

    def __init__(self, loop: VirtualLoop, start: int = START) -> None:
        self._loop = loop
        self._start = start

    def now(self) -> int:
        """Microseconds since 1970, in virtual time."""
        return self._start + round(self._loop.time() * 1_000_000)


def run_virtual(main: Callable[[VirtualClock], Coroutine[Any, Any, T]], *, start: int = START) -> T:
    """
    Run a coroutine function on a loop of its own, in virtual time.

    Nothing waits for the real clock: when everything waits, time jumps to the next timer. While a call runs
    in a thread, time stands still. Sockets are looked at but not waited for, so a real request over the
    network is overtaken by its own timeout: mock it.

    Args:
        main: Gets the clock.
        start: Where time begins, microseconds since 1970.

    Raises:
        Deadlock: Everything waits for ever.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)  # noqa: S101 - for mypy
        return runner.run(main(VirtualClock(loop, start)))
