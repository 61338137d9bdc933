"""The app that the tests of the command line are about."""

import asyncio
import os
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from perdure import App, Context, Pipeline, StageContext, SyncContext

app = App("sqlite:///shop.db")
not_an_app = 1


@app.step
async def price(item: str) -> int:
    return len(item)


@app.step
async def fail() -> None:
    problem = "the till is empty"
    raise ValueError(problem)


@app.step
async def read_pipe() -> str:
    """Ends when the test writes to the pipe; blocks the loop meanwhile."""
    return Path(os.environ["SHOP_PIPE"]).read_text()  # noqa: ASYNC240 - that is what it is for


@app.step
def read_pipe_in_thread() -> str:
    """As `read_pipe`, in a thread."""
    return Path(os.environ["SHOP_PIPE"]).read_text()


@app.workflow
async def buy(ctx: Context, item: str, count: int = 1) -> dict:
    each = await ctx.step(price, item)
    return {"item": item, "total": each * count}


@app.workflow
async def basket(ctx: Context, *items: str, wrapped: bool = False, **notes: str) -> int:
    return len(items)


@app.workflow
async def book(ctx: Context, day: date, seats: set[int], stamp: bytes = b"") -> None:
    pass


@app.workflow
async def order(ctx: Context) -> str:
    answer = await ctx.receive("approval", str)
    await ctx.emit("answered", answer)
    return answer


@app.workflow
async def broke(ctx: Context) -> None:
    await ctx.step(fail)


@app.workflow
async def chatty(ctx: Context, count: int) -> None:
    for number in range(count):
        await ctx.emit(f"line-{number}", "x" * 1000)


@app.workflow
async def family(ctx: Context, items: list[str]) -> int:
    bought = await asyncio.gather(*[ctx.call(buy, item) for item in items])
    return sum(each["total"] for each in bought)


@app.workflow
async def blocked(ctx: Context) -> str:
    ctx.log.info("about to block")
    return await ctx.step(read_pipe)


@app.workflow
def threaded(ctx: SyncContext) -> str:
    ctx.log.info("about to block")
    return ctx.step(read_pipe_in_thread)


class Counting(BaseModel):
    least: int = 1


def read(stage: StageContext[str, None]) -> list[str]:
    stage.wait(stage.artifacts.save("text.txt", stage.input))
    stage.wait(stage.artifacts.save("words/all", stage.input.split()))
    stage.wait(stage.artifacts.save("scan", b"\x00\xff"))
    return stage.input.split()


def count(stage: StageContext[list[str], Counting]) -> int:
    return sum(len(word) >= stage.config.least for word in stage.input)


def last(stage: StageContext[Any, None]) -> Any:
    return stage.input


papers = app.pipeline(Pipeline("papers", input=str).stage("read", read).parallel({"count": count, "last": last}))
