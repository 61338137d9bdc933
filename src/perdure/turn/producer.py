"""The step of a turn: runs its producer and logs what that yields."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from perdure.engine.current import CurrentStep, current_step
from perdure.errors import InvalidOption, Overloaded
from perdure.turn.log import EVENT, HANDLE, VOID, Accumulate, Event, Log

Producer = Callable[..., AsyncIterator[Any]]


@dataclass(frozen=True, slots=True)
class TurnResult:
    """
    How a turn ended.

    Attributes:
        text: What the producer gave as such, else what its events add up to.
        events: How many events count.
        interrupted: It was stopped before its end; the text is what had been said.
    """

    text: str
    events: int
    interrupted: bool = False


class Turn:
    """
    What a producer knows of its turn, and can do beside yielding events.

    Attributes:
        run_id: The run's id.
        key: The same for every attempt of this turn and different for any other, and for the same one when it is
            said again: pass it to services.
        attempt: From 1.
        continues: Whether this execution goes on behind what is logged; see `TurnOptions`.
    """

    def __init__(self, step: CurrentStep, log: Log, *, continues: bool) -> None:
        self.continues = continues
        self.run_id = step.run_id
        self.key = step.idempotency_key
        self.attempt = step.attempt
        self._step = step
        self._log = log
        self._text = ""

    @property
    def events(self) -> int:
        """How many events are logged and count; at the beginning only those of an execution that this one continues."""
        return self._log.events

    @property
    def text(self) -> str:
        """What the events so far add up to."""
        return self._log.text

    @property
    def last_id(self) -> str | None:
        """The id of the last event that has one: where to go on."""
        return self._log.last_id

    @property
    def handle(self) -> Any:
        """What was last kept; None for nothing."""
        return self._log.handle

    async def keep(self, handle: Any) -> None:
        """
        Keep where the work is done, for whoever goes on after a crash. It is durable when this returns.

        Args:
            handle: Any value that can be stored as JSON.
        """
        await self._emit(HANDLE, handle)
        self._log.handle = handle
        await self._step.flush()

    async def start_over(self) -> None:
        """Declare void what has been logged: readers are told from where on to forget."""
        await self._step.flush()
        if self._log.events:
            self._log.clear()
            self._log.read(await self._step.emitted())
            await self._emit(VOID, {"from": self._log.first})
        self._log.clear()

    def finish(self, text: str) -> None:
        """Say what the turn's text is, when it is not what its events add up to."""
        self._text = text

    async def say(self, said: Any) -> None:
        """Log an event, unless it is one that is there already."""
        event = said if isinstance(said, Event) else Event(said)
        if event.id is not None and self._log.knows(event.id):
            return
        await self._emit(EVENT, {"event": event.value} if event.id is None else {"event": event.value, "id": event.id})
        self._log.add(event)

    def result(self) -> TurnResult:
        """How the turn ends now."""
        return TurnResult(self._text or self._log.text, self._log.events)

    async def _emit(self, topic: str, value: Any) -> None:
        """Emit, and wait first while too much is not stored yet: that is all that slows a producer down."""
        while True:
            try:
                self._step.emit(topic, value)
            except Overloaded:
                await self._step.flush()
            else:
                return


async def produce(
    producer: Producer, args: tuple[Any, ...], kwargs: dict[str, Any], *, accumulate: Accumulate, continues: bool
) -> TurnResult:
    """
    Run a producer to its end, inside the step of its turn.

    Args:
        continues: It can go on behind what is logged; otherwise that is void when it begins.
    """
    step = current_step()
    log = Log(accumulate)
    log.read(await step.emitted())
    turn = Turn(step, log, continues=continues)
    if not continues:
        await turn.start_over()
    events = producer(turn, *args, **kwargs)
    if not isinstance(events, AsyncGenerator):
        option = "turn"
        raise InvalidOption(option, "it must be an async generator: `async def` with a `yield`")
    async with aclosing(events):
        async for said in events:
            await turn.say(said)
    return turn.result()
