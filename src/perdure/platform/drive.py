"""One execution of a workflow function on another engine: its private loop, and in which order outcomes reach it."""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

from perdure import ids
from perdure.clock import SECOND
from perdure.engine.loop import Branch, PrivateLoop, RunFuture, RunTask
from perdure.engine.machine import ENDED, EVICTED, Halt
from perdure.engine.request import Request
from perdure.errors import Divergence, NotInWorkflow, Stalled
from perdure.model.retry import NO_RETRY
from perdure.platform.engine import BodyFailed, Platform

ORDER = "~order"
"""The key under which it is kept which of several outcomes came first."""


Value = str | BodyFailed | None
"""What the engine gives: a text, the end of a wait without one, or a failure."""


class Outcome(NamedTuple):
    """
    What the engine has given.

    Attributes:
        at: When, microseconds since 1970; None when that is still to be found out.
    """

    at: int | None
    value: Value = None


Work = Callable[[], Awaitable[Outcome]]


class Wanted(Request):
    """
    What the function waits for.

    Attributes:
        work: Asks the engine for it.
        handle: Of a timer of asyncio's own, which it runs instead of resolving its future.
        task: That works on it; none before the next rest.
    """

    __slots__ = ("context", "handle", "task", "work")

    def __init__(self, key: str, future: RunFuture, work: Work, handle: asyncio.TimerHandle | None = None) -> None:
        super().__init__(key, future)
        self.work = work
        self.handle = handle
        self.context = contextvars.copy_context()
        self.task: asyncio.Task[Outcome] | None = None


