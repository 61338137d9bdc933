"""Spans of runs, made by the real SDK."""

import asyncio
import logging
from collections import Counter
from contextlib import aclosing
from datetime import timedelta
from itertools import pairwise

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from perdure import Context, Retry
from perdure.engine.observer import TOLD, Observer
from perdure.observe.tracing import Tracing, trace_id_of
from perdure.store.operation import Operation
from perdure.testing.time import START


class Spans:
    """What a process has exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("user")
        self.tracing = Tracing(self.provider)

    @property
    def all(self):
        return self.exporter.get_finished_spans()

    def named(self, name):
        return [span for span in self.all if span.name == name]

    def one(self, name):
        (found,) = self.named(name)
        return found

    def names(self):
        return Counter(span.name for span in self.all)


@pytest.fixture
def spans():
    return Spans()


def seconds(span):
    return (span.start_time / 1e9 - START / 1e6, span.end_time / 1e9 - START / 1e6)


def is_within(inner, outer):
    """Whether one span is the other's child."""
    return inner.parent is not None and inner.parent.span_id == outer.context.span_id


async def nap(amount):
    await asyncio.sleep(amount)
    return amount


async def until(handle, kind):
    """Until the run has written an entry of this kind."""
    async with aclosing(handle.events()) as events:
        async for event in events:
            if event.kind == kind:
                return


def test_a_run_its_steps_and_their_attempts_nest(play, spans):
    """Somebody who looks at a trace would not see what a run did, when, and within what."""

    async def flow(ctx: Context) -> float:
        return await ctx.step(nap, 2.0) + await ctx.step("more", lambda: nap(3.0))

    async def main(app):
        return await (await app.start("flow", id="order-1")).result()

    assert play(main, flow, observers=[spans.tracing]) == 5.0
    assert spans.names() == {"run flow": 1, "step nap": 1, "attempt nap": 1, "step more": 1, "attempt more": 1}
    run, step, attempt = spans.one("run flow"), spans.one("step nap"), spans.one("attempt nap")
    assert is_within(step, run)
    assert is_within(attempt, step)
    assert is_within(spans.one("step more"), run)
    assert [round(at) for at in (*seconds(run), *seconds(step), *seconds(spans.one("attempt more")))] == [
        0,
        5,
        0,
        2,
        2,
        5,
    ]
    assert run.kind is SpanKind.CONSUMER
    assert dict(run.attributes) == {
        "perdure.run.id": "order-1", "perdure.workflow.name": "flow", "perdure.run.generation": 1,
        "perdure.run.resumed": False, "perdure.run.left": "completed",
    }  # fmt: skip
    assert dict(attempt.attributes) == {
        "perdure.run.id": "order-1", "perdure.step.key": "nap", "perdure.attempt": 1,
        "code.function.name": f"{nap.__module__}.nap",
    }  # fmt: skip
    assert {span.context.trace_id for span in spans.all} == {trace_id_of("order-1")}


def test_retries_are_attempts_of_one_step(play, spans):
    """A step that failed twice would look as if it had been three, or as if nothing had gone wrong."""
    tried = []

    class Busy(Exception):
        pass

    def charge():
        tried.append(len(tried))
        if len(tried) < 3:
            raise Busy("later, please")
        return "paid"

    async def flow(ctx: Context) -> str:
        return await ctx.step("charge", charge, retry=Retry(max_attempts=3, delay=0.02))

    async def main(app):
        return await (await app.start("flow")).result()

    assert play(main, flow, observers=[spans.tracing]) == "paid"
    step, attempts = spans.one("step charge"), spans.named("attempt charge")
    assert [span.attributes["perdure.attempt"] for span in attempts] == [1, 2, 3]
    assert all(is_within(attempt, step) for attempt in attempts)
    assert [span.status.status_code for span in (*attempts, step)] == [StatusCode.ERROR] * 2 + [StatusCode.UNSET] * 2
    (event,) = attempts[0].events
    assert (event.name, event.attributes["exception.message"]) == ("exception", "later, please")
    assert attempts[0].attributes["error.type"].endswith("Busy")


def test_a_failed_run_says_why(play, spans):
    """The trace of a failed run would look like that of any other."""

    async def flow(ctx: Context) -> None:
        await ctx.step("charge", lambda: 1 / 0)

    async def main(app):
        with pytest.raises(Exception, match="division"):
            await (await app.start("flow")).result()

    play(main, flow, observers=[spans.tracing])
    for name in ("run flow", "step charge", "attempt charge"):
        span = spans.one(name)
        assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, "ZeroDivisionError")
        assert [event.name for event in span.events] == ["exception"]


