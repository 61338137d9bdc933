"""
One run's deterministic half: its private loop, its requests, and the position in its history.

It does no I/O. The driver feeds it outcomes, one at a time, and reads what it wants when it is at rest.
Live and replay are the same machine: replay takes outcomes from the history, live takes them as they come
and notes them in that order.
"""

from __future__ import annotations

import asyncio
import json
from asyncio import events
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from perdure.codec.failure import decode_error
from perdure.codec.payload import Payloads
from perdure.engine.ledger import Riders, of_steps
from perdure.engine.loop import PrivateLoop, RunFuture, RunTask
from perdure.engine.outcome import Failure, child_failure, described, end_of, read_cancel_request, same_arguments
from perdure.engine.request import ChildRequest, ChildStart, ReceiveRequest, Request, StepRequest, TimerRequest
from perdure.errors import ArgumentsChanged, Divergence, EngineSignal, NotInWorkflow, PerdureError
from perdure.model.entry import NOTES, PROGRESS, RESTARTS, Entry, Kind

if TYPE_CHECKING:
    from perdure.model.run import Claimed


class Halt(EngineSignal):
    """Leave the workflow's code at once: it has diverged, or it is no longer driven here."""


class TimedOut:
    """What a receive gets when its time is over."""


MISSING: Any = object()
TIMED_OUT = TimedOut()


