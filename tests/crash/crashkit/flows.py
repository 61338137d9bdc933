"""
The workflows that processes are killed in.

The family (`order`, `gate`, `rounds`, `doomed`, `failing`, `racing`, `plain`) makes every kind of commit,
`mixed` is for load, and the last ones wait for files, block the loop, or kill their process.
"""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from crashkit import diary
from perdure import App, Context, Retry, SyncContext, Transaction, current_step
from perdure.errors import ChildFailed

app = App("sqlite://")
HOLD_S = 0.02
"""The workers' WorkerOptions.hold."""
PARKS_S = 0.04
"""Longer than that: the run gives up its worker."""
BOOK = {"sqlite": "insert into ledger (run, label) values (?, ?)"}
BOOK["postgresql"] = BOOK["sqlite"].replace("?, ?", "$1, $2")
LARGE = 40_000
"""More characters than Limits.inline_bytes: the value goes to the table of blobs."""


class NotYet(Exception):
    """A step that will succeed later."""


# ------------------------------------------------------------------------------------------ the family


@app.step
async def work(label: str) -> str:
    diary.note()
    return label.upper()


@app.step
async def slow(label: str, seconds: float) -> str:
    diary.note()
    await asyncio.sleep(seconds)
    return label.upper()


@app.step(retry=Retry(max_attempts=4, delay=0.01, jitter=0))
async def flaky(label: str) -> str:
    diary.note()
    attempt = current_step().attempt
    if attempt < 3:
        raise NotYet(attempt)
    return label


@app.step(retry=Retry(max_attempts=2, delay=PARKS_S, jitter=0))
async def patient(label: str) -> str:
    diary.note()
    if current_step().attempt == 1:
        raise NotYet(label)
    return label


# The cap keeps a step that was interrupted by several deaths from waiting long.
@app.step(at_most_once=True, retry=Retry(max_attempts=9, delay=0.01, backoff=1, jitter=0))
async def once(label: str) -> str:
    diary.note()
    return label


@app.step
def in_thread(label: str) -> str:
    diary.note()
    return label * LARGE


def book(transaction: Transaction, label: str) -> int:
    diary.note()
    transaction.execute(BOOK[diary.store()], (current_step().run_id, label))
    return len(label)


@app.workflow
async def invoice(ctx: Context, label: str) -> str:
    return await ctx.step(work, label) + await ctx.step(work, "paid")


@app.workflow
async def order(ctx: Context, number: int) -> list[Any]:
    first = await ctx.step(work, f"order {number}")
    three = await asyncio.gather(ctx.step(work, "a"), ctx.step(flaky, "b"), ctx.step(once, "c"))
    await ctx.sleep(0.01)
    booked = await ctx.transaction(book, f"order {number}")
    await ctx.emit("booked", {"order": number})
    await ctx.sleep(PARKS_S)
    child = await ctx.call(invoice, "bill")
    approved = await ctx.receive("approval", str)
    large = await ctx.step(in_thread, "x")
    again = await ctx.step(patient, "y")
    return [first, three, booked, child, approved, len(large), again, len(str(ctx.uuid()))]


@app.workflow
async def gate(ctx: Context) -> list[str]:
    opened = await ctx.receive("open", str)
    async with asyncio.timeout(1000):
        seen = await asyncio.gather(ctx.receive("left", str), ctx.receive("right", str), ctx.step(work, "watch"))
    return [opened, *seen, await ctx.step(work, "closed")]


@app.workflow
async def rounds(ctx: Context, n: int) -> str:
    with ctx.scope(f"round {n}"):
        done = await ctx.step(work, f"round {n}")
        await ctx.transaction(book, f"round {n}")
    if n < 3:
        ctx.continue_as_new(n + 1)
    return done


@app.workflow
async def forever(ctx: Context) -> None:
    await ctx.receive("never")


@app.workflow
async def doomed(ctx: Context) -> None:
    try:
        await ctx.call(forever)
    finally:
        await ctx.step(work, "clean up")


@app.workflow
async def racing(ctx: Context) -> int:
    winner, _ = await ctx.race(ctx.call(forever), ctx.step(slow, "first", 0.02))
    return winner


@app.workflow
async def broken(ctx: Context, label: str) -> None:
    await ctx.start(forever)
    await ctx.step(work, label)
    raise ValueError(label)


@app.workflow
async def failing(ctx: Context) -> str:
    try:
        await ctx.call(broken, "as expected")
    except ChildFailed as error:
        return f"{type(error.cause).__name__}: {error.cause}"
    return "not reached"


