"""Events of a durable call: signals of which the first one under a name counts, whoever sends it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from perdure.app import App
from perdure.clock import to_datetime
from perdure.codec.value import codec_for
from perdure.durable.opened import reachable
from perdure.engine.request import signal_topic
from perdure.errors import RunFinished
from perdure.store.load import resolve

KEY = "event"
"""The key under which events are sent as signals, so that the first one wins."""


class Event(NamedTuple):
    """
    An event of a run.

    Attributes:
        name: What the run receives it as.
        data: The payload of the first one, as plain data.
        emitted_at: When that was.
        accepted: Whether this was the first one.
    """

    name: str
    data: Any
    emitted_at: datetime
    accepted: bool


async def emit_event(run_id: str, name: str, data: Any = None, *, store: App | str) -> Event:
    """
    Tell a run that something has happened: ``ctx.receive(name)`` gives it to the run, whether it waits yet or not.

    Of several events with one name, from any number of processes, the first is the one that counts. It is durable when
    this returns.

    Args:
        data: Any value that can be stored as JSON.
        store: As for `run_durable`; it need not have a worker.

    Returns:
        The event that counts: this one if it is the first, else that one, with ``accepted`` False.

    Raises:
        RunNotFound: There is no such run.
        RunFinished: It ended without such an event.
    """
    async with reachable(store) as app:
        ended: RunFinished | None = None
        try:
            accepted = await app.client.signal(run_id, name, data, key=KEY)
        except RunFinished as error:
            accepted, ended = False, error
        event = await _find(app, run_id, name, accepted=accepted)
    if event is None:
        raise ended or RunFinished(run_id, "removed")
    return event


async def find_event(run_id: str, name: str, *, store: App | str) -> Event | None:
    """The event of this name that a run was told of first; None when there was none."""
    async with reachable(store) as app:
        return await _find(app, run_id, name, accepted=False)


async def _find(app: App, run_id: str, name: str, *, accepted: bool) -> Event | None:
    client = app.client
    rows = await client.store.rows("keyed", run_id, signal_topic(name), KEY)
    if not rows:
        return None
    stored, sent_at = rows[0]
    text = client.payloads.open(await resolve(client.store, stored))
    return Event(name, codec_for(Any).decode(text, f"Event {name!r}"), to_datetime(sent_at), accepted)
