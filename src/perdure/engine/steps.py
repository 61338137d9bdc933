"""The steps of one run: which may begin, which run, and what becomes of a failed attempt."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from perdure import ids
from perdure.clock import SECOND, micros
from perdure.codec.failure import decode_error, message_of, seal_error
from perdure.engine.attempt import Attempt, Ended, ObservedAttempt
from perdure.engine.host import Host
from perdure.engine.ledger import Rider, ride
from perdure.engine.live import Live
from perdure.engine.machine import Machine
from perdure.engine.request import StepRequest
from perdure.engine.transact import Transacting
from perdure.engine.waits import Waits
from perdure.errors import StepInterrupted, StepTimedOut
from perdure.model.entry import Kind
from perdure.model.run import Claimed, Message

COMPENSATION_FAILED = "compensation_failed"
MESSAGE_CHARS = 1_000
_MAKING = threading.Lock()


class Steps:
    """
    Begins the bodies of a run's steps and applies their retry policies.

    Args:
        now: The run's time, which never goes back.
        ended: Called when a body has ended.
        deliver: Called with no message when it is time to store what bodies have emitted.

    Attributes:
        stopped: The compensation that has failed for good, and its error: an operator must decide.
        ready: Steps that may begin once everything before them is durable (I2).
        running: Their bodies, by key.
        transacting: The last of those that run inside a transaction.
    """

    __slots__ = (
        "_attempt",
        "_deliver",
        "_ended",
        "_host",
        "_live",
        "_machine",
        "_now",
        "_starting",
        "_waits",
        "ready",
        "running",
        "stopped",
        "transacting",
    )  # fmt: skip

    def __init__(  # noqa: PLR0917 - one per part; made for every run
        self,
        host: Host,
        machine: Machine,
        waits: Waits,
        now: Callable[[], int],
        ended: Ended,
        deliver: Callable[[list[Message]], None],
    ) -> None:
        self.ready: list[StepRequest] = []
        self.running: dict[str, Attempt] = {}
        self.stopped: tuple[StepRequest, BaseException] | None = None
        self.transacting: Transacting | None = None
        self._starting: list[StepRequest] = []
        self._host = host
        self._machine = machine
        self._waits = waits
        self._now = now
        self._ended = ended
        self._deliver = deliver
        self._live: Live | None = None
        self._attempt = Attempt if host.observer is None else ObservedAttempt

    @property
    def idle(self) -> bool:
        """Whether nothing runs or is about to."""
        return not (self.running or self.ready or self._starting)

    def want(self, request: StepRequest) -> None:
        """The workflow wants this step, or its next attempt is due."""
        request.retry_at = None
        if request.interrupted:
            request.interrupted = False
            self.failed(request, StepInterrupted(request.key, request.attempt), self._now())
            return
        if request.step.settings.at_most_once:
            now = self._now()
            self._machine.progress(request, Kind.ATTEMPT_STARTED, now, None, now)
        self.ready.append(request)

    def commit_begins(self) -> None:
        """What bodies have emitted goes into the commit that begins now; what is ready begins when it is durable."""
        if self.ready:
            self._starting, self.ready = self.ready, []
        if self._live is not None:
            self._live.send()
            if self.idle:
                self._live.close()
                self._live = None

    def committed(self, run: Claimed, *, begin: bool) -> None:
        """The commit is durable: begin what waited for it, unless the run is to come to rest."""
        starting, self._starting = self._starting, []
        if self._live is not None:
            self._live.stored()
        if begin:
            self.begin(run, starting)
        else:
            self.ready = starting + self.ready

    def begin(self, run: Claimed, requests: list[StepRequest]) -> None:
        """Begin these bodies; a transaction of the user's stays ready until nothing else is to be committed."""
        wanted = self._machine.wanted
        for request in requests:
            if wanted.get(request.key) is not request:
                continue
            if request.transactional:
                self.ready.append(request)
            else:
                self.running[request.key] = self._attempt(self._host, run, request, self._ended, self)

    def tell(self, finish: Callable[..., None], *outcome: Any) -> None:
        """A body has ended: hear of it at once if it is the only one, else soon, as those beside it may end as well."""
        host = self._host
        if len(self.running) == 1 and host.alone:
            host.now(finish, *outcome)
        else:
            host.soon(finish, *outcome)

    def ride(self, rider: Rider) -> None:
        """Let it commit with what the run writes next; callable from any thread."""
        ride(self._machine, rider)

    @property
    def live(self) -> Live:
        """Takes what bodies emit, in whatever threads; made when the first one does."""
        found = self._live
        if found is None:
            with _MAKING:
                found = self._live = self._live or Live(self._host, self._machine, self._deliver)
        return found

    @property
    def due(self) -> bool:
        """Whether it is time to store what bodies have emitted."""
        return self._live is not None and self._live.due

    def note_due(self) -> None:
        """What bodies have emitted goes into the journal here."""
        self.live.note()

    def gone(self, key: str) -> None:
        """This body has ended: what it has emitted comes before its outcome."""
        self.running.pop(key, None)
        if self._live is not None:
            self._live.note()

    def begin_ready(self, run: Claimed) -> StepRequest | None:
        """Begin what is ready, as everything is durable; returns a transaction that is to run alone."""
        ready, self.ready = self.ready, []
        self.begin(run, ready)
        return self.ready.pop(0) if self.ready else None

    def cancel(self, key: str) -> None:
        """The workflow no longer wants this step."""
        attempt = self.running.pop(key, None)
        if attempt is not None:
            attempt.cancel()

    def stop(self) -> None:
        """Stop all bodies; what they do from now on does not matter, what they have emitted does."""
        for attempt in self.running.values():
            attempt.cancel()
        if self.transacting is not None:
            self.transacting.give_up()
        self.running.clear()
        self.ready.clear()
        self._starting.clear()
        if self._live is not None:
            self._live.note()
            self._live.close()

    def failed(self, request: StepRequest, error: BaseException, started_at: int) -> None:
        """An attempt has failed: note when the next one is due, or that the step has failed."""
        now = self._now()
        begun = request.first_started_at or started_at
        error, delay = self._verdict(request, error, now, begun)
        next_at = None if delay is None else now + delay
        text, data = seal_error(error, self._host.payloads, f"The error of step {request.key!r}", next_at)
        if next_at is None and self._host.observer is not None:
            self._host.observer.step_ended(self._machine.run, request, error, now)
        if next_at is None and request.compensation:
            self._machine.progress(request, Kind.ATTEMPT_FAILED, now, data, started_at)
            self.stopped = request, error
            return
        if next_at is None:
            self._machine.outcome(
                Kind.STEP_FAILED, request.key, now, data, decoded=decode_error(text), started_at=started_at,
                attempt=request.attempt, fingerprint=request.fingerprint,
            )  # fmt: skip
            return
        self._machine.progress(request, Kind.ATTEMPT_FAILED, now, data, started_at)
        request.attempt += 1
        request.retry_at = next_at
        request.first_started_at = begun
        self._waits.add(request)

    def why_stopped(self) -> str:
        """What an operator is told of the compensation that has failed."""
        if self.stopped is None:
            return ""
        request, error = self.stopped
        return (
            f"The compensation {request.key!r} has failed {request.attempt} time(s): {type(error).__name__}: "
            f"{message_of(error)[:MESSAGE_CHARS]} Repair the cause and let it be tried again "
            f"(perdure run compensate {self._machine.run.id} --retry), or undo it by hand and say so (--done), or "
            "leave it out (--skip)."
        )

    @staticmethod
    def _verdict(request: StepRequest, error: BaseException, now: int, begun: int) -> tuple[BaseException, int | None]:
        """The error to record, and the microseconds until the next attempt; None when there is none."""
        settings = request.step.settings
        if isinstance(error, StepTimedOut) and error.__dict__.get("scope") == "total":
            return error, None
        if request.last:
            return error, None
        delay = settings.retry.next_delay(request.attempt - request.forgiven, error, ids.jitter())
        if delay is None or settings.total_timeout is None:
            return error, delay
        span = micros(settings.total_timeout)
        if now + delay < begun + span:
            return error, delay
        timed_out = StepTimedOut(request.key, span / SECOND, "total")
        timed_out.__cause__ = error
        return timed_out, None
