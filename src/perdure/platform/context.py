"""The context of a workflow function on another engine."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
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
from perdure.engine.definition import Step, StepOptions, closure
from perdure.engine.machine import MISSING
from perdure.errors import InvalidOption, NotInWorkflow, ReceiveTimedOut, StepTimedOut
from perdure.ids import Random
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
    context = PlatformContext(platform, name)
    await context.begin()
    result: R = CallCodec(fn, skip=1).returns.settle(await fn(context, *args, **kwargs), f"The result of {name}")[1]
    return result


class _Branch:
    """Counts the operations of one task, or scope, of the function."""

    def __init__(self, prefix: str, task: object) -> None:
        self.prefix = prefix
        self.task = task
        self.tasks = 0
        self._counts: dict[str, int] = {}

    def key(self, name: str) -> str:
        """The key of the next operation of this name."""
        count = self._counts[name] = self._counts.get(name, 0) + 1
        return f"{self.prefix}{name}" if count == 1 else f"{self.prefix}{name}#{count}"


class PlatformContext:
    """
    `Steps` on a platform.

    Keys are made as on perdure: by name and repetition in each task and scope. Tasks are told apart by the order in
    which they first ask for something; so give concurrent branches that begin with other waits a scope each.
    """

    def __init__(self, platform: Platform, workflow: str) -> None:
        self._platform = platform
        self._workflow = workflow
        self._now = 0
        self._seed = 0
        self._branch: contextvars.ContextVar[_Branch] = contextvars.ContextVar("perdure_platform_branch")
        self.log = logging.LoggerAdapter(log, {"run_id": platform.run_id, "workflow": workflow})

    async def begin(self) -> None:
        """Find out when the run began, and its seed."""
        self._branch.set(_Branch("", asyncio.current_task()))
        began = await self._do(self._key("~begin"), lambda: str(ids.seed()))
        self._seed = int(began)

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
        name = self._key(step.name)
        timeout = None if settings.timeout is None else micros(settings.timeout) / SECOND
        body = self._body(step, args, kwargs, returns, StepInfo(self.run_id, self._workflow, name, 1), timeout)
        try:
            text = await self._platform.do(self._full(name), body, retry=settings.retry, timeout=timeout)
        except BodyFailed as failed:
            raise decode_error(self._observed(failed.text)) from None
        return returns.decode(self._observed(text), f"The stored result of step {name!r}")

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
                return self._stamped(returns.encode(value, f"The result of step {info.key!r}"))
            except Exception as error:
                timed_out = isinstance(error, TimeoutError) and timeout is not None and limit.expired()
                raised = StepTimedOut(info.key, timeout or 0, "attempt") if timed_out else error
                delay = step.settings.retry.next_delay(attempt, raised, ids.jitter())
                retry_in = None if delay is None else delay / SECOND
                raise BodyFailed(self._stamped(encode_error(raised)), retry_in) from error
            finally:
                running.over = True
                running_step.reset(token)

        return body

    async def _do(self, key: str, make: Callable[[], str]) -> str:
        """Keep a text of the context's own."""

        async def body(_attempt: int) -> str:
            return self._stamped(make())

        policy = StepOptions().retry
        return self._observed(await self._platform.do(self._full(key), body, retry=policy, timeout=None))

    def _stamped(self, text: str) -> str:
        """A text with the time at which it was made."""
        return f"{self._platform.clock.now()}:{text}"

    def _observed(self, stamped: str) -> str:
        """The text again; the run's time is that of what it has seen last."""
        at, _, text = stamped.partition(":")
        self._now = max(self._now, int(at))
        return text

    # ------------------------------------------------------------------------------------------ waiting
    async def sleep(self, until: float | timedelta | datetime) -> None:
        """See `Context.sleep`."""
        at = from_datetime(until) if isinstance(until, datetime) else self._now + micros(until)
        await self._platform.sleep(self._full(self._key("sleep")), max(0, at - self._now) / SECOND)
        self._now = max(self._now, at)

    async def receive(
        self, name: str, type: Any = Any, *, timeout: float | timedelta | None = None, default: Any = MISSING
    ) -> Any:
        """See `Context.receive`."""
        ids.check_name("signal name", name)
        key = self._key(name)
        seconds = None if timeout is None else micros(timeout, "timeout") / SECOND
        text = await self._platform.wait_for_event(self._full(key), name, seconds)
        await self._do(f"{key}~at", str)
        if text is not None:
            return codec_for(type).decode(text, f"The payload of signal {name!r}")
        if default is MISSING:
            raise ReceiveTimedOut(name, seconds or 0)
        return default

    # ----------------------------------------------------------------------------------- time and chance
    def now(self) -> datetime:
        """See `Context.now`."""
        return to_datetime(self._now)

    def uuid(self) -> UUID:
        """See `Context.uuid`."""
        return ids.uuid_from(ids.stream(self._seed, self._key("uuid")))

    def random(self) -> Random:
        """See `Context.random`."""
        return ids.stream(self._seed, self._key("random"))

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
        prefix = self._key(ids.check_name("scope", name)) + "/"
        token = self._branch.set(_Branch(prefix, asyncio.current_task()))
        try:
            yield
        finally:
            self._branch.reset(token)

    def _key(self, name: str) -> str:
        branch, task = self._branch.get(), asyncio.current_task()
        if branch.task is not task:
            # A task that the function has made: it has a copy of the context that it was made in.
            branch.tasks += 1
            branch = _Branch(f"{branch.prefix}~{branch.tasks}/", task)
            self._branch.set(branch)
        return branch.key(name)

    def _full(self, key: str) -> str:
        return f"{self._workflow}/{key}"


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
