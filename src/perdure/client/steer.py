"""What operators do to runs: pause, resume, fork and rerun them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any, Literal, get_args

from perdure import ids
from perdure.client.handle import RunHandle
from perdure.client.restart import Before, fork_of, guarded, rerun_of, snapshot, unchanged
from perdure.client.stuck import known_names
from perdure.clock import Clock
from perdure.codec.payload import Payloads
from perdure.engine.definition import Registry, Workflow
from perdure.engine.saga import SUFFIX
from perdure.engine.steps import COMPENSATION_FAILED
from perdure.engine.waits import PAUSE
from perdure.errors import IllegalMove, InvalidOption, RunFinished, StartConflict, StoreBusy, UnknownWorkflow
from perdure.model.entry import Kind
from perdure.model.run import RunRow
from perdure.model.status import TERMINAL, Status
from perdure.model.version import pin, unpin
from perdure.store.load import find_run
from perdure.store.operation import Line, Operation, Row
from perdure.store.store import Store

Decision = Literal["retry", "skip", "done"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)
TRIES = 50
"""How often an operation is prepared again because the run has changed meanwhile."""


class Steering(ABC):
    """
    The part of the client that changes the course of runs.

    Everything here is durable when it returns. It is decided on what the run was when the operation commits:
    of two operators at once, the second finds what the first has done.
    """

    store: Store
    payloads: Payloads
    _clock: Clock
    _registry: Registry

    @abstractmethod
    async def row(self, run_id: str) -> RunRow:
        """A run as it is stored."""

    @abstractmethod
    def handle(self, run_id: str, workflow: Workflow[..., Any] | str | None = None) -> RunHandle[Any]:
        """A handle on a run."""

    async def pause(self, run_id: str, reason: str = "") -> None:
        """
        Put a run aside until somebody resumes it. A paused run stays as it is.

        A run that waits or is queued is paused when this returns. One that a worker drives is asked to: bodies
        of steps that run may end and are recorded, nothing new begins, and then it is paused. Messages that
        come meanwhile are kept. Timers and deadlines go on; they count when the run is resumed.

        Args:
            reason: Shown to whoever looks at the run.

        Raises:
            RunNotFound: There is no such run.
            RunFinished: It has ended.
            IllegalMove: It is cancelling or compensating.
        """
        for _ in range(TRIES):
            row = await self.row(run_id)
            if row.finished:
                raise RunFinished(run_id, row.status)
            if row.status == Status.PAUSED:
                return
            if row.status not in _PAUSABLE:
                raise IllegalMove(run_id, row.status, "be paused")
            if await self._apply(self._pause(row, reason)):
                return
        raise _changing(run_id)

    def _pause(self, row: RunRow, reason: str) -> Operation:
        now = self._clock.now()
        if row.owner is not None:
            message = self.payloads.seal(json.dumps(reason), "A reason")
            return Operation([("ask_pause", (row.id, message, now))], changed=(row.number,))
        text = json.dumps({"code": "operator", "message": reason, "at": now, "seq": None})
        note = self.payloads.seal(text, "A reason")
        lines: list[Line] = [
            ("pause_idle", (row.id, row.epoch, text)),
            ("note", (row.id, row.epoch + 1, Kind.PAUSED.value, note, now)),
        ]
        return guarded([unchanged(row)], lines, changed=(row.number,))

    async def resume(self, run_id: str, *, skip: bool = False) -> None:
        """
        Let a paused run go on; it is due when this returns.

        Args:
            skip: Leave out the journal entry that the run's code diverged from.

        Raises:
            RunNotFound: There is no such run.
            IllegalMove: It is not paused; or `skip` was asked for and it did not diverge.
        """
        for _ in range(TRIES):
            row = await self.row(run_id)
            if row.status != Status.PAUSED:
                raise IllegalMove(run_id, row.status, "be resumed")
            seq = json.loads(row.reason or "{}").get("seq")
            if skip and not seq:
                raise IllegalMove(run_id, row.status, "skip an entry that it did not diverge from")
            now = self._clock.now()
            lines = _resumption(row, now)
            if skip:
                skipped = json.dumps({"seq": seq})
                lines.append(("note", (run_id, row.epoch + 1, Kind.SKIPPED.value, skipped, now)))
            if await self._apply(guarded([unchanged(row)], lines, changed=(row.number,))):
                return
        raise _changing(run_id)

    async def compensate(self, run_id: str, decision: Decision, *, step: str | None = None, remark: str = "") -> None:
        """
        Decide what becomes of a compensation that has failed for good and stopped its run; the run is due then.

        Args:
            decision: "retry": try it again, with all its attempts, as `resume` does. "skip": leave it out, what
                it would have undone stays done. "done": somebody has undone it by other means.
            step: Key of the compensation, or of what it undoes: refuse if it is another one that stopped the run.
            remark: Kept in the journal with the decision.

        Raises:
            RunNotFound: There is no such run.
            IllegalMove: It is not stopped by a failed compensation, or not by this one.
        """
        if decision not in DECISIONS:
            option = "decision"
            raise InvalidOption(option, f"{decision!r} is none of {', '.join(DECISIONS)}")
        for _ in range(TRIES):
            row = await self.row(run_id)
            reason = json.loads(row.reason or "{}")
            if row.status != Status.PAUSED or reason.get("code") != COMPENSATION_FAILED:
                raise IllegalMove(run_id, row.status, "have a failed compensation decided")
            key = reason["key"]
            if step is not None and step + SUFFIX != key != step:
                raise IllegalMove(run_id, f"stopped by {key!r}", f"have {step!r} decided")
            now = self._clock.now()
            lines = _resumption(row, now)
            if decision != "retry":
                told = self.payloads.seal(json.dumps({"decision": decision, "remark": remark}), "The remark")
                lines.append(("resolve", (run_id, row.epoch + 1, key, told, now)))
            if await self._apply(guarded([unchanged(row)], lines, changed=(row.number,))):
                return
        raise _changing(run_id)

    async def fork(
        self,
        run_id: str,
        *,
        before: str | None = None,
        stage: str | None = None,
        id: str | None = None,
    ) -> RunHandle[Any]:
        """
        Start a new run that has already done what another run did up to some step.

        Workflow, input, seed and tags are the same, and so is the span to the deadline, from now; the journal
        begins with the other's. The other run, which may be running, does not change. Children that had not
        ended at that place are started anew, as children of the fork. Signals that were received behind that
        place are not sent to the fork. Timers and timeouts that ran there have as much left as they had.

        Args:
            before: Key of the step, timer, signal or child to do again, with everything that was delivered
                after it; "" to begin at the beginning; None to keep all of it, except a cancellation or
                deadline that has ended the other run.
            stage: Instead, the id of a pipeline's stage, or the name of a flow's node: begin with its group.
            id: The fork's id; made up when left out.

        Raises:
            RunNotFound: There is no such run.
            StepNotFound: Nothing was delivered under this key, or the run has not come to this stage.
            InvalidOption: There is no such stage, or `before` and `stage` were given.
            UnknownWorkflow: `stage` was given, and the pipeline is not registered here.
            StartConflict: The id belongs to a run that is not this fork.
        """
        now = self._clock.now()
        fork_id = ids.run_id(now) if id is None else ids.check_id("run id", id)
        for last in (False, False, True):
            source = await snapshot(self.store, run_id)
            again = self._begin(source.row, before, stage, None)
            if await self._apply(await fork_of(self.store, source, again, fork_id, now)):
                break
            # If it is not taken, the other run may have forgotten its history meanwhile, and what to copy is gone.
            if await self._is_fork(run_id, fork_id, f"{run_id}@{source.cut(again)}", last=last):
                break
        return self.handle(fork_id, self._registry.known(source.row.workflow))

    async def _is_fork(self, run_id: str, fork_id: str, origin: str, *, last: bool) -> bool:
        """The same fork once more is the same run; another run under its id is a mistake."""
        await self.row(run_id)
        row = await find_run(self.store, fork_id)
        if row is not None and row.forked_from != origin:
            problem = "another origin"
            raise StartConflict(fork_id, problem)
        if last and row is None:
            problem = "the id that a child of this fork would have"
            raise StartConflict(fork_id, problem)
        return row is not None

    def _begin(self, row: RunRow, before: str | None, stage: str | None, unsaid: str | None) -> Before:
        """Where a fork or a rerun begins."""
        if stage is None:
            return before
        option = "stage"
        if before != unsaid:
            raise InvalidOption(option, "it says where to begin, and `before` does too; use one of them")
        parts = self._registry.get(row.workflow).parts
        if stage not in parts:
            raise InvalidOption(option, f"{row.workflow!r} has no {stage!r} (it has {', '.join(parts) or 'no stages'})")
        return parts[stage]

    async def rerun(self, run_id: str, *, before: str | None = "", stage: str | None = None) -> None:
        """
        Do a run again in place, from one of its steps: the same run in a new generation, due at once.

        The journal keeps everything and says what was dropped. Signals that the dropped part had received
        are in the inbox again. A child whose start is kept is not begun anew: its end is told again, so one
        that failed is run again first. Children whose start is dropped are asked to end, unless they are
        detached or have ids of their own. Timers and timeouts that ran at the cut have as much left as they
        had there, steps have all their attempts, and there is no deadline any more.

        Args:
            before: As for `fork`: a key, "" for the beginning (the default), None to keep everything.
            stage: As for `fork`: do the group of this stage again, and all behind it.

        Raises:
            RunNotFound: There is no such run.
            StepNotFound, InvalidOption, UnknownWorkflow: As for `fork`.
            IllegalMove: It is neither paused nor has it ended.
        """
        for _ in range(TRIES):
            source = await snapshot(self.store, run_id)
            row = source.row
            if row.owner is not None or row.status not in _RERUNNABLE:
                raise IllegalMove(run_id, row.status, "be run again")
            again = self._begin(row, before, stage, "")
            if await self._apply(await rerun_of(self.store, source, again, self._clock.now())):
                return
        raise _changing(run_id)

    async def move_version(self, run_id: str, version: str) -> None:
        """
        Let a run that no worker drives go on with the code of another version of its workflow.

        Its journal is replayed by that code from the beginning; where the two do not agree, the run is paused as after
        any divergence, and can be moved back. Its status, and what it waits for, stay as they are. The run it was
        moved to is durable, and noted in its journal, when this returns. Moving it where it is changes nothing.

        Args:
            version: "" for the code without a version.

        Raises:
            RunNotFound: There is no such run.
            RunFinished: It has ended.
            UnknownWorkflow: Neither this app nor a live worker has that version.
            IllegalMove: A worker drives it just now: pause it first.
        """
        for _ in range(TRIES):
            row = await self.row(run_id)
            now = self._clock.now()
            name, before = unpin(row.workflow)
            target = pin(name, version)
            if row.finished:
                raise RunFinished(run_id, row.status)
            if target == row.workflow:
                return
            known = {*self._registry.names(), *await known_names(self.store, now)}
            if target not in known:
                raise UnknownWorkflow(target, sorted(known))
            if row.owner is not None:
                raise IllegalMove(
                    run_id, row.status, "be moved to another version (a worker drives it; pause it first)"
                )
            note = json.dumps({"from": before, "to": version})
            lines: list[Line] = [
                ("move_version", (run_id, row.epoch, target)),
                ("note", (run_id, row.epoch + 1, Kind.MOVED.value, self.payloads.seal(note, "A move"), now)),
            ]
            if await self._apply(guarded([unchanged(row)], lines, changed=(row.number,))):
                return
        raise _changing(run_id)

    async def _apply(self, operation: Operation) -> bool:
        """Commit it; whether it was done, as the run was still what it had been."""
        rows: list[Row] = await self.store.apply(operation)
        return bool(rows) and rows[0][0] != "stale"


_PAUSABLE = frozenset({Status.QUEUED, Status.RUNNING, Status.WAITING})
_RERUNNABLE = TERMINAL | {Status.PAUSED}


def _resumption(row: RunRow, now: int) -> list[Line]:
    return [
        ("resume", (row.id, row.epoch, now)),
        ("drop_control", (row.id, PAUSE)),
        ("note", (row.id, row.epoch + 1, Kind.RESUMED.value, "{}", now)),
    ]


def _changing(run_id: str) -> StoreBusy:
    return StoreBusy(f"Run {run_id!r} changed each time when it was to be steered; try again.")
