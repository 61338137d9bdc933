"""Kill the worker at each commit of a run, let another one go on, and compare how it ends."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from perdure.app import App
from perdure.client.client import Client
from perdure.client.handle import RunHandle
from perdure.engine.current import StepInfo
from perdure.engine.definition import Workflow
from perdure.errors import StoreUnavailable
from perdure.model.entry import Kind
from perdure.model.status import TERMINAL, Status
from perdure.store.changes import Changes
from perdure.store.operation import Operation
from perdure.testing.mock import StandIns, Watch
from perdure.testing.time import VirtualClock, run_virtual
from perdure.testing.wait import ended, patience, together
from perdure.worker.worker import Worker

R = TypeVar("R")
Meanwhile = Callable[[RunHandle[Any]], Coroutine[Any, Any, Any]]
BEFORE, AFTER = "before", "after"
log = logging.getLogger("perdure.worker")


class CrashMismatch(AssertionError):
    """
    A run ends differently when its worker is killed at one of its commits.

    Attributes:
        commit: At which of the worker's commits, from 1.
        when: "before": what the commit held was lost; "after": it is durable, and nobody knows.
        held: What it held.
        problems: What differs, one line each.
    """

    def __init__(self, commit: int, when: str, held: str, problems: Sequence[str]) -> None:
        lines = "\n".join(f"    {problem}" for problem in problems)
        super().__init__(f"With the worker killed {when} commit {commit} ({held}) the run differs:\n{lines}")
        self.commit = commit
        self.when = when
        self.held = held
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class CrashReport(Generic[R]):
    """
    What held however the worker was killed.

    Attributes:
        result: What the workflow returned; None if it did not complete.
        commits: What each commit of the undisturbed run held.
        kills: How often the worker was killed: before and after each of them.
        repeated: Step keys, and how many of the kills made the body run a second time. These bodies have to
            bear it.
    """

    result: R | None
    commits: tuple[str, ...]
    kills: int
    repeated: dict[str, int]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended, as far as it must not depend on crashes. Events are told apart by their keys."""

    status: str
    result: Any
    error: str | None
    events: dict[str, Any]


@dataclass(slots=True)
class Trap:
    """
    Counts the commits in which a worker records what runs did, and kills it at one of them.

    It is the `probe` of the worker's store. From the kill on nothing of that store is committed.

    Args:
        at: Which commit, from 1; 0 for none.
        when: "before" or "after".

    Attributes:
        commits: What each commit held.
    """

    at: int = 0
    when: str = AFTER
    commits: list[str] = field(default_factory=list)
    worker: Worker | None = None
    sprung: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, when: str, batch: Sequence[Operation]) -> None:
        """Called by the store on its way through a commit."""
        if self.sprung.is_set():
            problem = "The worker was killed."
            raise StoreUnavailable(problem)
        held = describe(batch)
        if not held:
            return
        if when == "before_commit":
            self.commits.append(held)
        if len(self.commits) == self.at and when == f"{self.when}_commit" and self.worker is not None:
            self.sprung.set()
            self.worker.kill()
            if self.when == BEFORE:
                problem = "The worker was killed just before this commit."
                raise StoreUnavailable(problem)


def describe(batch: Sequence[Operation]) -> str:
    """What a commit holds of runs that are driven, in words; empty when there is nothing of them."""
    held = []
    for operation in batch:
        names = [name for name, _ in operation.lines]
        if "fence" not in names:
            continue  # of the worker itself: a claim, a heartbeat
        entries = [parameters[3:5] for name, parameters in operation.lines if name == "append"]
        held += [f"{kind.replace('_', ' ')} {key!r}" if key else str(kind) for kind, key in entries]
        if operation.body is not None:
            held.append("a transaction")
        elif not entries:
            held.append(names[-1])
    return ", ".join(held)


