"""Read events from the journal, from where a sink has got to."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

from perdure.client.view import entry_data
from perdure.clock import SECOND, to_datetime
from perdure.codec.payload import Payloads
from perdure.codec.value import ANY
from perdure.model.entry import ENDINGS, Entry, Kind
from perdure.model.event import STARTED, Event
from perdure.model.run import RunRow
from perdure.model.sink import Sink
from perdure.model.version import unpin
from perdure.store.load import resolve
from perdure.store.store import Store

PAGE = 100


class Claim(NamedTuple):
    """
    What a deliverer has claimed: one run's events for one sink.

    Attributes:
        run: The run's number.
        next, last: The first entry that is to be delivered, and the last one known of.
        attempts: How often the first one was tried before.
    """

    run: int
    sink: str
    next: int
    last: int
    epoch: int
    attempts: int


class Reader:
    """
    Reads the events of one claim, in order.

    Args:
        payloads: Opens what is sealed.

    Attributes:
        seq: The entry that it is at.
    """

    def __init__(self, store: Store, payloads: Payloads, sink: Sink, claim: Claim) -> None:
        self._store = store
        self._payloads = payloads
        self._sink = sink
        self._claim = claim
        self.seq = claim.next

    async def events(self) -> AsyncGenerator[Event, None]:
        """
        The events that the sink wants.

        Raises:
            PerdureError: The database failed, or a payload cannot be read.
        """
        claim = self._claim
        rows = await self._store.rows("run_by_number", claim.run)
        if not rows:
            return
        run = RunRow(*rows[0])
        if claim.next == 0:
            event = self._event(run, Entry(0, STARTED, "", run.created_at), None)
            if self._sink.wants(event):
                yield event
        after = max(0, claim.next - 1)
        while after < claim.last:
            page = [Entry(*row) for row in await self._store.rows("entries", claim.run, after, PAGE)]
            for entry in page:
                after = self.seq = entry.seq
                if after > claim.last:
                    return
                if entry.kind in self._sink.events:
                    event = self._event(run, entry, await self._data(run, entry))
                    if self._sink.wants(event):
                        yield event
            if len(page) < PAGE:
                return

    def _event(self, run: RunRow, entry: Entry, data: Any) -> Event:
        workflow, version = unpin(run.workflow)
        topic = ""
        if entry.kind == Kind.EMITTED:
            topic, data = data["name"], data["data"]
        elif entry.kind == Kind.STEP_EMITTED:
            topic, data = data["topic"], data["value"]
        attempt = self._claim.attempts + 1 if entry.seq == self._claim.next else 1
        return Event(
            f"{run.id}:{run.number}:{entry.seq}", str(entry.kind), run.id, workflow, version, entry.seq, entry.key,
            topic, to_datetime(entry.at), data, attempt,
        )  # fmt: skip

    async def _data(self, run: RunRow, entry: Entry) -> Any:
        if entry.kind in ENDINGS:
            return await self._end(run, entry)
        if entry.data is None:
            return None
        data = entry_data(entry.kind, await self._opened(entry.data))
        return _plain(data) if entry.kind in _FAILURES else data

    async def _end(self, run: RunRow, entry: Entry) -> dict[str, Any]:
        """How a run ended; what a rerun has replaced since stands in the entry of the rerun."""
        output, error = run.output, run.error
        async for later in self._behind(run.number, entry.seq):
            if later.kind == Kind.RERUN:
                previous = json.loads(later.data or "{}").get("previous", {})
                output, error = previous.get("output"), previous.get("error")
                break
        seconds = (entry.at - run.created_at) / SECOND
        if entry.kind == Kind.COMPLETED:
            return {"output": await self._opened(output or "null"), "seconds": seconds}
        return {"error": _plain(await self._opened(error or "null")), "seconds": seconds}

    async def _behind(self, number: int, seq: int) -> AsyncGenerator[Entry, None]:
        while rows := await self._store.rows("entries", number, seq, PAGE):
            for row in rows:
                entry = Entry(*row)
                seq = entry.seq
                yield entry

    async def _opened(self, stored: str) -> Any:
        return ANY.decode(self._payloads.open(await resolve(self._store, stored)), "An event")


_FAILURES = frozenset({Kind.STEP_FAILED, Kind.ATTEMPT_FAILED, Kind.CHILD_FAILED})


def _plain(error: Any) -> Any:
    """An error without its fields and traceback, which are nobody else's business."""
    if isinstance(error, dict) and "error" in error and "type" not in error:
        error = error["error"]
    return {name: error.get(name) for name in ("type", "message")} if isinstance(error, dict) else None
