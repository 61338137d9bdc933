"""
Not an engine: the least that Python must do to be as durable as one, as a ceiling.

A run is a coroutine. Its start, each step's outcome and its end are one row each, in order, and the
code after goes on only when the commit that holds the row is on disk (SQLite in WAL mode at
synchronous=FULL, Postgres at synchronous_commit=on). Rows that different runs wait for at that moment
share a commit. No replay, no retries, no claims, no recovery, no queue: it bounds what is possible and
does no more.

Variants: ``inline`` commits on the thread of the event loop, ``thread`` on a writer thread; on Postgres,
``batch`` has one connection and commits what has gathered, ``each`` commits every row by itself on ten.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import ceiling_postgres
import ceiling_sqlite
from ceiling import END, START, STEP, Writer
from meter import Figures, Meter, latencies
from peer import Job, main


async def writer(job: Job) -> Writer:
    """The one of this variant, on a new database."""
    match job.variant:
        case "inline":
            return ceiling_sqlite.Inline(job.file)
        case "thread":
            return ceiling_sqlite.Threaded(job.file)
        case "batch":
            return await ceiling_postgres.Batch.open(job.url)
        case _:
            return await ceiling_postgres.Each.open(job.url)


class Engine:
    """Starts runs and steps and waits for their rows; nothing else."""

    def __init__(self, writer: Writer) -> None:
        """Number runs from 1."""
        self.writer = writer
        self._runs = 0

    async def start(self, fn: Callable[["Engine", int, int], Awaitable[int]], n: int) -> int:
        """Run a workflow to its end; returns what it returned."""
        self._runs += 1
        run = self._runs
        await self.writer.write(run, START, run, uuid.uuid4().hex, "workflow", json.dumps([n]))
        result = await fn(self, run, n)
        await self.writer.write(run, END, json.dumps(result), run)
        return result

    async def step(self, run: int, seq: int, i: int) -> dict[str, int]:
        """Run the step's body, then wait for its outcome to be on disk."""
        result = await body(i)
        await self.writer.write(run, STEP, run, seq, "body", json.dumps(result))
        return result


async def body(i: int) -> dict[str, int]:
    """The step that every peer runs."""
    return {"i": i}


async def workflow(engine: Engine, run: int, n: int) -> int:
    """The workflow that every peer runs: n steps, one after the other."""
    total = 0
    for i in range(n):
        total += (await engine.step(run, i, i))["i"]
    return total


def measured(job: Job, work: Callable[[Engine], Coroutine[Any, Any, Meter]]) -> tuple[Meter, int]:
    """Run the work on a warm engine; returns its readings and its commits."""

    async def go() -> tuple[Meter, int]:
        engine = Engine(await writer(job))
        for _ in range(10):
            await engine.start(workflow, 1)
        before = len(engine.writer.batches)
        meter = await work(engine)
        commits = len(engine.writer.batches) - before
        await engine.writer.close()
        return meter, commits

    return asyncio.run(go())


def w1(job: Job) -> Figures:
    """Runs of one step, one at a time."""
    n = job.sizes.w1_runs
    took = []

    async def work(engine: Engine) -> Meter:
        with Meter() as meter:
            for _ in range(n):
                started = time.perf_counter()
                await engine.start(workflow, 1)
                took.append(time.perf_counter() - started)
        return meter

    meter, commits = measured(job, work)
    return {**meter.figures(runs=n, steps=n), **latencies(took), "commits": commits}


def w2(job: Job) -> Figures:
    """All runs at once: each commit holds one row of every run."""
    n, steps = job.sizes.w2_runs, job.sizes.w2_steps

    async def work(engine: Engine) -> Meter:
        with Meter() as meter:
            results = await asyncio.gather(*[engine.start(workflow, steps) for _ in range(n)])
        assert results == [sum(range(steps))] * n
        return meter

    meter, commits = measured(job, work)
    return {**meter.figures(runs=n, steps=n * steps), "commits": commits}


def w2s(job: Job) -> Figures:
    """The same runs, a bounded number in progress: commits of the size a real engine sees."""
    n, steps = job.sizes.w2_runs * job.sizes.w2s_rounds, job.sizes.w2_steps

    async def work(engine: Engine) -> Meter:
        todo = iter(range(n))

        async def lane() -> None:
            for _ in todo:
                assert await engine.start(workflow, steps) == sum(range(steps))

        with Meter() as meter:
            await asyncio.gather(*[lane() for _ in range(job.sizes.w2s_lanes)])
        return meter

    meter, commits = measured(job, work)
    return {**meter.figures(runs=n, steps=n * steps), "commits": commits}


def w3(job: Job) -> Figures:
    """One run of many steps."""
    steps = job.sizes.w3_steps

    async def work(engine: Engine) -> Meter:
        with Meter() as meter:
            assert await engine.start(workflow, steps) == sum(range(steps))
        return meter

    meter, commits = measured(job, work)
    return {**meter.figures(steps=steps), "commits": commits}


if __name__ == "__main__":
    main({"W1": w1, "W2": w2, "W2S": w2s, "W3": w3})
