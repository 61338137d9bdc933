"""Work for worker processes: who did what when, how long the drain took, and how soon an idle worker begins."""

import asyncio
import random
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

from child import AppendLog, hear, kill, spawn
from meter import Figures, latencies, process_cpu_s, server_cpu_s
from peer import Job

LOOK_S = 0.01
QUICK_LOOK_S = 0.002
SETTLE_S = 1.5
GAP_S = (0.02, 0.3)

Enqueue = Callable[[range], Awaitable[None]]
"""Puts jobs of these numbers on the queue; they are there when it returns."""
Drained = Callable[[], Awaitable[bool]]
"""Whether no job is left, as the engine's own records say."""


class JobLog(AppendLog):
    """Which job's body began when."""

    def hit(self, job: int) -> None:
        """Say that this job's body runs now."""
        self._note(b"%d %d\n" % (job, time.time_ns()))

    @staticmethod
    def read(path: Path) -> list[tuple[int, int]]:
        """Jobs and nanoseconds since 1970, in order."""
        return [(int(job), int(at)) for job, at in map(bytes.split, path.read_bytes().split(b"\n")[:-1])]


class Crew:
    """
    Worker processes of one peer.

    Args:
        args: What the role ``work`` of the peer's script is given, before the file of its log.
    """

    def __init__(self, job: Job, workers: int, *args: object) -> None:
        self.log = job.home / f"jobs-{workers}.log"
        self.log.touch()
        self._args = args
        self._count = workers
        self._processes: list[subprocess.Popen[str]] = []

    async def __aenter__(self) -> Self:
        """Start them all, and wait until they are ready."""
        self._processes = [spawn("work", *self._args, self.log) for _ in range(self._count)]
        for process in self._processes:
            await asyncio.to_thread(hear, process)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill them."""
        for process in self._processes:
            kill(process)

    def cpu_s(self) -> float:
        """CPU seconds that they have used."""
        return sum(process_cpu_s(process.pid) for process in self._processes)

    async def drain(self, bodies: int, drained: Drained) -> Figures:
        """
        Wait until so many bodies have begun and nothing is left to do.

        Returns:
            ``drain_s`` from the first body to the last job's recorded end; CPU of workers and server, from the
            start of their processes on.
        """
        while self.log.read_bytes().count(b"\n") < bodies or not await drained():  # noqa: ASYNC110 - in other processes
            await asyncio.sleep(LOOK_S)
        ended = time.time_ns()
        begun = [at for _, at in JobLog.read(self.log)]
        return {
            "drain_s": round((ended - min(begun)) / 1e9, 3),
            "bodies_repeated": len(begun) - bodies,
            "cpu_s": round(self.cpu_s(), 2),
        }

    async def pickups(self, numbers: range, enqueue: Enqueue) -> Figures:
        """Put single jobs on the idle queue; from just before that to their bodies' beginning."""
        chance, took = random.Random(5), []
        await asyncio.sleep(SETTLE_S)
        for number in numbers:
            await asyncio.sleep(chance.uniform(*GAP_S))
            put = time.time_ns()
            await enqueue(range(number, number + 1))
            while not (at := dict(JobLog.read(self.log)[-2:]).get(number)):  # noqa: ASYNC110 - as above
                await asyncio.sleep(QUICK_LOOK_S)
            took.append((at - put) / 1e9)
        return {f"pickup_{name}": value for name, value in latencies(took).items()}


async def w5(job: Job, enqueue: Enqueue, drained: Drained, *args: object) -> Figures:
    """Jobs on a durable queue, then worker processes that drain it, then single jobs into the idle queue."""
    sizes = job.sizes
    begun = time.perf_counter()
    await enqueue(range(sizes.w5_jobs))
    enqueued_s = time.perf_counter() - begun
    server = server_cpu_s()
    async with Crew(job, sizes.w5_workers, *args) as crew:
        figures = await crew.drain(sizes.w5_jobs, drained)
        if server is not None:
            figures["server_cpu_s"] = round((server_cpu_s() or 0) - server, 2)
        idle = await crew.pickups(range(sizes.w5_jobs, sizes.w5_jobs + sizes.w5_idle), enqueue)
    rates = {
        "enqueued_per_s": round(sizes.w5_jobs / enqueued_s, 1),
        "jobs_per_s": round(sizes.w5_jobs / figures["drain_s"], 1),
    }
    return {"wall_s": round(time.perf_counter() - begun, 2), **rates, **figures, **idle}
