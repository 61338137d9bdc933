"""Follow a turn from outside, stop it, have it said again."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from perdure.client.client import Client
from perdure.client.handle import RunHandle
from perdure.client.view import RunEvent
from perdure.engine.emitted import begins_anew
from perdure.errors import PerdureError, RunCancelled, RunFailed
from perdure.model.entry import Kind
from perdure.turn.log import EVENT, TURN, VOID
from perdure.turn.producer import TurnResult
from perdure.turn.workflow import INTERRUPT


@dataclass(frozen=True, slots=True)
class TurnEvent:
    """
    What a reader of a turn is told.

    Attributes:
        seq: Its place in the run's journal: what to pass as `after` to go on behind it.
        kind: "event"; "void": every event from place `value` on, up to here, does not count any more; "paused": an
            operator must look; and last of all "completed", "failed" or "cancelled".
        value: Of an event what the producer yielded; of "paused" the reason; of "completed" the `TurnResult`; of
            "failed" and "cancelled" the error.
        id: The event's own, if it has one.
    """

    seq: int
    kind: Literal["event", "void", "paused", "completed", "failed", "cancelled"]
    value: Any
    id: str | None = None


async def follow(run: RunHandle[Any], *, after: int = 0) -> AsyncGenerator[TurnEvent, None]:
    """
    A turn's events from its beginning to its end, each once it is durable.

    Leaving does nothing to the turn. A reader that comes back with the `seq` of the last event that it got misses
    none and gets none twice, whatever has happened to the worker meanwhile.

    Args:
        after: Begin behind this place.

    Raises:
        RunNotFound: There is no such run.
    """
    seq = after
    async with aclosing(run.events(after=after)) as entries:
        async for entry in entries:
            seq = entry.seq
            told = _told(entry)
            if told is not None:
                yield told
    yield await end_of(run, seq)


def _told(entry: RunEvent) -> TurnEvent | None:
    if entry.kind == Kind.STEP_EMITTED and entry.key == TURN:
        topic, value = entry.data["topic"], entry.data["value"]
        if topic == EVENT:
            return TurnEvent(entry.seq, "event", value["event"], value.get("id"))
        return TurnEvent(entry.seq, "void", value["from"]) if topic == VOID else None
    if entry.kind == Kind.RERUN and begins_anew(entry.data):
        return TurnEvent(entry.seq, "void", 1)
    return TurnEvent(entry.seq, "paused", entry.data) if entry.kind == Kind.PAUSED else None


async def end_of(run: RunHandle[Any], seq: int) -> TurnEvent:
    """What a reader is told last of all, behind this place; waits for it."""
    try:
        return TurnEvent(seq, "completed", await run.result())
    except RunFailed as error:
        return TurnEvent(seq, "failed", error.cause)
    except RunCancelled as error:
        return TurnEvent(seq, "cancelled", error)


async def interrupt(run: RunHandle[TurnResult]) -> None:
    """
    Stop a turn: its producer is cancelled, and what it has said so far is the turn's text.

    The request is durable when this returns. The producer, and ``stop=``, have the turn's ``grace`` for their ends;
    what becomes of the text then takes the time that it needs. A turn that has said nothing yet, because it waits in
    a queue, say, is cancelled. For one that has said all it comes too late, and changes nothing.

    Raises:
        RunNotFound: There is no such run.
        RunFinished: It has ended.
    """
    await run.cancel(INTERRUPT)


async def regenerate(client: Client, run_id: str) -> None:
    """
    Have an ended turn said again, from its beginning; readers are told that what was said is void.

    A turn that has failed goes on where it broke, if its producer continues.

    Raises:
        RunNotFound: There is no such run.
        IllegalMove: It has not ended.
        PerdureError: As `Client.rerun` has it.
    """
    await client.rerun(run_id)


def code_of(error: BaseException) -> str:
    """The stable code of what a turn failed with; its class's name when it is none of perdure's."""
    return error.code if isinstance(error, PerdureError) else type(error).__name__
