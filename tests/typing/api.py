"""
Code as users write it, which must pass `mypy --strict`, with the types that it must have.

Never run; `make types` and test_typing.py check it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

from perdure import (
    App,
    Child,
    Command,
    Compressed,
    Context,
    CurrentStep,
    DurableResult,
    Entry,
    Flow,
    Limits,
    MapResult,
    Remark,
    Retry,
    RunEvent,
    RunFilter,
    RunHandle,
    RunInfo,
    State,
    Status,
    Step,
    Stream,
    StreamItem,
    StreamOptions,
    StreamProducer,
    StreamServer,
    Suspended,
    SyncContext,
    Transaction,
    WorkerOptions,
    Workflow,
    current_step,
    emit_event,
    run_durable,
)
from perdure.platform import Steps

app = App(
    "sqlite:///orders.db",
    worker=WorkerOptions(concurrency=10, lease=timedelta(seconds=5)),
    limits=Limits(payload_bytes=1000),
    codec=Compressed(),
    synchronous="NORMAL",
)
from_env = App.from_env(synchronous="FULL")
assert_type(from_env, App)


@dataclass
class Order:
    id: str
    cents: int


@dataclass
class Approval:
    ok: bool


# --------------------------------------------------------------------------------------------- steps
@app.step
async def charge(card: str, cents: int, *, note: str = "") -> str:
    info = current_step()
    assert_type(info, CurrentStep)
    info.emit("charged", {"cents": cents})
    assert_type(await info.flush(), None)
    return f"{card} {cents} {note} {info.idempotency_key}"


@app.step
def weigh(order: Order) -> float:
    return order.cents / 100


@app.step(retry=Retry(max_attempts=3, on=(OSError,)), timeout=30, total_timeout=timedelta(minutes=5), at_most_once=True)
async def book(order: Order) -> int:
    return order.cents


@app.step(name="parcel")
def label(order: Order) -> bytes:
    return order.id.encode()


async def plain(text: str) -> list[str]:
    return [text]


def plain_sync(number: int) -> dict[str, int]:
    return {"n": number}


def save(transaction: Transaction, item: str) -> int:
    rows = transaction.execute("select count(*) from stock where item = ?", (item,))
    assert_type(rows, list[tuple[Any, ...]])
    return int(rows[0][0])


assert_type(charge.options(timeout=5).name, str)


# ------------------------------------------------------------------------------------------ workflows
@app.workflow
async def empty(ctx: Context) -> None:
    await ctx.sleep(1)


@app.workflow
async def invoice(ctx: Context, order: Order) -> str:
    return f"{ctx.run_id} {order.id}"


@app.workflow(timeout=timedelta(days=1), grace=5)
async def ship(ctx: Context, order: Order, express: bool) -> int:
    return order.cents if express else 0


@app.workflow(name="plain")
def sync_workflow(ctx: SyncContext, order: Order) -> str:
    ctx.sleep(timedelta(hours=1))
    ctx.log.info("order %s", order.id)
    with ctx.scope("billing"):
        ctx.step(charge, "4111", order.cents)
    return ctx.run_id


@app.workflow
async def endless(ctx: Context, total: int) -> int:
    if total > 100:
        return total
    return ctx.continue_as_new(total + 1)


assert_type(empty, Workflow[[], None])


@app.step
async def refund(charge_id: str, card: str) -> None:
    pass


# --------------------------------------------------------------------------------------------- sagas
@app.workflow(compensate_on_cancel=True)
async def saga(ctx: Context, order: Order) -> str:
    charged = await ctx.step(charge.options(compensate=refund), "4111", order.cents)
    assert_type(charged, str)
    named = await ctx.step("pack", lambda: 5, compensate=lambda result: None)
    assert_type(named, int)
    invoiced = await ctx.call(invoice, order, compensate=refund)
    assert_type(invoiced, str)
    return charged


# --------------------------------------------------------------------------------------------- flows
def total(state: State[Order]) -> int:
    assert_type(state.input, Order)
    return state.input.cents


flow = (
    Flow("flow", input=Order, output=total)
    .step("total", total, compensate=refund, retry=Retry(max_attempts=2))
    .parallel("both", {"left": total, "right": Entry(total, timeout=5)})
    .child("invoice", invoice, given=lambda state: state.input)
    .step("inside", Flow("inner").sleep("nap", timedelta(seconds=1)))
)
assert_type(flow, Flow)
assert_type(app.flow(flow, timeout=60), Workflow[..., Any])


@app.workflow
async def checkout(ctx: Context, order: Order) -> str:
    # a step's result has the type of the function's
    assert_type(await ctx.step(charge, "4111", order.cents), str)
    assert_type(await ctx.step(charge, "4111", cents=order.cents, note="x"), str)
    assert_type(await ctx.step(charge.options(timeout=5), "4111", 5), str)
    assert_type(await ctx.step(weigh, order), float)
    assert_type(await ctx.step(book, order), int)
    assert_type(await ctx.step(label, order), bytes)
    assert_type(await ctx.step(plain, "x"), list[str])
    assert_type(await ctx.step(plain_sync, 1), dict[str, int])
    assert_type(await ctx.step("closure", lambda: 17), int)
    assert_type(await ctx.step("closure", lambda: plain("x"), timeout=5), list[str])
    assert_type(await ctx.step("closure", lambda: {"id": "1", "cents": 5}, returns=Order), Order)
    assert_type(await ctx.transaction(save, "lamp"), int)

    # asyncio keeps them
    both = await asyncio.gather(ctx.step(charge, "4111", 1), ctx.step(weigh, order))
    assert_type(both, tuple[str, float])

    # signals
    assert_type(await ctx.receive("approval", Approval), Approval)
    assert_type(await ctx.receive("approval", Approval, timeout=60), Approval)
    assert_type(await ctx.receive("approval", Approval, timeout=60, default=None), Approval | None)
    assert_type(await ctx.receive("anything"), Any)

    # children
    assert_type(await ctx.call(empty), None)
    assert_type(await ctx.call(invoice, order), str)
    assert_type(await ctx.call(ship, order, True, id="s", tags=["x"], timeout=5, detached=True), int)
    assert_type(await ctx.call(sync_workflow, order), str)
    assert_type(await ctx.call("by name", 1, "x"), Any)
    child = await ctx.start(invoice, order)
    assert_type(child, Child[str])
    assert_type(await child.result(), str)

    # many at once
    orders = [order, order]
    assert_type(await ctx.map(weigh, orders), list[float])
    assert_type(await ctx.map(book, orders, concurrency=2), list[int])
    assert_type(await ctx.map(invoice, orders), list[str])
    assert_type(await ctx.map(book, orders, tolerate=0.1, min_success=1), MapResult[int])
    assert_type(await ctx.race(ctx.step(charge, "4111", 1), ctx.call(invoice, order)), tuple[int, str])

    async with ctx.timeout(timedelta(hours=1)):
        await ctx.sleep(ctx.now() + timedelta(minutes=5))
    await ctx.emit("progress", {"done": 0.5})
    await ctx.annotate("seen by", "ada")
    ctx.log.info("%s", ctx.uuid().hex, extra={"chance": ctx.random().random()})
    if ctx.patched("new way"):
        return "new"
    return "old"


# -------------------------------------------------------------------------------------------- callers
async def place(command: Command, order: Order) -> str:
    run = await command.start(checkout, order, id=order.id)
    await command.signal(run.id, "approval", Approval(ok=True))
    return run.id


async def main() -> None:
    async with app as opened:
        assert_type(opened, App)
    async with app.connected():
        run = await app.start(checkout, Order("1", 5), id="order-1", tags=["x"], timeout=60, delay=timedelta(hours=1))
        assert_type(run, RunHandle[str])
        assert_type(await run.result(), str)
        assert_type(await (await app.start(empty)).result(), None)
        assert_type(await app.start(ship, Order("1", 5), True), RunHandle[int])
        assert_type(await app.start(sync_workflow, Order("1", 5), annotations={"why": 1}), RunHandle[str])
        assert_type(await app.start(empty, annotations=[Remark("why", 1, actor="ada")]), RunHandle[None])
        assert_type(await app.start("by name", 1, 2, id="x"), RunHandle[Any])
        session = object()
        assert_type(await app.start(ship, Order("1", 5), True, transaction=session), RunHandle[int])
        assert_type(app.inside(session).start(ship, Order("1", 5), True, id="x"), str)
        assert_type(app.inside(session).signal("x", "paid", 5), bool)
        assert_type(app.handle("order-1", checkout), RunHandle[str])
        assert_type(app.handle("order-1"), RunHandle[Any])
        async for event in run.events(after=3, follow=False):
            assert_type(event, RunEvent)
        assert_type(await run.info(), RunInfo)
        assert_type((await run.info()).status, Status)
        assert_type(await run.signal("approval", Approval(ok=True), key="k"), bool)
        await app.cancel("order-1", "why")
        found, after = await app.client.runs(RunFilter(status=(Status.FAILED,), limit=5))
        assert_type(found, list[RunInfo])
        assert_type(after, int | None)
        assert_type(await app.command("key", place, Order("1", 5)), str)
        fork = await app.client.fork("order-1", before="charge")
        assert_type(fork, RunHandle[Any])


async def use_streams() -> None:
    async with app.connected():
        stream = app.stream("answers/1", Order)
        assert_type(stream, Stream[Order])
        assert_type(await stream.create(ttl=60), bool)
        assert_type(await stream.append(Order("1", 5)), str)
        assert_type(await stream.read(), list[StreamItem[Order]])
        assert_type(stream.producer("p", 1), StreamProducer[Order])
        assert_type(await stream.producer().append(Order("1", 5), close=True), str)
        async for item in stream.tail("-1"):
            assert_type(item.value, Order)
        assert_type(app.stream("any"), Stream[Any])
        assert_type(app.stream_server(origins=["*"], options=StreamOptions(long_poll=5)), StreamServer)


async def portable(ctx: Steps, sku: str) -> int:
    found = await ctx.receive("found", int, timeout=5)
    return found + len(await ctx.step(charge, sku, 5))


app.workflow(portable)


async def lone(ctx: Context) -> int:
    return 1


def plain_lone(ctx: SyncContext) -> str:
    return "1"


async def without_an_app() -> None:
    done = await run_durable("r", lone, store="sqlite:///r.db", manifest={"a": 1})
    assert_type(done, DurableResult[int])
    result, _, _ = done
    assert_type(result, int)
    assert_type((await run_durable("r", plain_lone, store=app)).result, str)
    assert_type(await run_durable("r", lone, store=app, suspend=True, wait=None), DurableResult[int] | Suspended)
    assert_type((await emit_event("r", "news", 1, store=app)).accepted, bool)


async def unit_test_of_a_step() -> None:
    assert_type(await charge("4111", 5), str)
    assert_type(weigh(Order("1", 5)), float)


STEPS: dict[str, Step[[Order], Any]] = {"weigh": weigh, "book": book}
