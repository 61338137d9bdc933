"""One simulated operating-system process: an app with a worker or without, and the ways it can go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine, Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import apsw
from tests.sim.loop import Killed, Lane

from perdure import App, WorkerOptions, current_step
from perdure.engine.writer import RETRY_COMMIT_S
from perdure.errors import StoreError, StoreUnavailable
from perdure.store.changes import Changes
from perdure.store.operation import Done, Operation, Row
from perdure.store.record import Record
from perdure.testing.time import START, VirtualClock
from perdure.worker.worker import Worker

if TYPE_CHECKING:
    from tests.sim.world import World

SICKNESSES = {"busy": apsw.BusyError, "full": apsw.FullError, "io": apsw.IOError}
MILLISECOND = 1_000
FALLBACK_S = max(RETRY_COMMIT_S) + 1.0
"""So long after a fault everything that it made fail has been tried again."""
SLOW = frozenset({"start", "claim", "claim_lone"})
"""What takes its time where the store's answers do; nobody relies on an order among these."""
QUEUE_LIMITS = ("concurrency", "per_key", "per_worker", "while_waiting", "rate")


class Flaky(Exception):
    """What a failing body raises."""


class Process(Lane):
    """
    A process with its own connections, its own skewed clock and its own freshly made workflows.

    Args:
        worker: How its worker behaves; None for a client.
        version: Of the code that is deployed.
        skew: Microseconds that its clock is ahead.

    Attributes:
        number: Its worker's number in the database as last known; 0 for none.
        sickness: What commits fail with, and reads when it is "read".
        refusing: Whether the next thing that a run has to store alone is refused for good.
        awaits_rival: The run whose end it was about to store when it froze, until another worker claims that run.
        slowness: Decides how long the answers of the store take to come; None for no time.
        skew: Microseconds that its clock is ahead.
        troubled_at: When it has last had a fault, or will have had it.
        asked: Of which runs it was last judged whether it could claim them, and when.
        orphans: When it could first have known of a run or delivery that its owner is dead, by name, epoch and owner.
        awaited: What somebody waits for in it; each says what there is that was not told, if anything.
    """

    def __init__(self, world: World, name: str, *, worker: WorkerOptions | None, version: int, skew: int) -> None:
        super().__init__(name)
        self.world = world
        self.version = version
        self.options = worker
        self.changes = Changes()
        self.sickness = ""
        self.sick_share = 0.0
        self.commit_fuse: tuple[int, str] | None = None
        self.refusing = False
        self.awaits_rival: int | None = None
        self.slowness = Random(f"{world.slowness}:{name}") if world.slowness else None
        self.skew = skew
        self.troubled_at = float("-inf")
        self.asked: tuple[Any, ...] = ()
        self.orphans: dict[tuple[str, int, int], float] = {}
        self.awaited: dict[object, Callable[[], str]] = {}
        self.ready = False
        self.leaving = False
        self.worker: Worker | None = None
        self._poked = False
        self.app = App(
            f"sqlite:///{world.path}", worker=worker, clock=VirtualClock(world.loop, START + skew),
            changes=self.changes, inline_only=True, synchronous="NORMAL", probe=self._probe, limits=world.limits,
        )  # fmt: skip
        self.app.queue(world.queue.name, **{name: getattr(world.queue, name) for name in QUEUE_LIMITS})
        self.flows = world.register(self)
        world.outbox.declare(self)
        world.loop.lanes.append(self)

    # ---------------------------------------------------------------------------------------- life
    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run it inside this process."""
        return self.context.run(self.world.loop.create_task, coroutine)

    async def boot(self) -> None:
        """Open the app; a process that cannot is gone."""
        try:
            if self.options is None:
                await self.app._open()
            else:
                await self.app.__aenter__()
        except Exception as error:  # noqa: BLE001 - whatever it is, the supervisor starts another
            self.world.note(self, f"could not start: {type(error).__name__}")  # its message may name the folder
            self.die("no start")
            return
        self._hinder()
        self.ready = True
        self.world.note(self, f"is up as worker {self.number}")

    def _hinder(self) -> None:
        """Let its store fail, stall and take its time."""
        store = self.app.client.store
        select = store.select

        async def sick_select(sql: str, parameters: Sequence[Any] = ()) -> Any:
            if self.sickness == "read" and self.world.chance.random() < self.sick_share:
                problem = "simulated: the disk cannot be read"
                raise StoreUnavailable(problem)
            found = await select(sql, parameters)
            if self.slowness is not None:
                # What happens meanwhile is news for whoever reads, and other answers may overtake this one.
                await asyncio.sleep(self._slowly())
            return found

        submit = store.submit

        def stalling_submit(operation: Operation, done: Done) -> None:
            if (
                isinstance(operation, Record)
                and operation.end is not None
                and self.world.chaos.stalls_at_end(self, operation.number)
            ):
                self.world.loop.call_soon(submit_late, operation, done, context=self.context)
            elif self.slowness is not None and not SLOW.isdisjoint(name for name, _ in operation.lines):
                # As on a server: it takes time to come there, and the answer comes behind the news of later commits.
                self.world.loop.call_later(
                    self._slowly(), submit_late, operation, lambda *answer: self._answer_late(done, *answer)
                )
            else:
                submit(operation, done)

        def submit_late(operation: Operation, done: Done) -> None:
            try:
                submit(operation, done)
            except StoreError as error:
                done([], error)

        store.select = sick_select  # type: ignore[method-assign]
        store.submit = stalling_submit  # type: ignore[method-assign]

    def _slowly(self) -> float:
        assert self.slowness is not None
        return self.slowness.choice((0.0, 0.005, 0.03))

    def _answer_late(self, done: Done, rows: list[Row], error: Exception | None) -> None:
        self.world.loop.call_later(self._slowly(), done, rows, error)

    async def leave(self) -> None:
        """Stop in good order."""
        self.leaving, self.ready = True, False
        self.worker = self.app.worker
        try:
            await self.app._close()
        except StoreError as error:
            self.die(f"could not say goodbye: {error}")
        else:
            self.die("left")

    def die(self, why: str) -> None:
        """From now on nothing of it runs."""
        if not self.alive:
            return
        self.world.note(self, f"dies: {why}")
        self.ready = False
        loop = self.world.loop
        loop.keep_tasks()
        self.end()
        loop.lanes.remove(self)
        # Not here: it may be in the middle of a transaction, which ends first, rolled back.
        loop.call_soon(self._bury, context=loop.world.context)

    def burn(self) -> None:
        self.die("killed between two callbacks")

    def _bury(self) -> None:
        if self.app._client is not None:
            self.app._client.store.abandon()

    @property
    def number(self) -> int:
        """The worker's number; 0 without one."""
        worker = self.worker or self.app.worker
        return worker.number if worker else 0

    @property
    def busy(self) -> bool:
        """Whether it drives a run."""
        worker = self.worker or self.app.worker
        return bool(worker and worker.statistics["driven"])

    def now(self, at: float) -> int:
        """What its clock says at this time of the loop."""
        return START + self.skew + round(at * 1_000_000)

    @property
    def troubled(self) -> bool:
        """Whether it has a fault that lasts."""
        return bool(self.sickness or self.refusing or self.frozen_until > self.world.loop.time())

    def well(self, at: float) -> bool:
        """Whether it does at this time what it should: it is up, stays, and has got over its last fault."""
        return self.ready and not self.troubled and self.troubled_at + FALLBACK_S <= at

    @contextlib.contextmanager
    def awaits(self, owed: Callable[[], str]) -> Iterator[None]:
        """Inside, somebody waits in this process."""
        token = object()
        self.awaited[token] = owed
        try:
            yield
        finally:
            del self.awaited[token]

    # --------------------------------------------------------------------------------------- commits
    def _probe(self, place: str, batch: Sequence[Operation]) -> None:
        world = self.world
        if place == "after_commit":
            news = world.mirror.refresh(batch)
            if news:
                world.note(self, "commits", *news)
                world.tell_others(self)
                world.wake_rivals()
            self._burn_at("after")
        else:
            if self.sickness in SICKNESSES and world.chance.random() < self.sick_share:
                sick = SICKNESSES[self.sickness]
                raise sick("simulated")
            self._burn_at("before")
            if self.refusing and len(batch) == 1 and isinstance(batch[0], Record) and batch[0].body is None:
                self.refusing, self.troubled_at = False, world.loop.time()
                problem = "simulated"
                raise apsw.ConstraintError(problem)

    def _burn_at(self, place: str) -> None:
        if self.commit_fuse is None or self.commit_fuse[1] != place:
            return
        left = self.commit_fuse[0] - 1
        self.commit_fuse = (left, place)
        if left < 0:
            self.die(f"killed {place} a commit")
            raise Killed

    def poke(self, delay: float) -> None:
        """Somebody else has committed: this process notices after a while."""
        if not self._poked:
            self._poked = True
            self.world.loop.call_later(delay, self._notice, context=self.context)

    def _notice(self) -> None:
        self._poked = False
        self.changes.committed_elsewhere()

    # ---------------------------------------------------------------------------------------- bodies
    def begin(self, spec: dict[str, Any]) -> tuple[str, int, str, int]:
        """A body begins: see to it that it may (I2), and note it outside the store."""
        info = current_step()
        world, mirror = self.world, self.world.mirror
        place = (info.run_id, spec["round"], info.key, info.attempt)
        world.note(self, f"body {place} begins")
        run = mirror.run(info.run_id)
        if run is None:
            world.wrong(f"I2: a body of {info.run_id} began before the run was durable")
            return place
        if mirror.observed[run.number, spec["round"]] < spec["seen"]:
            world.wrong(f"I2: {place} began before what it depends on was durable")
        ours = run.owner == self.number and self.number and run.epoch == self._epoch(run.number)
        if ours and (run.ended or (run.number, spec["round"], info.key) in mirror.outcomes):
            world.wrong(f"{place} began, and its outcome or the run's end was durable already")
        if spec.get("once") and (run.number, spec["round"], info.key, info.attempt) not in mirror.begun:
            world.wrong(f"{place} may run at most once, and began before that was durable")
        world.bodies.setdefault(place, []).append(self.name)
        if spec.get("undo"):
            world.undoable.add(place[:3])
        world.says[place[:3]] = spec.get("says", 0)
        return place

    def _epoch(self, number: int) -> int | None:
        worker = self.worker or self.app.worker
        driver = worker._drivers.get(number) if worker else None
        return driver.run.epoch if driver else None

    def finish(self, place: tuple[str, int, str, int], spec: dict[str, Any]) -> int:
        """A body ends: as its spec says, by attempt."""
        if place[3] <= spec["fails"]:
            self.world.ends.setdefault(place, []).append(None)
            raise Flaky(f"{spec['value']}")
        value = spec["value"] * 2 + 1
        self.world.ends.setdefault(place, []).append(value)
        return value

    def text(self, value: Any) -> str:
        """JSON as perdure stores it."""
        return json.dumps(value)
