"""What a measurement costs: wall clock, CPU, memory, flushes of the disk. Linux, standard library."""

import asyncio
import ctypes
import gc
import math
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

Figures = dict[str, float]

_DISKS = ("vd", "sd", "xvd", "nvme", "mmcblk")
_FLUSHES = 18  # field of /proc/diskstats: flush requests completed


def memory_kib(mark: str = "VmRSS") -> int:
    """Resident memory of this process in KiB; ``VmHWM`` is its peak since ``reset_peak``."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(mark + ":"):
            return int(line.split()[1])
    return 0


def reset_peak() -> None:
    """Forget the peak of resident memory, so that ``VmHWM`` starts from now."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def settle_memory() -> None:
    """Collect garbage and hand free pages back, so that resident memory means something."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def disk_flushes() -> int | None:
    """Flush requests all whole disks completed since boot; None where the kernel does not say."""
    total, known = 0, False
    for line in Path("/proc/diskstats").read_text().splitlines():
        field = line.split()
        name = field[2]
        partition = name[-1].isdigit() if not name.startswith(("nvme", "mmcblk")) else "p" in name
        if name.startswith(_DISKS) and not partition and len(field) > _FLUSHES:
            total += int(field[_FLUSHES])
            known = True
    return total if known else None


def cpu_s() -> float:
    """User and system seconds of this process and of its children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def process_cpu_s(pid: int) -> float:
    """User and system seconds of a process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def server_cpu_s() -> float | None:
    """The same for the session's Postgres with all its processes; None when there is none."""
    if not (postmaster := os.environ.get("BENCH_PG_PID")):
        return None
    total = process_cpu_s(int(postmaster))
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[1] == postmaster:
                total += process_cpu_s(int(stat.parent.name))
    return total


def statements() -> int | None:
    """Statements that the session's Postgres has executed, as its clients sent them; None when there is none."""
    if not (psql := os.environ.get("BENCH_PSQL")):
        return None
    query = "select coalesce(sum(calls), 0) from pg_stat_statements"
    done = subprocess.run([*psql.split(), "-c", query], capture_output=True, text=True, check=True)
    return int(done.stdout)


class Meter:
    """
    Measure a block of code in this process.

    ``with Meter() as meter: ...`` and then ``meter.figures(...)``. Flushes are those of the whole
    machine, so they mean something only while nothing else writes.
    """

    def __enter__(self) -> Self:
        """Start the measurement from a settled state."""
        settle_memory()
        reset_peak()
        self.start_kib = memory_kib()
        self._statements = statements()
        self._server_cpu = server_cpu_s()
        self._flushes = disk_flushes()
        self._cpu = cpu_s()
        self.started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the readings."""
        self.wall_s = time.perf_counter() - self.started
        self.cpu_s = cpu_s() - self._cpu
        after = disk_flushes()
        self.flushes = None if after is None or self._flushes is None else after - self._flushes
        self.peak_kib = memory_kib("VmHWM")
        server, count = server_cpu_s(), statements()
        self.server_cpu_s = None if server is None or self._server_cpu is None else server - self._server_cpu
        # Our own first look is among them.
        self.statements = None if count is None or self._statements is None else count - self._statements - 1

    def elapsed(self) -> float:
        """Seconds since the block began."""
        return time.perf_counter() - self.started

    def figures(self, *, runs: int = 0, steps: int = 0) -> Figures:
        """
        Readings and rates.

        Args:
            runs: Workflow runs finished in the block; gives ``runs_per_s``.
            steps: Steps finished in the block; gives the rate and the cost of one step.
        """
        out: Figures = {
            "wall_s": round(self.wall_s, 4),
            "cpu_s": round(self.cpu_s, 3),
            "rss_start_mb": round(self.start_kib / 1024, 1),
            "rss_peak_mb": round(self.peak_kib / 1024, 1),
        }
        if runs:
            out |= {"runs": runs, "runs_per_s": round(runs / self.wall_s, 1)}
        if steps:
            out["steps"] = steps
            out["steps_per_s"] = round(steps / self.wall_s, 1)
            out["cpu_us_per_step"] = round(self.cpu_s / steps * 1e6, 1)
        if self.server_cpu_s is not None:
            out["server_cpu_s"] = round(self.server_cpu_s, 3)
            if steps:
                out["server_cpu_us_per_step"] = round(self.server_cpu_s / steps * 1e6, 1)
        if self.statements is not None and steps:
            out["statements_per_step"] = round(self.statements / steps, 4)
        if self.flushes is not None:
            out["flushes"] = self.flushes
            if steps:
                out["flushes_per_step"] = round(self.flushes / steps, 4)
        return out


async def idling(seconds: float, workers: Callable[[], float] = cpu_s, count: int = 1) -> Figures:
    """
    What worker processes and the server use while nothing happens.

    Args:
        seconds: How long to look.
        workers: CPU seconds of all worker processes; this process is the only one if it is left out.
        count: How many they are; CPU and queries are given for one.
    """
    sent, server, own = statements(), server_cpu_s(), workers()
    await asyncio.sleep(seconds)
    used = workers() - own
    out: Figures = {"idle_cpu_s_per_min": round(used / seconds * 60 / count, 2)}
    if server is not None:
        out["idle_server_cpu_s_per_min"] = round(((server_cpu_s() or 0) - server) / seconds * 60, 2)
    if sent is not None:
        out["idle_queries_per_s"] = round(((statements() or 0) - sent - 1) / seconds / count, 2)
    return out


def latencies(seconds: Sequence[float]) -> Figures:
    """Median and 99th percentile, in milliseconds."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)]
    return {
        "p50_ms": round(statistics.median(ordered) * 1e3, 3),
        "p99_ms": round(p99 * 1e3, 3),
    }
