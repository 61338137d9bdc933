"""
Workflows written as plain functions.

The function runs in a thread of its own, but never at the same time as anything else of its run: thread
and private loop hand control to each other, so the loop is at rest exactly when the thread waits for an
outcome. Replay therefore works as for coroutines.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, Unpack, overload

from perdure.engine.context import Context
from perdure.engine.ledger import RemarkOptions
from perdure.engine.machine import MISSING, Halt
from perdure.errors import EngineSignal, NotInWorkflow
from perdure.ids import Random

if TYPE_CHECKING:
    from uuid import UUID

T = TypeVar("T")


class Baton:
    """Hands control between the loop's thread and the workflow's: exactly one of them runs."""

    def __init__(self, fn: Callable[[], Any]) -> None:
        self._fn = fn
        self._to_thread = threading.Semaphore(0)
        self._to_loop = threading.Semaphore(0)
        self._wanted: Coroutine[Any, Any, Any] | None = None
        self._answer: tuple[Any, BaseException | None] = (None, None)
        self._result: tuple[Any, BaseException | None] | None = None
        self.thread: threading.Thread | None = None

    def turn(self) -> Coroutine[Any, Any, Any] | None:
        """On the loop: let the thread run until it wants something; None when it has ended."""
        if self.thread is None:
            context = contextvars.copy_context()
            self.thread = threading.Thread(target=context.run, args=(self._run,), name="perdure-workflow", daemon=True)
            self.thread.start()
        else:
            self._to_thread.release()
        self._to_loop.acquire()
        wanted, self._wanted = self._wanted, None
        return wanted

    def answer(self, value: Any, error: BaseException | None) -> None:
        """On the loop: what the thread gets at its next turn."""
        self._answer = (value, error)

    def result(self) -> Any:
        """On the loop: what the function returned or raised."""
        value, error = self._result or (None, Halt())
        if error is not None:
            raise error
        return value

    def ask(self, wanted: Coroutine[Any, Any, T]) -> T:
        """In the thread: have the loop await this."""
        if threading.current_thread() is not self.thread:
            wanted.close()
            problem = "a plain workflow's context was used from another thread"
            raise NotInWorkflow(problem)
        self._wanted = wanted
        self._to_loop.release()
        self._to_thread.acquire()
        value, error = self._answer
        if error is not None:
            raise error
        result: T = value
        return result

    def _run(self) -> None:
        try:
            self._result = (self._fn(), None)
        except KeyboardInterrupt as odd:  # not of Ctrl-C, as in a step's thread
            from perdure.engine.attempt import own_signal  # noqa: PLC0415 - `import perdure` need not wait for it

            self._result = (None, own_signal(odd, "the workflow itself"))
        except BaseException as error:  # noqa: BLE001 - it ends the run, whatever it is
            self._result = (None, error)
        self._to_loop.release()


async def in_thread(fn: Callable[..., Any], ctx: Context, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Drive a plain workflow function as a coroutine."""
    baton = Baton(lambda: fn(SyncContext(ctx, baton), *args, **kwargs))
    try:
        while (wanted := baton.turn()) is not None:
            try:
                baton.answer(await wanted, None)
            except asyncio.CancelledError as error:
                baton.answer(None, error)
            except Exception as error:  # noqa: BLE001 - it is the workflow's to handle
                baton.answer(None, error)
        return baton.result()
    except (GeneratorExit, EngineSignal):
        _leave(baton)
        raise


def _leave(baton: Baton) -> None:
    """Make the thread end: whatever it asks for from now on is refused."""
    for _ in range(LEAVING_TURNS):
        baton.answer(None, Halt())
        wanted = baton.turn()
        if wanted is None:
            return
        wanted.close()


LEAVING_TURNS = 100


