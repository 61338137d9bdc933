"""A worker: claims due runs, drives them, takes over those of dead workers, leaves in good order."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from perdure import ids
from perdure.clock import SECOND, Clock, micros
from perdure.codec.payload import Payloads
from perdure.engine.cadence import Cadence
from perdure.engine.definition import LONE, Registry
from perdure.engine.drive import Driver
from perdure.engine.observer import Observer
from perdure.engine.request import ChildStart
from perdure.errors import StoreClosed, StoreError
from perdure.model.entry import Entry
from perdure.model.limits import Limits
from perdure.model.run import Claimed, Message
from perdure.store.operation import Operation, Row
from perdure.store.store import Store
from perdure.worker.calls import CROWD, NESTING, Calls
from perdure.worker.children import look_at_taken
from perdure.worker.claims import claiming, look_ahead, read_claimed, taken
from perdure.worker.collector import Collector
from perdure.worker.heartbeat import Heartbeat
from perdure.worker.lanes import Lanes
from perdure.worker.letgo import give_back, pause
from perdure.worker.lone import LoneRuns
from perdure.worker.mail import Mail
from perdure.worker.options import WorkerOptions
from perdure.worker.pace import Pace
from perdure.worker.parked import Parked
from perdure.worker.part import Part
from perdure.worker.register import register
from perdure.worker.retention import Retention
from perdure.worker.takeover import next_look, sweep
from perdure.worker.tasks import Tasks

log = logging.getLogger("perdure.worker")
GOODBYE_S = 10.0
"""How long leaving waits for a database that does not answer, beside the drain time of the worker's parts."""


