"""
An order from charge to invoice: retries, steps side by side, a signal with a deadline, a child run, events.

    python examples/checkout.py

The database is in memory, and days are seconds, so that it ends soon.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from pydantic import BaseModel

from perdure import App, Context, Retry, current_step

app = App("sqlite://")
DAY = timedelta(seconds=1)
FREE_FROM = 5000


class Order(BaseModel):
    id: str
    card: str
    cents: int


class Approval(BaseModel):
    ok: bool
    by: str


@app.step(retry=Retry(max_attempts=5, delay=0.05), timeout=30)
async def charge(card: str, cents: int) -> str:
    step = current_step()
    if step.attempt == 1:
        raise ConnectionError("the card service does not answer")
    # The key is the same for every attempt, so the service charges once, whatever happens to us.
    return f"{cents} cents of {card}, idempotency key {step.idempotency_key}"


@app.step
async def refund(charge_id: str) -> None:
    print(f"  refunded: {charge_id}")


@app.step
async def quote_shipping(order: Order) -> int:
    return 490 if order.cents < FREE_FROM else 0


@app.step
def print_label(order: Order) -> str:
    """A plain function runs in a thread."""
    return f"label-{order.id}"


@app.step
async def write_invoice(order: Order, shipping: int) -> str:
    return f"invoice for {order.id}: {order.cents + shipping} cents"


@app.workflow
async def make_invoice(ctx: Context, order: Order, shipping: int) -> str:
    return await ctx.step(write_invoice, order, shipping)


@app.workflow
async def checkout(ctx: Context, order: Order) -> str:
    charge_id = await ctx.step(charge, order.card, order.cents)
    shipping, label = await asyncio.gather(ctx.step(quote_shipping, order), ctx.step(print_label, order))
    approval = await ctx.receive("approval", Approval, timeout=2 * DAY, default=None)
    if approval is None or not approval.ok:
        await ctx.step(refund, charge_id)
        return "refunded: " + ("nobody approved in time" if approval is None else f"{approval.by} said no")
    invoice = await ctx.call(make_invoice, order, shipping)
    await ctx.emit("shipped", {"label": label})
    return invoice


async def main() -> None:
    async with app:
        first = await app.start(checkout, Order(id="42", card="4111", cents=1900), id="order-42")
        second = await app.start(checkout, Order(id="43", card="4222", cents=9900), id="order-43")
        await first.signal("approval", Approval(ok=True, by="ada"))

        print("order-42")
        async for event in first.events():
            shown = event.data["error"]["message"] if event.kind == "attempt_failed" else event.data
            print(f"  {event.seq:>2}  {event.kind:<17} {event.key:<17} {shown}")
        print(await first.result())

        print("order-43")
        print(await second.result())


if __name__ == "__main__":
    asyncio.run(main())
