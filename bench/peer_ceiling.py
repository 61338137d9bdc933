"""
Not an engine: the least that Python must do to be as durable as one, as a ceiling.

A run is a coroutine. Its start, each step's outcome and its end are one row each, in order, and the
code after goes on only when the commit that holds the row is on disk (WAL, synchronous=FULL). Rows
that different runs wait for at that moment share a commit. No replay, no retries, no claims, no
recovery, no queue: it bounds what is possible and does no more.

Variants: ``inline`` commits on the thread of the event loop, ``thread`` on a writer thread.
"""

import asyncio
import json
import queue
import sqlite3
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

from meter import Figures, Meter, latencies
from peer import Job, main

SCHEMA = """
create table run(id integer primary key, uid text unique, name text, input text, status text, output text);
create table log(id integer primary key, run integer not null, seq integer not null, name text, out text);
"""
START = "insert into run(id, uid, name, input, status) values (?, ?, ?, ?, 'running')"
STEP = "insert into log(run, seq, name, out) values (?, ?, ?, ?)"
END = "update run set status = 'completed', output = ? where id = ?"


class Write(NamedTuple):
    """One row on its way to the disk, and who waits for it."""

    run: int
    sql: str
    values: tuple[Any, ...]
    landed: asyncio.Future[None]


class Writer:
    """Commits rows in batches; subclasses say on which thread."""

    def __init__(self, path: Path) -> None:
        """Open a new file at the durability that every peer gets."""
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=full")
        self._db.executescript(SCHEMA)
        self._loop = asyncio.get_running_loop()
        self.batches: list[list[int]] = []

    def write(self, run: int, sql: str, *values: Any) -> asyncio.Future[None]:
        """A future that is done once the row is on disk."""
        raise NotImplementedError

    def _commit(self, batch: list[Write]) -> None:
        execute = self._db.execute
        execute("begin immediate")
        for write in batch:
            execute(write.sql, write.values)
        execute("commit")
        self.batches.append([write.run for write in batch])

    def close(self) -> None:
        """Close the file, after checking that no two rows of one run shared a commit."""
        self._db.close()
        assert all(len(set(batch)) == len(batch) for batch in self.batches), "not a legal engine"


def settle(batch: list[Write]) -> None:
    """Wake everyone whose row is on disk."""
    for write in batch:
        write.landed.set_result(None)


class Inline(Writer):
    """Commits on the event loop's thread, once per turn of the loop that has rows."""

    def __init__(self, path: Path) -> None:
        """Start with nothing pending."""
        super().__init__(path)
        self._pending: list[Write] = []

    def write(self, run: int, sql: str, *values: Any) -> asyncio.Future[None]:
        """Add the row to the batch that this turn of the loop commits at its end."""
        landed: asyncio.Future[None] = self._loop.create_future()
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(Write(run, sql, values, landed))
        return landed

    def _flush(self) -> None:
        batch, self._pending = self._pending, []
        self._commit(batch)
        settle(batch)


class Threaded(Writer):
    """Commits on a thread of its own; a batch is what queued during the commit before."""

    def __init__(self, path: Path) -> None:
        """Start the thread."""
        super().__init__(path)
        self._queue: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def write(self, run: int, sql: str, *values: Any) -> asyncio.Future[None]:
        """Hand the row to the thread."""
        landed: asyncio.Future[None] = self._loop.create_future()
        self._queue.put(Write(run, sql, values, landed))
        return landed

    def _run(self) -> None:
        while first := self._queue.get():
            batch = [first]
            while not self._queue.empty():
                if (more := self._queue.get()) is None:
                    return
                batch.append(more)
            self._commit(batch)
            self._loop.call_soon_threadsafe(settle, batch)

    def close(self) -> None:
        """Stop the thread, then the rest."""
        self._queue.put(None)
        self._thread.join()
        super().close()


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
        kind = Threaded if job.variant == "thread" else Inline
        engine = Engine(kind(job.home / "ceiling.db"))
        for _ in range(10):
            await engine.start(workflow, 1)
        before = len(engine.writer.batches)
        meter = await work(engine)
        commits = len(engine.writer.batches) - before
        engine.writer.close()
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
