"""
Simulate one seed: `python -m tests.sim.run SEED` prints everything that happens, with --digest only its hash.

The same seed gives the same course of things, whatever PYTHONHASHSEED says.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from unittest.mock import patch

from tests.sim import invariants, workflows
from tests.sim.world import World

from perdure import App, ids
from perdure.stream import tails

MEMORY = Path("/dev/shm")  # noqa: S108 - a folder in memory, used through tempfile


@dataclass(frozen=True)
class Result:
    """
    What came of a seed.

    Attributes:
        violations: Invariants that did not hold.
        faults: What went wrong on purpose, and when.
        trace: One line for everything that happened, when asked for.
    """

    seed: int
    violations: list[str]
    faults: list[str]
    trace: list[str]
    steps: int
    runs: int

    @property
    def digest(self) -> str:
        """Names the whole course of things."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()

    def __str__(self) -> str:
        return "\n  ".join(
            (
                f"seed {self.seed}: {len(self.violations)} violations. Replay it with: make sim SEED={self.seed}",
                *self.violations[:10],
                "faults:",
                *self.faults,
            )
        )


def simulate(seed: int, *, tracing: bool = False, talking: bool = False) -> Result:
    """Live through one seed, perhaps with nothing but answers and their readers, and check the invariants."""
    folder = tempfile.mkdtemp(prefix="perdure-sim-", dir=MEMORY if MEMORY.is_dir() else None)
    path = Path(folder) / "sim.db"
    path.write_bytes(_empty_database())
    with _seeded_ids(seed), _quiet_logs() as handler:
        world = World(seed, str(path), tracing=tracing, talking=talking)
        handler.world = world
        try:
            # A look for all readers leads to no pause, however busy the machine is that simulates it.
            with patch.object(tails, "elapsed", lambda: 0.0):
                world.loop.run_until_complete(world.live())
            world.violations += world.loop.problems
            if not world.violations:
                invariants.check(world)
        finally:
            _tear_down(world)
            world.mirror.connection.close()
            shutil.rmtree(folder)
    return Result(
        seed, world.violations, world.chaos.schedule, world.trace, world.loop.steps, len(world.mirror.runs)
    )  # fmt: skip


@functools.cache
def _empty_database() -> bytes:
    """The file as perdure and the simulation's transactions need it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"

        async def make() -> None:
            app = App(f"sqlite:///{path}")
            async with app.connected():
                writer = app.client.store._writer
                assert writer is not None
                writer.execute(workflows.TABLE)
                writer.execute("pragma wal_checkpoint(truncate)")

        asyncio.run(make())
        return path.read_bytes()


@contextlib.contextmanager
def _seeded_ids(seed: int) -> Iterator[None]:
    """Let the one source of chance follow the seed."""
    rng = Random(f"{seed}:ids")
    ours = {
        "run_id": lambda now: f"{now // 1000:012x}{rng.getrandbits(64):016x}",
        "seed": lambda: rng.getrandbits(62),
        "worker_id": lambda: f"sim:{rng.getrandbits(32):08x}",
        "jitter": rng.random,
    }
    before = {name: getattr(ids, name) for name in ours}
    for name, function in ours.items():
        setattr(ids, name, function)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(ids, name, function)


class _Errors(logging.Handler):
    """The engine's own log, as a part of the trace; what it calls an internal failure is a violation."""

    world: World | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.world is not None:
            text = record.getMessage()
            self.world.note(None, f"LOG {text.replace(str(self.world.path), 'the file')}")
            if "internal task failed" in text:
                self.world.wrong(text)


@contextlib.contextmanager
def _quiet_logs() -> Iterator[_Errors]:
    logger, handler = logging.getLogger("perdure"), _Errors()
    before = logger.propagate, logger.level
    logger.propagate, logger.level = False, logging.ERROR
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.propagate, logger.level = before


def _tear_down(world: World) -> None:
    """Free what dead processes would hold for ever: coroutines, threads of plain workflows, connections."""
    world.tracing = False
    for process in world.graveyard:
        worker = process.worker or process.app.worker
        if worker is not None and hasattr(worker, "threads"):
            worker.kill()
        process._bury()
    world.loop.close()


def _main(arguments: list[str]) -> None:
    only_digest = arguments[:1] == ["--digest"]
    for seed in arguments[only_digest:]:
        result = simulate(int(seed), tracing=True)
        print(*([result.digest] if only_digest else [*result.trace, result]), sep="\n")  # noqa: T201 - what it is for


if __name__ == "__main__":
    _main(sys.argv[1:])