@dataclass(slots=True)
class Passage:
    """
    One way through the scenario, with or without a kill.

    Attributes:
        outcomes: By run id, for the run and its descendants.
        seen: What the scenario's `observe` gave in the end.
        bodies: Attempts of steps that were begun, by the first worker and by the second.
        durable: Run, key and seq of each outcome of a step that was durable at the kill.
        kept: The same at the end.
    """

    trap: Trap
    result: Any = None
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    seen: Any = None
    bodies: tuple[list[StepInfo], list[StepInfo]] = field(default_factory=lambda: ([], []))
    durable: set[tuple[str, str, int]] = field(default_factory=set)
    kept: set[tuple[str, str, int]] = field(default_factory=set)

    def watch(self) -> Watch:
        """A worker is going to run a step; a thread of a killed one may begin late."""
        return self.bodies[self.trap.sprung.is_set()].append

    def repeated(self) -> set[str]:
        """Keys of the steps whose bodies ran again for the same attempt."""
        first, second = ({step._replace(epoch=0) for step in bodies} for bodies in self.bodies)
        return {step.key for step in first & second}

    def needless(self) -> list[StepInfo]:
        """Bodies that ran though the outcome was durable."""
        over = {(run_id, key) for run_id, key, _ in self.durable & self.kept}
        return [step for step in self.bodies[1] if (step.run_id, step.key) in over]


@dataclass(frozen=True, slots=True)
class Scenario(Generic[R]):
    """
    What is done once per commit of the run.

    Args:
        app: Set up for tests.
        lender: The user's own app, whose calls go to the test's meanwhile.
        template: A database in which the run waits to be claimed.
        folder: For copies of it.
        start: The virtual time at which each passage begins.
        within: Seconds of virtual time for each passage.
    """

    app: App
    lender: App
    stand_ins: StandIns
    workflow: Workflow[..., R]
    run_id: str
    template: Path
    folder: Path
    start: int
    within: float
    meanwhile: Meanwhile | None
    before: Callable[[], object] | None
    observe: Callable[[], Any] | None
    key: Callable[[Any], Any] | None

    def play(self) -> CrashReport[R]:
        """
        Go through it without a kill, then with one before and after each commit.

        Raises:
            CrashMismatch: A kill makes a difference.
        """
        calm = self._passage(0, AFTER)
        commits = calm.trap.commits
        repeated: Counter[str] = Counter()
        for at, held in enumerate(commits, 1):
            for when in (BEFORE, AFTER):
                try:
                    crashed = self._passage(at, when)
                    problems = _differences(calm, crashed)
                except Exception as error:
                    raise CrashMismatch(at, when, held, [f"{type(error).__name__}: {error}"]) from error
                if problems:
                    raise CrashMismatch(at, when, held, problems)
                repeated.update(crashed.repeated())
        return CrashReport(calm.result, tuple(commits), 2 * len(commits), dict(repeated))

    def _passage(self, at: int, when: str) -> Passage:
        if self.before is not None:
            self.before()
        path = self.folder / "passage.db"
        shutil.copyfile(self.template, path)
        passage = Passage(Trap(at, when))
        outer, self.stand_ins.watch = self.stand_ins.watch, passage.watch
        level = log.level
        log.setLevel(logging.ERROR)  # each take-over is worth a warning, but not here
        try:
            run_virtual(lambda clock: self._drive(clock, path, passage), start=self.start)
        finally:
            log.setLevel(level)
            self.stand_ins.watch = outer
            for leftover in self.folder.glob("passage.db*"):
                leftover.unlink()
        if self.observe is not None:
            passage.seen = self.observe()
        return passage

    async def _drive(self, clock: VirtualClock, path: Path, passage: Passage) -> None:
        outside = self.app.variant(url=f"sqlite:///{path}", clock=clock, changes=Changes())
        async with outside.connected(), patience(outside, self.within):
            with self.lender.lent(outside):
                run = outside.handle(self.run_id, self.workflow)
                other = self.meanwhile(run) if self.meanwhile is not None else None
                await together(self._work(outside, run, passage, clock), other)
            documents = await _family(outside.client, self.run_id)
            passage.kept = _durable(documents)
            passage.outcomes = {run_id: _outcome(document) for run_id, document in documents.items()}
            outcome = passage.outcomes[self.run_id]
            if outcome.status == Status.COMPLETED:
                passage.result = await run.result()
                if self.key is not None:
                    seen = self.key(passage.result)
                    passage.outcomes[self.run_id] = Outcome(outcome.status, seen, None, outcome.events)

    async def _work(self, outside: App, run: RunHandle[R], passage: Passage, clock: VirtualClock) -> None:
        """Drive it to its end, by a second worker if the first is killed."""
        trap = passage.trap
        first = outside.variant(probe=trap)
        async with first:
            worker = trap.worker = first.worker
            over = asyncio.ensure_future(_all_ended(outside, run))
            killed = asyncio.ensure_future(trap.sprung.wait())
            try:
                await asyncio.wait((over, killed), return_when=asyncio.FIRST_COMPLETED)
                if not trap.sprung.is_set():
                    await over
                    return
            finally:
                over.cancel()
                killed.cancel()
                await asyncio.gather(over, killed, return_exceptions=True)
        if worker is not None:
            # A thread cannot be killed. So that passages are alike, bodies in threads always get to their end.
            await asyncio.to_thread(worker.threads.shutdown)
        passage.durable = _durable(await _family(outside.client, self.run_id))
        # On one machine others see at once that a process is gone; here nobody waits for its lease to end.
        for other in await outside.client.workers():
            if other.state == "alive":
                await outside.client.store.apply(Operation([("declare_dead", (other.number, clock.now()))]))
        async with outside.variant():
            await _all_ended(outside, run)


