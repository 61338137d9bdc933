"""Turns as workflows: one step that streams, and what is done with its text."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, Protocol

from perdure.engine.context import Context
from perdure.engine.current import current_step
from perdure.engine.definition import Registry, Step, StepOptions, Workflow, WorkflowOptions
from perdure.errors import InvalidOption
from perdure.model.check import check_known
from perdure.model.retry import Retry
from perdure.turn.log import TURN, Accumulate, Log, said
from perdure.turn.producer import Producer, Turn, TurnResult, produce

INTERRUPT = "the turn is interrupted"
"""The reason of a cancellation that ends the producer only, and keeps what was said."""
HOOK_RETRY = Retry()
log = logging.getLogger("perdure.turn")
P = ParamSpec("P")
_WORKFLOW = frozenset(WorkflowOptions.__dataclass_fields__) - {"timeout"}
_STEP = frozenset({"retry", "timeout", "total_timeout", "at_most_once"})
_OWN = frozenset({"continues", "accumulate", "transform", "persist", "transact", "complete", "stop"})


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """
    How a turn goes.

    Attributes:
        continues: The producer can go on behind what is logged (see `Turn`). Without this, what an interrupted
            execution has said is declared void when the next one begins.
        accumulate: How the text grows by each event; see `said` for what is known without it.
        transform: Called with the result and the turn's input; returns the text that is kept. Readers of the events
            do not see it. If it raises, the turn fails.
        transact: Called with an open `Transaction` of perdure's own database, the result and the input: what it writes
            is there exactly once. If it raises, the turn fails.
        persist: The same for storage elsewhere, called at least once: `current_step().idempotency_key` is the same
            each time.
        complete: Called last. Its errors are logged and do no harm.
        stop: Called with the result so far, what `Turn.keep` has kept, and the input, when the turn is interrupted or
            cancelled before its producer has ended: to end work that does not end with it.
    """

    continues: bool = False
    accumulate: Accumulate = said
    transform: Callable[..., Any] | None = None
    transact: Callable[..., Any] | None = None
    persist: Callable[..., Any] | None = None
    complete: Callable[..., Any] | None = None
    stop: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        for option in ("accumulate", "transform", "transact", "persist", "complete", "stop"):
            hook = getattr(self, option)
            if not callable(hook) and (hook is not None or option == "accumulate"):
                raise InvalidOption(option, f"{hook!r} is not a function")


class TurnWorkflow(Workflow[P, TurnResult]):
    """The workflow that a turn is."""


class TurnDecorator(Protocol):
    """What ``@app.turn(…)`` applies to the function."""

    def __call__(self, fn: Callable[Concatenate[Turn, P], AsyncIterator[Any]], /) -> Workflow[P, TurnResult]:
        """Register the function."""


def turn_workflow(producer: Producer, options: dict[str, Any]) -> Workflow[..., TurnResult]:
    """
    The workflow that runs a producer as a turn.

    Args:
        options: Fields of `TurnOptions`, of `WorkflowOptions` but its timeout, and of a step: ``retry``, ``timeout``
            (of one execution of the producer), ``total_timeout``, ``at_most_once``.

    Raises:
        InvalidOption: There is no such option, or the producer is no async generator function.
    """
    check_known("turn options", options, _WORKFLOW | _STEP | _OWN)
    if not inspect.isasyncgenfunction(producer):
        option = "turn"
        raise InvalidOption(option, f"{producer!r} is no async generator function: `async def` with a `yield`")
    settings = TurnOptions(**{name: options[name] for name in options.keys() & _OWN})
    step_options = StepOptions(**{"name": TURN} | {name: options[name] for name in options.keys() & _STEP})

    async def body(*args: Any, **kwargs: Any) -> TurnResult:
        return await produce(
            producer, args, kwargs, accumulate=settings.accumulate, continues=settings.continues
        )  # fmt: skip

    step = Step[..., TurnResult](body, step_options)

    async def run(ctx: Context, *args: Any, **kwargs: Any) -> TurnResult:
        return await _Play(ctx, settings, args, kwargs).run(step)

    own = inspect.signature(producer)
    ctx, *parameters = inspect.signature(run).parameters.values()
    parameters = list(own.parameters.values())[1:]
    run.__signature__ = own.replace(parameters=[ctx, *parameters], return_annotation=TurnResult)  # type: ignore[attr-defined]  # inspect looks for it
    run.__wrapped__ = producer  # type: ignore[attr-defined]  # whose module has the names of the annotations
    run.__name__, run.__qualname__, run.__doc__ = producer.__name__, producer.__qualname__, producer.__doc__
    return TurnWorkflow(run, WorkflowOptions(**{name: options[name] for name in options.keys() & _WORKFLOW}))


def register(registry: Registry, producer: Producer | None, options: dict[str, Any]) -> Any:
    """Register a producer as a turn, or give what does so with the one that it is applied to."""

    def registered(producer: Producer) -> Workflow[..., TurnResult]:
        workflow = turn_workflow(producer, options)
        registry.add(workflow)
        return workflow

    return registered if producer is None else registered(producer)


class _Play:
    """One run of a turn."""

    def __init__(self, ctx: Context, settings: TurnOptions, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._ctx = ctx
        self._settings = settings
        self._args = args
        self._kwargs = kwargs

    async def run(self, step: Step[..., TurnResult]) -> TurnResult:
        try:
            result = await self._ctx.step(step, *self._args, **self._kwargs)
        except asyncio.CancelledError:
            interrupted = self._ctx.cancel_reason == INTERRUPT
            if interrupted or self._settings.stop is not None:
                result = await self._stop()
            if not interrupted or not result.events:
                raise
            self._ctx.uncancel()
        return await self._keep(result)

    async def _stop(self) -> TurnResult:
        """What has been said counts; work that goes on elsewhere is ended."""
        settings = self._settings

        async def stop(*args: Any, **kwargs: Any) -> TurnResult:
            step = current_step()
            log = Log(settings.accumulate)
            log.read(await step.body.emitted(TURN))
            result = TurnResult(log.text, log.events, interrupted=True)
            if settings.stop is not None:
                await _awaited(settings.stop(result, log.handle, *args, **kwargs))
            return result

        return await self._ctx.step(Step(stop, StepOptions(retry=HOOK_RETRY)), *self._args, **self._kwargs)

    async def _keep(self, result: TurnResult) -> TurnResult:
        """What is done with the text: changed, stored, told of, in this order."""
        settings = self._settings
        if settings.transform is not None:
            text = await self._done(_hook("transform", settings.transform), result)
            result = TurnResult(str(text), result.events, result.interrupted)
        if settings.transact is not None:
            hook = settings.transact
            whole = _named("transact", lambda transaction, *args: hook(transaction, *args, **self._kwargs))
            await self._done(Step(whole, StepOptions(retry=HOOK_RETRY)), result, transactional=True)
        if settings.persist is not None:
            await self._done(_hook("persist", settings.persist).options(retry=HOOK_RETRY), result)
        if settings.complete is not None:
            try:
                await self._done(_hook("complete", settings.complete), result)
            except Exception:
                log.exception("turn %s: what was to be called in the end failed", self._ctx.run_id)
        return result

    async def _done(self, step: Step[..., Any], result: TurnResult, *, transactional: bool = False) -> Any:
        """A step that an interrupt does not end: all is said, so that there is nothing to be interrupted."""
        ctx, args = self._ctx, (result, *self._args)
        done = ctx.want(step, args, {} if transactional else self._kwargs, step.returns, transactional=transactional)
        while True:
            try:
                return await asyncio.shield(done)
            except asyncio.CancelledError:
                if ctx.cancel_reason != INTERRUPT:
                    done.cancel()
                    raise
                ctx.uncancel()


def _hook(name: str, fn: Callable[..., Any]) -> Step[..., Any]:
    """A function given as an option, as a step under the option's name; one that is a step keeps its options."""
    step = fn if isinstance(fn, Step) else Step(fn)
    return step.options(name=name)


def _named(name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
    fn.__name__ = name
    return fn


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
