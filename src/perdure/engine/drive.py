"""
Drive one owned run: deliver outcomes, and decide when it is at rest.

At rest everything the run wants is known. New entries are committed first; bodies begin after that (I2).
When only times, signals or children are awaited, the same commit parks the run.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine
from typing import Any

from perdure import ids
from perdure.clock import SECOND, micros
from perdure.codec.failure import decode_error, encode_error
from perdure.engine.attempt import Attempt
from perdure.engine.context import Context
from perdure.engine.definition import Workflow
from perdure.engine.history import base_time, present
from perdure.engine.host import Host
from perdure.engine.machine import EVICTED, ChildStart, Machine, child_failure
from perdure.engine.request import ChildRequest, ReceiveRequest, Request, StepRequest, TimerRequest, child_topic
from perdure.engine.threaded import in_thread
from perdure.engine.transact import transact
from perdure.engine.waits import CANCEL, PAUSE, Waits
from perdure.errors import (
    ContinueAsNew,
    HistoryTooLong,
    PerdureError,
    RunCancelled,
    RunTimedOut,
    Stalled,
    StartConflict,
    StepInterrupted,
    StepTimedOut,
    StoreError,
)
from perdure.model.entry import Entry, Kind
from perdure.model.run import Claimed, Message
from perdure.model.status import Status
from perdure.store.operation import Operation, Row
from perdure.store.record import Record

log = logging.getLogger("perdure.engine")
ENDED = "the run has ended"
RETRY_COMMIT_S = (0.05, 0.2, 1.0, 5.0)
END_KINDS = {
    Status.COMPLETED: Kind.COMPLETED,
    Status.FAILED: Kind.FAILED,
    Status.CANCELLED: Kind.CANCELLED,
}


class Driver:
    """
    Drives a run from its claim until this worker no longer owns it.

    All methods are called on the worker's loop, from plain callbacks.

    Attributes:
        state: "driving"; "leaving" while the commit that gives the run up is under way; then "parked" (the
            coroutine stays in memory), or "over".
    """

    __slots__ = (
        "_alarm", "_alarm_at", "_checking", "_committing", "_deferred", "_failures", "_inserting", "_pausing", "_ready",
        "_releasing", "_starting", "_taking", "_then", "_waits", "host", "machine", "run", "running", "state", "workflow",
    )  # fmt: skip

    def __init__(self, host: Host, run: Claimed, workflow: Workflow[..., Any]) -> None:
        self.host = host
        self.run = run
        self.workflow = workflow
        self.machine: Machine
        self.state = "driving"
        self.running: dict[str, Attempt] = {}
        self._waits = Waits()
        self._ready: list[StepRequest] = []
        self._starting: list[StepRequest] = []
        self._taking: list[Message] = []
        self._deferred: list[tuple[Attempt, str, Any, BaseException | None]] = []
        self._inserting: list[ChildStart] = []
        self._checking = 0
        self._committing = False
        self._then = "driving"
        self._pausing: Message | None = None
        self._releasing = False
        self._failures = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at: int | None = None

    # ------------------------------------------------------------------------- what the worker calls
    def begin(self, journal: list[Entry], messages: list[Message]) -> None:
        """
        Drive the run from its journal.

        Args:
            journal: All of it, blobs resolved.
            messages: What is in its inbox.
        """
        next_seq = journal[-1].seq + 1 if journal else 1
        machine = Machine(
            self.run, self.host.payloads, present(journal), next_seq, base_time(journal, self.run.started_at)
        )
        self.machine = machine
        self._waits.deliver(messages)
        machine.begin(self._coroutine())
        self.advance()

    def resume(self, run: Claimed, messages: list[Message]) -> None:
        """Go on where the parked coroutine stands: nobody owned the run in between."""
        self.run = self.machine.run = run
        self.state = "driving"
        self._waits.clear()
        self._waits.deliver(messages)
        self._wake()

    def deliver(self, messages: list[Message]) -> None:
        """Messages have come while the run is driven."""
        if self.state == "driving":
            self._waits.deliver(messages)
            self.advance()

    def release(self) -> None:
        """Give the run back as soon as no body runs; nothing new is begun meanwhile."""
        self._releasing = True
        if self.state == "driving":
            self.advance()

    def abandon(self) -> None:
        """Give the run back now: bodies that run are cancelled, and run again elsewhere."""
        if self.state == "driving":
            for attempt in self.running.values():
                attempt.cancel()
            self.running.clear()
            self.release()

    def child_taken(self, child: ChildStart, message: Message | None, problem: str | None) -> None:
        """
        What became of a child whose id was taken.

        Args:
            message: Its end, when it is ours after all and has ended.
            problem: What makes it another run.
        """
        self._checking -= 1
        if self.state != "driving":
            return
        if problem is not None:
            error = encode_error(StartConflict(child.child_id, problem))
            message = Message(self.run.number, 0, child_topic(child.child_id), None, None, 0, "failed", None, error, None)
        if message is not None:
            self._waits.deliver([message])
        self.advance()

    def lose(self) -> None:
        """Another worker owns the run now, or this worker must stop: forget it without writing (I1)."""
        if self.state != "over":
            self._put_aside()
            self.state = "over"
            self.host.left(self)

    def evict(self) -> None:
        """Free a parked run's memory; it will be replayed."""
        self.state = "over"
        self.machine.close(EVICTED)

    @property
    def resting(self) -> bool:
        """Whether messages from outside could move the run now."""
        return self.state == "driving"

    # ------------------------------------------------------------------------------------ the decision
    def advance(self) -> None:
        """The run is at rest: look at what it wants, commit what is new, begin what may begin."""
        if self.state != "driving":
            return
        self._read_mail()
        machine = self.machine
        if machine.divergence is not None:
            self._pause(machine.divergence.code, str(machine.divergence))
            return
        self._look_at_requests()
        if machine.done:
            self._finish()
        elif machine.length > self.host.limits.history_entries:
            self._end(Status.FAILED, error=HistoryTooLong(self.run.id, self.host.limits.history_entries))
        elif not self._committing:
            self._commit_or_begin()

    def _read_mail(self) -> None:
        """Deliver what can be observed, one message at a time; each may change what is waited for."""
        machine = self.machine
        self._register_fresh()
        while machine.divergence is None and not machine.done and not self._exclusive:
            found = self._waits.next_message(machine)
            if found is None:
                break
            message, request = found
            now = self._now()
            if message.id:
                self._taking.append(message)
            if message.topic == CANCEL:
                if machine.cancelled_at is None:
                    machine.outcome(Kind.CANCEL_REQUESTED, "", now, message.data)
            elif message.topic == PAUSE:
                self._pausing = message
            elif isinstance(request, ChildRequest):
                completed = message.status == Status.COMPLETED
                kind = Kind.CHILD_COMPLETED if completed else Kind.CHILD_FAILED
                self._child_ended(request.key, kind, (message.output if completed else message.error) or "null")
            elif request is not None:
                machine.outcome(Kind.SIGNAL_RECEIVED, request.key, now, message.data)
            self._register_fresh()

    def _child_ended(self, key: str, kind: Kind, data: str) -> None:
        request = self.machine.wanted[key]
        decoded: Any
        text = self.host.payloads.open(data)
        if kind == Kind.CHILD_FAILED and isinstance(request, ChildRequest):
            decoded = child_failure(request.child_id, decode_error(text))
        else:
            decoded = text
        self.machine.outcome(kind, key, self._now(), data, decoded=decoded)

    def _register_fresh(self) -> None:
        machine = self.machine
        if not machine.fresh:
            return
        for request in machine.fresh:
            if machine.wanted.get(request.key) is not request:
                continue
            if isinstance(request, StepRequest) and request.retry_at is None:
                self._make_ready(request)
            else:
                self._waits.add(request)
        machine.fresh.clear()

    def _make_ready(self, request: StepRequest) -> None:
        if request.interrupted:
            request.interrupted = False
            now = self._now()
            self._failed(request, StepInterrupted(request.key, request.attempt), now)
            return
        if request.step.settings.at_most_once:
            now = self._now()
            self.machine.progress(request, Kind.ATTEMPT_STARTED, now, None, now)
        self._ready.append(request)

    def _look_at_requests(self) -> None:
        machine = self.machine
        if machine.given_up:
            for request in machine.given_up:
                attempt = self.running.pop(request.key, None)
                if attempt is not None:
                    attempt.cancel()
            machine.given_up = [request for request in machine.given_up if isinstance(request, ChildRequest)]
        self._register_fresh()

    def _commit_or_begin(self) -> None:
        machine = self.machine
        if machine.buffer or self._taking or machine.children or machine.given_up:
            self._submit(self._record(), parking=self._may_park())
        elif self._pausing is not None or self._releasing:
            self._leave_when_quiet()
        elif self._ready:
            ready, self._ready = self._ready, []
            self._begin(ready)
            self._begin_transaction()
        elif self._may_park():
            self._submit(self._record(), parking=True)
        else:
            self._set_alarm()

    def _leave_when_quiet(self) -> None:
        """Pausing or draining: bodies that run may end and be recorded, nothing new begins."""
        if self.running:
            return
        if self._pausing is not None:
            reason = json.loads(self.host.payloads.open(self._pausing.data or '""'))
            self._pause("operator", reason)
            return
        record = self._record()
        record.release(self._now())
        self._leave(record, "over")

    def _begin(self, requests: list[StepRequest]) -> None:
        """Begin these bodies; a transaction of the user's is kept until nothing else is to be committed."""
        for request in requests:
            if self.machine.wanted.get(request.key) is not request:
                continue
            if request.transactional:
                self._ready.append(request)
            else:
                self.running[request.key] = Attempt(self.host, self.run, request, self.attempt_ended)
        self._set_alarm()

    def _begin_transaction(self) -> None:
        if self._ready:
            request = self._ready.pop(0)
            self._committing, self._then = True, "transact"
            transact(self.host, self.run, request, self.machine.length + 1, self.transacted)

    def _may_park(self) -> bool:
        """Whether nothing but times far enough away, signals and children can move the run."""
        machine = self.machine
        if self.running or self._ready or machine.done or self._pausing or self._releasing or self._exclusive:
            return False
        if self._checking or any(child.chosen for child in machine.children):
            return False
        if not machine.wanted:
            if not machine.replaying:
                self._stall()
            return False
        first = self._first_time()
        return first is None or first - self.host.clock.now() > self.host.hold

    def _stall(self) -> None:
        """The workflow waits for nothing that could come: end it on the next turn of the loop, with the reason."""
        if self.machine.cancelled_at is None:
            self.host.loop.call_soon(self._end_stalled)

    def _end_stalled(self) -> None:
        if self.state == "driving" and not self.machine.wanted and not self.machine.done:
            self._end(Status.FAILED, error=Stalled(self.run.id))

    @property
    def _exclusive(self) -> bool:
        """Whether a transaction of the workflow is being committed, whose entry must be the next one."""
        return self._committing and self._then == "transact"

    # ----------------------------------------------------------------------------------- step outcomes
    def attempt_ended(self, attempt: Attempt, text: str, decoded: Any, error: BaseException | None) -> None:
        """A body has ended, or its time is over."""
        if self.state != "driving":
            return
        if self._exclusive:
            self._deferred.append((attempt, text, decoded, error))
            return
        request = attempt.request
        self.running.pop(request.key, None)
        if self.machine.wanted.get(request.key) is request:
            if error is None:
                self.machine.outcome(
                    Kind.STEP_COMPLETED,
                    request.key,
                    self._now(),
                    text,
                    decoded=decoded,
                    started_at=attempt.started_at,
                    attempt=request.attempt,
                    fingerprint=request.fingerprint,
                )
            else:
                self._failed(request, error, attempt.started_at)
        self.advance()

    def _failed(self, request: StepRequest, error: BaseException, started_at: int) -> None:
        """An attempt has failed: note when the next one is due, or that the step has failed."""
        now = self._now()
        settings = request.step.settings
        delay = settings.retry.next_delay(request.attempt, error, ids.jitter())
        begun = request.first_started_at or started_at
        if delay is not None and settings.total_timeout is not None:
            span = micros(settings.total_timeout)
            if now + delay >= begun + span:
                delay = None
                if not isinstance(error, StepTimedOut):
                    timed_out = StepTimedOut(request.key, span / SECOND, "total")
                    timed_out.__cause__ = error
                    error = timed_out
        elif isinstance(error, StepTimedOut) and error.scope == "total":
            delay = None
        text = encode_error(error)
        if delay is None:
            data = self.host.payloads.seal(text, f"The error of step {request.key!r}")
            self.machine.outcome(
                Kind.STEP_FAILED, request.key, now, data, decoded=decode_error(text), started_at=started_at,
                attempt=request.attempt, fingerprint=request.fingerprint,
            )  # fmt: skip
            return
        data = self.host.payloads.seal(f'{{"next_at":{now + delay},"error":{text}}}', "An error")
        self.machine.progress(request, Kind.ATTEMPT_FAILED, now, data, started_at)
        request.attempt += 1
        request.retry_at = now + delay
        request.first_started_at = begun
        self._waits.add(request)

    def transacted(self, request: StepRequest, entry: Entry | None, decoded: Any, error: BaseException | None) -> None:
        """A transaction has been committed, or has failed and left no row."""
        self._committing, self._then = False, "driving"
        if error is None and entry is not None:
            self.machine.outcome(
                Kind.STEP_COMPLETED, request.key, entry.at, entry.data, decoded=decoded, started_at=entry.started_at,
                attempt=request.attempt, fingerprint=request.fingerprint, durable=True,
            )  # fmt: skip
        elif error is not None:
            self._failed(request, error, self._now())
        deferred, self._deferred = self._deferred, []
        for attempt, text, result, problem in deferred:
            self.attempt_ended(attempt, text, result, problem)
        self.advance()

    # ----------------------------------------------------------------------------------------- times
    def _first_time(self) -> int | None:
        times = [self._waits.first_time(self.machine)]
        if self.machine.cancelled_at is not None:
            times.append(self.machine.cancelled_at + micros(self.workflow.settings.grace))
        elif self.run.deadline_at is not None:
            times.append(self.run.deadline_at)
        return min((at for at in times if at is not None), default=None)

    def _set_alarm(self) -> None:
        at = self._first_time()
        if at == self._alarm_at:
            return
        self._clear_alarm()
        if at is not None:
            self._alarm_at = at
            delay = max(0, at - self.host.clock.now()) / SECOND
            self._alarm = self.host.loop.call_later(delay, self._wake)

    def _clear_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._alarm_at = None

    def _wake(self) -> None:
        """Some time may have come: deliver what is due, in the order of its times."""
        self._clear_alarm()
        if self.state != "driving":
            return
        machine, now = self.machine, self._now()
        if self._exclusive:
            self._alarm = self.host.loop.call_later(0.001, self._wake)
            return
        self._register_fresh()
        for request in self._waits.due(machine, now):
            if machine.wanted.get(request.key) is request and machine.divergence is None:
                self._time_has_come(request, now)
        if machine.cancelled_at is not None:
            if now >= machine.cancelled_at + micros(self.workflow.settings.grace) and not machine.done:
                self._end_cancelled()
                return
        elif self.run.deadline_at is not None and now >= self.run.deadline_at:
            machine.outcome(Kind.DEADLINE_REACHED, "", now)
        self.advance()

    def _time_has_come(self, request: Request, now: int) -> None:
        if isinstance(request, StepRequest):
            request.retry_at = None
            self._make_ready(request)
        elif isinstance(request, TimerRequest | ReceiveRequest):
            self.machine.outcome(Kind.TIMER_FIRED, request.key, now)

    # ----------------------------------------------------------------------------------------- ending
    def _finish(self) -> None:
        """The workflow function has ended."""
        main = self.machine.main
        assert main is not None  # noqa: S101 - it is done, so it is there
        if main.cancelled():
            self._end_cancelled()
            return
        error = main.exception()
        if isinstance(error, ContinueAsNew):
            self._continue(error.payload)
        elif error is not None:
            self._end(Status.FAILED, error=error)
        else:
            try:
                text = self.workflow.call.returns.encode(main.result(), f"The result of {self.workflow.name}")
                output = self.host.payloads.seal(text, f"The result of {self.workflow.name}")
            except PerdureError as problem:
                self._end(Status.FAILED, error=problem)
            else:
                self._end(Status.COMPLETED, output=output)

    def _end_cancelled(self) -> None:
        if self.machine.timed_out:
            self._end(Status.FAILED, error=RunTimedOut(self.run.id))
            return
        reason = self.machine.cancel_reason
        try:
            why = json.loads(self.host.payloads.open(reason)) if reason else ""
        except ValueError:
            why = ""
        if self.machine.cancelled_at is None:
            why = "the workflow cancelled itself"
        self._end(Status.CANCELLED, error=RunCancelled(self.run.id, str(why or "")))

    def _end(self, status: Status, *, output: str | None = None, error: BaseException | None = None) -> None:
        if self._committing:
            # The commit under way comes first; its answer leads here again.
            return
        machine, now = self.machine, self._now()
        self._put_aside(ENDED)
        machine.end(END_KINDS[status], now)
        record = self._record()
        text = None if error is None else self.host.payloads.seal(encode_error(error), "An error")
        record.finish(status, output, text, now)
        if self.run.parent is not None:
            record.tell_parent(self.run.parent, child_topic(self.run.id), status, now)
        self._leave(record, "over")

    def _continue(self, payload: str) -> None:
        if self._committing:
            return
        now = self._now()
        self._put_aside(ENDED)
        seq = self.machine.mark(Kind.CONTINUED, now, "{}")
        record = self._record()
        record.renew(payload, seq, now)
        self._leave(record, "over")

    def _pause(self, code: str, message: str) -> None:
        if self._committing:
            return
        now = self._now()
        diverged = self.machine.divergence
        reason = json.dumps({"code": code, "message": message, "at": now, "seq": diverged.seq if diverged else None})
        self._put_aside(EVICTED)
        if diverged is not None:
            # What was asked for behind the divergence is not part of the run's history.
            self.machine.forget_new()
            self._taking.clear()
        self.machine.mark(Kind.PAUSED, now, self.host.payloads.seal(reason, "A reason"))
        record = self._record()
        record.pause(reason)
        self._leave(record, "over")

    def _put_aside(self, why: str = EVICTED) -> None:
        """Stop everything that runs for this run here."""
        self._clear_alarm()
        for attempt in self.running.values():
            attempt.cancel()
        self.running.clear()
        self._ready.clear()
        self.machine.close(why)

    # ---------------------------------------------------------------------------------------- commits
    def _record(self) -> Record:
        """Everything that is new, as one operation; the machine's lists are emptied into it."""
        machine, run = self.machine, self.run
        record = Record(run.number, run.id, run.epoch, self.host.limits.inline_bytes)
        if machine.buffer:
            record.entries(machine.buffer)
            machine.buffer.clear()
        if self._taking:
            for message in self._taking:
                record.take(message, machine.length)
            self._taking.clear()
        now = self._now()
        if machine.children:
            self._inserting, machine.children = machine.children, []
            for child in self._inserting:
                record.start_child(
                    child.child_id, child.workflow, child.input, seed=ids.seed(), now=now,
                    deadline_at=child.deadline_at, detached=child.detached, tags=child.tags,
                )  # fmt: skip
        for request in machine.given_up:
            if isinstance(request, ChildRequest):
                record.cancel(request.child_id, json.dumps("the parent no longer waits for it"), now)
        machine.given_up = []
        return record

    def _submit(self, record: Record, *, parking: bool) -> None:
        self._committing = True
        if parking:
            record.park(self._first_time(), self._waits.topics(self.machine), self._now())
            self._leave(record, "parked")
            return
        self._starting, self._ready = self._ready, []
        self._then = "driving"
        self._send(record)

    def _leave(self, record: Record, then: str) -> None:
        self._clear_alarm()
        self._committing = True
        self.state = "leaving"
        self._then = then
        self._send(record)

    def _send(self, operation: Operation) -> None:
        try:
            self.host.submit(operation, lambda rows, error: self._committed(operation, rows, error))
        except PerdureError as error:
            self._committed(operation, [], error)

    def _committed(self, operation: Operation, rows: list[Row], error: Exception | None) -> None:
        if self.state == "over":
            return
        if error is not None:
            self._not_stored(operation, error)
            return
        self._failures = 0
        self._committing = False
        if any(row[0] == "stale" for row in rows):
            self.lose()
            return
        children, self._inserting = self._inserting, []
        if children:
            begun = {row[1] for row in rows if row[0] == "child"}
            for child in children:
                if child.child_id not in begun:
                    self._checking += 1
                    self.host.check_child(self, child)
        if self.state == "leaving":
            self.state = self._then
            self.host.left(self)
            return
        starting, self._starting = self._starting, []
        if self._pausing or self._releasing:
            self._ready = starting + self._ready
        else:
            self._begin(starting)
        self.advance()

    def _not_stored(self, operation: Operation, error: Exception) -> None:
        """Keep what is not durable and try again; whoever takes the run over meanwhile is told by the epoch."""
        delay = RETRY_COMMIT_S[min(self._failures, len(RETRY_COMMIT_S) - 1)]
        self._failures += 1
        log.error("run %s: its progress could not be stored, trying again in %g s: %s", self.run.id, delay, error)
        if isinstance(error, StoreError) and not error.retryable:
            log.error("run %s: this will not pass by itself; the run is given up here", self.run.id)
            self._committing = False
            self.lose()
            return
        self.host.loop.call_later(delay, self._resend, operation)

    def _resend(self, operation: Operation) -> None:
        if self.state != "over":
            self._send(operation)

    def _now(self) -> int:
        """Time that does not go back behind the journal's last entry, whatever the clocks of workers say."""
        return max(self.host.clock.now(), self.machine.now())

    def _coroutine(self) -> Coroutine[Any, Any, Any]:
        """The workflow function, about to begin; an input that does not fit fails the run from inside."""
        context = Context(self.machine, self.host.registry)
        workflow = self.workflow

        async def refuse(problem: PerdureError) -> None:
            raise problem

        try:
            args, kwargs = workflow.call.decode(self.host.payloads.open(self.run.input))
        except PerdureError as error:
            return refuse(error)
        if not workflow.is_async:
            return in_thread(workflow.fn, context, args, kwargs)
        made: Coroutine[Any, Any, Any] = workflow.fn(context, *args, **kwargs)
        return made