class Machine:
    """
    Drives one workflow function through its history and on.

    Args:
        run: The claimed run.
        payloads: Opens and seals what is stored.
        history: The present history, blobs resolved.
        next_seq: Where the journal goes on.
        now: The run's time before anything was delivered.
        prefix: What all keys of this history begin with.

    Attributes:
        wanted: Requests that are not settled, by key, in the order they were made.
        fresh: Requests made since the driver last looked; some may be gone again.
        given_up: Requests that the workflow cancelled since then.
        buffer: Entries that are not durable yet, in order.
        children: Child runs to insert with them.
        doubted: Starts of unsettled children that may be others', or may have ended unheard; by key.
        ended: The ids of children whose end was delivered; whoever waits for one of them again gets no message.
        time: The run's time: that of the last outcome, microseconds since 1970.
        left_out: Entries of the journal that are no part of the present history.
        divergence: Set when code and history disagree; the run must be paused (I12).
        when_done: Called when the workflow function has ended.
        undos: What would undo the run so far, in the order in which it was done; see `saga.Undo`.
        compensating: It is being undone; then nothing cancels the run any more.
        cancel_compensates: Who cancelled the run wants it undone.
        riders: What is to be stored beside the entries, if anything; bodies in threads add to it.
    """

    def __init__(  # noqa: PLR0917 - what a run is made of
        self, run: Claimed, payloads: Payloads, history: list[Entry], next_seq: int, now: int, prefix: str = ""
    ) -> None:
        self.run = run
        self.payloads = payloads
        self.loop = PrivateLoop(self, run.seed, prefix)  # type: ignore[abstract]  # what is missing there is refused, dynamically
        self.wanted: dict[str, Request] = {}
        self.fresh: list[Request] = []
        self.given_up: list[Request] = []
        self.buffer: list[Entry] = []
        self.riders: Riders = None
        self.children: list[ChildStart] = []
        self.doubted: dict[str, ChildStart] = {}
        self.ended: set[str] = set()
        self.divergence: Divergence | None = None
        self.cancel_reason: str | None = None
        self.cancelled_at: int | None = None
        self.timed_out = False
        self.when_done: Callable[[asyncio.Future[Any]], None] | None = None
        self.undos: list[Any] = []
        self.compensating = False
        self.cancel_compensates = False
        self.main: RunTask | None = None
        self.patches: dict[str, bool] = {}
        self._history = history
        self._position = 0
        self._next_seq = next_seq
        self.left_out = next_seq - 1 - len(history)
        self.time = now
        self._over = ""
        self._timers: dict[asyncio.TimerHandle, TimerRequest] = {}

    # ---------------------------------------------------------------------------------- driver's side
    def begin(self, workflow: Coroutine[Any, Any, Any]) -> None:
        """Run to the first rest, then through the history."""
        self.main = self.loop.create_main(workflow)
        if self.when_done is not None:
            self.main.add_done_callback(self.when_done)
        self._pass_restarts()
        self.loop.run_to_rest()
        while self._position < len(self._history) and self.divergence is None and not self._over:
            entry = self._history[self._position]
            if self.main.done():
                self._diverge(entry, [end_of(self.main)])
            elif entry.kind in NOTES:
                self._diverge(entry, [str(request) for request in self.wanted.values()])
            else:
                self._position += 1
                self._pass_restarts()
                if entry.kind in PROGRESS:
                    self._progress(entry)
                else:
                    self._deliver(entry, MISSING)
        self._history = []
        self._position = 0

    def outcome(
        self,
        kind: str,
        key: str,
        at: int,
        data: str | None = None,
        *,
        decoded: Any = MISSING,
        started_at: int | None = None,
        attempt: int | None = None,
        fingerprint: str | None = None,
        durable: bool = False,
    ) -> None:
        """
        Note an outcome and deliver it: the workflow runs to its next rest.

        Args:
            decoded: The value or error that it stands for, when it is at hand.
            durable: The entry was committed already.
        """
        entry = self._append(kind, key, at, data, started_at, attempt, fingerprint)
        if durable:
            self.buffer.remove(entry)
        self._deliver(entry, decoded)

    def progress(self, request: StepRequest, kind: str, at: int, data: str | None, started_at: int) -> None:
        """Note how far a step has come; the workflow does not see it."""
        self._append(kind, request.key, at, data, started_at, request.attempt, None)

    def emitted(self, key: str, attempt: int, at: int, data: str) -> None:
        """Note what a step's body has emitted: for readers, no part of the history that is replayed."""
        self._append(Kind.STEP_EMITTED, key, max(at, self.time), data, None, attempt, None)
        self.left_out += 1

    def end(self, kind: str, at: int) -> None:
        """Note the end of the run."""
        self._append(kind, "", at)

    def mark(self, kind: str, at: int, data: str) -> int:
        """Note something about the run itself; returns the entry's seq."""
        return self._append(kind, "", at, data).seq

    def forget_new(self) -> None:
        """Drop what is not durable: it follows from code that has diverged."""
        self._next_seq -= len(self.buffer)
        self.buffer.clear()
        self.riders = of_steps(self.riders)
        self.children.clear()
        self.given_up.clear()

    def cancel_diverged(self, at: int, reason: str | None) -> int:
        """Note that a run is cancelled whose code does not fit its journal; returns the entry's seq."""
        self.forget_new()
        self.cancelled_at = at
        self.cancel_reason, _ = read_cancel_request(self.payloads, reason)
        return self.mark(Kind.CANCEL_REQUESTED, at, reason or '""')

    @property
    def done(self) -> bool:
        """Whether the workflow function has ended."""
        return self.main is not None and self.main.done()

    def keys_ahead(self) -> list[str]:
        """The keys of the entries that are still to be replayed."""
        return [entry.key for entry in self._history[self._position :]]

    @property
    def live(self) -> bool:
        """Whether the workflow's code counts: the run is neither put aside nor diverged."""
        return not self._over and self.divergence is None

    @property
    def replaying(self) -> bool:
        """Whether what happens now happened before."""
        return self._position < len(self._history)

    @property
    def length(self) -> int:
        """Entries of the journal so far, durable or not."""
        return self._next_seq - 1

    @property
    def history_length(self) -> int:
        """Entries of the present history so far, durable or not."""
        return self._next_seq - 1 - self.left_out

    @property
    def coming(self) -> Entry | None:
        """What a replay expects next; None when it has come to its end."""
        return self._history[self._position] if self.replaying else None

    def close(self, why: str) -> None:
        """
        Let go of the workflow's code: leftover tasks are cancelled and find the context closed.

        Args:
            why: What the context says to those who still use it.
        """
        if self._over:
            return
        self._over = why
        self.when_done = None  # it leads back here, and so would keep the machine in memory until a collection
        self.loop.quiet = why == EVICTED
        self.loop.dismiss(self.main)
        # No circles are left behind: what runs leave behind would be most of the garbage collector's work.
        for request in self.wanted.values():
            request.future.settle()
        self.wanted.clear()
        self._timers.clear()
        self.main = None

    # --------------------------------------------------------------------------------- context's side
    def check(self) -> None:
        """
        Refuse the use of the context where no workflow is driven.

        Raises:
            NotInWorkflow: From a step, a thread or another loop, or after the end.
            Halt: The workflow has diverged or was put aside.
        """
        if self._over or self.divergence is not None or events._get_running_loop() is not self.loop:  # noqa: SLF001 - get_running_loop() raises where there is none
            self._refuse()

    def _refuse(self) -> NoReturn:
        if self._over and self._over != EVICTED:
            raise NotInWorkflow(self._over)
        if self._over or self.divergence is not None:
            raise Halt
        problem = "it was called from a step, another thread or another event loop"
        raise NotInWorkflow(problem)

    def key(self, name: str) -> str:
        """The key of the next operation of this name in the current branch."""
        task = asyncio.current_task(self.loop)
        if task.__class__ is not RunTask:
            problem = "it was called outside the tasks of the workflow"
            raise NotInWorkflow(problem)
        return task.branch.key(name)

    def request(self, request: Request) -> None:
        """The workflow wants this."""
        request.future.request = request
        request.future.given_up = self._give_up
        self.wanted[request.key] = request
        self.fresh.append(request)

    def wait_for_child(self, key: str, child_id: str, workflow: str) -> RunFuture:
        """The end of a child that was started under this key; its result as stored."""
        self.check()
        request = ChildRequest(key, self.loop.create_future(), child_id, workflow)
        self.request(request)
        return request.future

    def note(self, kind: str, key: str, data: str | None = None, fingerprint: str | None = None) -> Entry | None:
        """
        Say what the workflow asks for.

        Returns:
            The recorded entry when this is a replay; None when it is new, and will be durable with the
            next commit.
        """
        if not self.replaying:
            self._append(kind, key, self.time, data, fingerprint=fingerprint)
            return None
        entry = self._history[self._position]
        if entry.kind != kind or entry.key != key:
            self._diverge(entry, [f"{kind.replace('_', ' ')} {key!r}"])
            raise Halt
        self._position += 1
        self._pass_restarts()
        return entry

    def patched(self, patch: str) -> bool:
        """Whether this run takes the new way: yes when it comes here first now, or came here so before."""
        if patch not in self.patches:
            if self.replaying:
                entry = self._history[self._position]
                took = entry.kind == Kind.PATCHED and entry.key == patch
                self._position += took
                self._pass_restarts()
                self.patches[patch] = took
            else:
                self._append(Kind.PATCHED, patch, self.time)
                self.patches[patch] = True
        return self.patches[patch]

    # ------------------------------------------------------------------------------- the loop's timers
    def now(self) -> int:
        """The run's time: that of the last outcome."""
        return self.time

    def set_timer(self, handle: asyncio.TimerHandle, at: int) -> None:
        """asyncio.sleep and asyncio.timeout come here."""
        self.check()
        key = self.key("timer")
        recorded = self.note(Kind.TIMER_SET, key, str(at))
        if recorded is not None and recorded.data is not None:
            at = int(recorded.data)
        request = TimerRequest(key, self.loop.create_future(), at, handle)
        self._timers[handle] = request
        self.request(request)

    def drop_timer(self, handle: asyncio.TimerHandle) -> None:
        """The workflow cancelled the timer."""
        request = self._timers.pop(handle, None)
        if request is not None and self.wanted.pop(request.key, None) is not None:
            self.given_up.append(request)

    # -------------------------------------------------------------------------------------- inside
    def _append(  # noqa: PLR0917 - the columns of an entry
        self,
        kind: str,
        key: str,
        at: int,
        data: str | None = None,
        started_at: int | None = None,
        attempt: int | None = None,
        fingerprint: str | None = None,
    ) -> Entry:
        entry = Entry(self._next_seq, kind, key, at, data, started_at, attempt, fingerprint)
        self._next_seq += 1
        self.buffer.append(entry)
        return entry

    def _pass_restarts(self) -> None:
        """Where a rerun or a fork took up the run, its time passes from then to now."""
        while self.replaying and self._history[self._position].kind in RESTARTS:
            self.time = max(self.time, self._history[self._position].at)
            self._position += 1

    def _diverge(self, entry: Entry, requested: list[str], kind: type[Divergence] = Divergence) -> None:
        recorded = f"{entry.kind.replace('_', ' ')} {entry.key!r}"
        if entry.fingerprint is not None:
            recorded += f" with arguments {entry.fingerprint}"
        self.divergence = kind(self.run.id, entry.seq, recorded, requested)

    def _give_up(self, request: Request) -> None:
        if self.wanted.pop(request.key, None) is None or self._over or self.divergence:
            return
        if isinstance(request, StepRequest | ChildRequest):
            self.note(Kind.STEP_CANCELLED, request.key)
        self.given_up.append(request)

    def _progress(self, entry: Entry) -> None:
        request = self.wanted.get(entry.key)
        if not isinstance(request, StepRequest):
            self._diverge(entry, [str(request) for request in self.wanted.values()])
            return
        if request.first_started_at is None:
            request.first_started_at = entry.started_at
        if entry.kind == Kind.ATTEMPT_STARTED:
            request.attempt = entry.attempt or 1
            request.interrupted = True
        else:
            request.interrupted = False
            request.attempt = (entry.attempt or 1) + 1
            try:
                request.retry_at = json.loads(self.payloads.open(entry.data or "{}")).get("next_at")
            except (AttributeError, PerdureError, ValueError) as error:
                self._diverge(entry, [f"{request}, whose failed attempt cannot be read: {error}"])
            if request.compensation and request.retry_at is None:
                # It had stopped the run, and somebody has let it go on since.
                request.forgiven, request.first_started_at = request.attempt - 1, None

    def _deliver(self, entry: Entry, decoded: Any) -> None:
        self.time = max(self.time, entry.at)
        request = self.wanted.get(entry.key)
        if entry.kind in CANCELLING:
            self._cancel_main(entry)
        elif (
            request is not None
            and entry.kind in request.outcomes
            and (decoded is not MISSING or same_arguments(request, entry))
        ):
            del self.wanted[entry.key]
            self._resolve(request, entry, decoded)
        else:
            asked = request is not None and entry.kind in request.outcomes  # only for something else than is recorded
            wanted = [described(request) for request in self.wanted.values()]
            self._diverge(entry, wanted, ArgumentsChanged if asked else Divergence)
        if self.divergence is None:
            self.loop.run_to_rest()

    def _cancel_main(self, entry: Entry) -> None:
        if self.compensating:
            return
        if entry.kind == Kind.CANCEL_REQUESTED:
            self.cancel_reason, self.cancel_compensates = read_cancel_request(self.payloads, entry.data)
        else:
            self.timed_out = True
        self.cancelled_at = entry.at
        if self.main is not None:
            # What it waits for is given up on the way, and may not be what the journal says.
            with suppress(Halt):
                self.main.cancel()

    def _resolve(self, request: Request, entry: Entry, decoded: Any) -> None:
        future = request.future
        future.request = future.given_up = None  # as `settle`, spelt out where it is per step
        if isinstance(request, ChildRequest):
            self.doubted.pop(request.key, None)
            self.ended.add(request.child_id)
        if isinstance(request, TimerRequest) and request.handle is not None:
            self._timers.pop(request.handle, None)
            self.loop.fire(request.handle)
        elif isinstance(decoded, BaseException):
            future.set_exception(decoded)
        elif decoded is not MISSING:
            future.set_result(decoded)
        else:
            try:
                value = self._decode(request, entry)
            except PerdureError as error:
                # What is stored does not fit the code's types any more: code and journal disagree (I12).
                self._diverge(entry, [f"{request}, whose stored outcome cannot be read: {error}"])
                return
            if isinstance(value, Failure):
                future.set_exception(value.error)
            else:
                future.set_result(value)

    def _decode(self, request: Request, entry: Entry) -> Any:
        if entry.kind == Kind.STEP_RESOLVED:
            return None
        if entry.data is None and not isinstance(request, StepRequest):
            return TIMED_OUT if isinstance(request, ReceiveRequest) else None
        text = self.payloads.open(entry.data or "null")
        if entry.kind in {Kind.STEP_FAILED, Kind.CHILD_FAILED}:
            error = decode_error(text)
            return Failure(child_failure(request.child_id, error) if isinstance(request, ChildRequest) else error)
        if isinstance(request, StepRequest):
            return request.returns.decode(text, f"The stored result of step {request.key!r}")
        return text


CANCELLING = frozenset({Kind.CANCEL_REQUESTED, Kind.DEADLINE_REACHED})
ENDED = "the run has ended"
EVICTED = "evicted"
