"""A simulated world: processes on one file, callers who start, signal and steer runs, and a supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.sim import programs, prompt, stages, talks, workflows
from tests.sim.faults import Chaos
from tests.sim.loop import SimLoop
from tests.sim.mirror import Mirror
from tests.sim.outbox import Outbox
from tests.sim.process import MILLISECOND, Process

from perdure import Context, DurableResult, Limits, Queue, Rate, WorkerOptions, run_durable
from perdure.errors import (
    IllegalMove,
    LeaseHeld,
    LeaseLost,
    PerdureError,
    RunError,
    RunFinished,
    RunNotFound,
    RunPaused,
    StoreError,
)
from perdure.store.doctor import examine
from perdure.store.sqlite import SqliteStore
from perdure.testing.time import START, VirtualClock

PATIENCE_S = 6.0
QUIET_S = 150.0
"""Nothing in a program lasts longer than this, so a run that has not moved for as long never will."""


@dataclass
class Plan:
    """A run that callers will start, and what they will do to it."""

    id: str
    workflow: str
    job: dict[str, Any]
    at: float
    delay: float
    timeout: float | None
    terms: dict[str, Any] = field(default_factory=dict)
    lone: bool = False
    started: bool = False
    cancelled: bool = False
    seen: list[tuple[str, Any]] = field(default_factory=list)


@dataclass
class Sent:
    """A signal that somebody tried to send: accepted, refused or unknown (None)."""

    run: str
    name: str
    payload: str
    key: str | None
    accepted: bool | None = None


class World:
    """
    Everything of one seed.

    Args:
        path: The SQLite file, migrated and empty.
        tracing: Keep a line for everything that happens.
        talking: Nothing but answers, and those who read them.

    Attributes:
        violations: Invariants that did not hold, in words.
        bodies: Who began each attempt, by (run, round, key, attempt); `ends`: what they returned.
        undoable: The steps that have a compensation, by (run, round, key).
        slowness: What the time is drawn from that the store's answers take; empty where they take none.
        says: How many words each step emits, by the same.
        asked: How often the batches of pipelines were asked for.
        turns: How many each turn says that has come to its end, by the same.
        works: When what goes on elsewhere has begun, by the key that it was started under.
    """

    def __init__(self, seed: int, path: str, *, tracing: bool = False, talking: bool = False) -> None:
        self.path = path
        self.tracing = tracing
        self.trace: list[str] = []
        self.violations: list[str] = []
        self.loop = SimLoop(Random(f"{seed}:loop"))
        self.rng = Random(f"{seed}:world")
        self.chance = Random(f"{seed}:store")
        self.mirror = Mirror(path, self.latest, self.wrong)
        self.bodies: dict[tuple[str, int, str, int], list[str]] = {}
        self.undoable: set[tuple[str, int, str]] = set()
        self.says: dict[tuple[str, int, str], int] = {}
        self.asked: Counter[str] = Counter()
        self.turns: dict[tuple[str, int, str], int] = {}
        self.ends: dict[tuple[str, int, str, int], list[int | None]] = {}
        self.sent: list[Sent] = []
        self.processes: list[Process] = []
        self.version = 1
        self._made = 0
        rng = self.rng
        self.lease = rng.choice((3.0, 6.0, 9.0))
        self.wanted_workers = rng.choice((1, 2, 2, 3, 3, 4))
        self.skew = rng.choice((0, 0, 50, 400)) * MILLISECOND
        self.options = WorkerOptions(
            concurrency=rng.choice((1, 2, 5, 100)), cached_runs=rng.choice((0, 1, 100)), lease=self.lease,
            hold=rng.choice((0.0, 0.1, 2.0)), drain=rng.choice((0.05, 2.0)), most_takeovers=rng.choice((3, 5, 10)),
        )  # fmt: skip
        self.slowness = Random(f"{seed}:slowness").choice(("", f"{seed}"))
        self.limits = Limits(inline_bytes=rng.choice((40, 300, 32_768)))
        limits = Random(f"{seed}:queue")
        self.queue = Queue(
            "lane", concurrency=limits.choice((1, 2, 4)), per_key=limits.choice((None, 1, 2)),
            per_worker=limits.choice((None, 1, 2)), while_waiting=limits.choice(("hold", "free")),
            rate=limits.choice(((), Rate(3, per=5), Rate(2, per=3, sliding=True))),
        )  # fmt: skip
        self.plans = [self._plan(f"r{place}") for place in range(0 if talking else rng.choice((2, 4, 6, 9)))]
        for plan in self.plans:
            if limits.random() < 0.5:
                plan.terms = {"queue": "lane", "key": limits.choice("ab"), "priority": limits.randrange(2)}
        lone = Random(f"{seed}:lone")
        for plan in self.plans:
            if plan.workflow == "play" and lone.random() < 0.15:
                plan.lone, plan.terms, plan.delay, plan.job = True, {}, 0, {**plan.job, "rounds": 1}
        self.works: dict[str, float] = {}
        self.talks = talks.draw(self, Random(f"{seed}:talks"), talking=talking)
        self.outbox = Outbox(self, Random(f"{seed}:sinks"), most=0 if talking else 3)
        self.pipelines = [] if talking else stages.draw(Random(f"{seed}:stages"))
        self.chaos = Chaos(self, Random(f"{seed}:chaos"))
        self.loop.before_step = self.chaos.before_step
        self.loop.before_rest = lambda until: prompt.judge(self, until)
        self.supervising = True

    def _plan(self, run_id: str) -> Plan:
        rng = self.rng
        sync = rng.random() < 0.2
        program = programs.Draw(rng, rng.choice((2, 5, 9, 14))).program(sync=sync)
        job = {"part": program, "round": 1, "rounds": rng.choice((1, 1, 1, 1, 2, 3))}
        return Plan(
            run_id, "sync_play" if sync else "play", job, at=rng.choice((0, rng.uniform(0, 4), rng.uniform(0, 20))),
            delay=rng.choice((0, 0, 0, 1.5)), timeout=rng.choice((None, None, None, None, 5.0)),
        )  # fmt: skip

    def register(self, process: Process) -> dict[str, Any]:
        """Define all workflows in a process; returns those that programs use, by name."""
        talks.register(process)
        return workflows.register(process)

    # ----------------------------------------------------------------------------------- what is noted
    def wrong(self, what: str) -> None:
        """An invariant does not hold."""
        self.violations.append(f"{self.loop.time():.6f}: {what}")
        self.note(None, f"WRONG {what}")

    def latest(self) -> int:
        """When a run is due that anybody has just put down, at the latest: a worker that cannot read asks for 1 s."""
        return START + round(self.loop.time() * 1_000_000) + self.skew + 1001 * MILLISECOND

    def note(self, process: Process | None, *what: str) -> None:
        """Add to the trace."""
        if self.tracing:
            name = process.name if process else "world"
            self.trace.append(f"{self.loop.time():11.6f} {self.loop.steps:6} {name:5} {' | '.join(what)}")

    # -------------------------------------------------------------------------------------- processes
    @property
    def workers(self) -> list[Process]:
        """The worker processes that are alive."""
        return [process for process in self.processes if process.alive and process.options]

    @property
    def clients(self) -> list[Process]:
        """The processes without a worker that are alive."""
        return [process for process in self.processes if process.alive and not process.options]

    async def boot(self, *, worker: bool) -> Process:
        """Start a process."""
        self._made += 1
        rng = self.rng
        process = Process(
            self, f"{'w' if worker else 'c'}{self._made}", worker=self.options if worker else None,
            version=self.version, skew=rng.randint(-self.skew, self.skew),
        )  # fmt: skip
        self.processes = [other for other in self.processes if other.alive] + [process]
        self.graveyard.append(process)
        process.spawn(process.boot())
        await asyncio.sleep(0.01)
        return process

    graveyard: list[Process]

    async def ask(self, process: Process, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """
        Have a process do something, and wait for its answer as another process would.

        Raises:
            TimeoutError: No answer came; perhaps it was done.
        """
        answer = self.loop.create_future()

        async def run() -> None:
            try:
                result = await make()
            except asyncio.CancelledError:
                return
            except Exception as error:  # noqa: BLE001 - it is the asker's
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(result)

        task = process.spawn(run())
        if self.chance.random() < 0.1:
            process.spawn(_lose_patience(task, self.chance.randrange(6)))
        async with asyncio.timeout(PATIENCE_S):
            return await answer

    def tell_others(self, writer: Process) -> None:
        """After a commit: the other processes notice, each in its time."""
        for process in self.processes:
            if process is not writer and process.alive:
                process.poke(self.chance.choice((0.0, 0.001, 0.005, 0.05)))

    def wake_rivals(self) -> None:
        """After a commit: who stalled at the end of a run that another worker has now goes on at once."""
        for process in self.processes:
            if process.awaits_rival is not None:
                owner = self.mirror.runs[process.awaits_rival].owner
                if owner is not None and owner != process.number:
                    process.awaits_rival, process.frozen_until = None, 0.0

    async def supervise(self) -> None:
        """Start workers for those that have ended, after a while."""
        while self.supervising:
            if len(self.workers) < self.wanted_workers:
                await self.boot(worker=True)
            await asyncio.sleep(self.rng.choice((0.1, 0.5, 2.0, 5.0)))

    # ----------------------------------------------------------------------------------------- callers
    def somebody(self) -> Process | None:
        """A process that can be asked."""
        ready = [process for process in self.processes if process.alive and process.ready]
        return self.rng.choice(ready) if ready else None

    async def insist(self, make: Callable[[Process], Coroutine[Any, Any, Any]]) -> Any:
        """Ask one process after the other until one answers; what is asked may therefore be done twice."""
        while True:
            process = self.somebody()
            if process is not None:
                try:
                    return await self.ask(process, lambda process=process: make(process))
                except (TimeoutError, StoreError):
                    pass
            await asyncio.sleep(0.3)

    async def script(self, plan: Plan) -> None:
        """All that callers do with one run."""
        rng = self.rng
        listens = sorted(programs.listens(plan.job["part"]))
        begin = self._call if plan.lone else self._start
        errands = [begin(plan, plan.at)]
        errands += [begin(plan, plan.at + rng.uniform(0, 5)) for _ in range(rng.choice((0, 0, 1)))]
        for name in listens:
            errands += [
                self._signal(plan.id, name, plan.at + rng.uniform(-1, 12)) for _ in range(rng.choice((0, 1, 3)))
            ]
        if rng.random() < 0.15:
            errands.append(self._cancel(plan, plan.at + rng.uniform(0, 8)))
        if rng.random() < 0.2:
            errands.append(self._pause(plan, plan.at + rng.uniform(0, 8)))
        if rng.random() < 0.5:
            errands.append(self._await_result(plan))
        if rng.random() < 0.3:
            errands.append(self._tail(plan))
        await asyncio.gather(*errands)

    async def _start(self, plan: Plan, at: float) -> None:
        await asyncio.sleep(at)
        options = {"id": plan.id, "delay": plan.delay, "timeout": plan.timeout, **plan.terms}
        await self.insist(lambda process: process.app.start(plan.workflow, plan.job, **options))
        plan.started = True
        if self.mirror.run(plan.id) is None:
            self.wrong(f"{plan.id} was started, its caller was told so, and it is not there")

    async def _call(self, plan: Plan, at: float) -> None:
        """Call run_durable, in one process after the other and sometimes in two at once, until the run has ended."""
        await asyncio.sleep(at)
        chance = Random(f"{plan.id}:{at}:calls")
        while True:
            ready = [process for process in self.workers if process.ready]
            if ready:
                process = chance.choice(ready)
                play = process.flows["play"]
                options = {"wait": chance.choice((0, 1, None)), "suspend": chance.random() < 0.5}

                async def fn(ctx: Context, play: Any = play) -> Any:
                    return await play(ctx, plan.job)

                try:
                    ended = await self.ask(
                        process,
                        lambda process=process, fn=fn, options=options: run_durable(
                            plan.id, fn, store=process.app, manifest=plan.job, timeout=plan.timeout, **options
                        ),
                    )
                except (TimeoutError, StoreError, LeaseHeld, LeaseLost, RunPaused):
                    pass
                except RunError as error:
                    plan.seen.append((type(error).__name__, str(error)))
                    return
                else:
                    plan.started = True
                    if isinstance(ended, DurableResult):
                        plan.seen.append(("completed", ended.result))
                        return
            await asyncio.sleep(chance.choice((0.05, 0.5, 2.0)))

    async def _signal(self, run_id: str, name: str, at: float) -> None:
        await asyncio.sleep(max(0, at))
        key = self.rng.choice((None, None, f"{run_id}-{name}-{self.rng.randrange(3)}"))
        while True:
            sent = Sent(run_id, name, f"{run_id}:{name}:{len(self.sent)}", key)
            self.sent.append(sent)
            process = self.somebody()
            if process is None:
                sent.accepted = False
            else:
                try:
                    sent.accepted = await self.ask(
                        process,
                        lambda process=process, sent=sent: process.app.signal(run_id, name, sent.payload, key=key),
                    )
                except StoreError:
                    # It says that nothing was stored.
                    sent.accepted = False
                except (RunNotFound, RunFinished):
                    sent.accepted = False
                    return
                except TimeoutError:
                    if key is None:
                        return
                else:
                    return
            await asyncio.sleep(0.4)

    async def _cancel(self, plan: Plan, at: float) -> None:
        await asyncio.sleep(at)
        plan.cancelled = True
        with contextlib.suppress(RunNotFound, RunFinished):
            await self.insist(lambda process: process.app.cancel(plan.id, "enough"))

    async def _pause(self, plan: Plan, at: float) -> None:
        await asyncio.sleep(at)
        with contextlib.suppress(RunNotFound, RunFinished, IllegalMove):
            await self.insist(lambda process: process.app.client.pause(plan.id, "asked for"))
        await asyncio.sleep(self.rng.uniform(0, 6))
        await self._resume(plan.id)

    async def _resume(self, run_id: str) -> None:
        with contextlib.suppress(RunNotFound, IllegalMove):
            await self.insist(lambda process: process.app.client.resume(run_id))

    async def _await_result(self, plan: Plan) -> None:
        """Wait for the result in the client's process, which never dies, or in one that perhaps drives the run."""
        here = self._in_client if Random(f"{plan.at}:waits").random() < 0.5 else self.insist

        async def wait(process: Process) -> Any:
            with process.awaits(lambda: self._end_of(plan)):
                return await process.app.handle(plan.id, plan.workflow).result()

        while True:
            try:
                value = await here(wait)
            except (RunNotFound, StoreError):
                await asyncio.sleep(1)
            except RunError as error:
                plan.seen.append((type(error).__name__, str(error)))
                return
            else:
                plan.seen.append(("completed", value))
                return

    def _end_of(self, plan: Plan) -> str:
        run = self.mirror.run(plan.id)
        return f"{plan.id} is {run.status}" if run is not None and run.ended else ""

    async def _tail(self, plan: Plan) -> None:
        """Follow the journal from a cursor; every entry must come once, in order."""
        after = 0

        def owed() -> str:
            last = self.mirror.last(plan.id)
            return f"{plan.id} has {last} entries, and a follower got {after}" if last > after else ""

        async def follow(client: Process) -> None:
            nonlocal after
            with client.awaits(owed):
                async for event in client.app.handle(plan.id).events(after=after):
                    if event.seq <= after:
                        self.wrong(f"a follower of {plan.id} got entry {event.seq} after {after}")
                    after = event.seq

        while True:
            try:
                await self._in_client(follow)
            except (RunNotFound, StoreError):
                await asyncio.sleep(1)
            else:
                break
        last = self.mirror.last(plan.id)
        if after != last:
            self.wrong(f"a follower of {plan.id} stopped at entry {after} of {last}")

    async def _in_client(self, make: Callable[[Process], Coroutine[Any, Any, Any]]) -> Any:
        answer = self.loop.create_future()

        async def run() -> None:
            try:
                answer.set_result(await make(self.client))
            except PerdureError as error:
                answer.set_exception(error)

        self.client.spawn(run())
        return await answer

    # -------------------------------------------------------------------------------------- the course
    client: Process

    async def live(self) -> None:
        """Chaos while callers do what they do; then everything is healed and must come to its end."""
        self.graveyard = []
        self.client = await self.boot(worker=False)
        while not self.client.ready:
            # It writes down its queue when it opens, which may fail.
            await asyncio.sleep(0.1)
            if not self.client.alive:
                self.client = await self.boot(worker=False)
        supervisor = asyncio.ensure_future(self.supervise())
        chaos = asyncio.ensure_future(self.chaos.in_time())
        scripts = [asyncio.ensure_future(self.script(plan)) for plan in self.plans]
        scripts += [asyncio.ensure_future(talks.script(self, talk)) for talk in self.talks]
        scripts += [asyncio.ensure_future(stages.script(self, work)) for work in self.pipelines]
        await asyncio.sleep(self.rng.uniform(5, 40))
        chaos.cancel()
        self.chaos.stop()
        self.note(None, "HEALED")
        self._examine()
        if self.rng.random() < 0.5:
            await self.boot(worker=True)
        await self._until_all_ended(scripts)
        await self.outbox.settle()
        self.supervising = False
        await supervisor
        for script in scripts:
            if script.done():
                script.result()
            else:
                script.cancel()
        await asyncio.gather(*scripts, return_exceptions=True)
        self._examine(over=True)
        for process in (*self.workers, self.client):
            if process.options and process.app.worker and process.app.worker.statistics["driven"]:
                self.wrong(f"{process.name} still drives something: {process.app.worker.statistics}")
            process.spawn(process.leave())
        await asyncio.sleep(30)
        if late := [process.name for process in self.processes if process.alive]:
            self.wrong(f"these processes do not leave: {late}")

    def _examine(self, *, over: bool = False) -> None:
        """The doctor finds no error in the midst of it, and notes at most when all is over."""
        clock = VirtualClock(self.loop)
        store = SqliteStore(self.path, clock=clock, limits=self.limits)
        store.open(migrating=False)
        try:
            findings = _at_once(examine(store, clock.now()))
        finally:
            store.abandon()
        for finding in findings:
            if finding.severity == "error" or (over and finding.severity == "warning"):
                self.wrong(f"the doctor says: {finding.message} {finding.examples}")

    async def _until_all_ended(self, scripts: list[asyncio.Future[None]]) -> None:
        """Resume what is paused, send what is waited for, until every run has ended and every caller is content."""
        moved, quiet_since = -1, self.loop.time()
        while not self.violations:
            await asyncio.sleep(1)
            open_ = [run for run in self.mirror.runs.values() if not run.ended]
            if not open_ and all(script.done() for script in scripts):
                return
            total = sum(map(len, self.mirror.facts.values()))
            if total != moved:
                moved, quiet_since = total, self.loop.time()
                continue
            if self.loop.time() - quiet_since > QUIET_S:
                states = "\n      ".join(map(str, open_)) or "callers still wait"
                self.wrong(f"I8: nothing moves any more:\n      {states}")
                return
            for run in open_:
                if run.status == "paused":
                    await self._resume(run.id)
                for topic in json.loads(run.waiting_for or "[]"):
                    if topic.startswith("signal:"):
                        await self._signal(run.id, topic.removeprefix("signal:"), 0)


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of what waits for nothing, without a turn of the loop: looking on changes no seed's course."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("it waits")


async def _lose_patience(task: asyncio.Task[Any], turns: int) -> None:
    """Cancel what was asked for in the middle of it, as a web server does when its caller hangs up."""
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
