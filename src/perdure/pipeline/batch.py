"""Stages that hand their work to a service, and ask it again and again until it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, Generic, TypeVar, Union

from perdure.clock import SECOND, micros
from perdure.codec.call import CallCodec
from perdure.codec.value import TypeCodec, codec_for
from perdure.declared.call import takes
from perdure.engine.context import Context
from perdure.engine.definition import Step, StepOptions
from perdure.errors import BatchTimedOut, InvalidInput, InvalidOption
from perdure.model.retry import Retry
from perdure.pipeline.context import StageContext
from perdure.pipeline.stage import Stage, Work, step_of
from perdure.pipeline.types import output_beside

R = TypeVar("R")
CHECK_RETRY = Retry(max_attempts=10, delay=2.0, cap=300.0, jitter=0.5)
"""How a check that raises is tried again by default: for some ten minutes."""


@dataclass(frozen=True, slots=True)
class Pending:
    """
    What a check returns while the batch is not ready.

    Attributes:
        next_check_in: Seconds or timedelta until the next one; the batch's interval when left out.
        progress: Shown while the stage waits, such as "40 of 100".
    """

    next_check_in: float | timedelta | None = None
    progress: str = ""

    def __post_init__(self) -> None:
        if self.next_check_in is not None and micros(self.next_check_in, "next_check_in") == 0:
            option, problem = "next_check_in", "it must be more than 0"
            raise InvalidOption(option, problem)


@dataclass(frozen=True, slots=True)
class Item(Generic[R]):
    """
    What became of one item of a batch: a value, or what went wrong.

    Attributes:
        id: What it was submitted under.
    """

    id: str
    value: R | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it has a value."""
        return self.error is None


def items_of(type: type[R], answers: Mapping[str, Any], *, asked: Iterable[str] | None = None) -> list[Item[R]]:
    """
    Make items of what a service answered, each by itself: one that is wrong does not spoil the others.

    Args:
        type: What each value must be; plain data is made into it.
        answers: By the item's id its value, or an exception for one that has failed.
        asked: The ids that were submitted: for one that has no answer there is an item with an error.
    """
    codec = codec_for(type)
    items: list[Item[R]] = []
    for name, answer in answers.items():
        if isinstance(answer, BaseException):
            items.append(Item(name, error=str(answer) or answer.__class__.__name__))
            continue
        try:
            items.append(Item(name, value=codec.settle(answer, f"Item {name!r}")[1]))
        except InvalidInput as error:
            items.append(Item(name, error=str(error)))
    missing = [name for name in asked or () if name not in answers]
    return items + [Item(name, error="the batch has no answer for it") for name in missing]


