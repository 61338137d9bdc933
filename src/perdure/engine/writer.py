"""One run's writing side: what is new goes into one operation, and one operation is under way at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from perdure import ids
from perdure.engine.host import Host
from perdure.engine.ledger import ride_along
from perdure.engine.machine import Machine
from perdure.engine.outcome import cancel_request
from perdure.engine.request import ChildRequest, ChildStart, Request
from perdure.errors import Overloaded, PerdureError, StoreError
from perdure.model.entry import Kind
from perdure.model.run import Claimed, Message
from perdure.model.status import Status
from perdure.store.operation import Row, is_stale
from perdure.store.record import Record

log = logging.getLogger("perdure.engine")
RETRY_COMMIT_S = (0.05, 0.2, 1.0, 5.0)

Crash = Callable[[BaseException], None]
Written = Callable[[list[ChildStart]], None]
"""Called after the commit with the children whose ids were taken."""


class Writer:
    """
    Writes a run's entries under its epoch.

    What cannot be stored now is kept and tried again; whoever takes the run over meanwhile is told apart by
    the epoch.

    Args:
        now: The run's time, which never goes back.
        lost: Called when another worker owns the run, or when nothing can be stored for it any more.
        crash: Called with what escapes from those who are told that something is durable.

    Attributes:
        busy: Whether a commit is under way.
        inserting: The children that it starts.
        taking: Messages that the workflow has observed since the last one, each with its entry's seq.
    """

    __slots__ = (
        "_closed", "_crash", "_failures", "_host", "_lost", "_machine", "_now", "_trace", "busy", "inserting", "run",
        "taking",
    )  # fmt: skip

    def __init__(  # noqa: PLR0917 - what a run's writing leads to
        self,
        host: Host,
        run: Claimed,
        machine: Machine,
        now: Callable[[], int],
        lost: Callable[[], None],
        crash: Crash,
    ) -> None:
        self.run = run
        self.busy = False
        self.taking: list[tuple[Message, int]] = []
        self._host = host
        self._machine = machine
        self._now = now
        self._lost = lost
        self._crash = crash
        self.inserting: list[ChildStart] = []
        self._failures = 0
        self._closed = False
        self._trace: str | None = None

    def take_up(self, run: Claimed) -> None:
        """Write for this claim of the run from now on."""
        self.run = run
        if self._host.observer is not None:
            self._trace = self._host.observer.driving(run, self._host.clock.now())

    @property
    def anything(self) -> bool:
        """Whether there is something new to write."""
        machine = self._machine
        return bool(machine.buffer or self.taking or machine.children or machine.given_up or machine.riders)

    def record(self) -> Record:
        """Everything that is new, as one operation; the lists it comes from are empty then."""
        machine, run = self._machine, self.run
        record = Record(run.number, run.id, run.epoch, self._host.limits.inline_bytes)
        record.queued = run.queue is not None
        if machine.buffer:
            record.entries(machine.buffer)
            # What a step has emitted is no progress: it may be what its next attempt emits again, and dies of.
            moved = run.suspect and any(entry.kind != Kind.STEP_EMITTED for entry in machine.buffer)
            machine.buffer.clear()
            if moved:
                record.clear_suspicion()
                self.run = run._replace(takeovers=0)
        if machine.riders:
            ride_along(record, machine.riders)
        if machine.compensating and run.status != Status.COMPENSATING:
            record.compensate()
            self.run = self.run._replace(status=Status.COMPENSATING)
        if self._trace is not None:
            record.add("trace_run", run.number, run.epoch, self._trace)
            self._trace = None
        if self.taking:
            for message, seq in self.taking:
                record.take(message, seq)
            self.taking.clear()
        if machine.children or machine.given_up:
            self._children(record, self._now())
        return record

    def _children(self, record: Record, now: int) -> None:
        """Start those that are new, and ask those to end that nobody waits for any more."""
        machine = self._machine
        if machine.children:
            self._start_children(record, now)
        if machine.given_up:
            why = cancel_request("the parent no longer waits for it", compensate=machine.compensating)
            awaited = _children_of(machine.wanted.values())
            for child_id, key in _children_of(machine.given_up).items():
                # Another call with the same id may still wait; a saga's own call does once more.
                if awaited.get(child_id, key) == key:
                    record.cancel(child_id, why, now)
            machine.given_up = []

    def _start_children(self, record: Record, now: int) -> None:
        self.inserting, self._machine.children = self._machine.children, []
        run, observer = self.run, self._host.observer
        for child in self.inserting:
            record.start_child(
                child.child_id, child.workflow, child.input, seed=ids.child_seed(run.seed, child.child_id), now=now,
                deadline_at=child.deadline_at, detached=child.detached, tags=child.tags, terms=child.terms,
            )  # fmt: skip
            trace = observer.starting_child(run, child.workflow, child.child_id) if observer is not None else None
            if trace is not None:
                record.add("start_trace", child.child_id, now, trace)

    def send(self, record: Record, written: Written) -> None:
        """
        Commit a record.

        Args:
            written: Called on the loop, outside any task, once it is durable.
        """
        self.busy = True
        try:
            self._host.store.submit(record, lambda rows, error: self._answered(record, written, rows, error))
        except PerdureError as error:
            self._answered(record, written, [], error)

    def close(self) -> None:
        """Write nothing more; the answer to what is under way does not matter."""
        self._closed = True

    def _answered(self, record: Record, written: Written, rows: list[Row], error: Exception | None) -> None:
        if self._closed:
            return
        if error is not None:
            self._try_again(record, written, error)
            return
        self._failures = 0
        self.busy = False
        taken: list[ChildStart] = []
        if rows:
            begun = [row[1] for row in rows if row[0] == "child"]
            if is_stale(rows):
                self._lost()
                return
            taken = [child for child in self.inserting if not _first(child.child_id, begun)]
        elif self.inserting:
            taken = self.inserting
        if self.inserting:
            self.inserting = []
        try:
            written(taken)
        except BaseException as problem:  # noqa: BLE001 - see `guard`
            self._crash(problem)

    def _try_again(self, record: Record, written: Written, error: Exception) -> None:
        if not (isinstance(error, Overloaded) or (isinstance(error, StoreError) and error.retryable)):
            log.error("run %s cannot be stored and is given up here: %s", self.run.id, error)
            self._lost()
            self._host.give_up(self.run, error)
            return
        delay = RETRY_COMMIT_S[min(self._failures, len(RETRY_COMMIT_S) - 1)]
        self._failures += 1
        log.warning("run %s: its progress is not stored yet, trying again in %g s: %s", self.run.id, delay, error)
        self._host.loop.call_later(delay, self._resend, record, written)

    def _resend(self, record: Record, written: Written) -> None:
        if not self._closed:
            self.send(record, written)


def _first(child_id: str, begun: list[str]) -> bool:
    """Whether a start has inserted its child: of several with one id in a commit only the first has."""
    if child_id not in begun:
        return False
    begun.remove(child_id)
    return True


def _children_of(requests: Iterable[Request]) -> dict[str, str]:
    """The ids of the children that these wait for, each with the key of the last who does."""
    return {request.child_id: request.key for request in requests if isinstance(request, ChildRequest)}
