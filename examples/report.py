"""
A workflow without async: plain functions throughout, and rows of one's own that commit with a step.

    python examples/report.py
"""

from __future__ import annotations

import asyncio

from perdure import App, Retry, SyncContext, Transaction

app = App("sqlite://")


@app.step(retry=Retry(max_attempts=3, delay=0.05))
def fetch(region: str) -> dict[str, int]:
    return {"orders": 10 * len(region), "cents": 1234 * len(region)}


def save(transaction: Transaction, region: str, orders: int, cents: int) -> int:
    """
    Write to tables of our own in perdure's database.

    The rows and the step's outcome are one commit: they are there exactly once, whatever crashes.
    """
    transaction.execute("create table if not exists sales (region text primary key, orders integer, cents integer)")
    transaction.execute("insert into sales values (?, ?, ?)", (region, orders, cents))
    return int(transaction.execute("select count(*) from sales")[0][0])


@app.workflow
def report(ctx: SyncContext, regions: list[str]) -> str:
    rows = 0
    for region in regions:
        with ctx.scope(region):
            figures = ctx.step(fetch, region)
            rows = ctx.transaction(save, region, figures["orders"], figures["cents"])
        ctx.sleep(0.02)
    summary: str = ctx.step("summary", lambda: f"{rows} regions saved by {ctx.run_id}")
    return summary


async def main() -> None:
    async with app:
        run = await app.start(report, ["north", "south", "west"], id="sales-2025-06")
        print(await run.result())
        async for event in run.events():
            if event.kind == "step_completed":
                print(f"  {event.key:<12} {event.data}")


if __name__ == "__main__":
    asyncio.run(main())