class Worker:
    """
    Drives runs in this process, on the loop that `start` is called on.

    Args:
        parts: What lives as long as it does.
        id: Chosen identity; a generated one when empty.

    Attributes:
        number: Its number in the database, once started.
        lone: The runs that callers have lent it their functions for.
    """

    def __init__(  # one per part
        self,
        store: Store,
        *,
        clock: Clock,
        payloads: Payloads,
        registry: Registry,
        limits: Limits,
        options: WorkerOptions,
        observer: Observer | None = None,
        parts: Iterable[Part] = (),
        id: str = "",
    ) -> None:
        self.store = store
        self.clock = clock
        self.payloads = payloads
        self.registry = registry
        self.limits = limits
        self.options = options
        self.observer = observer
        self.parts = tuple(parts)
        self.id = id or options.id or ids.worker_id()
        self.number = 0
        self.hold = micros(options.hold)
        self.loop: asyncio.AbstractEventLoop
        self.threads: ThreadPoolExecutor
        self._drivers: dict[int, Driver] = {}
        self._parked = Parked(options.cached_runs)
        self._loading: dict[int, bool] = {}  # with whether messages have come meanwhile
        self._tasks = Tasks(self.id)
        self._reserved = 0
        self._state = "new"
        self._claiming = False
        self._look_again = False
        self._mail = Mail(store, self._drivers, self._loading, self._tasks)
        self._lanes = Lanes()
        self.lone = LoneRuns(self._claim_lone, self._drivers, self._parked)
        self._pace = Pace(clock, self._look)
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._heartbeat: Heartbeat | None = None
        self._identity = asyncio.Lock()  # held while it is given or given up
        self._quiet: asyncio.Event | None = None
        self._place = ids.process_place()
        self._retention = Retention(store, clock, options.retention)

    # ---------------------------------------------------------------------------------------- life
    async def start(self) -> None:
        """
        Register, and begin to claim.

        Raises:
            DuplicateName: A worker with the chosen id is alive.
        """
        self.loop = asyncio.get_running_loop()
        self._collector = Collector(self.loop, self.clock)
        self._calls = Calls(self.loop, self.store, self._collector)
        self.now, self.soon = self._calls.now, self._calls.soon
        self.cadence = Cadence(self.loop, self.soon)
        self.threads = ThreadPoolExecutor(self.options.threads, "perdure-step")
        await self._register()
        self.registry.on_new(self._learn)
        self._state = "working"
        self.store.changes.on_due(self._pace.heard)
        self.store.changes.on_mail(self._mail.heard)
        self.store.start_polling()
        await self._sweep()
        self._look()
        self._retention.start(self._tasks.spawn)
        for part in self.parts:
            part.start(self)

    async def _register(self) -> None:
        names, lease = json.dumps(self.registry.names()), micros(self.options.lease)
        self.number = await register(
            self.store, self.id, self._place, names, now=self.clock.now(), lease=lease, chosen=bool(self.options.id),
            virtual=self.clock.virtual,
        )  # fmt: skip
        self._workflows = names
        if not self.clock.virtual:
            self._heartbeat = Heartbeat(
                self.store.pulse, self.clock, self.number, lease=lease, blocked=micros(self.options.blocked),
                declared_dead=self._declared_dead,
            )  # fmt: skip

    def _learn(self) -> None:
        """A workflow was registered meanwhile: claim its runs too, and say so."""
        self.loop.call_soon_threadsafe(self._tasks.spawn, self._tell_workflows)

    async def _tell_workflows(self) -> None:
        self._workflows = json.dumps(self.registry.names())
        await self.store.apply(Operation([("learn", (self.number, self._workflows))], makes_due=True))

    async def stop(self) -> None:
        """
        Leave: let running bodies end within the drain time, give all runs back, and say goodbye.

        Every run is stored as it stands when this returns; other workers go on with them at once.
        """
        if self._state != "working":
            return
        self._state = "draining"
        self._fall_silent()
        self._quiet = asyncio.Event()
        for driver in tuple(self._drivers.values()):
            self.loop.call_soon(driver.release)
        await self._drained(micros(self.options.drain) / SECOND)
        if self._drivers:
            log.warning(
                "worker %s: %d runs did not come to rest in time; their steps run again", self.id, len(self._drivers)
            )
            for driver in tuple(self._drivers.values()):
                self.loop.call_soon(driver.abandon)
            await self._drained(micros(self.options.drain) / SECOND)
        self._parked.evict()
        try:
            async with asyncio.timeout(micros(self.options.drain) / SECOND + GOODBYE_S):
                await self._say_goodbye()
        except (TimeoutError, StoreError) as error:
            log.warning("worker %s cannot say goodbye, and counts as alive until its lease ends: %r", self.id, error)
        finally:
            self._collector.restore()
            if self._heartbeat:
                self._heartbeat.stop()
            self.threads.shutdown(wait=False, cancel_futures=True)
            self._tasks.stop()
            self._state = "stopped"
            self.lone.leave()

    async def _say_goodbye(self) -> None:
        for part in self.parts:
            await part.stop()
        async with self._identity:
            if self._heartbeat:
                self._heartbeat.stop()
            await self.store.apply(Operation([("leave", (self.number, self.clock.now()))]))

    def _fall_silent(self) -> None:
        """Look for no more runs."""
        self._retention.stop()
        self.registry.forget(self._learn)
        self.store.changes.forget(self._pace.heard)
        self._pace.stop()
        self.store.changes.forget(self._mail.heard)
        if self._sweep_timer:
            self._sweep_timer.cancel()

    async def _drained(self, seconds: float) -> None:
        assert self._quiet is not None  # noqa: S101 - made by stop
        if self._drivers or self._loading or self._claiming:
            try:
                async with asyncio.timeout(seconds):
                    await self._quiet.wait()
            except TimeoutError:
                return

    def kill(self) -> None:
        """Stop as a killed process would: nothing more is written, nothing is said (simulations)."""
        self._state = "stopped"
        self._fall_silent()
        for part in self.parts:
            part.kill()
        for driver in self._drivers.values():
            driver.evict()
        self._drivers.clear()
        self._parked.evict()
        self._tasks.cancel()
        self.threads.shutdown(wait=False)

    @property
    def statistics(self) -> dict[str, int]:
        """How many runs are driven and parked in memory now."""
        return {"driven": len(self._drivers), "parked": len(self._parked)}

    @property
    def busy(self) -> bool:
        """Whether anything but waiting goes on."""
        return bool(self._loading or self._claiming or any(driver.running for driver in self._drivers.values()))

    # ------------------------------------------------------------------------------------- claiming
    @property
    def _free(self) -> int:
        return self.options.concurrency - len(self._drivers) - len(self._loading) - self._reserved

    def reserve(self) -> int | None:
        """
        This worker's number if it can drive one more run now, which may then be inserted as claimed by it.

        `adopt` or `unreserve` must follow.
        """
        if self._state != "working" or not self.number or self._free <= 0:
            return None
        self._reserved += 1
        return self.number

    def unreserve(self) -> None:
        """The run was not inserted after all; what became due while it had the last place is claimed now."""
        look = self._free <= 0
        self._reserved -= 1
        if look:
            self._look()

    def drives(self, number: int) -> bool:
        """Whether it drives this run, so that its end, if it comes, comes from here."""
        return number in self._drivers

    def adopt(self, run: Claimed) -> None:
        """Drive a run that was inserted as claimed by this worker."""
        self._reserved -= 1
        if self._state == "working":
            self._begin(run, [], [])
        else:
            self._tasks.spawn(give_back, self.store, self.clock, run)

    def _look(self) -> None:
        """Something may be due: claim it, unless a claim is under way already."""
        if self._state != "working":
            return
        if self._claiming:
            self._look_again = True
            return
        if self._free <= 0 or not self.number:
            return
        most = self._pace.most(self._free)
        self._claiming, self._look_again = True, False
        now = self.clock.now()
        top, queues = self.options.concurrency - self._reserved, self._lanes.ask(now)
        operation = claiming(
            self.number, now, most=most, top=top, workflows=self._workflows, queues=queues,
            lone=self.lone.ids(),
        )  # fmt: skip
        if self.observer is not None:
            operation.add("due_now", now, most)
        self.loop.call_soon(self._claim, operation, most, now)

    def _claim(self, operation: Operation, most: int, now: int) -> None:
        heard_of = self._mail.heard_of
        try:
            self.store.submit(operation, lambda rows, error: self._claimed(rows, error, most, now, heard_of))
        except StoreError as error:
            self._claimed([], error, most, now, heard_of)

    def _claimed(self, rows: list[Row], error: Exception | None, most: int, now: int, heard_of: int) -> None:
        self._claiming = False
        if self._state == "stopped":
            return
        if error is not None:
            log.error("worker %s cannot claim runs, trying again: %s", self.id, error)
            self._pace.look_at(now + SECOND)
            self._tell_stop()
            return
        runs = self._take(rows, now, heard_of)
        self._pace.claimed(len(runs), most)
        self._tell_stop()
        if len(runs) >= most or self._look_again:
            self._look()
        else:
            # A queue may have more to give than its limits let one claim see.
            self._tasks.spawn(self._plan, now, () if any(run.queue for run in runs) else self._lanes.asked)

    def _take(self, rows: list[Row], now: int, heard_of: int) -> list[Claimed]:
        """Read, and then drive, the runs that a claim has given; when it was sent, so much mail had been heard of."""
        runs = taken(rows, now, self.observer)
        if self._mail.heard_of != heard_of:
            runs = [run._replace(mail=True) for run in runs]
        if runs:
            self._loading.update((run.number, False) for run in runs)
            self._tasks.spawn(self._load, runs)
        return runs

    def _claim_lone(self, ids: str, told: Callable[[Exception | bool], None]) -> None:
        """Claim these lone runs now, as far as they are due, and drive them; tell whether one was."""
        heard_of = self._mail.heard_of

        def done(rows: list[Row], error: Exception | None) -> None:
            if error is None and self._state != "stopped":
                self._take(rows, self.clock.now(), heard_of)
            told(error or bool(rows))

        if self._state == "working" and self.number:
            self.store.submit(Operation([("claim_lone", (self.number, self.clock.now(), ids))]), done)
        else:
            told(False)  # noqa: FBT003 - the answer

    async def _plan(self, now: int, asked: tuple[str, ...]) -> None:
        """Look again when the next run becomes due, and at once at queues that no claim has asked about just now."""
        due_at, queues = await look_ahead(self.store, now)
        if self._lanes.found(queues, now, asked):
            self._look()
        elif due_at is not None:
            self._pace.look_at(due_at)

    async def _load(self, runs: list[Claimed]) -> None:
        """Read what the claimed runs need, then drive them; one that cannot be read is paused."""
        try:
            await self._load_all(runs)
        except Exception as error:
            if len(runs) > 1:
                for run in runs:
                    self._tasks.spawn(self._load, [run])
                return
            log.exception("run %s cannot be read and is paused", runs[0].id)
            self._loading.pop(runs[0].number, None)
            self.give_up(runs[0], error)
            self._tell_stop()

    async def _load_all(self, runs: list[Claimed]) -> None:
        try:
            found = await read_claimed(self.store, runs, self._parked.holds, self.observer)
        except StoreError as error:
            log.error("worker %s cannot read the runs it claimed: %s", self.id, error)
            for run in runs:
                self._loading.pop(run.number, None)
                self._tasks.spawn(give_back, self.store, self.clock, run)
            self._tell_stop()
            return
        for each in found:
            self.loop.call_soon(self._drive, *each)

    def _drive(self, run: Claimed, journal: list[Entry] | None, messages: list[Message]) -> None:
        if self._state == "stopped":
            return
        known = self._drivers.get(run.number) or self._parked.get(run.number)
        if known is not None and known.run.epoch > run.epoch:
            return  # this worker had lost the run, and has claimed it again, before this journal was read
        parked = self._parked.pop(run.number, None)
        if parked is None and journal is None:
            # Its coroutine was in memory when it was claimed, and had to make room for another one since.
            self._tasks.spawn(self._load, [run])
            return
        told = self._loading.pop(run.number, False)
        stale = self._drivers.get(run.number)
        if stale is not None:
            # Others took the run away before this worker noticed, and it has claimed it again.
            stale.lose()
        if parked is not None:
            self._drivers[run.number] = parked
            parked.resume(run, messages)
        else:
            self._begin(run, journal or [], messages)
        if told:
            self._mail.heard({run.number})
        if self._state == "draining" and run.number in self._drivers:
            self._drivers[run.number].release()

    def _begin(self, run: Claimed, journal: list[Entry], messages: list[Message]) -> None:
        try:
            workflow = self.lone.begin(run) if run.workflow == LONE else self.registry.get(run.workflow)
            if workflow is None:
                self._tasks.spawn(give_back, self.store, self.clock, run)
                self._tell_stop()
                return
            driver = Driver(self, run, workflow, journal)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # as in the driver: whatever its journal holds, it must not stay here in silence
            log.exception("run %s cannot be driven and is paused", run.id)
            self.give_up(run, error)
            self._tell_stop()
            return
        self._drivers[run.number] = driver
        if len(self._drivers) % CROWD == 0:
            self._collector.crowd()
        driver.begin(messages)

    # -------------------------------------------------------------------------- what drivers call
    @property
    def alone(self) -> bool:
        """Whether one driver has this worker for itself, so that nobody could share its commit."""
        return len(self._drivers) == 1 and NESTING and not self._calls.pending

    def left(self, driver: Driver) -> None:
        """The driver no longer owns its run."""
        number = driver.run.number
        if self.observer is not None:
            self.observer.left(driver.run, driver.how, driver.error, self.clock.now())
        look = self._free <= 0 or driver.run.suspect
        if self._drivers.get(number) is driver:
            del self._drivers[number]
        if driver.state == "parked":
            if self._state == "working" and self.options.cached_runs:
                self._parked.keep(driver)
            else:
                driver.evict()
        if look:
            self._look()
        self.lone.left(driver)
        self._tell_stop()

    def _tell_stop(self) -> None:
        """Let `stop` go on when nothing is driven, read or claimed any more."""
        if self._quiet and not (self._drivers or self._loading or self._claiming):
            self._quiet.set()

    def give_up(self, run: Claimed, error: BaseException) -> None:
        """A run cannot go on here, and nothing of it runs any more: pause it, so that it is nobody's in silence."""
        if not isinstance(error, StoreClosed):
            self._tasks.spawn(pause, self.store, self.clock, self.payloads, run, error)

    def check_child(self, driver: Driver, child: ChildStart) -> None:
        """A child's id was taken: find out by whom."""
        self._tasks.spawn(look_at_taken, self.store, driver, child)

    # ------------------------------------------------------------------------------------ take-over
    async def _sweep(self) -> None:
        """Take over the runs of workers that are dead; see to it again in a while."""
        wait = micros(self.options.lease) / 3 / SECOND
        try:
            leases, alive = await sweep(
                self.store, self.number, self._place, clock=self.clock, options=self.options, payloads=self.payloads,
                observer=self.observer,
            )  # fmt: skip
            self._pace.others, wait = len(leases), next_look(leases, self.clock, wait)
            if not alive:
                self._declared_dead()
        except Exception as error:
            mistake = not isinstance(error, StoreError)  # which must not keep it from looking again, once
            log.error("worker %s cannot look for dead workers: %s", self.id, error, exc_info=mistake)
        finally:
            if self._state == "working":
                self._sweep_timer = self.loop.call_later(wait, lambda: self._tasks.spawn(self._sweep))

    def _declared_dead(self) -> None:
        """Others have declared this worker dead, as it was silent for too long: what it holds is void (I1)."""
        if self._state != "working":
            return
        log.warning("worker %s was declared dead by others; it begins again under a new identity", self.id)
        for driver in tuple(self._drivers.values()):
            driver.lose()
        self._parked.evict()
        if self._heartbeat:
            self._heartbeat.stop()
        self.id = ids.worker_id()
        self.number = 0
        self._tasks.spawn(self._reborn)

    async def _reborn(self) -> None:
        async with self._identity:
            if self._state == "working":
                await self._register()
        self._look()
