"""
The sinks of the simulation: they fail, hang and die with their processes; in the end each has got everything, in order.

What a sink hears is noted outside the store, when it has said that it has got it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.sim.mirror import Fact, rows
from tests.sim.process import Flaky

from perdure import Event, Retry
from perdure.errors import IllegalMove
from perdure.model.entry import Kind
from perdure.model.event import STARTED

if TYPE_CHECKING:
    from tests.sim.process import Process
    from tests.sim.world import World

KINDS = (STARTED, Kind.EMITTED, Kind.STEP_COMPLETED, Kind.CHILD_STARTED, Kind.CONTINUED, Kind.COMPLETED, Kind.CANCELLED)
SETTLED_S = 300
OPEN = "select sink, run, next, last, due_at, owner, dead_at from perdure_outbox"
OWNER = "select owner from perdure_outbox where sink = ? and run = (select number from perdure_runs where id = ?)"
ALIVE = "select 1 from perdure_workers where number = ? and state = 'alive'"


class Told(NamedTuple):
    """
    An event that a sink has got, and from which worker.

    Attributes:
        rightful: Whether it was this worker's to tell; one that had stalled does not know yet that it is another's.
    """

    seq: int
    process: Process
    worker: int
    rightful: bool


class Listener:
    """
    One sink, in all processes.

    Attributes:
        told: What it has got, by run, in order.
        left_out: What operators have skipped.
        tries: How often each event was brought.
        healthy: It takes everything from now on.
    """

    def __init__(self, world: World, name: str, rng: Random) -> None:
        self.world = world
        self.name = name
        self.events = tuple(rng.sample(KINDS, rng.randrange(2, len(KINDS))))
        self.plain = rng.random() < 0.25
        self.options: dict[str, Any] = {
            "events": self.events, "concurrency": rng.choice((1, 2, 8)), "timeout": 60 if self.plain else 2.0,
            "retry": Retry(max_attempts=rng.choice((2, 3, 6)), delay=rng.choice((0.1, 1.0)), cap=5.0),
        }  # fmt: skip
        self.delay = rng.choice((0, 0, 0.01, 0.3))
        self.refuses = rng.choice((0.0, 0.1, 0.4))
        self.seed = f"{rng.random()}"
        self.told: dict[str, list[Told]] = {}
        self.left_out: set[tuple[str, int]] = set()
        self.tries: Counter[str] = Counter()
        self.healthy = False

    def target(self, process: Process) -> Callable[[Event], Any]:
        """What one process calls."""

        async def hear(event: Event) -> None:
            mood, worker = self._mood(event), process.number
            await asyncio.sleep(10 if mood > 1 - self.refuses / 4 else self.delay)
            self._hear(process, worker, event, mood)

        def hear_plainly(event: Event) -> None:
            self._hear(process, process.number, event, self._mood(event))

        return hear_plainly if self.plain else hear

    def _mood(self, event: Event) -> float:
        self.tries[event.id] += 1
        return 0.5 if self.healthy else Random(f"{self.seed}:{event.id}:{self.tries[event.id]}").random()

    def _hear(self, process: Process, worker: int, event: Event, mood: float) -> None:
        if mood < self.refuses:
            raise Flaky(event.id)
        world, heard = self.world, self.told.setdefault(event.run_id, [])
        world.note(process, f"{self.name} hears {event.id}")
        owner = rows(world.mirror.connection, OWNER, self.name, event.run_id)
        told = Told(event.seq, process, worker, owner == [(worker,)])
        for before in heard:
            if before.seq == event.seq and before.rightful and told.rightful and not self._lost(before):
                names = before.process.name, process.name
                world.wrong(f"{self.name} is told {event.id} twice, by {names}, and neither was dead")
        heard.append(told)

    def _lost(self, told: Told) -> bool:
        """Whether the worker that told it could not store that: it has died, was thought dead, or has left."""
        process = told.process
        return (
            not process.alive
            or process.leaving
            or process.number != told.worker
            or not rows(self.world.mirror.connection, ALIVE, told.worker)
        )

    def wanted(self, run_id: str, facts: list[Fact]) -> list[int]:
        """The seqs of a run's events for it."""
        found = [0] if STARTED in self.events else []
        found += [fact.seq for fact in facts if fact.kind in self.events]
        return [seq for seq in found if (run_id, seq) not in self.left_out]

    def check(self, run_id: str, facts: list[Fact]) -> None:
        """Each event at least once, the first time in order."""
        told = [each.seq for each in self.told.get(run_id, ())]
        first = list(dict.fromkeys(seq for seq in told if (run_id, seq) not in self.left_out))
        wanted = self.wanted(run_id, facts)
        if first != wanted:
            self.world.wrong(f"{self.name} has got {told} of {run_id}, and should have got {wanted} in this order")


class Outbox:
    """All sinks of a world."""

    def __init__(self, world: World, rng: Random, *, most: int) -> None:
        self.world = world
        self.rng = rng
        self.sinks = [Listener(world, f"sink{place}", rng) for place in range(min(most, rng.choice((0, 0, 1, 3))))]

    def declare(self, process: Process) -> None:
        """What each process declares."""
        for sink in self.sinks:
            process.app.sink(sink.name, sink.target(process), **sink.options)

    async def settle(self) -> None:
        """Everything is healed: what was given up is listed, and replayed or skipped, until nothing is left."""
        world = self.world
        for sink in self.sinks:
            sink.healthy = True
        if self.sinks and not world.workers:
            await world.boot(worker=True)
        for second in itertools.count():
            left = rows(world.mirror.connection, OPEN)
            if not left or world.violations:
                return
            if second > SETTLED_S:
                world.wrong(f"these deliveries are never made: {left}")
                return
            for sink in self.sinks:
                dead = {run for name, run, *_, dead_at in left if name == sink.name and dead_at is not None}
                if dead:
                    await self._look_after(sink, dead)
            await asyncio.sleep(1)

    async def _look_after(self, sink: Listener, dead: set[int]) -> None:
        client = self.world.client.app.client
        numbers = self.world.mirror.numbers
        listed = await self.world._in_client(lambda _: client.dead_events(sink.name))
        if not dead <= {numbers[event.run_id] for event in listed}:
            self.world.wrong(f"{sink.name} was given up for the runs {dead}, and listed are {listed}")
        for event in listed:
            if sink.tries and not event.error:
                self.world.wrong(f"nobody knows why {sink.name} was given up: {event}")
            if self.rng.random() < 0.3:
                try:
                    left_out = await self.world._in_client(
                        lambda _, event=event: client.skip_event(sink.name, event.run_id)
                    )
                except IllegalMove:
                    continue
                sink.left_out.add((event.run_id, left_out))
        if self.rng.random() < 0.5:
            await self.world._in_client(lambda _: client.replay_events(sink.name))
        elif listed:
            run_id = self.rng.choice(listed).run_id
            await self.world._in_client(lambda _: client.replay_events(sink.name, run_id))


def check(world: World) -> None:
    """Nothing is lost, and everything came in order."""
    for sink in world.outbox.sinks:
        for number, run in world.mirror.runs.items():
            sink.check(run.id, world.mirror.facts[number])
