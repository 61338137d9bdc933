"""
An order as a flow with a saga: a person approves it, and what was done is undone if it comes to nothing.

    python examples/order.py

Orders go through the same nodes: stock and money are taken, two things are packed side by side, somebody has to
approve, the parcel is handed over. The first one is approved, the second one refused, and the third one nobody
looks at in time; those two are rolled back, the last step first.
"""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from perdure import App, Entry, Flow, Retry, RunFailed, State, Terminal
from perdure.flow.draw import mermaid

app = App("sqlite://")
stock = {"chairs": 3}
charges: dict[str, int] = {}
calls: list[str] = []


class Order(BaseModel):
    id: str
    cents: int


class Approval(BaseModel):
    ok: bool
    by: str


@app.step
async def charge(order_id: str, cents: int) -> str:
    charges[f"charge of {order_id}"] = cents
    return f"charge of {order_id}"


@app.step(retry=Retry(max_attempts=5, delay=0.01))
async def refund(charge_id: str) -> None:
    """What undoes `charge`: it is given what that returned, and is a step of its own, which is tried again."""
    calls.append(charge_id)
    if len(calls) == 1:
        raise ConnectionError("the bank does not answer")
    charges.pop(charge_id, None)


async def take_chair() -> int:
    stock["chairs"] -= 1
    return stock["chairs"]


async def put_chair_back() -> None:
    stock["chairs"] += 1


async def fold(state: State[Order]) -> str:
    return f"{state.input.id} in a box"


async def print_label() -> str:
    return "label"


async def unpack(box: str) -> None:
    print(f"    unpacked: {box}")


async def decide(state: State[Order]) -> str:
    approval: Approval = state["approval"]
    if not approval.ok:
        raise Terminal(f"{approval.by} said no")
    return f"{state['box']} handed over, {state['label']} on it"


order_flow = app.flow(
    flow := Flow("order", input=Order, output=lambda state: state["parcel"])
    .step("stock", take_chair, compensate=put_chair_back)
    .step("charge", charge, given=lambda state: (state.input.id, state.input.cents), compensate=refund)
    .parallel("pack", {"box": Entry(fold, compensate=unpack), "label": print_label})
    .signal("approval", "approve", type=Approval, timeout=2)
    .step("parcel", decide)
)


async def main() -> None:
    print(mermaid(flow))
    async with app:
        for name, ok in (("A", True), ("B", False), ("C", None)):
            run = await app.start(order_flow, Order(id=name, cents=4900), id=f"order-{name}")
            if ok is not None:
                await run.signal("approve", Approval(ok=ok, by="ada"))
            try:
                print(f"{name}: {await run.result()}")
            except RunFailed as failed:
                print(f"{name}: {type(failed.cause).__name__}: {failed.cause}")
            async for event in run.events(follow=False):
                if event.key.endswith("#compensate") or event.kind == "compensating":
                    print(f"    {event.kind:<15} {event.key}")
            print(f"    {stock['chairs']} chairs left, {sum(charges.values())} cents taken")


if __name__ == "__main__":
    asyncio.run(main())
