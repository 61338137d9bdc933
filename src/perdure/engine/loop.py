"""
A private, deterministic event loop, one per run.

It does no I/O. It steps only when an outcome is delivered, and then until nothing is ready: the run is at
rest. Tasks and futures hash by the order of their creation, so that sets of them (asyncio.wait,
as_completed, TaskGroup) iterate alike on every replay (I7).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
from asyncio import events
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVarTuple
from weakref import WeakSet

from perdure.errors import BlockingCall, EngineSignal

if TYPE_CHECKING:
    from perdure.engine.request import Request

log = logging.getLogger("perdure.workflow")
Ts = TypeVarTuple("Ts")
_SPREAD = 0x9E3779B1
CLOSING_ROUNDS = 3


class Branch:
    """
    Where in a run's tree of tasks and scopes a durable operation is asked for.

    Attributes:
        prefix: What the keys made here begin with; empty in the workflow function itself.
    """

    __slots__ = ("counts", "prefix", "tasks")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.counts: dict[str, int] = {}
        self.tasks = 0

    def key(self, name: str) -> str:
        """A key that is the same on every replay: branch, name, and the number of a repeat."""
        count = self.counts.get(name, 0) + 1
        self.counts[name] = count
        return f"{self.prefix}{name}" if count == 1 else f"{self.prefix}{name}#{count}"


class RunTask(asyncio.Task[Any]):
    """A task of a workflow; knows its branch."""

    __slots__ = ("branch", "order")
    branch: Branch
    order: int

    def __init__(self, coro: Coroutine[Any, Any, Any], *, order: int, branch: Branch, **options: Any) -> None:
        self.order = order
        self.branch = branch
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.order

    def __eq__(self, other: object) -> bool:
        return self is other


class RunFuture(asyncio.Future[Any]):
    """A future of a workflow; one that stands for a request tells the run when it is cancelled."""

    __slots__ = ("given_up", "order", "request")
    order: int
    request: Request | None
    given_up: Callable[[Request], None] | None

    def __hash__(self) -> int:
        return self.order

    def __eq__(self, other: object) -> bool:
        return self is other

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel it, and let the run forget the request."""
        if not super().cancel(msg):
            return False
        if self.request is not None and self.given_up is not None:
            self.given_up(self.request)
            self.settle()
        return True

    def settle(self) -> None:
        """Stand for its request no more; each would otherwise keep the other until a garbage collection."""
        self.request = self.given_up = None


class Ready(list[Any]):
    """
    A callback that is to run before the next rest: its context, itself, its arguments; nothing once it is cancelled.

    It stands for an `asyncio.Handle`, which takes several times as long to make and to run; one is made per step.
    """

    __slots__ = ()

    def cancel(self) -> None:
        """Do not run it."""
        self.clear()

    def cancelled(self) -> bool:
        """Whether it will not run."""
        return not self


class Timers(Protocol):
    """Who turns this loop's timers into durable ones."""

    def now(self) -> int:
        """The run's time, microseconds since 1970."""

    def set_timer(self, handle: asyncio.TimerHandle, at: int) -> None:
        """Run the handle at this time."""

    def drop_timer(self, handle: asyncio.TimerHandle) -> None:
        """The handle was cancelled."""


def _refusing(name: str) -> Callable[..., NoReturn]:
    def refuse(*_args: Any, **_options: Any) -> NoReturn:
        what = f"loop.{name}()"
        raise BlockingCall(what)

    return refuse


