"""
DBOS Transact, through its asynchronous interface.

Variants: ``plain`` is what its users get, on Postgres and on SQLite (rollback journal, synchronous=FULL,
SQLite's defaults); ``wal`` hands it an engine with a write-ahead log at synchronous=FULL, as perdure and
the ceiling use, to tell the cost of the disk from the cost of the library; ``fast`` polls its queue every
50 ms instead of every second.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, SetWorkflowID

from child import StepLog, import_ms, kill_and_recover, say
from jobs import JobLog, w5
from meter import Figures, Meter, idling, latencies, memory_kib
from parked import Parked
from peer import Job, main

LONG_S = 3600.0
QUEUE = "jobs"
CONCURRENCY = 100
POLL_S, FAST_POLL_S = 1.0, 0.05

step_log = StepLog()
job_log = JobLog()
parked = Parked()


@DBOS.step()
async def body(i: int) -> dict[str, int]:
    """The step that every peer runs."""
    step_log.hit(i)
    return {"i": i}


@DBOS.workflow()
async def workflow(n: int) -> int:
    """The workflow that every peer runs: n steps, one after the other."""
    total = 0
    for i in range(n):
        total += (await body(i))["i"]
    return total


@DBOS.workflow()
async def sleeper(seconds: float) -> int:
    """Sleep durably, noting when the sleep began."""
    parked.note(str(DBOS.workflow_id))
    await DBOS.sleep_async(seconds)
    return 1


@DBOS.workflow()
async def waiter() -> str:
    """Wait for a signal, noting when the wait began."""
    parked.note(str(DBOS.workflow_id))
    return str(await DBOS.recv_async("go", timeout_seconds=LONG_S))


@DBOS.step()
async def job_body(i: int) -> dict[str, int]:
    """The same, noting when."""
    job_log.hit(i)
    return {"i": i}


@DBOS.workflow()
async def queued(i: int) -> dict[str, int]:
    """A job of one step."""
    return await job_body(i)


def wal_engine(url: str) -> sa.Engine:
    """An engine like the one DBOS makes for SQLite, but with a write-ahead log."""
    engine = sa.create_engine(url, pool_size=20, max_overflow=0)

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        connection.isolation_level = "IMMEDIATE"
        connection.execute("pragma busy_timeout=30000")
        connection.execute("pragma foreign_keys=on")
        connection.execute("pragma journal_mode=wal")
        connection.execute("pragma synchronous=full")

    return engine


def launch(variant: str, url: str, executor: str = "local") -> None:
    """Start DBOS on this database; it recovers unfinished runs by itself."""
    config: dict[str, Any] = {
        "name": "bench",
        "log_level": "ERROR",
        "application_version": "1",
        "executor_id": executor,
    }
    if variant == "wal":
        config["system_database_engine"] = wal_engine(url)
    else:
        config["system_database_url"] = url
    DBOS(config=config)  # type: ignore[arg-type]
    DBOS.launch()


def measured(job: Job, work: Callable[[], Awaitable[Figures]]) -> Figures:
    """Run the work on a launched engine that has finished ten runs."""
    launch(job.variant, job.url)

    async def go() -> Figures:
        for _ in range(10):
            await workflow(1)
        return await work()

    figures = asyncio.run(go())
    DBOS.destroy()
    return figures


def w1(job: Job) -> Figures:
    """Runs of one step, one at a time."""
    n = job.sizes.w1_runs

    async def work() -> Figures:
        took = []
        with Meter() as meter:
            for _ in range(n):
                started = time.perf_counter()
                await workflow(1)
                took.append(time.perf_counter() - started)
        return {**meter.figures(runs=n, steps=n), **latencies(took)}

    return measured(job, work)


def w2(job: Job) -> Figures:
    """All runs at once."""
    n, steps = job.sizes.w2_runs, job.sizes.w2_steps

    async def one() -> int:
        handle = await DBOS.start_workflow_async(workflow, steps)
        return await handle.get_result()

    async def work() -> Figures:
        with Meter() as meter:
            results = await asyncio.gather(*[one() for _ in range(n)])
        assert results == [sum(range(steps))] * n
        return meter.figures(runs=n, steps=n * steps)

    return measured(job, work)


def w3(job: Job) -> Figures:
    """One run of many steps."""
    steps = job.sizes.w3_steps

    async def work() -> Figures:
        with Meter() as meter:
            assert await workflow(steps) == sum(range(steps))
        return meter.figures(steps=steps)

    return measured(job, work)


def w3r(job: Job) -> Figures:
    """The same, killed near its end and started again."""
    steps, log = job.sizes.w3_steps, job.home / "steps.log"
    args = (job.variant, job.url, steps, log)
    return kill_and_recover(log, "recover", args, steps=steps, kill_at=job.sizes.w3_kill_at)


def recover(variant: str, url: str, steps: str, log: str) -> None:
    """Role of W3R: start the run, or wait for the one that launching recovered."""
    step_log.open(log)
    known = Path(log).stat().st_size > 0
    launch(variant, url)
    if known:
        handle: Any = DBOS.retrieve_workflow("w3r")
        handle.get_result(polling_interval_sec=0.01)
    else:

        async def go() -> None:
            with SetWorkflowID("w3r"):
                await workflow(int(steps))

        asyncio.run(go())
    say()
    time.sleep(60)


def w4(job: Job) -> Figures:
    """Runs that sleep; how long after the last wake-up the last one is done."""
    n, seconds = job.sizes.w4_runs, job.sizes.w4_sleep_s

    async def work() -> Figures:
        with Meter() as meter:
            start = DBOS.start_workflow_async
            handles = await asyncio.gather(*[start(sleeper, seconds) for _ in range(n)])
            await asyncio.gather(*[handle.get_result() for handle in handles])
        last = parked.last() + seconds - meter.started
        return {**meter.figures(runs=n), "after_wake_s": round(meter.wall_s - last, 3)}

    return measured(job, work)


def w4s(job: Job) -> Figures:
    """Runs that wait for a signal; how long after the last signal the last one is done."""
    n = job.sizes.w4_runs

    async def work() -> Figures:
        with Meter() as meter:
            start = DBOS.start_workflow_async
            handles = await asyncio.gather(*[start(waiter) for _ in range(n)])
            await parked.count(n)
            grown = memory_kib() - meter.start_kib
            signals = [DBOS.send_async(handle.workflow_id, "x", "go") for handle in handles]
            await asyncio.gather(*signals)
            sent = meter.elapsed()
            await asyncio.gather(*[handle.get_result() for handle in handles])
        return {
            **meter.figures(runs=n),
            "after_wake_s": round(meter.wall_s - sent, 3),
            "parked_kib": round(grown / n, 1),
        }

    return measured(job, work)


def imports(job: Job) -> Figures:
    """Time of the import."""
    return import_ms("dbos", job.sizes.import_times)


def idle(job: Job) -> Figures:
    """CPU of a process in which runs sleep and nothing happens."""
    n, seconds = job.sizes.idle_runs, job.sizes.idle_s
    launch(job.variant, job.url)

    async def go() -> Figures:
        start = DBOS.start_workflow_async
        await asyncio.gather(*[start(sleeper, LONG_S) for _ in range(n)])
        await parked.count(n)
        return await idling(seconds)

    return asyncio.run(go())


def queue(job: Job) -> Figures:
    """Jobs for two worker processes."""
    launch(job.variant, job.url)  # creates the schema
    DBOS.destroy()
    client = DBOSClient(system_database_url=job.url)

    async def enqueue(numbers: range) -> None:
        for number in numbers:
            client.enqueue({"queue_name": QUEUE, "workflow_name": queued.__name__}, number)

    async def drained() -> bool:
        return not client.list_workflows(status=["ENQUEUED", "PENDING"], limit=1)

    return asyncio.run(w5(job, enqueue, drained, job.variant, job.url))


def work(variant: str, url: str, log: str) -> None:
    """Role of W5: a worker."""
    job_log.open(log)
    launch(variant, url, executor=f"worker-{os.getpid()}")
    poll_s = FAST_POLL_S if variant == "fast" else POLL_S
    DBOS.register_queue(QUEUE, worker_concurrency=CONCURRENCY, polling_interval_sec=poll_s)
    say()
    time.sleep(LONG_S)


if __name__ == "__main__":
    main(
        {"W1": w1, "W2": w2, "W3": w3, "W3R": w3r, "W4": w4, "W4S": w4s, "W5": queue}
        | {"IMPORT": imports, "IDLE": idle},
        {"recover": recover, "work": work},
    )
