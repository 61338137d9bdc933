"""
Mistakes of users, each of which mypy must find, with this code, on this line.

`make types` fails where one passes, as its `type: ignore` is then unused; test_typing.py compares the lines.
"""

from __future__ import annotations

from perdure import App, Context, Retry, WorkerOptions

app = App()


@app.step
async def charge(card: str, cents: int) -> str:
    return f"{card} {cents}"


@app.step
def weigh(order: str) -> float:
    return float(order)


@app.workflow
async def invoice(ctx: Context, order: str) -> str:
    return f"{ctx.run_id} {order}"


@app.workflow
async def empty(ctx: Context) -> None:
    await ctx.sleep(1)


@app.workflow
async def mistakes(ctx: Context) -> int:
    await ctx.step(charge, "4111")  # type: ignore[call-overload]  # an argument is missing
    await ctx.step(charge, 4111, 5)  # type: ignore[call-overload]  # of another type
    await ctx.step(charge, "4111", 5, timeout=5)  # type: ignore[call-arg]  # options go through .options()
    await ctx.step("closure", charge)  # type: ignore[arg-type]  # a closure takes no arguments
    ctx.step(charge, "4111", 5)  # type: ignore[unused-coroutine]  # not awaited
    number: int = await ctx.step(charge, "4111", 5)  # type: ignore[call-overload]  # it gives a string
    signal: int = await ctx.receive("signal", str)  # type: ignore[arg-type]  # as above
    await ctx.receive("signal", timeout="soon")  # type: ignore[call-overload]  # neither seconds nor timedelta
    await ctx.call(invoice)  # type: ignore[arg-type]  # no input
    await ctx.call(invoice, 5)  # type: ignore[misc]  # of another type
    await ctx.call(empty, 5)  # type: ignore[arg-type]  # it takes none
    await ctx.call(invoice, "5", id=5)  # type: ignore[call-overload]  # an id is a string
    await ctx.start(charge, "4111")  # type: ignore[call-overload]  # a step is no workflow
    await ctx.map(weigh, [1, 2])  # type: ignore[arg-type]  # items of another type
    await ctx.sleep("1h")  # type: ignore[arg-type]  # neither seconds, timedelta nor datetime
    ctx.missing()  # type: ignore[attr-defined]
    return number + signal


@app.workflow  # type: ignore[arg-type]  # a plain function gets a SyncContext
def wrong_context(ctx: Context) -> str:
    return ctx.run_id


@app.workflow  # type: ignore[arg-type]  # a workflow takes a context
async def no_context(order: str) -> None:
    await app.signal(order, "x")


async def main() -> None:
    await app.start(invoice)  # type: ignore[arg-type]  # no input
    await app.start(invoice, 5)  # type: ignore[misc]  # of another type
    app.inside(object()).start(invoice, 5)  # type: ignore[misc]  # of another type
    await app.start(invoice, "5", ident="x")  # type: ignore[call-overload]  # no such option
    result: int = await (await app.start(invoice, "5")).result()  # type: ignore[assignment]  # it gives a string
    app.step(weigh, timeout=5)  # type: ignore[call-overload]  # options or a function
    charge("4111", 5)  # type: ignore[unused-coroutine]  # the function itself, not awaited
    text: int = weigh("5")  # type: ignore[assignment]  # it gives a float
    await app.handle("x", invoice).signal("a", key=text)  # type: ignore[arg-type]  # a key is a string
    Retry(attempts=5)  # type: ignore[call-arg]  # it is max_attempts
    WorkerOptions(concurrency="many")  # type: ignore[arg-type]
    await app.signal("run", 5)  # type: ignore[arg-type]  # a name is a string
    app.handle(str(result))