@dataclass(frozen=True, slots=True, init=False)
class Batch(Stage):
    """
    A stage whose work is done elsewhere: submitted once, and then asked for until it is ready.

    ``submit(stage)`` returns what the batch is known by, any value; that is recorded once, so a run that is taken over
    or delivered again does not submit twice. Should the worker die between the service's answer and the record, it is
    called again with the same ``stage.idempotency_key``; ``at_most_once=True`` is for services that take none.

    ``check(stage, batch)`` returns the output, or `Pending`; raising `Terminal` fails the stage, and whatever else it
    raises is tried again as ``check_retry`` says. It is called when its time has come, and at once when the run gets a
    signal with the stage's id, as from a webhook. In between the run costs no memory and no worker.

    Args:
        cancel: Called as ``cancel(stage, batch)`` when nobody waits for the batch any more: the run was cancelled, a
            sibling has failed, or the deadline has passed. A step as well.
        every: Seconds or timedelta from one check to the next.
        first: The same to the first one; `every` when left out.
        deadline: The same from the submission to the last check. A batch that is ready by then counts, however late
            the check comes.
        check_retry: For `check` and `cancel`; the option ``retry`` is for `submit`, and ``timeout`` for each of them.
        options: As for `Stage`; without ``compensate``.
    """

    kind: ClassVar[str] = "batch"
    check: Callable[..., Any]
    cancel: Callable[..., Any] | None
    every: int
    first: int
    deadline: int
    check_retry: Retry

    def __init__(
        self,
        submit: Callable[..., Any],
        check: Callable[..., Any],
        *,
        cancel: Callable[..., Any] | None = None,
        every: float | timedelta = 30.0,
        first: float | timedelta | None = None,
        deadline: float | timedelta = timedelta(hours=24),
        check_retry: Retry = CHECK_RETRY,
        **options: Any,
    ) -> None:
        if "compensate" in options:
            option, problem = "compensate", "a batch has cancel=; what it gave is undone by a stage after it"
            raise InvalidOption(option, problem)
        plain = check.fn if isinstance(check, Step) else check
        takes(f"check {getattr(plain, '__name__', plain)}", plain, "stage", "batch")
        if "output" not in options:
            options["output"] = output_beside(plain, Pending)
        Stage.__init__(self, submit, **options)
        for name, span in (("every", every), ("first", every if first is None else first), ("deadline", deadline)):
            if micros(span, name) == 0 and name != "first":
                raise InvalidOption(name, "it must be more than 0")
            object.__setattr__(self, name, micros(span, name))
        StepOptions(retry=check_retry)  # which checks it
        for name, value in (("check", plain), ("cancel", cancel), ("check_retry", check_retry)):
            object.__setattr__(self, name, value)

    def work(self, name: str) -> BatchWork:
        """How it is done under this id."""
        again = self.options.changed(retry=self.check_retry, total_timeout=None, at_most_once=False)
        output: Any = self.output
        answer = TypeCodec(Union[tuple[output], Pending])  # noqa: UP007 - of a type that is known at run time only
        return BatchWork(
            name, self, step_of(self.fn, self.options.changed(name=f"{name}#submit"), CallCodec(self.fn).returns),
            step_of(self.check, again.changed(name=f"{name}#check"), answer, _told),
            None if self.cancel is None else step_of(self.cancel, again.changed(name=f"{name}#cancel"), codec_for(Any)),
        )  # fmt: skip


def _told(answer: Any) -> Any:
    return answer if isinstance(answer, Pending) else (answer,)


@dataclass(frozen=True, slots=True)
class BatchWork(Work):
    """
    A batch in its place.

    Attributes:
        check: The step that asks for it.
        cancel: The step that gives it up, if there is one.
    """

    stage: Batch
    check: Step[..., Any]
    cancel: Step[..., Any] | None

    async def done(self, ctx: Context, stage: StageContext[Any, Any]) -> Any:
        """Submit it, and wait until it is ready; gives its output."""
        batch = await ctx.step(self.step, stage)
        try:
            return await self._output(ctx, stage, batch)
        except (Exception, asyncio.CancelledError):
            if self.cancel is not None:
                with suppress(Exception):  # the journal tells of it; what ended the wait is what counts
                    await ctx.step(self.cancel, stage, batch)
            raise

    async def _output(self, ctx: Context, stage: StageContext[Any, Any], batch: Any) -> Any:
        definition = self.stage
        until = ctx.now() + timedelta(microseconds=definition.deadline)
        wait = timedelta(microseconds=definition.first)
        while True:
            notice = await self._notice(ctx, min(wait, max(until - ctx.now(), timedelta())))
            answer = await ctx.step(self.check, stage, batch, notice=notice)
            if not isinstance(answer, Pending):
                return answer[0]
            if ctx.now() >= until:
                raise BatchTimedOut(self.id, definition.deadline / SECOND)
            span = definition.every if answer.next_check_in is None else micros(answer.next_check_in)
            wait = timedelta(microseconds=span)

    async def _notice(self, ctx: Context, wait: timedelta) -> Any:
        """Wait, unless somebody sends a signal; gives what it said."""
        if not wait:
            return None
        with ctx.scope(f"{self.id}#wait"):
            return await ctx.receive(self.id, timeout=wait, default=None)
