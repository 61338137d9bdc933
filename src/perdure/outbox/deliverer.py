"""Deliver events to sinks: claim the runs that have some, tell the sink in order, remember how far it has got."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections import Counter
from collections.abc import Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from perdure import ids
from perdure.clock import SECOND, micros
from perdure.codec.failure import message_of
from perdure.codec.payload import Payloads
from perdure.engine.attempt import own_signal, plain_call
from perdure.errors import PerdureError, StoreClosed, StoreError
from perdure.model.event import Event
from perdure.model.sink import Sink
from perdure.outbox.reader import Claim, Reader
from perdure.store.operation import Line, Operation, Row

if TYPE_CHECKING:
    from perdure.worker.worker import Worker

log = logging.getLogger("perdure.outbox")
SETTLE_S = 0.2
"""How long a claim goes on before what it has delivered is stored, so that a crash repeats little."""
STORE_RETRY_S = 1.0
CLOSE_S = 5.0
"""How long a sink may take to close."""
MESSAGE_CHARS = 1_000


class Deliverer:
    """
    The part of a worker that tells sinks.

    It looks when something was committed, here or by another process, and when a delivery is due again; there is no
    poll. Events of a run for a sink are delivered one after the other, by one deliverer at a time; those of different
    runs beside each other.

    Attributes:
        told: How many events were delivered, failed and were given up here.
    """

    def __init__(self, sinks: Iterable[Sink], payloads: Payloads) -> None:
        self._sinks = {sink.name: sink for sink in sinks}
        self._names = json.dumps(sorted(self._sinks))
        self._payloads = payloads
        self._busy: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._state = "new"
        self._looking = self._again = False
        self._timer: asyncio.TimerHandle | None = None
        self._quiet = asyncio.Event()
        self._worker: Worker
        self.told: Counter[str] = Counter()

    # ---------------------------------------------------------------------------------------- life
    def start(self, worker: Worker) -> None:
        """Begin to deliver; call it on the worker's loop."""
        self._worker, self._state = worker, "working"
        worker.store.changes.on_entries(self._look)
        self._look()

    async def stop(self) -> None:
        """Deliver what is due, within the worker's drain time; what is not done then is given back."""
        if self._state != "working":
            return
        self._state = "draining"
        self._look()
        try:
            async with asyncio.timeout(micros(self._worker.options.drain) / SECOND):
                while self._looking or self._tasks:
                    self._quiet.clear()
                    await self._quiet.wait()
        except TimeoutError:
            log.warning("%d deliveries did not end in time; they are made again", len(self._tasks))
        self.kill()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        now, number = self._worker.clock.now(), self._worker.number
        await self._worker.store.apply(Operation([("release_deliveries", (number, now))]))
        await asyncio.gather(*[self._close(sink) for sink in self._sinks.values()])

    async def _close(self, sink: Sink) -> None:
        """A user's code, which must keep neither the other sinks nor the worker from leaving."""
        close = getattr(sink.target, "aclose", None)
        if close is not None:
            try:
                async with asyncio.timeout(CLOSE_S):
                    await close()
            except Exception:
                log.exception("sink %s could not be closed", sink.name)

    def kill(self) -> None:
        """Stop now; what was being delivered is delivered again by others."""
        self._state = "stopped"
        if self._timer:
            self._timer.cancel()
        if hasattr(self, "_worker"):
            self._worker.store.changes.forget(self._look)
        for task in self._tasks:
            task.cancel()

    async def settled(self) -> None:
        """Wait until nothing that is due now is left."""
        self._look()
        while self._looking or self._tasks:
            self._quiet.clear()
            await self._quiet.wait()

    # ------------------------------------------------------------------------------------- claiming
    def _look(self) -> None:
        """Something may be to deliver."""
        if self._state not in {"working", "draining"}:
            return
        if self._looking:
            self._again = True
            return
        self._looking, self._again = True, False
        self._spawn(self._claim())

    async def _claim(self) -> None:
        again = None
        try:
            again = await self._claim_due()
        except StoreError as error:
            log.warning("cannot look for events to deliver, trying again: %s", error)
            again = STORE_RETRY_S
        except Exception:
            # A mistake of ours: nobody else would look again when something is due by its time.
            log.exception("cannot look for events to deliver, trying again")
            again = STORE_RETRY_S
        finally:
            self._looking = False
        if self._again:
            self._look()
        elif again is not None and self._state == "working":
            self._look_in(again)

    async def _claim_due(self) -> float | None:
        """Claim what is due; returns the seconds until something is, of sinks that could take it."""
        worker, now = self._worker, self._worker.clock.now()
        if not worker.number:
            # It was declared dead, and is just being registered again.
            return STORE_RETRY_S
        lines: list[Line] = []
        first: int | None = None
        for name, due_at in await worker.store.rows("due_deliveries", self._names):
            room = self._sinks[name].concurrency - self._busy[name]
            if due_at is None or room <= 0:
                continue
            if due_at <= now:
                lines.append(("claim_deliveries", (name, worker.number, now, room)))
            else:
                first = due_at if first is None else min(first, due_at)
        if lines:
            rows = await worker.store.apply(Operation(lines))
            if not rows:
                # Others were quicker; or this worker counts as dead, and has not heard of it yet.
                return STORE_RETRY_S
            for _, *row in rows:
                self._begin(Claim(*row))
            # What one claim has left is found by the next.
            self._again = True
        return None if first is None else (first - now) / SECOND

    def _look_in(self, seconds: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self._look)

    def _begin(self, claim: Claim) -> None:
        self._busy[claim.sink] += 1
        self._spawn(self._deliver(claim))

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._quiet.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an internal task of the outbox failed: %s", error, exc_info=error)

    # ------------------------------------------------------------------------------------ delivering
    async def _deliver(self, claim: Claim) -> None:
        try:
            await _Delivery(self, self._worker, self._sinks[claim.sink], claim, self._payloads).make()
        finally:
            self._busy[claim.sink] -= 1
            self._look()