async def _all_ended(app: App, run: RunHandle[Any]) -> None:
    """Wait for the end of a run and of its descendants."""
    await ended(run)
    while True:
        documents = await _family(app.client, run.id)
        unfinished = [run_id for run_id, document in documents.items() if document["run"]["status"] not in TERMINAL]
        if not unfinished:
            return
        for run_id in unfinished:
            await ended(app.handle(run_id))


async def _family(client: Client, run_id: str) -> dict[str, dict[str, Any]]:
    """A run and the descendants that its journal tells of, exported, by id."""
    found: dict[str, dict[str, Any]] = {}
    ids = [run_id]
    while ids:
        document = await client.export(ids.pop())
        found[document["run"]["id"]] = document
        started = [entry["data"]["id"] for entry in document["journal"] if entry["kind"] == Kind.CHILD_STARTED]
        ids += [child_id for child_id in started if child_id not in found]
    return found


def _outcome(document: dict[str, Any]) -> Outcome:
    run, error = document["run"], document["run"]["error"]
    events = {entry["key"]: entry["data"]["data"] for entry in document["journal"] if entry["kind"] == Kind.EMITTED}
    return Outcome(run["status"], run["output"], f"{error['type']}: {error['message']}" if error else None, events)


def _durable(documents: dict[str, dict[str, Any]]) -> set[tuple[str, str, int]]:
    return {
        (run_id, entry["key"], entry["seq"])
        for run_id, document in documents.items()
        for entry in document["journal"]
        if entry["kind"] in {Kind.STEP_COMPLETED, Kind.STEP_FAILED}
    }


def _differences(calm: Passage, crashed: Passage) -> list[str]:
    problems = []
    for run_id in sorted(calm.outcomes.keys() | crashed.outcomes.keys()):
        one, other = calm.outcomes.get(run_id), crashed.outcomes.get(run_id)
        if one is None or other is None:
            problems.append(f"run {run_id!r} exists only {'with' if one is None else 'without'} the kill")
            continue
        for part in (entry.name for entry in fields(Outcome)):
            expected, got = getattr(one, part), getattr(other, part)
            if expected != got:
                problems.append(f"{part} of run {run_id!r}: {expected!r} without the kill, {got!r} with it")
    if calm.seen != crashed.seen:
        problems.append(f"observed: {calm.seen!r} without the kill, {crashed.seen!r} with it")
    problems += [
        f"step {step.key!r} of run {step.run_id!r} ran again though its outcome was durable"
        for step in crashed.needless()
    ]
    return problems