def test_a_run_that_goes_on_elsewhere_months_later(play, spans):
    """The pieces of one run would be scattered over traces, and what was replayed would be told twice."""
    other = Spans()

    async def flow(ctx: Context) -> str:
        await ctx.step("before", lambda: "b")
        await ctx.sleep(timedelta(days=90))
        await ctx.step("after", lambda: "a")
        return await ctx.receive("go", str)

    async def main(app):
        async with app.variant(observers=[spans.tracing]) as first:
            await until(await first.start("flow", id="r"), "timer_set")
        async with app.variant(observers=[other.tracing]) as second:
            await asyncio.sleep(91 * 86_400)
            await second.signal("r", "go", "ok")
            return await second.handle("r").result()

    assert play(main, flow, opened=False) == "ok"
    assert spans.names() == {"run flow": 1, "step before": 1, "attempt before": 1}
    assert other.names() == {"run flow": 2, "step after": 1, "attempt after": 1}
    pieces = [spans.one("run flow"), *other.named("run flow")]
    assert [span.attributes["perdure.run.left"] for span in pieces] == ["parked", "parked", "completed"]
    assert {span.context.trace_id for span in (*spans.all, *other.all)} == {trace_id_of("r")}
    assert len({span.parent.span_id for span in pieces}) == 1
    for earlier, later in pairwise(pieces):
        (link,) = later.links
        assert (link.context.span_id, link.context.trace_id) == (earlier.context.span_id, earlier.context.trace_id)
        assert later.attributes["perdure.run.resumed"] is True


def test_a_killed_worker_is_linked_to(play, spans):
    """After a crash nobody would find what the run had done before."""
    other = Spans()

    async def flow(ctx: Context) -> int:
        await ctx.step("first", lambda: 1)
        await ctx.step("slow", lambda: nap(1_000.0))
        return 7

    async def main(app):
        first = app.variant(observers=[spans.tracing])
        async with app.connected():
            async with first:
                await first.start("flow", id="r")
                await asyncio.sleep(1)
                first.worker.kill()
                number = first.worker.number
            await app.client.store.apply(Operation([("declare_dead", (number, START + 2_000_000))]))
            async with app.variant(observers=[other.tracing]) as second:
                return await second.handle("r").result()

    assert play(main, flow, opened=False) == 7
    assert other.names() == {"run flow": 1, "step slow": 1, "attempt slow": 1}
    (link,) = other.one("run flow").links
    # The killed process never exported its span; what it did export is the child of just that one.
    assert link.context.span_id == spans.one("step first").parent.span_id


def test_children_are_in_their_parents_trace(play, spans):
    """What a run did through others would be in traces that nothing leads to."""

    async def child(ctx: Context, n: int) -> int:
        return await ctx.step("work", lambda: n)

    async def parent(ctx: Context) -> int:
        first = await ctx.call("child", 1)
        await ctx.sleep(1_000)
        return first + await ctx.call("child", 2, id="chosen")

    async def main(app):
        return await (await app.start("parent", id="p")).result()

    assert play(main, parent, child, observers=[spans.tracing]) == 3
    assert {span.context.trace_id for span in spans.all} == {trace_id_of("p")}
    parents = {span.context.span_id: span for span in spans.named("run parent")}
    children = spans.named("run child")
    assert [span.parent.span_id in parents for span in children] == [True, True]
    assert children[0].links == ()


def test_the_callers_context(play, spans):
    """A request and the run that it started would not be found from each other; baggage would end at the start."""
    seen = []

    def look():
        seen.append((baggage.get_baggage("tenant"), trace.get_current_span().get_span_context()))
        with spans.tracer.start_as_current_span("query"):
            pass

    async def flow(ctx: Context) -> None:
        await ctx.step(look)
        await ctx.sleep(1_000)
        await ctx.step(look)

    async def main(app):
        with spans.tracer.start_as_current_span("POST /orders"):
            token = context.attach(baggage.set_baggage("tenant", "acme"))
            handle = await app.start("flow", id="r")
            context.detach(token)
        await handle.result()

    play(main, flow, observers=[spans.tracing], worker={"cached_runs": 0})
    request, (first, second) = spans.one("POST /orders"), spans.named("run flow")
    assert [link.context.span_id for link in first.links] == [request.context.span_id]
    assert [link.context.span_id for link in second.links] == [first.context.span_id]
    assert first.context.trace_id == trace_id_of("r") != request.context.trace_id
    assert [tenant for tenant, _ in seen] == ["acme", "acme"]
    attempts = spans.named("attempt look")
    assert [current.span_id for _, current in seen] == [attempt.context.span_id for attempt in attempts]
    assert all(is_within(query, attempt) for query, attempt in zip(spans.named("query"), attempts, strict=True))