class _Delivery:
    """Of one claim: all events of a run that a sink has not got, until one of them fails."""

    def __init__(  # one per part
        self, deliverer: Deliverer, worker: Worker, sink: Sink, claim: Claim, payloads: Payloads
    ) -> None:
        self._told = deliverer.told
        self._worker = worker
        self._sink = sink
        self._claim = claim
        self._payloads = payloads
        self._number = worker.number

    async def make(self) -> None:
        """Deliver, and store how far it got: everything, or up to the event that failed."""
        claim, loop, seq = self._claim, self._worker.loop, self._claim.next
        stored = loop.time()
        reader = Reader(self._worker.store, self._payloads, self._sink, claim)
        try:
            async with aclosing(reader.events()) as events:
                async for event in events:
                    error = await self._tell(event)
                    if error is not None:
                        await self._fail(event.seq, error, event.attempt)
                        return
                    seq = event.seq + 1
                    if loop.time() - stored > SETTLE_S:
                        if not await self._store(("advance_delivery", (*self._place, seq))):
                            # Another deliverer tells the sink of all that is left.
                            return
                        stored = loop.time()
        except Exception as error:
            if not (isinstance(error, StoreError) and error.retryable):
                # Also a mistake of ours is told to operators: who dropped the claim would leave it to nobody.
                if not isinstance(error, PerdureError):
                    log.exception("an event for sink %s cannot be read", self._sink.name)
                await self._fail(reader.seq, error, claim.attempts + 1 if reader.seq == claim.next else 1)
                return
            log.warning("events of sink %s cannot be read now, trying again: %s", self._sink.name, error)
            await asyncio.sleep(STORE_RETRY_S)
            await self._store(self._left(seq))
        else:
            await self._store(("end_delivery", (*self._place, claim.last)), self._left(claim.last + 1))

    async def _tell(self, event: Event) -> BaseException | None:
        """Tell the sink; returns what it raised."""
        try:
            async with asyncio.timeout(micros(self._sink.timeout) / SECOND):
                if self._sink.is_async:
                    await self._sink.target(event)
                else:
                    loop, threads = self._worker.loop, self._worker.threads
                    answer = await loop.run_in_executor(threads, plain_call, self._sink.target, event)
                    if inspect.isawaitable(answer):  # such as a wrapper of a coroutine function gives
                        await answer
        except asyncio.CancelledError as odd:  # ours when the worker leaves; else the delivery would be nobody's
            if (current := asyncio.current_task()) is not None and current.cancelling():
                raise
            return own_signal(odd, "the sink")
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - a sink is a user's code, and whatever it raises is a failed delivery
            return error
        self._told["delivered"] += 1
        return None

    async def _fail(self, seq: int, error: BaseException, attempts: int) -> None:
        """Try again later, or give the sink up for this run; what comes behind this event waits."""
        self._told["failed"] += 1
        now = self._worker.clock.now()
        try:
            delay = self._sink.retry.next_delay(attempts, error, ids.jitter())
        except Exception:  # of users are the error and the classes that the policy names
            log.exception("whether sink %s is to be told again cannot be found out, so it is not", self._sink.name)
            delay = None
        text = json.dumps(f"{type(error).__name__}: {message_of(error)}"[:MESSAGE_CHARS])
        try:
            sealed = self._payloads.seal(text, "The error of a sink", limited=False)
        except PerdureError:
            # The codec fails, and must not keep the delivery from being given back. The message may be private.
            sealed = json.dumps(type(error).__name__)
        due_at, dead_at = (None, now) if delay is None else (now + delay, None)
        if delay is None:
            self._told["dead"] += 1
            # Its message may be private: it is in the database, sealed.
            log.warning(
                "sink %s could not be told of event %d of run number %d after %d attempt(s) (%s): "
                "`perdure sink dead %s` says more", self._sink.name, seq, self._claim.run, attempts,
                type(error).__name__, self._sink.name,
            )  # fmt: skip
        await self._store(("fail_delivery", (*self._place, seq, attempts, sealed, due_at, dead_at)))

    def _left(self, seq: int) -> Line:
        return ("leave_delivery", (*self._place, seq, self._worker.clock.now()))

    @property
    def _place(self) -> tuple[int, str, int, int]:
        return self._claim.run, self._claim.sink, self._number, self._claim.epoch

    async def _store(self, *lines: Line) -> list[Row]:
        """Until it is stored; if another deliverer has the run now, it changes nothing."""
        while True:
            try:
                return await self._worker.store.apply(Operation(lines))
            except StoreClosed:
                raise
            except StoreError as error:
                log.warning("how far sink %s has got cannot be stored, trying again: %s", self._sink.name, error)
                await asyncio.sleep(STORE_RETRY_S)
