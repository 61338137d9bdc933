"""Virtual time: an event loop whose clock jumps to the next timer as soon as everything waits."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")
START = 1_750_000_000_000_000
"""Where virtual time begins, microseconds since 1970: 2025-06-15T15:06:40Z."""
OLDEST_S = 1.0
"""Real seconds after which a thread's answer may overtake that of one begun earlier."""


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
            return self._select_threads()
        if self._loop.still:
            return self._real.select(OLDEST_S)
        if timeout is None:
            problem = "everything waits and no timer is set: the test would wait for ever"
            raise Deadlock(problem)
        self._loop.jump(timeout)
        return ready

    def _select_threads(self) -> list[tuple[selectors.SelectorKey, int]]:
        """In the order in which they were begun, so that a test takes the same course each time."""
        if self._loop.deliver(oldest=True):
            return []
        ready = self._real.select(OLDEST_S)
        if not ready:
            # Perhaps the oldest waits for what follows from another.
            self._loop.deliver(oldest=False)
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
    An event loop in virtual time.

    Sockets are waited for only while `still` is not 0, as a store sees to. Threads are always waited for: while a
    call runs in one, time stands still, and calls are answered in the order in which they were begun.
    """

    def __init__(self) -> None:
        self._virtual = 0.0
        self.still = 0
        self._calls: dict[asyncio.Future[Any], Future[Any]] = {}
        self._pool: ThreadPoolExecutor | None = None
        super().__init__(_JumpingSelector(self))
        # A year from the beginning a float cannot tell asyncio's nanosecond, and no timer would ever be due;
        # half a microsecond early is still the same microsecond of the clock.
        self._clock_resolution = 5e-7

    def time(self) -> float:
        """Seconds of virtual time since the loop was made."""
        return self._virtual

    def jump(self, seconds: float) -> None:
        """Let virtual time pass."""
        self._virtual += seconds

    @property
    def in_threads(self) -> bool:
        """Whether calls that somebody waits for run in threads now."""
        return bool(self._calls)

    def deliver(self, *, oldest: bool) -> bool:
        """
        Answer a call whose thread is done; returns whether there was one.

        Args:
            oldest: Only the one that was begun first.
        """
        for future, call in list(self._calls.items()):
            if call.done():
                del self._calls[future]
                _copy(call, future)
                return True
            if oldest:
                return False
        return False

    def run_in_executor(self, executor: Executor | None, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]  # typeshed has it async-typed
        """Run a call in a thread; time stands still meanwhile."""
        if executor is None:
            executor = self._pool = self._pool or ThreadPoolExecutor(thread_name_prefix="virtual")
        future: asyncio.Future[T] = self.create_future()
        call = self._calls[future] = executor.submit(func, *args)
        future.add_done_callback(self._answered)
        call.add_done_callback(self._wake)
        return future

    def _answered(self, future: asyncio.Future[Any]) -> None:
        """
        Nobody waits for it any more: it was answered, or given up.

        The call goes on in either case. Whether its thread has begun is chance, which tests must not depend on.
        """
        self._calls.pop(future, None)

    def _wake(self, _call: Future[Any]) -> None:
        """In the thread, which is done: let the loop look."""
        with suppress(RuntimeError):  # it was closed meanwhile
            self.call_soon_threadsafe(int)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002 - asyncio's way
        """Wait for the threads of asyncio.to_thread."""
        if self._pool is not None:
            self._pool.shutdown()


def _copy(call: Future[Any], future: asyncio.Future[Any]) -> None:
    if call.cancelled():
        future.cancel()
    elif (error := call.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(call.result())


class VirtualClock:
    """The clock that belongs to a virtual loop."""

    virtual = True

    def __init__(self, loop: VirtualLoop, start: int = START) -> None:
        self._loop = loop
        self._start = start

    @contextmanager
    def still(self) -> Iterator[None]:
        """Time does not jump inside: a database's answer is waited for."""
        self._loop.still += 1
        try:
            yield
        finally:
            self._loop.still -= 1

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
