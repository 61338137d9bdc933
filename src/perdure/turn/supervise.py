"""Turns whose work is done elsewhere, by something that outlives us and that can be attached to again."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol

from perdure.engine.current import current_step
from perdure.errors import InvalidOption, SourceFailed, SourceGone
from perdure.turn.log import HANDLE, Event
from perdure.turn.producer import Turn


class Supplied(NamedTuple):
    """
    What a source tells.

    Attributes:
        value: The event: any value that can be stored as JSON.
        id: Unique in the work, and enough to go on behind the event; None when there is no event, only a handle.
        handle: Where to attach again: any value that can be stored as JSON. None: as before.
    """

    value: Any = None
    id: str | None = None
    handle: Any = None


class Adapter(Protocol):
    """
    Speaks to something that works by itself.

    `perdure.testing.check_adapter` tells whether an adapter keeps to this.
    """

    def start(self, key: str) -> AsyncGenerator[Supplied, None]:
        """
        Start the work, tell early where to attach again, and supply its events until it is done.

        Args:
            key: The same whenever this work is asked for: started a second time under it, it goes on, if the source
                can do that. A turn that is said again has another one, and so is other work.

        Raises:
            SourceFailed: It has failed; with ``over``, so that a retry must start it anew.
        """

    def attach(self, handle: Any, after: str | None) -> AsyncGenerator[Supplied, None]:
        """
        Supply the events behind one, until the work is done.

        Args:
            handle: As the source has told it.
            after: The id of the last event that is known; None for none.

        Raises:
            SourceGone: There is nothing to attach to any more.
            SourceFailed: As for `start`.
        """


async def supervise(turn: Turn, adapter: Adapter) -> AsyncGenerator[Event, None]:
    """
    Supply a producer with the events of work that goes on elsewhere.

    The producer is ``async for event in supervise(turn, adapter): yield event``.

    Work that is known to go on is attached to behind the last event that is logged. If it cannot be attached to any
    more, or if nobody knows where it is, what was logged of it is declared void and it is started. Work that has ended
    in failure is known no more: a retry of the turn starts it anew, under a key of its own.

    Raises:
        InvalidOption: The turn does not continue: declare it by ``@app.turn(continues=True)``.
        SourceFailed: The work has failed, or has supplied what cannot be gone on behind.
    """
    if not turn.continues:
        option = "supervise"
        raise InvalidOption(option, "its turn must go on where it was: declare it by @app.turn(continues=True)")
    if turn.handle is not None:
        try:
            async with aclosing(_followed(turn, adapter, adapter.attach(turn.handle, turn.last_id))) as events:
                async for event in events:
                    yield event
        except SourceGone:
            pass
        else:
            return
    await turn.start_over()
    async with aclosing(_followed(turn, adapter, adapter.start(await _key(turn)))) as events:
        async for event in events:
            yield event


async def _followed(
    turn: Turn, adapter: Adapter, source: AsyncGenerator[Supplied, None]
) -> AsyncGenerator[Event, None]:
    """The events. When the work is over, without having been done, that is durable as well."""
    try:
        async with aclosing(source):
            async for supplied in source:
                if (event := await _taken(turn, adapter, supplied)) is not None:
                    yield event
    except SourceGone:
        await turn.keep(None)
        raise
    except SourceFailed as error:
        if error.over:
            await turn.keep(None)
        raise


async def _taken(turn: Turn, adapter: Adapter, supplied: Supplied) -> Event | None:
    """The handle is durable before the event is told of; what comes is an event, or only the handle."""
    if supplied.handle is not None and supplied.handle != turn.handle:
        await turn.keep(supplied.handle)
    if supplied.id:
        return Event(supplied.value, supplied.id)
    if supplied.id is not None or supplied.value is not None:
        problem = f"it supplied an event with the id {supplied.id!r}, behind which nobody can go on"
        raise SourceFailed(type(adapter).__name__, problem)
    return None


async def _key(turn: Turn) -> str:
    """Each work has a key of its own: those that were over have left a None among the handles."""
    over = sum(each.topic == HANDLE and each.value is None for each in await current_step().emitted())
    return f"{turn.key}~{over + 1}" if over else turn.key
