"""What the steps of one run have emitted and is not stored yet."""

from __future__ import annotations

import asyncio
import threading
from asyncio import events
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from perdure import ids
from perdure.codec.value import codec_for
from perdure.engine.request import StepRequest
from perdure.errors import Overloaded, StepOver, TooManyEntries
from perdure.model.run import Message

if TYPE_CHECKING:
    from perdure.engine.host import Host
    from perdure.engine.machine import Machine

FULL = "What this step has emitted and is not stored yet (await current_step().flush() now and then)"


class Emitted(NamedTuple):
    """An entry that waits; `data` is sealed."""

    key: str
    attempt: int
    at: int
    data: str


class Live:
    """
    Takes what bodies emit, from any thread, until the run's driver writes it.

    Everything but `emit` and `flush` is called on the worker's loop.

    Args:
        machine: Its journal's machine, which numbers the entries.
        deliver: The driver's way in: it looks whether something is due.

    Attributes:
        due: It is time to store what waits.
    """

    __slots__ = (
        "_asked", "_closed", "_deliver", "_flushing", "_host", "_machine", "_noted", "_run_id", "_sent", "_there",
        "_total", "_waiting", "_waiting_bytes", "_written", "_written_bytes", "due",
    )  # fmt: skip

    def __init__(self, host: Host, machine: Machine, deliver: Callable[[list[Message]], None]) -> None:
        self._host = host
        self._machine = machine
        self._run_id = machine.run.id
        self._deliver = deliver
        self.due = False
        # Under this lock: what threads share with the loop. It is told when there is room again.
        self._there = threading.Condition()
        self._waiting: deque[Emitted] = deque()
        self._total = 0
        self._waiting_bytes = 0
        self._asked = False
        self._closed = False
        # How many, and of what size, have come as far as the machine's buffer, a commit under way, the disk.
        self._noted = self._sent = (0, 0)
        self._written = self._written_bytes = 0
        self._flushing: list[tuple[int, asyncio.Future[None]]] = []

    # --------------------------------------------------------------------------- what bodies call
    def emit(self, request: StepRequest, topic: str, value: Any) -> None:
        """
        Take an entry; a thread waits for room, the loop must not.

        Raises:
            Overloaded: There is no room, and the caller is on the loop.
            TooManyEntries: The run's steps have emitted as many as they may.
            StepOver: The run is no longer driven here.
        """
        ids.check_name("topic", topic)
        what = f"What step {request.key!r} emits"
        data = self._host.payloads.seal(codec_for(Any).encode({"topic": topic, "value": value}, what), what)
        on_loop = events._get_running_loop() is self._host.loop  # noqa: SLF001 - get_running_loop() raises where there is none
        with self._there:
            while not self._room(len(data)) and not self._closed:
                if on_loop:
                    raise Overloaded(FULL, self._host.limits.emitted_waiting)
                self._there.wait()
            if self._closed:
                raise StepOver(request.key)
            most = self._host.limits.emitted_entries
            if self._machine.left_out + len(self._waiting) >= most:
                raise TooManyEntries(self._run_id, most)
            self._waiting.append(Emitted(request.key, request.attempt, self._host.clock.now(), data))
            self._total += 1
            self._waiting_bytes += len(data)
            asked, self._asked = self._asked, True
        if on_loop:
            self._host.cadence.emitted(self._come)
        elif not asked:
            self._host.loop.call_soon_threadsafe(self._host.cadence.emitted, self._come)

    async def flush(self) -> None:
        """Wait until everything that was emitted before the call is durable."""
        loop = self._host.loop
        if events._get_running_loop() is not loop:  # noqa: SLF001 - as above
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.flush(), loop))
            return
        if self._closed:
            raise StepOver(self._run_id)
        if self._written < self._total:
            durable = loop.create_future()
            self._flushing.append((self._total, durable))
            await durable

    def _room(self, size: int) -> bool:
        limits = self._host.limits
        waiting = self._total - self._written
        held = self._waiting_bytes - self._written_bytes
        return waiting < limits.emitted_waiting and (not waiting or held + size <= limits.payload_bytes)

    # --------------------------------------------------------------------- what the driver calls
    def _come(self) -> None:
        if not self._closed:
            self.due = True
            self._deliver([])

    def note(self) -> None:
        """Put what waits into the journal, behind what is there."""
        self.due = False
        with self._there:
            self._asked = False
            waiting, self._waiting = self._waiting, deque()
            self._noted = self._total, self._waiting_bytes
        for entry in waiting:
            self._machine.emitted(*entry)

    def send(self) -> None:
        """A commit begins, and takes along what waits."""
        self.note()
        self._sent = self._noted

    def stored(self) -> None:
        """What was being committed is durable: let go on who waits for that."""
        with self._there:
            self._written, self._written_bytes = self._sent
            self._there.notify_all()
        if self._flushing:
            flushing, self._flushing = self._flushing, []
            for count, durable in flushing:
                if count > self._written:
                    self._flushing.append((count, durable))
                elif not durable.done():
                    durable.set_result(None)

    def close(self) -> None:
        """Nothing more is written: who waits or emits is told so."""
        with self._there:
            self._closed = True
            self._waiting.clear()
            self._there.notify_all()
        flushing, self._flushing = self._flushing, []
        for _, durable in flushing:
            durable.cancel()