class SyncContext:
    """
    The context of a plain (not async) workflow function: the same names, without await.

    See `Context` for what each of them does.
    """

    def __init__(self, ctx: Context, baton: Baton) -> None:
        self._ctx = ctx
        self._ask = baton.ask
        self.log = ctx.log

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._ctx.run_id

    @property
    def attempt(self) -> int:
        """The running attempt of the step whose body asks, from 1."""
        return self._ctx.attempt

    def step(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """See `Context.step`."""
        return self._ask(self._ctx.step(fn, *args, **kwargs))

    @overload
    def transaction(self, fn: Callable[..., Coroutine[Any, Any, T]], /, *args: Any) -> T: ...
    @overload
    def transaction(self, fn: Callable[..., T], /, *args: Any) -> T: ...
    def transaction(self, fn: Any, /, *args: Any) -> Any:
        """See `Context.transaction`."""
        return self._ask(self._ctx.transaction(fn, *args))

    def sleep(self, until: float | timedelta | datetime) -> None:
        """See `Context.sleep`."""
        self._ask(self._ctx.sleep(until))

    def receive(
        self,
        name: str,
        type: Any = Any,
        *,
        timeout: float | timedelta | None = None,
        default: Any = MISSING,
    ) -> Any:
        """See `Context.receive`."""
        return self._ask(self._ctx.receive(name, type, timeout=timeout, default=default))

    def call(self, workflow: Any, /, *args: Any, **options: Any) -> Any:
        """See `Context.call`."""
        return self._ask(self._ctx.call(workflow, *args, **options))

    def start(self, workflow: Any, /, *args: Any, **options: Any) -> SyncChild:
        """See `Context.start`."""
        return SyncChild(self._ask(self._ctx.start(workflow, *args, **options)), self._ask)

    def emit(self, name: str, data: Any = None) -> None:
        """See `Context.emit`."""
        self._ask(self._ctx.emit(name, data))

    def annotate(self, key: str, value: Any = None, **more: Unpack[RemarkOptions]) -> None:
        """See `Context.annotate`."""
        self._ask(self._ctx.annotate(key, value, **more))

    def map(self, fn: Any, items: Any, /, **options: Any) -> Any:
        """See `Context.map`; `fn` is a step or a workflow."""
        return self._ask(self._ctx.map(fn, items, **options))

    def now(self) -> datetime:
        """See `Context.now`."""
        return self._ask(_call(self._ctx.now))

    def uuid(self) -> UUID:
        """See `Context.uuid`."""
        return self._ask(_call(self._ctx.uuid))

    def random(self) -> Random:
        """See `Context.random`."""
        return self._ask(_call(self._ctx.random))

    def patched(self, patch: str) -> bool:
        """See `Context.patched`."""
        return self._ask(_call(self._ctx.patched, patch))

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """See `Context.scope`."""
        manager = self._ctx.scope(name)
        self._ask(_call(manager.__enter__))
        try:
            yield
        finally:
            self._ask(_call(manager.__exit__, None, None, None))

    @contextmanager
    def timeout(self, duration: float | timedelta) -> Iterator[None]:
        """See `Context.timeout`: ``with ctx.timeout(60):``; whatever the context is asked for when it is over ends."""
        limit = self._ask(_call(self._ctx.timeout, duration))
        self._ask(limit.__aenter__())
        try:
            yield
        except BaseException as error:
            self._ask(limit.__aexit__(type(error), error, error.__traceback__))
            raise
        self._ask(limit.__aexit__(None, None, None))

    def race(self, *children: SyncChild) -> tuple[int, Any]:
        """
        Wait for the first of several children to end, and give up the others, which run on.

        Returns:
            The winner's place among the arguments, and its result. If it failed, its error is raised.
        """
        return self._ask(_race(self._ctx, children))

    @property
    def cancel_reason(self) -> str | None:
        """See `Context.cancel_reason`."""
        return self._ctx.cancel_reason

    def uncancel(self) -> None:
        """See `Context.uncancel`."""
        self._ask(_call(self._ctx.uncancel))

    def continue_as_new(self, *args: Any) -> NoReturn:
        """See `Context.continue_as_new`."""
        self._ask(_call(self._ctx.continue_as_new, *args))


class SyncChild:
    """A child run that a plain workflow started."""

    def __init__(self, child: Any, ask: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self.id: str = child.id
        self._child = child
        self._ask = ask

    def result(self) -> Any:
        """See `Child.result`."""
        return self._ask(self._child.result())


async def _race(ctx: Context, children: tuple[SyncChild, ...]) -> tuple[int, Any]:
    return await ctx.race(*[child._child.result() for child in children])  # noqa: SLF001 - the same module's


async def _call(fn: Callable[..., T], *args: Any) -> T:
    """Run it on the workflow's loop, where the context may be used."""
    return fn(*args)
