"""
Runs as OpenTelemetry sees them. Needs `perdure[otel]`; what is done with the spans is up to the SDK of the process.

All spans of a run, and of its child runs, are of one trace, whose id follows from the run's id. What was going on
before, such as the request that started the run, or the same run before it was put aside, is linked to.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from opentelemetry import baggage, context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from perdure.codec.failure import message_of
from perdure.engine.observer import Observer
from perdure.engine.request import StepRequest
from perdure.errors import PerdureError
from perdure.model.run import Claimed
from perdure.model.version import unpin

MOST_MESSAGE = 1_000
MOST_KEPT = 4_000
"""Characters of a caller's context that are kept with a run; of a longer one only the trace's part is."""
_W3C = TraceContextTextMapPropagator()
_LOWER = (1 << 64) - 1


def trace_id_of(run_id: str) -> int:
    """
    The id of the trace that a run belongs to, unless it is another run's child: then it is in its parent's.

    `f"{trace_id_of(run_id):032x}"` is what tracing systems show, and search for.
    """
    return _number(run_id, 16)


@dataclass(slots=True)
class _Stretch:
    """What is open while a run is driven."""

    span: Span
    base: Context
    steps: dict[str, Span] = field(default_factory=dict)
    attempts: dict[str, Span] = field(default_factory=dict)


class Tracing(Observer):
    """
    Makes spans of runs, of their steps, and of each attempt.

    A run is one span for each stretch in which a worker drives it: from its start, or from being taken up again, until
    it ends or waits. Nothing is made of a replay. Baggage of whoever started a run is there in the bodies of its
    steps, and the span of the attempt is the current one.

    Args:
        tracer_provider: OpenTelemetry's global one when left out.
        ratio: Of the runs that were started outside of any trace, how many are traced, 0 to 1. A run that was started
            inside one is traced if that one is.
    """

    keeps = True

    def __init__(self, tracer_provider: trace.TracerProvider | None = None, *, ratio: float = 1.0) -> None:
        self._tracer = trace.get_tracer("perdure", tracer_provider=tracer_provider)
        self._bound = round(ratio * (1 << 64))
        self._stretches: dict[tuple[str, int], _Stretch] = {}

    # ------------------------------------------------------------------------------------- starting
    def starting(self, workflow: str, run_id: str) -> str | None:  # noqa: ARG002 - an observer's
        """Keep the caller's context with the run."""
        caller: dict[str, str] = {}
        propagate.inject(caller)
        if sum(map(len, caller.values())) > MOST_KEPT:
            caller = {}
            _W3C.inject(caller)
        return json.dumps({"caller": caller}) if caller else None

    def starting_child(self, parent: Claimed, workflow: str, run_id: str) -> str | None:  # noqa: ARG002 - as above
        """Keep the parent's span, and what came with the parent, with the child."""
        stretch = self._stretches.get(_key(parent))
        if stretch is None:
            return None
        kept = _kept(parent)
        return json.dumps({"caller": kept.get("caller", {}), "parent": _text(stretch.span.get_span_context())})

    # ----------------------------------------------------------------------------------- stretches
    def driving(self, run: Claimed, at: int) -> str | None:
        """Begin a span, linked to the run's last one, or to whoever started it."""
        kept = _kept(run)
        caller, last = propagate.extract(kept.get("caller", {}), Context()), _span_context(kept.get("last"))
        above = _span_context(kept.get("parent")) or self._root(run, caller)
        links = []
        if last is not None:
            links = [Link(last, {"perdure.link": "resumed from"})]
        elif "parent" not in kept and (started_by := trace.get_current_span(caller).get_span_context()).is_valid:
            links = [Link(started_by, {"perdure.link": "started by"})]
        name, version = unpin(run.workflow)
        attributes: dict[str, Any] = {
            "perdure.run.id": run.id, "perdure.workflow.name": name, "perdure.run.generation": run.generation,
            "perdure.run.resumed": last is not None,
        }  # fmt: skip
        attributes |= {"perdure.workflow.version": version} if version else {}
        attributes |= {"perdure.queue.name": run.queue} if run.queue else {}
        span = self._tracer.start_span(
            f"run {name}", trace.set_span_in_context(NonRecordingSpan(above), Context()), SpanKind.CONSUMER,
            attributes, links, start_time=at * 1_000,
        )  # fmt: skip
        base = Context()
        for entry, value in baggage.get_all(caller).items():
            base = baggage.set_baggage(entry, value, base)
        self._stretches[_key(run)] = _Stretch(span, base)
        if not span.is_recording():
            return None
        return json.dumps({**kept, "last": _text(span.get_span_context())})

    def left(self, run: Claimed, how: str, error: BaseException | None, at: int) -> None:
        """End the span, and those that are still open in it."""
        stretch = self._stretches.pop(_key(run), None)
        if stretch is None:
            return
        for span in (*stretch.attempts.values(), *stretch.steps.values()):
            span.end(at * 1_000)
        stretch.span.set_attribute("perdure.run.left", how)
        _end(stretch.span, error if how in {"failed", "paused"} else None, at)

    # -------------------------------------------------------------------------- steps and attempts
    def attempt_begins(self, run: Claimed, step: StepRequest, at: int) -> None:
        """Begin a span for the attempt, which is the current one in the body, and one for its step."""
        stretch = self._stretches.get(_key(run))
        if stretch is None:
            return
        if not stretch.span.is_recording():
            context.attach(trace.set_span_in_context(stretch.span, stretch.base))
            return
        attributes: dict[str, Any] = {"perdure.run.id": run.id, "perdure.step.key": step.key}
        above = stretch.steps.get(step.key)
        if above is None:
            within = trace.set_span_in_context(stretch.span, stretch.base)
            above = stretch.steps[step.key] = self._tracer.start_span(
                f"step {step.step.name}", within, attributes=attributes, start_time=at * 1_000
            )
        within = trace.set_span_in_context(above, stretch.base)
        fn = step.step.fn
        span = stretch.attempts[step.key] = self._tracer.start_span(
            f"attempt {step.step.name}", within, start_time=at * 1_000,
            attributes=attributes | {
                "perdure.attempt": step.attempt,
                "code.function.name": f"{getattr(fn, '__module__', '')}.{getattr(fn, '__qualname__', step.step.name)}",
            },
        )  # fmt: skip
        context.attach(trace.set_span_in_context(span, stretch.base))

    def attempt_ended(self, run: Claimed, step: StepRequest, error: BaseException | None, begun: int, at: int) -> None:  # noqa: ARG002 - as above
        """End the attempt's span."""
        stretch = self._stretches.get(_key(run))
        if stretch is not None and (span := stretch.attempts.pop(step.key, None)) is not None:
            _end(span, error, at)

    def step_ended(self, run: Claimed, step: StepRequest, error: BaseException | None, at: int) -> None:
        """End the step's span."""
        stretch = self._stretches.get(_key(run))
        if stretch is not None and (span := stretch.steps.pop(step.key, None)) is not None:
            _end(span, error, at)

    # --------------------------------------------------------------------------------------- inside
    def _root(self, run: Claimed, caller: Context) -> SpanContext:
        """
        What a run's spans are the children of when it is nobody's child: a span that is never made.

        So they all are of one trace, whichever processes make them.
        """
        trace_id = trace_id_of(run.id)
        started_by = trace.get_current_span(caller).get_span_context()
        traced = started_by.trace_flags.sampled if started_by.is_valid else trace_id & _LOWER < self._bound
        flags = TraceFlags(TraceFlags.SAMPLED if traced else TraceFlags.DEFAULT)
        return SpanContext(trace_id, _number(run.id, 8), is_remote=True, trace_flags=flags)


def _key(run: Claimed) -> tuple[str, int]:
    return run.id, run.epoch


def _kept(run: Claimed) -> dict[str, Any]:
    try:
        found = json.loads(run.trace or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _number(text: str, size: int) -> int:
    """A number that is not 0, of so many bytes, determined by a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=size, person=b"perdure").digest(), "big") or 1


def _text(span: SpanContext) -> str:
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(NonRecordingSpan(span), Context()))
    return carrier.get("traceparent", "")


def _span_context(text: str | None) -> SpanContext | None:
    if not text:
        return None
    found = trace.get_current_span(_W3C.extract({"traceparent": text}, Context())).get_span_context()
    return found if found.is_valid else None


def _end(span: Span, error: BaseException | None, at: int) -> None:
    try:
        if isinstance(error, asyncio.CancelledError):
            span.set_attribute("perdure.cancelled", value=True)
        elif error is not None:
            kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
            span.set_attribute("error.type", error.code if isinstance(error, PerdureError) else kind)
            span.set_status(Status(StatusCode.ERROR, f"{kind}: {message_of(error)}"[:MOST_MESSAGE]))
            span.record_exception(error, timestamp=at * 1_000)
    finally:
        span.end(at * 1_000)