class Driver:
    """
    Drives the function from rest to rest, as on perdure (I7).

    Outcomes are delivered one at a time. Where several are waited for at once, the engine keeps which came first, so
    that every execution sees them in the order of the first one, however long it takes until they are asked for again.

    Args:
        workflow: What all names that the engine sees begin with.

    Attributes:
        time: The run's time: that of the last outcome, microseconds since 1970.
        seed: The run's.
    """

    def __init__(self, platform: Platform, workflow: str) -> None:
        self.time = self.seed = 0
        self._platform = platform
        self._workflow = workflow
        self._outer = asyncio.get_running_loop()
        self._wanted: dict[str, Wanted] = {}
        self._timers: dict[asyncio.TimerHandle, str] = {}
        self._came: list[str] = []
        self._orders = 0
        self._begun: set[asyncio.Task[Outcome]] = set()
        self._over = ""

    async def run(self, function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """
        Execute the function to its end.

        Returns:
            What it returned; raises what it raised.

        Raises:
            Stalled: It waits for nothing that the engine could give.
            Divergence: The engine keeps an outcome that the function did not ask for.
        """
        self.time, began = await self._kept("~begin", lambda: str(ids.seed()))
        self.seed = int(began)
        self.loop = PrivateLoop(self, self.seed)  # type: ignore[abstract]  # what is missing there is refused, dynamically
        main = self.loop.create_main(function())
        why = EVICTED
        try:
            await self._called(self.loop.run_to_rest)
            while not main.done():
                for wanted in await self._next():
                    if not main.done():
                        await self._deliver(wanted)
            why = ENDED
            return main.result()
        finally:
            self._over = why
            self.loop.quiet = why == EVICTED
            for task in self._begun:
                task.cancel()
            await self._called(lambda: self.loop.dismiss(main))
            await asyncio.gather(*self._begun, return_exceptions=True)

    # -------------------------------------------------------------------------------------- from inside
    def key(self, name: str) -> str:
        """The key of the next operation of this name in the current branch."""
        return self.branch.key(name)

    @property
    def branch(self) -> Branch:
        """
        Where in the function's tree of tasks and scopes this is.

        Raises:
            NotInWorkflow: Nowhere there.
        """
        return self._task().branch

    @branch.setter
    def branch(self, branch: Branch) -> None:
        self._task().branch = branch

    def _task(self) -> RunTask:
        if self._over == EVICTED:
            raise Halt
        task = asyncio.current_task(self.loop)
        if self._over or not isinstance(task, RunTask):
            problem = self._over or "it was called from a step, another thread or another event loop"
            raise NotInWorkflow(problem)
        return task

    def ask(self, key: str, work: Work) -> RunFuture:
        """Ask the engine for something, from the next rest on."""
        future = self.loop.create_future()
        future.request = self._wanted[key] = Wanted(key, future, work)
        future.given_up = self._give_up
        return future

    def sleeping(self, key: str, at: int) -> Work:
        """What to ask for a time to be reached, microseconds since 1970."""
        seconds = max(0, at - self.time) / SECOND

        async def work() -> Outcome:
            await self._platform.sleep(self.named(key), seconds)
            return Outcome(at)

        return work

    # ------------------------------------------------------------------------------- the loop's timers
    def now(self) -> int:
        """See `time`."""
        return self.time

    def set_timer(self, handle: asyncio.TimerHandle, at: int) -> None:
        """asyncio.sleep and asyncio.timeout come here."""
        key = self._timers[handle] = self.key("timer")
        self._wanted[key] = Wanted(key, self.loop.create_future(), self.sleeping(key, at), handle)

    def drop_timer(self, handle: asyncio.TimerHandle) -> None:
        """The function cancelled the timer."""
        wanted = self._wanted.get(self._timers.pop(handle, ""))
        if wanted is not None:
            self._give_up(wanted)

    def _give_up(self, request: Request) -> None:
        wanted = self._wanted.pop(request.key, None)
        if wanted is not None and wanted.task is not None:
            wanted.task.cancel()

    def _settle(self, wanted: Wanted, value: Value) -> None:
        wanted.future.settle()
        if wanted.handle is not None:
            self._timers.pop(wanted.handle, None)
            self.loop.fire(wanted.handle)
        elif isinstance(value, BodyFailed):
            wanted.future.set_exception(value)
        else:
            wanted.future.set_result(value)

    # ------------------------------------------------------------------------------------- from outside
    async def _called(self, step: Callable[[], None]) -> None:
        """Let the private loop run from a callback: a task must not be entered inside of another one."""
        done: asyncio.Future[None] = self._outer.create_future()

        def call() -> None:
            try:
                step()
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                if not done.done():
                    done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(None)

        self._outer.call_soon(call)
        await done

    async def _next(self) -> list[Wanted]:
        """What comes next, in its order."""
        for wanted in self._wanted.values():
            if wanted.task is None:
                wanted.task = self._outer.create_task(self._worked(wanted), name=wanted.key, context=wanted.context)
                self._begun.add(wanted.task)
                wanted.task.add_done_callback(self._begun.discard)
        tasks = {wanted.task for wanted in self._wanted.values() if wanted.task is not None}
        if not tasks:
            raise Stalled(self._platform.run_id)
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # what the engine itself fails with is not the function's to handle
        self._came = [key for key in self._came if key in self._wanted]
        keys = self._came if len(tasks) == 1 else await self._ordered(list(self._came))
        return [self._wanted[key] for key in keys if key in self._wanted]

    async def _worked(self, wanted: Wanted) -> Outcome:
        outcome = await wanted.work()
        self._came.append(wanted.key)
        return outcome

    async def _ordered(self, came: list[str]) -> list[str]:
        """Which of several outcomes came first: those that came now, unless the engine keeps others."""
        self._orders += 1
        key = ORDER if self._orders == 1 else f"{ORDER}#{self._orders}"
        _, text = await self._kept(key, lambda: json.dumps(came))
        keys: list[str] = json.loads(text)
        if keys[0] not in self._wanted:
            asked = [repr(key) for key in self._wanted]
            raise Divergence(self._platform.run_id, self._orders, f"outcome of {keys[0]!r}", asked)
        return keys

    async def _deliver(self, wanted: Wanted) -> None:
        if wanted.key not in self._wanted or wanted.task is None:
            return  # given up since
        outcome = await wanted.task
        at = outcome.at
        if at is None:
            at, _ = await self._kept(f"{wanted.key}~at", str)
        del self._wanted[wanted.key]
        self.time = max(self.time, at)
        self._settle(wanted, outcome.value)
        await self._called(self.loop.run_to_rest)

    # -------------------------------------------------------------------------------- what the engine keeps
    def named(self, key: str) -> str:
        """What the engine calls this key."""
        return f"{self._workflow}/{key}"

    def stamped(self, text: str) -> str:
        """A text with the time at which it was made; bodies only may ask for that."""
        return f"{self._platform.clock.now()}:{text}"

    async def _kept(self, key: str, make: Callable[[], str]) -> tuple[int, str]:
        """A text of our own, and when it was made."""

        async def body(_attempt: int) -> str:
            return self.stamped(make())

        return read_stamp(await self._platform.do(self.named(key), body, retry=NO_RETRY, timeout=None))


def read_stamp(stamped: str) -> tuple[int, str]:
    """The time at which a text was made, microseconds since 1970, and the text."""
    at, _, text = stamped.partition(":")
    return int(at), text
