"""
Drive one owned run: deliver outcomes, and decide when it is at rest.

At rest everything the run wants is known. New entries are committed first; bodies begin after that (I2).
When only times, signals or children are awaited, the same commit parks the run.
"""

from __future__ import annotations

import json
import logging
from asyncio import CancelledError
from typing import Any, cast

from perdure.clock import micros
from perdure.engine.alarm import Alarm
from perdure.engine.attempt import Attempt
from perdure.engine.child import doubtful, to_look_at
from perdure.engine.definition import Workflow
from perdure.engine.ending import Ending, beginning, cancelled, ending_of, write_end
from perdure.engine.guard import call_each, guarded, seal_reason
from perdure.engine.history import base_time, key_prefix, present
from perdure.engine.host import Host
from perdure.engine.machine import ENDED, EVICTED, Machine
from perdure.engine.request import ChildRequest, ChildStart, Request, StepRequest
from perdure.engine.saga import cancel_again, to_compensate
from perdure.engine.steps import COMPENSATION_FAILED, Steps
from perdure.engine.transact import Transacting, transact
from perdure.engine.waits import CANCEL, PAUSE, Waits, settle
from perdure.engine.writer import Writer
from perdure.errors import Divergence, HistoryTooLong, Overloaded, PerdureError, Stalled, StoreError
from perdure.model.entry import Entry, Kind
from perdure.model.run import Claimed, Message
from perdure.model.status import Status
from perdure.store.record import Record

log = logging.getLogger("perdure.engine")
STORE_RETRY = 200_000  # microseconds