def test_bodies_in_threads_and_transactions_have_the_span(play, spans):
    """User code that runs in a thread would make spans that belong to nothing."""

    def query(*_):
        with spans.tracer.start_as_current_span("query"):
            return 1

    async def flow(ctx: Context) -> int:
        return await ctx.step(query) + await ctx.transaction(query)

    async def main(app):
        return await (await app.start("flow")).result()

    assert play(main, flow, observers=[spans.tracing]) == 2
    attempts = spans.named("attempt query")
    assert [is_within(query, attempt) for query, attempt in zip(spans.named("query"), attempts, strict=True)] == [
        True
    ] * 2
    assert spans.names()["step query"] == 2


def test_given_up_steps_end(play, spans):
    """The spans of steps that nobody waited for would never be exported."""

    async def flow(ctx: Context) -> int:
        return (await ctx.race(ctx.step("quick", lambda: nap(1.0)), ctx.step("slow", lambda: nap(1_000.0))))[0]

    async def main(app):
        return await (await app.start("flow")).result()

    assert play(main, flow, observers=[spans.tracing]) == 0
    slow = spans.one("attempt slow")
    assert slow.attributes["perdure.cancelled"] is True
    assert slow.status.status_code is StatusCode.UNSET
    assert round(seconds(spans.one("step slow"))[1]) == 1


@pytest.mark.parametrize("traced", [True, False])
def test_the_callers_decision_holds(play, traced):
    """A run that was started by a request which is not traced would be traced all the same, or the other way round."""
    made = Spans()
    caller = TracerProvider(sampler=TraceIdRatioBased(float(traced))).get_tracer("caller")
    tracing = Tracing(made.provider, ratio=1.0 - traced)

    def one() -> int:
        with made.provider.get_tracer("user").start_as_current_span("query"):
            return 1

    async def flow(ctx: Context) -> int:
        return await ctx.step(one)

    async def main(app):
        with caller.start_as_current_span("request"):
            handle = await app.start("flow")
        await handle.result()
        return await app.client.store.select("select count(*) from perdure_traces where trace like '%last%'")

    kept = play(main, flow, observers=[tracing])
    names = ("run flow", "step one", "attempt one", "query")
    assert made.names() == (dict.fromkeys(names, 1) if traced else {})
    assert kept == [(int(traced),)]


def test_a_share_of_the_runs(play):
    """Whether a run is traced would differ from piece to piece, or be decided for all alike."""
    made = Spans()
    chosen = {n for n in range(40) if trace_id_of(f"r{n}") & (1 << 64) - 1 < 1 << 63}

    async def flow(ctx: Context) -> int:
        await ctx.sleep(100)
        return await ctx.call("leaf", 1)

    async def leaf(ctx: Context, n: int) -> int:
        return n

    async def main(app):
        for n in range(40):
            await app.start("flow", id=f"r{n}")
        for n in range(40):
            await app.handle(f"r{n}").result()

    play(main, flow, leaf, observers=[Tracing(made.provider, ratio=0.5)], worker={"cached_runs": 0})
    pieces = Counter(span.attributes["perdure.run.id"] for span in made.named("run flow"))
    assert 8 < len(chosen) < 32
    assert set(pieces) == {f"r{n}" for n in chosen}
    assert set(pieces.values()) == {3}
    assert len(made.named("run leaf")) == len(chosen)


def test_an_observer_that_fails_does_no_harm(play, spans, caplog):
    """A mistake in somebody's metrics would stop their runs."""

    def failing(name):
        def fail(*_):
            raise ValueError(name)

        return fail

    broken = type("Broken", (Observer,), {"keeps": True, **{name: failing(name) for name in TOLD}})()

    async def flow(ctx: Context) -> int:
        await ctx.sleep(100)
        return await ctx.step("one", lambda: 1)

    async def main(app):
        return await (await app.start("flow")).result()

    with caplog.at_level(logging.ERROR, "perdure.engine"):
        assert play(main, flow, observers=[broken, spans.tracing], worker={"cached_runs": 0}) == 1
    assert {record.exc_info[1].args[0] for record in caplog.records} >= {
        "starting",
        "driving",
        "left",
        "attempt_begins",
    }
    assert spans.names() == {"run flow": 2, "step one": 1, "attempt one": 1}
