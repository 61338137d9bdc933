"""The kit: an app's workflows on a temporary database, in virtual time."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, overload
from unittest.mock import patch

from perdure import ids
from perdure.app import App
from perdure.client.handle import RunHandle
from perdure.client.view import RunEvent
from perdure.clock import SECOND, from_datetime, micros, to_datetime
from perdure.engine.child import Takes0, Takes1, Takes2, Takes3
from perdure.engine.definition import Step, Workflow
from perdure.store.changes import Changes
from perdure.testing.crash import CrashReport, Meanwhile, Scenario
from perdure.testing.mock import NOTHING, StandIns, StepMock
from perdure.testing.replay import Exported, Replay, replay
from perdure.testing.time import START, VirtualClock, run_virtual
from perdure.testing.wait import ended, patience, together

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
R = TypeVar("R")
T = TypeVar("T")
LEASE = timedelta(days=30)
"""Long, as workers look after each other three times in it, and virtual years should pass quickly."""
WITHIN = timedelta(days=3653)


class Kit:
    """
    Runs an app's workflows on a database of its own, in virtual time.

    Sleeps, retries, timeouts and leases take no real time: whenever everything waits, the clock jumps. Chance
    is taken out where perdure uses it: retries wait exactly as long as their policy says, without jitter; runs
    without an id of their own are called run-1, run-2, …; ctx.uuid() and ctx.random() give the same each time.

    Use it as a context manager, outside of any event loop. The app itself is not changed and must not be
    open; while the kit runs something, calls on it (`app.start`, `app.signal`) reach the kit's database.

    Args:
        app: The app under test; its limits, codec and workflow registrations are used.
        folder: Where to put the database; a temporary folder, which is removed in the end, when left out.
        start: An aware datetime at which time begins.
        lease: How long a worker counts as alive after its last heartbeat.

    Attributes:
        path: The database file. It keeps everything from call to call, as if the process were started again.
    """

    def __init__(
        self,
        app: App,
        folder: str | os.PathLike[str] | None = None,
        *,
        start: datetime | None = None,
        lease: timedelta | float = LEASE,
    ) -> None:
        self._stack = ExitStack()
        self.app = app
        self.folder = Path(folder or self._stack.enter_context(tempfile.TemporaryDirectory(prefix="perdure-")))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "perdure.db"
        self._now = START if start is None else from_datetime(start, "start")
        self._stand_ins = StandIns()
        # Tests of a crash of the machine itself are perdure's own; here waiting for the disk only takes time.
        self._variant = app.variant(
            url=f"sqlite:///{self.path}", inline_only=True, synchronous="NORMAL",
            worker=replace(app.worker_options, lease=lease, deliver=False),
        )  # fmt: skip

    def __enter__(self) -> Self:
        registry = self.app.registry
        self._stack.callback(setattr, registry, "stand_in", registry.stand_in)
        registry.stand_in = self._stand_ins
        self._stack.enter_context(patch.object(ids, "jitter", lambda: 0.0))
        seeds, numbers = itertools.count(1), itertools.count(1)
        self._stack.enter_context(patch.object(ids, "seed", seeds.__next__))
        self._stack.enter_context(patch.object(ids, "run_id", lambda _now: f"run-{next(numbers)}"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def now(self) -> datetime:
        """The virtual time at which the next call begins."""
        return to_datetime(self._now)

    # --------------------------------------------------------------------------------------- running
    def main(self, body: Callable[[App], Coroutine[Any, Any, T]], *, within: timedelta | float = WITHIN) -> T:
        """
        Run a coroutine function with the open app: start runs, send signals, let time pass by asyncio.sleep.

        Args:
            body: Gets the app, with a worker, on the kit's database.
            within: Virtual time that it may take.

        Raises:
            NotEnded: It took longer; the message tells which runs are not over, and why.
        """

        async def run(clock: VirtualClock) -> T:
            try:
                async with self._variant.variant(clock=clock, changes=Changes()) as app:
                    with self.app.lent(app):
                        async with patience(app, micros(within, "within") / SECOND):
                            return await body(app)
            finally:
                self._now = clock.now()

        return run_virtual(run, start=self._now)

    @overload
    def run(
        self, workflow: Takes0[R], /, *, id: str = ..., meanwhile: Meanwhile | None = ...,
        within: timedelta | float = ...,
    ) -> R: ...  # fmt: skip
    @overload
    def run(
        self, workflow: Takes1[A, R], a: A, /, *, id: str = ..., meanwhile: Meanwhile | None = ...,
        within: timedelta | float = ...,
    ) -> R: ...  # fmt: skip
    @overload
    def run(
        self, workflow: Takes2[A, B, R], a: A, b: B, /, *, id: str = ..., meanwhile: Meanwhile | None = ...,
        within: timedelta | float = ...,
    ) -> R: ...  # fmt: skip
    @overload
    def run(
        self, workflow: Takes3[A, B, C, R], a: A, b: B, c: C, /, *, id: str = ..., meanwhile: Meanwhile | None = ...,
        within: timedelta | float = ...,
    ) -> R: ...  # fmt: skip
    @overload
    def run(self, workflow: str, /, *args: Any, **options: Any) -> Any: ...
    def run(
        self,
        workflow: Any,
        /,
        *args: Any,
        id: str | None = None,
        meanwhile: Meanwhile | None = None,
        within: timedelta | float = WITHIN,
    ) -> Any:
        """
        Start a workflow and wait for its result.

        Args:
            workflow: A registered workflow, or its name; its input follows.
            id: The run's id.
            meanwhile: A coroutine function that gets the run's handle and does what others do meanwhile,
                such as sending signals. It ends before this returns.
            within: Virtual time that it may take.

        Raises:
            RunFailed: The run failed; its error is in ``cause``.
            RunCancelled: It was cancelled.
            NotEnded: It was paused, because its code diverged for instance, or took too long.
        """

        async def body(app: App) -> Any:
            run: RunHandle[Any] = await app.start(workflow, *args, id=id)
            await together(ended(run), meanwhile(run) if meanwhile is not None else None)
            return await run.result()

        return self.main(body, within=within)

    def events(self, run_id: str) -> list[RunEvent]:
        """The journal of a run, as it stands."""

        async def read(app: App) -> list[RunEvent]:
            return [event async for event in app.handle(run_id).events(follow=False)]

        return self._look(read)

    def export(self, run_id: str) -> dict[str, Any]:
        """See `Client.export`: a run as plain data, to be replayed."""
        return self._look(lambda app: app.client.export(run_id))

    def _look(self, body: Callable[[App], Coroutine[Any, Any, T]]) -> T:
        """With the database open, but no worker."""

        async def run(clock: VirtualClock) -> T:
            async with self._variant.variant(clock=clock).connected() as app:
                return await body(app)

        return run_virtual(run, start=self._now)

    # --------------------------------------------------------------------------------------- mocking
    @contextmanager
    def mock(
        self,
        target: Step[..., Any] | Callable[..., Any] | str,
        *,
        returns: Any = NOTHING,
        raises: BaseException | type[BaseException] | None = None,
        side_effect: Callable[..., Any] | None = None,
    ) -> Iterator[StepMock]:
        """
        Run something else in place of a step's body, and record its calls; see `StepMock`.

        Args:
            target: A step, a function used as one, or the name of a step.
            returns, raises, side_effect: At most one of them; None is returned without any.
        """
        mock = StepMock(target, returns=returns, raises=raises, side_effect=side_effect)
        self._stand_ins.mocks.append(mock)
        try:
            yield mock
        finally:
            self._stand_ins.mocks.remove(mock)

    # --------------------------------------------------------------------------- crashes and replays
    def crash_everywhere(
        self,
        workflow: Workflow[..., R],
        /,
        *args: Any,
        id: str = "crashing",
        meanwhile: Meanwhile | None = None,
        before: Callable[[], object] | None = None,
        observe: Callable[[], Any] | None = None,
        key: Callable[[R], Any] | None = None,
        within: timedelta | float = WITHIN,
    ) -> CrashReport[R]:
        """
        Run a workflow undisturbed, then twice for each commit of its journal: killed just before, just after.

        Each time a second worker takes the run over. The run and its descendants must end as they did
        undisturbed: same status, result, error and emitted events. No body of a step may run once its
        outcome is durable. Each passage begins with a copy of the kit's database as it is now.

        A kill takes no virtual time, but bodies of steps that it interrupts run again from their beginning.

        Args:
            meanwhile: As for `run`; it stands for another process, and survives the kill.
            before: Called before each passage: reset here what steps change outside of perdure.
            observe: Called after each passage; what it gives must be the same too.
            key: What to compare of the result; all of it when left out.
            within: Virtual time that each passage may take.

        Raises:
            CrashMismatch: A kill makes a difference; the message says which, and what differs.
        """
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="crash-") as folder:
            template = Path(folder, "template.db")
            self._look(lambda app: app.client.store.backup(str(template)))
            at_template = self._variant.variant(url=f"sqlite:///{template}")

            async def begin(clock: VirtualClock) -> None:
                async with at_template.variant(clock=clock).connected() as app:
                    await app.client.start(workflow, args, id=id)

            run_virtual(begin, start=self._now)
            return Scenario(
                self._variant, self.app, self._stand_ins, workflow, id, template, Path(folder), self._now,
                micros(within, "within") / SECOND, meanwhile, before, observe, key,
            ).play()  # fmt: skip

    def replay(self, history: Exported | str | os.PathLike[str], workflow: Workflow[..., Any] | None = None) -> Replay:
        """See `replay`: run today's code through an exported history."""
        return replay(self.app, history, workflow)
