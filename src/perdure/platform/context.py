"""The context of a workflow function on another engine."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec, TypeVar

from perdure import ids
from perdure.clock import SECOND, from_datetime, micros, to_datetime
from perdure.codec.call import CallCodec
from perdure.codec.failure import decode_error, encode_error
from perdure.codec.value import TypeCodec, codec_for
from perdure.engine.current import Silent, StepInfo, running_step, wait_in_thread
from perdure.engine.definition import Step, closure
from perdure.engine.loop import Branch, RunTask
from perdure.engine.machine import MISSING
from perdure.errors import InvalidOption, NotInWorkflow, ReceiveTimedOut, StepTimedOut
from perdure.ids import Random
from perdure.platform.drive import Driver, Outcome, read_stamp
from perdure.platform.engine import BodyFailed, Platform
from perdure.platform.steps import Steps

if TYPE_CHECKING:
    from uuid import UUID

P = ParamSpec("P")
R = TypeVar("R")
Attempt = Callable[[int], Awaitable[str]]
log = logging.getLogger("perdure.run")
_UNSUPPORTED = ("at_most_once", "total_timeout", "compensate")


async def run_on(
    platform: Platform,
    fn: Callable[Concatenate[Steps, P], Coroutine[Any, Any, R]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> R:
    """
    Execute a workflow function on another engine, which calls this again after a crash.

    Steps, waits, time and chance are the engine's to keep; perdure's own store has no part in it. What only perdure has
    (children, transactions, compensations, emitted events) is not there: the function asks for `Steps`.

    Args:
        fn: ``async def fn(ctx: Steps, …)``; its name is part of every name that the engine sees.

    Returns:
        What the function returned, in its declared type, as reading it back from JSON would give it.

    Raises:
        InvalidOption: It is not a coroutine function.
    """
    if not inspect.iscoroutinefunction(fn):
        option = "fn"
        raise InvalidOption(option, f"{fn!r} is not a coroutine function (async def)")
    name = ids.check_name("workflow name", fn.__name__)
    driver = Driver(platform, name)
    value = await driver.run(lambda: fn(PlatformContext(platform, name, driver), *args, **kwargs))
    result: R = CallCodec(fn, skip=1).returns.settle(value, f"The result of {name}")[1]
    return result


class PlatformContext:
    """`Steps` on a platform. Keys are made as on perdure: by name and repetition in each task and scope."""

    def __init__(self, platform: Platform, workflow: str, driver: Driver) -> None:
        self._platform = platform
        self._workflow = workflow
        self._driver = driver
        self._receiving: Counter[str] = Counter()
        self._given_up: set[str] = set()
        self.log = logging.LoggerAdapter(log, {"run_id": platform.run_id, "workflow": workflow})

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._platform.run_id

    # ------------------------------------------------------------------------------------------- steps
    async def step(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """See `Context.step`."""
        step, args, kwargs, returns = _parts(fn, args, kwargs)
        settings = step.settings
        for option in _UNSUPPORTED:
            if getattr(settings, option):
                problem = f"step {step.name!r} cannot have it on another engine; only perdure itself gives it"
                raise InvalidOption(option, problem)
        key = self._driver.key(step.name)
        timeout = None if settings.timeout is None else micros(settings.timeout) / SECOND
        body = self._body(step, args, kwargs, returns, StepInfo(self.run_id, self._workflow, key, 1), timeout)

        async def work() -> Outcome:
            try:
                name = self._driver.named(key)
                at, text = read_stamp(await self._platform.do(name, body, retry=settings.retry, timeout=timeout))
            except BodyFailed as failed:
                at, text = read_stamp(failed.text)
                return Outcome(at, BodyFailed(text))
            return Outcome(at, text)

        try:
            text = await self._driver.ask(key, work)
        except BodyFailed as failed:
            raise decode_error(failed.text) from None
        return returns.decode(text, f"The stored result of step {key!r}")

    def _body(  # noqa: PLR0917 - what an attempt is made of
        self,
        step: Step[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        returns: TypeCodec,
        info: StepInfo,
        timeout: float | None,
    ) -> Attempt:
        async def body(attempt: int) -> str:
            running = Body(info._replace(attempt=attempt))
            token = running_step.set(running)
            try:
                async with asyncio.timeout(timeout) as limit:
                    value = await _call(step, args, kwargs)
                return self._driver.stamped(returns.encode(value, f"The result of step {info.key!r}"))
            except Exception as error:
                timed_out = isinstance(error, TimeoutError) and timeout is not None and limit.expired()
                raised = StepTimedOut(info.key, timeout or 0, "attempt") if timed_out else error
                delay = step.settings.retry.next_delay(attempt, raised, ids.jitter())
                retry_in = None if delay is None else delay / SECOND
                raise BodyFailed(self._driver.stamped(encode_error(raised)), retry_in) from error
            finally:
                running.over = True
                running_step.reset(token)

        return body

    # ------------------------------------------------------------------------------------------ waiting
    async def sleep(self, until: float | timedelta | datetime) -> None:
        """See `Context.sleep`."""
        at = from_datetime(until) if isinstance(until, datetime) else self._driver.time + micros(until)
        key = self._driver.key("sleep")
        await self._driver.ask(key, self._driver.sleeping(key, at))

    async def receive(
        self, name: str, type: Any = Any, *, timeout: float | timedelta | None = None, default: Any = MISSING
    ) -> Any:
        """
        See `Context.receive`.

        Raises:
            NotInWorkflow: Another receive of this name was given up, by a timeout of asyncio or otherwise, and the
                engine may have given it the event that this one waits for.
        """
        ids.check_name("signal name", name)
        codec = codec_for(type)
        codec.check_type("type")
        key = self._driver.key(name)
        seconds = None if timeout is None else micros(timeout, "timeout") / SECOND

        async def work() -> Outcome:
            return Outcome(None, await self._platform.wait_for_event(self._driver.named(key), name, seconds))

        text = await self._received(name, self._driver.ask(key, work))
        if text is not None:
            return codec.decode(text, f"The payload of signal {name!r}")
        if default is MISSING:
            raise ReceiveTimedOut(name, seconds or 0)
        return default

    async def _received(self, name: str, event: Awaitable[Any]) -> Any:
        """An event; one that an earlier execution did not see must not go to whoever has given up waiting for it."""
        problem = (
            f"receive({name!r}) was given up, and the engine may have given it an event that another one waits for: "
            f"use receive({name!r}, timeout=…, default=…), which ends by itself, or other names"
        )
        if name in self._given_up:
            raise NotInWorkflow(problem)
        self._receiving[name] += 1
        try:
            return await event
        except asyncio.CancelledError:
            self._given_up.add(name)
            if self._receiving[name] > 1:
                raise NotInWorkflow(problem) from None
            raise
        finally:
            self._receiving[name] -= 1

    # ----------------------------------------------------------------------------------- time and chance
    def now(self) -> datetime:
        """See `Context.now`."""
        return to_datetime(self._driver.time)

    def uuid(self) -> UUID:
        """See `Context.uuid`."""
        return ids.uuid_from(ids.stream(self._driver.seed, self._driver.key("uuid")))

    def random(self) -> Random:
        """See `Context.random`."""
        return ids.stream(self._driver.seed, self._driver.key("random"))

    async def emit(self, name: str, data: Any = None) -> NoReturn:  # noqa: ARG002 - as `Context.emit` is called
        """
        Not there: events of a run are in perdure's journal, and events for a run come from outside.

        Raises:
            NotInWorkflow: Always.
        """
        problem = f"emit({name!r}): the run is not in perdure's journal but on another engine"
        raise NotInWorkflow(problem)

    # -------------------------------------------------------------------------------------------- keys
    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """See `Context.scope`."""
        outer = self._driver.branch
        self._driver.branch = Branch(self._driver.key(ids.check_name("scope", name)) + "/")
        task = asyncio.current_task()
        try:
            yield
        finally:
            if isinstance(task, RunTask):
                task.branch = outer


class Body(Silent):
    """A body that runs on another engine, as `current_step` tells of it."""

    why = "the run is not in perdure's store but on another engine"

    def __init__(self, info: StepInfo) -> None:
        super().__init__(info)
        self._loop = asyncio.get_running_loop()

    def wait(self, awaitable: Awaitable[R]) -> R:
        """See `CurrentStep.wait`."""
        return wait_in_thread(awaitable, self._loop)


async def _call(step: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if step.is_async:
        return await step.fn(*args, **kwargs)
    value = await asyncio.to_thread(step.fn, *args, **kwargs)
    return await value if inspect.isawaitable(value) else value


def _parts(
    fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Step[..., Any], tuple[Any, ...], dict[str, Any], TypeCodec]:
    """A step, its arguments, and how its result is kept, from the ways in which `Context.step` is called."""
    if not isinstance(fn, str):
        step: Step[..., Any] = fn if isinstance(fn, Step) else Step(fn)
        return step, args, kwargs, step.returns
    named, returns = closure(fn, args, kwargs)
    return named, (), {}, returns