@app.workflow
def plain(ctx: SyncContext, n: int) -> int:
    total = sum(len(ctx.step(work, f"plain {i}")) for i in range(n))
    ctx.sleep(PARKS_S)
    return total + len(ctx.step(slow, "end", 0.02))


# ---------------------------------------------------------------------------------------------- load


@app.step
async def busy(label: str, seconds: float) -> str:
    diary.note()
    await asyncio.sleep(seconds)
    return label


@app.step(retry=Retry(max_attempts=3, delay=0.02, jitter=1))
def shaky(label: str) -> str:
    diary.note()
    if current_step().attempt == 1:
        raise NotYet(label)
    return label


@app.workflow
async def leaf(ctx: Context, i: int) -> int:
    await ctx.step(busy, f"leaf {i}", 0.01)
    await ctx.sleep(0.03)
    return i


@app.workflow
async def mixed(ctx: Context, i: int) -> list[Any]:
    labels = await asyncio.gather(*[ctx.step(busy, f"{i}.{j}", 0.02 * j) for j in range(3)])
    children = await ctx.map(leaf, range(i % 3))
    await ctx.sleep(0.02 * (i % 7))
    retried = await ctx.step(shaky, f"{i}") if i % 2 else ""
    if i % 4 == 0:
        await ctx.transaction(book, f"{i}")
    said = await ctx.receive("word", str) if i % 3 == 0 else ""
    async with asyncio.timeout(1000):
        last = await ctx.step(busy, f"{i}.last", 0.05)
    return [labels, children, retried, said, last]


@app.workflow
async def job(ctx: Context, i: int) -> int:
    """For a queue; it waits in between, too."""
    await ctx.step(busy, f"job {i}", 0.005)
    await ctx.sleep(0.03)
    await ctx.step(busy, f"job {i} again", 0.005)
    return i


@app.workflow
async def alone(ctx: Context, i: int) -> int:
    await ctx.step(busy, f"alone {i}", 0.02)
    return i


@app.workflow
async def together(ctx: Context, items: list[str]) -> list[str]:
    await ctx.step(busy, f"{len(items)} items", 0.02)
    return items


@app.workflow
async def typed(ctx: Context, who: int, i: int) -> list[int]:
    return [who, i]


# ------------------------------------------------------------------------------------------- awkward ones


@app.step
async def numbered(i: int) -> int:
    diary.note()
    return i


@app.step
async def until_file(name: str, size: int = 0) -> str:
    """
    Ends when the file is there, or the one for this process only.

    Its result is the name, or a text of that size if one is asked for.
    """
    diary.note()
    folder, life = diary.folder(), diary.life()
    (folder / f"{name}-begun-{life}").touch()
    files = folder / name, folder / f"{name}-{life}"
    while not any(file.exists() for file in files):  # noqa: ASYNC110 - another process makes them
        await asyncio.sleep(0.005)
    return "x" * size or name


@app.step
async def blocks_the_loop(name: str) -> str:
    diary.note()
    spin_until(diary.folder() / name)
    return name


@app.step
async def kills_its_process() -> None:
    diary.note()
    os.kill(os.getpid(), signal.SIGKILL)


@app.workflow
async def many_steps(ctx: Context, n: int) -> int:
    return sum([await ctx.step(numbered, i) for i in range(n)])


@app.workflow
async def waits_for_file(ctx: Context, name: str) -> str:
    before = await ctx.step(numbered, 1)
    return f"{before} {await ctx.step(until_file, name)} {await ctx.step(numbered, 2)}"


@app.workflow
async def blocked(ctx: Context, name: str) -> str:
    return await ctx.step(blocks_the_loop, name)


@app.workflow
async def poison(ctx: Context) -> None:
    await ctx.step(numbered, 1)
    await ctx.step(kills_its_process)


@app.workflow
async def sleeps(ctx: Context, seconds: float) -> str:
    await ctx.sleep(seconds)
    return "slept"


@app.workflow
async def grows(ctx: Context, name: str, size: int) -> int:
    return len(await ctx.step(until_file.options(name="grow"), name, size))


@app.workflow
async def takes(ctx: Context, text: str) -> int:
    return len(text)


@app.workflow
async def parent(ctx: Context, children: int) -> list[Any]:
    """Children, and a signal to each from outside."""
    ended = await asyncio.gather(*[ctx.call(receiver, i) for i in range(children)])
    return [sum(ended), await ctx.receive("end", str)]


@app.workflow
async def receiver(ctx: Context, i: int) -> int:
    done = await ctx.step(numbered, i)
    await ctx.sleep(0.02 * i)
    return done


def spin_until(file: Path) -> None:
    """Block the loop, as a long computation would."""
    while not file.exists():
        pass