class Driver:
    """
    Drives a run from its claim until this worker no longer owns it.

    All methods are called on the worker's loop.

    Attributes:
        state: "driving"; "leaving" while the commit that gives the run up is under way; then "parked" (the
            coroutine stays in memory), or "over".
        how, error: Why it is no longer driven, as `Observer.left` has it.
    """

    __slots__ = (
        "_alarm", "_deferred", "_exclusive", "_pausing", "_releasing", "_steps",
        "_waits", "_writer", "error", "host", "how", "machine", "run", "state", "workflow",
    )  # fmt: skip

    def __init__(self, host: Host, run: Claimed, workflow: Workflow[..., Any], journal: list[Entry]) -> None:
        """
        Prepare to drive a run.

        Args:
            journal: All of it, blobs resolved.
        """
        self.host, self.run, self.workflow = host, run, workflow
        self.state = "driving"
        next_seq = journal[-1].seq + 1 if journal else 1
        base = base_time(journal, run.started_at)
        self.machine = Machine(run, host.payloads, present(journal), next_seq, base, key_prefix(journal))
        self._writer = Writer(host, run, self.machine, self._now, self.lose, self.crash)
        self._waits = Waits()
        self._steps = Steps(host, self.machine, self._waits, self._now, self.attempt_ended, self.deliver)
        self._deferred: list[tuple[Attempt, str, Any, BaseException | None]] = []
        # The transaction of the workflow that is being committed, whose entry must be the next one.
        self._exclusive: Transacting | None = None
        self._pausing: Message | None = None
        self._releasing = False
        self.how, self.error = "", cast("BaseException | None", None)
        self._alarm = Alarm(host, self._wake)

    # ------------------------------------------------------------------------- what the worker calls
    @guarded
    def begin(self, messages: list[Message]) -> None:
        """Drive the run from its journal; these messages are in its inbox."""
        self._writer.take_up(self.run)
        self._waits.deliver(messages)
        self.machine.begin(beginning(self.machine, self.workflow, self.host.registry, self.host.payloads))
        # Times that passed while nobody drove it come first: no body begins behind the deadline.
        self._wake()

    @guarded
    def resume(self, run: Claimed, messages: list[Message]) -> None:
        """Go on where the parked coroutine stands: nobody owned the run in between."""
        self.run = self.machine.run = run
        self._writer.take_up(run)
        self.state = "driving"
        self._waits.clear()
        self._waits.deliver(messages)
        self._wake()

    @guarded
    def deliver(self, messages: list[Message]) -> None:
        """Messages have come while the run is driven, or it is time to store what bodies have emitted."""
        if self.state == "driving":
            self._waits.deliver(messages)
            self.advance()

    @guarded
    def release(self) -> None:
        """Give the run back as soon as no body runs; nothing new is begun meanwhile."""
        self._releasing = True
        self.advance()

    @guarded
    def abandon(self) -> None:
        """Give the run back now: bodies that run are cancelled, and run again elsewhere."""
        if self.state == "driving":
            self._steps.stop()
            self.release()

    @guarded
    def child_taken(self, child: ChildStart, message: Message | None) -> None:
        """
        Somebody has looked at a child whose id was taken.

        Args:
            message: Its end, or that of its start; None when it is ours and has not ended.
        """
        self._waits.answered(child.key, message)
        if message is None:
            self.machine.doubted.pop(child.key, None)
        if self.state == "driving":
            self.advance()

    def lose(self) -> None:
        """Another worker owns the run now, or this worker must stop: forget it without writing (I1)."""
        if self.state != "over":
            self.evict()
            self.how = "lost"
            self.host.left(self)

    def crash(self, error: BaseException) -> None:
        """An error has escaped from what drives the run: put the run aside, with the reason, and nothing else (I8)."""
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise error
        log.error("run %s cannot go on here and is paused", self.run.id, exc_info=error)
        if self.state != "over":
            self.evict()
            self.how, self.error = "paused", error
            self.host.left(self)
            # Code that diverged may raise on its way out of the workflow: that is then what counts.
            self.host.give_up(self.run, self.machine.divergence or error)

    def evict(self) -> None:
        """Forget the run without a word: a parked one to free its memory, any when the worker is killed."""
        if self.state != "over":
            self.state = "over"
            self._writer.close()
            self._put_aside(EVICTED)
            self.host.loop.call_soon(self._let_go)  # as the caller may be one of our own methods

    @property
    def running(self) -> bool:
        """Whether bodies of steps run."""
        return self.state != "over" and bool(self._steps.running)

    # ------------------------------------------------------------------------------------ the decision
    def advance(self) -> None:
        """The run is at rest: look at what it wants, commit what is new, begin what may begin."""
        if self.state != "driving":
            return
        machine = self.machine
        if machine.fresh:
            self._register()
        if self._waits.mailbox:
            self._read_mail()
        if machine.divergence is not None:
            self._stop_diverged(machine.divergence)
            return
        if machine.given_up:
            for request in machine.given_up:
                self._steps.cancel(request.key)
            machine.given_up = [request for request in machine.given_up if isinstance(request, ChildRequest)]
        if machine.done:
            self._finish()
        elif not (self._writer.busy or self._exclusive):
            self._commit_or_begin()

    def _register(self) -> None:
        """Sort the requests that are new: steps may begin, everything else is waited for."""
        machine = self.machine
        fresh, machine.fresh = machine.fresh, []
        for request in fresh:
            if machine.wanted.get(request.key) is not request:
                continue
            if isinstance(request, StepRequest) and request.retry_at is None:
                self._steps.want(request)
            else:
                self._waits.add(request)
                if isinstance(request, ChildRequest):
                    self._look_at(doubtful(machine, request, self._writer.inserting))
        if machine.fresh:
            self._register()

    def _read_mail(self) -> None:
        """Deliver what can be observed, one message at a time; each may change what is waited for."""
        machine = self.machine
        while machine.divergence is None and not machine.done and not self._exclusive:
            found = self._waits.next_message(machine, self._writer.inserting)
            if found is None:
                break
            message, requests = found
            if message.id:
                self._writer.taking.append((message, self.machine.length + 1))
            self._observe(message, requests)
            if machine.fresh:
                self._register()

    def _observe(self, message: Message, requests: list[Request]) -> None:
        machine, now = self.machine, self._now()
        if message.topic == CANCEL:
            self._pausing = None  # whoever wants the run to end does not want it to rest
            if machine.cancelled_at is None or machine.compensating:
                machine.outcome(Kind.CANCEL_REQUESTED, "", now, message.data)
        elif message.topic == PAUSE:
            self._pausing = message if machine.cancelled_at is None else None
        else:
            settle(machine, message, requests, now)

    def _commit_or_begin(self) -> None:
        machine = self.machine
        if self._steps.due:
            self._steps.note_due()
        if machine.history_length > self.host.limits.history_entries and not machine.compensating:
            self._fail(HistoryTooLong(self.run.id, self.host.limits.history_entries))
        elif self._writer.anything:
            self._commit()
        elif self._quiet:
            self._leave_when_quiet()
        elif self._steps.ready:
            request = self._steps.begin_ready(self.run)
            if request is not None:
                self._exclusive = self._steps.transacting = transact(self.host, machine, request, self._transacted)
            self._alarm.set(self._first_time())
        elif self._may_park():
            self._commit()
        else:
            self._alarm.set(self._first_time())

    def _commit(self) -> None:
        """Write what is new; if nothing else can move the run soon, park it with the same commit."""
        parking = self._may_park()
        self._steps.commit_begins()
        record = self._writer.record()
        if parking:
            record.park(self._first_time(), self._waits.topics(self.machine), self._now())
            self._leave(record, "parked")
        else:
            self._writer.send(record, self._committed)

    def _committed(self, taken: list[ChildStart]) -> None:
        if taken:
            self._look_at(to_look_at(self.machine, taken))
        if self.state != "driving":
            return
        quiet, machine = self._quiet, self.machine
        self._steps.committed(self.run, begin=not quiet)
        rests = self._steps.running and not (self._steps.ready or self._waits.mailbox or self._writer.anything)
        if quiet or not rests or machine.done or machine.divergence is not None or self._steps.due:
            self.advance()
        else:
            self._alarm.set(self._first_time())

    def _look_at(self, children: list[ChildStart]) -> None:
        for child in children:
            if self._waits.ask(child):
                self.host.check_child(self, child)

    @property
    def _quiet(self) -> bool:
        """Pausing or draining: bodies that run may end and be recorded, nothing new begins."""
        return self._pausing is not None or self._releasing or self._steps.stopped is not None

    def _leave_when_quiet(self) -> None:
        if self._steps.running or self._exclusive:
            self._alarm.set(self._first_time())  # of which one may be the end of the time that the body has
        elif self._steps.stopped is not None:
            self._pause(COMPENSATION_FAILED, self._steps.why_stopped(), key=self._steps.stopped[0].key)
        elif self._pausing is not None:
            self._pause("operator", json.loads(self.host.payloads.open(self._pausing.data or '""')))
        else:
            now = self._now()
            self._put_aside(EVICTED)
            record = self._writer.record()
            record.release(now)
            self._leave(record, "released")

    def _may_park(self) -> bool:
        """Whether nothing but times far enough away, signals and children can move the run."""
        if not self._steps.idle or self._exclusive or self._waits.asked:
            return False
        machine = self.machine
        if machine.done or self._quiet or any(new.chosen or new.child_id in machine.ended for new in machine.children):
            return False
        first = self._first_time()
        if not machine.wanted:
            self._stall(first)
            return False
        return first is None or first - self.host.clock.now() > self.host.hold

    def _stall(self, first: int | None) -> None:
        """The workflow waits for nothing that could come: end it, with the reason, on the loop's next turn."""
        if self.machine.cancelled_at is None or first is None:
            self.host.loop.call_soon(self._end_stalled)

    @guarded
    def _end_stalled(self) -> None:
        machine = self.machine
        if self.state == "driving" and not machine.wanted and not machine.done and not self._writer.busy:
            self._fail(Stalled(self.run.id))

    # ----------------------------------------------------------------------------------- step outcomes
    def attempt_ended(self, attempt: Attempt, text: str, decoded: Any, error: BaseException | None) -> None:
        """A body has ended, or its time is over."""
        if self.state != "driving":
            return
        if self._exclusive:
            self._deferred.append((attempt, text, decoded, error))
            return
        request = attempt.request
        self._steps.gone(request.key)
        try:
            if self.machine.wanted.get(request.key) is not request:
                pass
            elif error is None:
                self.machine.outcome(
                    Kind.STEP_COMPLETED, request.key, self._now(), text, decoded=decoded,
                    started_at=attempt.started_at, attempt=request.attempt, fingerprint=request.fingerprint,
                )  # fmt: skip
            else:
                self._steps.failed(request, error, attempt.started_at)
            self.advance()
        except BaseException as problem:  # noqa: BLE001 - as in `guarded`, spelt out where it is per step
            self.crash(problem)

    @guarded
    def _transacted(self, request: StepRequest, entry: Entry | None, decoded: Any, error: BaseException | None) -> None:
        """A transaction has been committed, or has failed and left no row; or the run is lost."""
        self._exclusive = None
        if self.state != "driving":
            return
        if entry is not None:
            self.machine.outcome(
                Kind.STEP_COMPLETED, request.key, entry.at, entry.data, decoded=decoded, started_at=entry.started_at,
                attempt=request.attempt, fingerprint=request.fingerprint, durable=True,
            )  # fmt: skip
        elif error is not None:
            if self.machine.wanted.get(request.key) is not request:
                pass
            elif isinstance(error, Overloaded | CancelledError) or (isinstance(error, StoreError) and error.retryable):
                # The database failed, or this worker leaves: the attempt does not count, as with any other commit.
                request.retry_at = self._now() + STORE_RETRY
                self._waits.add(request)
            else:
                self._steps.failed(request, error, self._now())
        else:
            self.lose()
            return
        deferred, self._deferred = self._deferred, []
        for ended in deferred:
            self.attempt_ended(*ended)
        self.advance()

    # ----------------------------------------------------------------------------------------- times
    def _first_time(self) -> int | None:
        """When the run must be looked at next, if nothing else happens."""
        first, last = self._waits.first_time(self.machine) if self._waits.times else None, self._last_time()
        return first if last is None else last if first is None else min(first, last)

    def _last_time(self) -> int | None:
        """When the run must end; one that is compensated takes the time it needs."""
        machine = self.machine
        if machine.cancelled_at is None or machine.compensating:
            return None if machine.compensating else self.run.deadline_at
        return machine.cancelled_at + micros(self.workflow.settings.grace)

    @guarded
    def _wake(self) -> None:
        """Some time may have come: deliver what is due, in the order of its times."""
        self._alarm.clear()
        if self.state != "driving" or self._exclusive:
            # A transaction's answer leads to advance(), which sets the alarm again.
            return
        machine, now = self.machine, self._now()
        if machine.fresh:
            self._register()
        if self._waits.mailbox:
            self._read_mail()  # what was sent before a time came counts, also when nobody looked until now
        for request in self._waits.due(machine, now):
            if machine.wanted.get(request.key) is not request or machine.divergence is not None:
                continue
            if isinstance(request, StepRequest):
                self._steps.want(request)
            else:
                machine.outcome(Kind.TIMER_FIRED, request.key, now)
        if not (machine.done or machine.divergence):
            self._limit(now)
        self.advance()

    def _limit(self, now: int) -> None:
        """Hold the run to its deadline, and its clean-up to its grace."""
        last, machine = self._last_time(), self.machine
        if last is None or now < last:
            return
        if machine.cancelled_at is None:
            machine.outcome(Kind.DEADLINE_REACHED, "", now)
        elif machine.undos and to_compensate(machine, self.workflow.settings):
            machine.outcome(*cancel_again(machine, now))  # not the end of the run, as there is something to undo
        elif not self._writer.busy:
            self._end(cancelled(machine))

    # ----------------------------------------------------------------------------------------- ending
    def _finish(self) -> None:
        """The workflow function has ended."""
        if not (self._writer.busy or self._exclusive):
            self._end(ending_of(self.machine, self.workflow))
        # Otherwise the answer to the commit under way leads here again.

    def _end(self, ending: Ending) -> None:
        machine, now = self.machine, self._now()
        self._put_aside(ENDED)
        if ending.status is None:
            seq = machine.mark(Kind.CONTINUED, now, "{}")
            record = self._writer.record()
            record.renew(ending.renewal or "", seq, now)
        else:
            machine.end(Kind(ending.status.value), now)
            record = self._writer.record()
            write_end(record, self.run, ending, self.host.payloads, now, undone=machine.compensating)
        self._leave(record, ending.status or "continued", ending.error)

    def _fail(self, error: PerdureError) -> None:
        if self.machine.undos:
            # The workflow cannot be made to undo what it did; to end without it is for an operator to decide.
            self._pause(error.code, f"{error} It has compensations to run: cancel it, with them or without.")
        else:
            self._end(Ending(Status.FAILED, error=error))

    def _pause(self, code: str, message: str, **more: str) -> None:
        if self._writer.busy or self._exclusive:
            return
        now, diverged = self._now(), self.machine.divergence
        reason = json.dumps({"code": code, "message": message, "at": now, "seq": diverged and diverged.seq, **more})
        self._put_aside(EVICTED)
        if diverged is not None:
            # What was asked for behind the divergence is not part of the run's history.
            self.machine.forget_new()
            self._writer.taking.clear()
        self.machine.mark(Kind.PAUSED, now, seal_reason(self.host.payloads, reason))
        record = self._writer.record()
        record.pause(reason, None if diverged and self.machine.compensating else now)
        self._leave(record, "paused", diverged)

    def _stop_diverged(self, divergence: Divergence) -> None:
        """Pause the run (I12); one that is to be cancelled ends as it stands, as its code cannot clean up."""
        cancel = next((message for message in self._waits.mailbox if message.topic == CANCEL), None)
        if cancel is None or self._writer.busy or self._exclusive or self.machine.compensating:
            self._pause(Divergence.code, str(divergence))
            return
        self._put_aside(EVICTED)
        self._writer.taking = [(cancel, self.machine.cancel_diverged(self._now(), cancel.data))]
        self._end(cancelled(self.machine))

    def _put_aside(self, why: str) -> None:
        """Stop everything that runs for this run here."""
        self._alarm.clear()
        call_each(self.run.id, self._steps.stop, lambda: self.machine.close(why))

    def _leave(self, record: Record, how: str, error: BaseException | None = None) -> None:
        """Commit what gives the run up."""
        self._alarm.clear()
        self.state, self.how, self.error = "leaving", how, error
        self._writer.send(record, self._left)

    def _left(self, taken: list[ChildStart]) -> None:
        """The run has been given up, and that is durable."""
        self.state = "parked" if self.how == "parked" else "over"
        self._look_at(to_look_at(self.machine, taken))
        self.host.left(self)  # which may evict a parked one
        if self.how != "parked":
            self._let_go()

    def _let_go(self) -> None:
        del self._writer, self._steps, self._alarm  # no circles stay behind, see `Machine.close`

    def _now(self) -> int:
        """Time that does not go back behind the journal's last entry, whatever the clocks of workers say."""
        return max(self.machine.time, self.host.clock.now())