class PrivateLoop(asyncio.AbstractEventLoop):
    """
    The loop of one run. It is stepped by its driver, from callbacks of the process's loop.

    Args:
        salt: Where hashes begin: the run's seed, so that tasks of different runs do not collide.
        prefix: What all keys of the run begin with.

    Attributes:
        quiet: The run goes on elsewhere, where errors may still be looked at; here nothing is said about them.
    """

    def __init__(self, timers: Timers, salt: int, prefix: str = "") -> None:
        self._ready: deque[Ready] = deque()
        self._timers = timers
        self._order = salt * _SPREAD & 0xFFFFFFFFFFFF
        self._root = Branch(prefix)
        self._closed = False
        self.quiet = False
        self._beside: WeakSet[RunTask] | None = None

    def run_to_rest(self) -> None:
        """Run everything that is ready, until nothing is."""
        ready = self._ready
        outer = events._get_running_loop()  # noqa: SLF001 - the documented hook for loop implementations
        hooks = sys.get_asyncgen_hooks()
        events._set_running_loop(self)  # noqa: SLF001 - as above
        sys.set_asyncgen_hooks(None, None)
        handle: Ready | None = None
        context = callback = args = None
        try:
            while ready:
                handle = ready.popleft()
                if not handle:
                    continue
                context, callback, args = handle
                try:
                    context.run(callback, *args)
                except SystemExit:
                    pass  # asyncio keeps it in the task and raises it here as well; the task's is the one that counts
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # noqa: BLE001 - as every loop does
                    self.call_exception_handler({"message": f"{callback} failed", "exception": error})
        finally:
            # A failed task's traceback leads to this frame, and must not lead back to the task.
            handle = context = callback = args = None
            events._set_running_loop(outer)  # noqa: SLF001 - as above
            sys.set_asyncgen_hooks(*hooks)

    # ----------------------------------------------------------------------------- what asyncio needs
    # Always false, as debugging would look at the real clock. Each future asks, and bool() answers without a frame.
    get_debug = staticmethod(bool)

    def call_soon(  # type: ignore[override]  # all that is asked of a handle is there
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> Ready:
        """Run it before the next rest."""
        handle = Ready((context or contextvars.copy_context(), callback, args))
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Set a durable timer."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Set a durable timer."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers.set_timer(handle, round(when * 1_000_000))
        return handle

    def fire(self, handle: asyncio.TimerHandle) -> None:
        """The timer's time has come: run its callback before the next rest, if nobody cancels it until then."""
        self.call_soon(lambda: None if handle.cancelled() else handle._run())  # noqa: SLF001 - as above

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._timers.drop_timer(handle)

    def time(self) -> float:
        """The run's time in seconds since 1970: it stands still between outcomes."""
        return self._timers.now() / 1_000_000

    def create_future(self) -> RunFuture:
        """A future that hashes by order."""
        future = RunFuture(loop=self)
        self._order += 1
        future.order = self._order
        future.request = future.given_up = None
        return future

    def create_task(
        self,
        coro: Any,
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        **_options: Any,
    ) -> RunTask:
        """A task in a branch of its own, numbered within the branch that creates it."""
        current = asyncio.current_task(self)
        parent = current.branch if isinstance(current, RunTask) else self._root
        parent.tasks += 1
        task = self._task(coro, Branch(f"{parent.prefix}~{parent.tasks}/"), name, context)
        if self._beside is None:
            self._beside = WeakSet()
        self._beside.add(task)
        return task

    def create_main(self, coro: Coroutine[Any, Any, Any]) -> RunTask:
        """The workflow function's own task, in the branch without a prefix."""
        return self._task(coro, self._root, None, None)

    def _task(self, coro: Any, branch: Branch, name: str | None, context: contextvars.Context | None) -> RunTask:
        self._order += 1
        # A name saves asyncio from making one up.
        return RunTask(
            coro, order=self._order, branch=branch, loop=self, name=name or branch.prefix or "main", context=context
        )

    @property
    def beside(self) -> list[RunTask]:
        """
        The tasks beside the main one that are not done, in the order in which they were made.

        asyncio.all_tasks would look through all tasks of the process, of which a worker has one per parked run.
        """
        return sorted((task for task in self._beside or () if not task.done()), key=lambda task: task.order)

    def dismiss(self, main: RunTask | None) -> None:
        """Cancel what is left of the workflow's tasks, and close."""
        for _ in range(CLOSING_ROUNDS):
            tasks = self.beside
            if main is not None and not main.done():
                tasks.insert(0, main)
            if not tasks:
                break
            for task in tasks:
                task.cancel()
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - it is we who drop it
            del task, tasks  # a failed task's traceback leads to this frame, and must not lead back to the task
            self.run_to_rest()
        del main  # as above; Python 3.13 has frames lead to their callers
        self.close()

    def is_running(self) -> bool:
        """Always, for those who ask from inside."""
        return True

    def is_closed(self) -> bool:
        """Whether the run is over here."""
        return self._closed

    def close(self) -> None:
        """Let nothing run any more, and let go of whoever had the timers."""
        if not self._closed:
            self._closed = True
            self._ready.clear()
            del self._timers

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A background task's error that nobody looked at, unless it is the engine's own control flow."""
        error = context.get("exception")
        if isinstance(error, BaseExceptionGroup):
            error = error.split(EngineSignal)[1] or EngineSignal()
        if not (self.quiet or isinstance(error, EngineSignal)):
            log.warning("%s", context.get("message"), exc_info=context.get("exception"))

    def get_exception_handler(self) -> None:
        """None is set."""
        return

    def get_task_factory(self) -> None:
        """None is set."""
        return

    async def shutdown_asyncgens(self) -> None:
        """Nothing to do: asynchronous generators are closed with their tasks."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Nothing to do: there is none."""


_OWN = set(vars(PrivateLoop))
for _name, _value in vars(asyncio.AbstractEventLoop).items():
    if callable(_value) and not _name.startswith("_") and _name not in _OWN:
        setattr(PrivateLoop, _name, _refusing(_name))


_as_completed = asyncio.as_completed


@wraps(_as_completed)
def as_completed(fs: Iterable[Awaitable[Any]], *, timeout: float | None = None) -> Any:  # noqa: D103 - as wrapped
    # asyncio puts coroutines into a set, by their addresses, before it makes tasks of them in the set's order:
    # another order on every replay. In a workflow the tasks are therefore made first, in the order given (I7).
    if isinstance(events._get_running_loop(), PrivateLoop) and isinstance(fs, Iterable):  # noqa: SLF001 - as above
        fs = [asyncio.ensure_future(each) for each in fs]
    return _as_completed(fs, timeout=timeout)


for _module in (asyncio, asyncio.tasks):
    vars(_module)["as_completed"] = as_completed
