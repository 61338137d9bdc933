"""
absurd on Postgres, through its published interface: an asynchronous worker of its own SDK in a process of its own.

Its own recovery waits for the claim to time out, 120 s by default, so there is no W3R.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
from absurd_sdk import Absurd, AsyncAbsurd

from child import say
from jobs import Crew, JobLog, w5
from meter import Figures, Meter, latencies
from peer import Job, main

QUEUE = "default"
CONCURRENCY = 100
CLAIM_S = 120
LOOK_S = 0.005

job_log = JobLog()


def register(app: AsyncAbsurd) -> None:
    """Define the tasks."""

    @app.register_task(name="workflow")
    async def workflow(given: dict[str, Any], ctx: Any) -> int:
        total = 0
        for i in range(given["n"]):

            async def body(i: int = i) -> dict[str, int]:
                job_log.hit(given.get("job", i))
                return {"i": i}

            total += (await ctx.step(f"step-{i}", body))["i"]
        return total

    @app.register_task(name="sleeper")
    async def sleeper(given: dict[str, Any], ctx: Any) -> int:
        await ctx.sleep_for("sleep", given["seconds"])
        return 1

    @app.register_task(name="waiter")
    async def waiter(given: dict[str, Any], ctx: Any) -> Any:
        return await ctx.await_event(given["event"])


class Bench:
    """A client, and what the tables say."""

    def __init__(self, url: str) -> None:
        self.client = AsyncAbsurd(url)
        self._connection = psycopg.connect(url, autocommit=True)

    async def spawn(self, task: str, **given: Any) -> None:
        """Start a task."""
        await self.client.spawn(task, given, queue=QUEUE)

    def count(self, state: str) -> int:
        """Tasks in this state."""
        found = self._connection.execute(f"select count(*) from absurd.t_{QUEUE} where state = %s", (state,))  # noqa: S608
        return int(found.fetchall()[0][0])

    async def until(self, state: str, tasks: int) -> None:
        """Wait until so many tasks are in this state."""
        while self.count(state) < tasks:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(LOOK_S)


def init(url: str) -> None:
    """Create its schema and the queue."""
    tool = Path(sys.executable).with_name("absurdctl")
    path = f"{Path(os.environ['BENCH_PSQL'].split()[0]).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PGDATABASE": url, "PATH": path}
    subprocess.run([tool, "init"], check=True, env=environment, stdout=subprocess.DEVNULL)
    client = Absurd(url)
    client.create_queue(QUEUE)
    client.close()


@asynccontextmanager
async def working(job: Job) -> AsyncIterator[tuple[Bench, int]]:
    """A client beside a worker process that has finished ten tasks; and how many are finished."""
    init(job.url)
    made = Bench(job.url)
    async with Crew(job, 1, job.url):
        for _ in range(10):
            await made.spawn("workflow", n=1)
        await made.until("completed", 10)
        yield made, 10


def measured(job: Job, work: Callable[[Bench, int], Awaitable[Figures]]) -> Figures:
    """Run the work beside a warm worker."""

    async def go() -> Figures:
        async with working(job) as (made, before):
            return await work(made, before)

    return asyncio.run(go())


def w1(job: Job) -> Figures:
    """Runs of one step, one at a time; fewer, as each waits for the worker to look."""
    n = max(10, job.sizes.w1_runs // 10)

    async def work(made: Bench, before: int) -> Figures:
        took = []
        with Meter() as meter:
            for done in range(1, n + 1):
                started = time.perf_counter()
                await made.spawn("workflow", n=1)
                await made.until("completed", before + done)
                took.append(time.perf_counter() - started)
        return {**meter.figures(runs=n), **latencies(took)}

    return measured(job, work)


def w2(job: Job) -> Figures:
    """All runs at once."""
    n, steps = job.sizes.w2_runs, job.sizes.w2_steps

    async def work(made: Bench, before: int) -> Figures:
        with Meter() as meter:
            for _ in range(n):
                await made.spawn("workflow", n=steps)
            await made.until("completed", before + n)
        return {**meter.figures(runs=n), "steps_per_s": round(n * steps / meter.wall_s, 1)}

    return measured(job, work)


def w3(job: Job) -> Figures:
    """One run of many steps."""
    steps = job.sizes.w3_steps

    async def work(made: Bench, before: int) -> Figures:
        with Meter() as meter:
            await made.spawn("workflow", n=steps)
            await made.until("completed", before + 1)
        return {**meter.figures(), "steps_per_s": round(steps / meter.wall_s, 1)}

    return measured(job, work)


def w4(job: Job) -> Figures:
    """Runs that sleep; how long after the last wake-up the last one is done, counted from the last one's start."""
    n, seconds = job.sizes.w4_runs, job.sizes.w4_sleep_s

    async def work(made: Bench, before: int) -> Figures:
        with Meter() as meter:
            for _ in range(n):
                await made.spawn("sleeper", seconds=seconds)
            last = meter.elapsed() + seconds
            await made.until("completed", before + n)
        return {**meter.figures(runs=n), "after_wake_s": round(meter.wall_s - last, 3)}

    return measured(job, work)


def w4s(job: Job) -> Figures:
    """Runs that wait for an event; how long after the last event the last one is done."""
    n = job.sizes.w4_runs

    async def work(made: Bench, before: int) -> Figures:
        with Meter() as meter:
            for i in range(n):
                await made.spawn("waiter", event=f"event-{i}")
            await made.until("sleeping", n)
            for i in range(n):
                await made.client.emit_event(f"event-{i}", "x", queue_name=QUEUE)
            sent = meter.elapsed()
            await made.until("completed", before + n)
        return {**meter.figures(runs=n), "after_wake_s": round(meter.wall_s - sent, 3)}

    return measured(job, work)


def queue(job: Job) -> Figures:
    """Jobs for two worker processes."""
    init(job.url)

    async def go() -> Figures:
        made = Bench(job.url)

        async def enqueue(numbers: range) -> None:
            for number in numbers:
                await made.spawn("workflow", n=1, job=number)

        async def drained() -> bool:
            return made.count("completed") >= job.sizes.w5_jobs

        return await w5(job, enqueue, drained, job.url)

    return asyncio.run(go())


def work(url: str, log: str) -> None:
    """Role: a worker."""
    job_log.open(log)

    async def go() -> None:
        app = AsyncAbsurd(url)
        register(app)
        say()
        await app.start_worker(concurrency=CONCURRENCY, claim_timeout=CLAIM_S)

    asyncio.run(go())


if __name__ == "__main__":
    main({"W1": w1, "W2": w2, "W3": w3, "W4": w4, "W4S": w4s, "W5": queue}, {"work": work})
