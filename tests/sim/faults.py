"""What goes wrong in a simulated world, and when: drawn from the seed."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

from tests.sim.loop import Lane
from tests.sim.process import Process

if TYPE_CHECKING:
    from tests.sim.world import World

KINDS = (
    "kill", "kill", "kill_soon", "kill_soon", "kill_soon", "kill_at_commit", "kill_at_commit", "kill_at_commit",
    "stall", "stall", "stall", "stall", "hiccup", "hiccup", "sick", "sick", "sick", "declare_dead", "declare_dead",
    "lease_over", "lease_over", "wake", "drain", "drain", "deploy", "sick_client", "stall_client", "refuse",
    "stall_at_end", "stall_at_end",
)  # fmt: skip


class Chaos:
    """
    Strikes while there is budget: after some number of callbacks, and after some virtual time.

    Attributes:
        schedule: What was done, in words.
        at_end: Whether the next process that is about to store the end of a run stalls there, see `stalls_at_end`.
    """

    def __init__(self, world: World, rng: Random) -> None:
        self.world = world
        self.rng = rng
        self.budget = rng.choice((0, 5, 10, 20, 20, 40))
        self.gap = rng.choice((30, 80, 250))
        self.calm = rng.choice((0.3, 1.0, 4.0))
        self.next = self._later()
        self.schedule: list[str] = []
        self.at_end = False
        self.kinds = tuple(rng.sample(KINDS, rng.randrange(3, len(KINDS))))

    def _later(self) -> int:
        return self.world.loop.steps + int(self.rng.expovariate(1 / self.gap))

    def before_step(self, lane: Lane) -> None:
        """Perhaps strike between two callbacks; often at the process that is just to go on."""
        if self.world.loop.steps >= self.next and self.budget > 0:
            self.next = self._later()
            self._strike(lane if isinstance(lane, Process) and lane.options and self.rng.random() < 0.7 else None)

    async def in_time(self) -> None:
        """Strike also while everything waits."""
        while self.budget > 0:
            await asyncio.sleep(self.rng.expovariate(1 / self.calm))
            self._strike(None)

    def stop(self) -> None:
        """No more faults, and those that last are over."""
        self.budget, self.at_end = 0, False
        for process in self.world.processes:
            self.heal(process)

    def heal(self, process: Process) -> None:
        """What lasts is over for this process."""
        process.troubled_at = self.world.loop.time() if process.troubled else process.troubled_at
        process.sickness, process.sick_share = "", 0.0
        process.fuse = process.commit_fuse = None
        process.refusing = False
        process.frozen_until, process.awaits_rival = 0.0, None

    def _strike(self, victim: Process | None) -> None:
        self.budget -= 1
        kind = self.rng.choice(self.kinds)
        world = self.world
        if victim is None:
            victims = world.clients if kind.endswith("_client") else world.workers
            # Rather one that has something to lose.
            busy = [process for process in victims if process.busy] or victims
            victim = self.rng.choice(busy) if busy else None
        if victim is None or not victim.alive:
            return
        self.schedule.append(f"{world.loop.time():10.6f} step {world.loop.steps:5} {victim.name}: {kind}")
        world.note(victim, f"FAULT {kind}")
        getattr(self, f"_{kind.removesuffix('_client')}")(victim)
        self._struck(victim)

    def _struck(self, victim: Process) -> None:
        victim.troubled_at = max(self.world.loop.time(), victim.frozen_until)

    def stalls_at_end(self, process: Process, number: int) -> bool:
        """Perhaps this process, about to store the end of a run, stalls until another worker has just claimed it."""
        if not self.at_end:
            return False
        self.at_end = False
        process.awaits_rival = number
        process.frozen_until = self.world.loop.time() + 3 * self.world.lease
        self._lease_over(process)
        self._struck(process)
        return True

    # --------------------------------------------------------------------------------- kinds of faults
    def _kill(self, victim: Process) -> None:
        victim.die("killed")

    def _kill_soon(self, victim: Process) -> None:
        victim.fuse = self.rng.randrange(80)

    def _kill_at_commit(self, victim: Process) -> None:
        victim.commit_fuse = (self.rng.randrange(5), self.rng.choice(("before", "after")))

    def _stall(self, victim: Process) -> None:
        """Longer than its lease: it wakes as a zombie."""
        victim.frozen_until = self.world.loop.time() + self.world.lease * self.rng.uniform(1.2, 3)

    def _stall_at_end(self, _victim: Process) -> None:
        self.at_end = True

    def _hiccup(self, victim: Process) -> None:
        victim.frozen_until = self.world.loop.time() + self.rng.choice((0.003, 0.05, 0.8))

    def _sick(self, victim: Process) -> None:
        """Its commits or its reads fail for a while."""
        victim.sickness = self.rng.choice(("busy", "full", "io", "read"))
        victim.sick_share = self.rng.choice((0.3, 0.7, 1.0))
        until = self.rng.choice((0.02, 0.5, 3.0, 9.0))
        self.world.loop.call_later(until, self._well, victim, context=self.world.loop.world.context)

    def _well(self, victim: Process) -> None:
        victim.troubled_at = self.world.loop.time()
        victim.sickness, victim.sick_share = "", 0.0

    def _refuse(self, victim: Process) -> None:
        victim.refusing = True

    def _declare_dead(self, victim: Process) -> None:
        self._worker(victim, "state = 'dead'")

    def _lease_over(self, victim: Process) -> None:
        self._worker(victim, "lease_until = 1")

    def _worker(self, victim: Process, change: str) -> None:
        self.world.mirror.connection.execute(f"update perdure_workers set {change} where number = ?", (victim.number,))

    def _wake(self, _victim: Process) -> None:
        """Everybody is woken for nothing, twice."""
        for process in self.world.processes:
            for _ in range(2):
                self.world.loop.call_soon(process.changes.committed_elsewhere, context=process.context)

    def _drain(self, victim: Process) -> None:
        if victim.ready and not victim.leaving:
            victim.leaving, victim.ready = True, False
            victim.spawn(victim.leave())

    def _deploy(self, _victim: Process) -> None:
        """New code: the old workers leave or die before the new ones begin."""
        if self.world.version == 1:
            self.world.version = 2
            for process in self.world.workers:
                process.die("replaced by new code")
