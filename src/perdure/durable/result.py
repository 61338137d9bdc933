"""What a durable call gives: the result, the run, and its steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

from perdure.client.view import RunInfo
from perdure.clock import to_datetime
from perdure.codec.failure import decode_error
from perdure.codec.payload import Payloads
from perdure.codec.value import codec_for
from perdure.engine.history import standing
from perdure.model.entry import Entry, Kind
from perdure.store.load import load_journal
from perdure.store.store import Store

R = TypeVar("R")
_SORTS = {
    Kind.STEP_COMPLETED: "step",
    Kind.STEP_FAILED: "step",
    Kind.STEP_RESOLVED: "step",
    Kind.SIGNAL_RECEIVED: "signal",
    Kind.TIMER_FIRED: "timer",
    Kind.CHILD_COMPLETED: "child",
    Kind.CHILD_FAILED: "child",
}
_FAILED = frozenset({Kind.STEP_FAILED, Kind.CHILD_FAILED})


@dataclass(frozen=True, slots=True)
class StepRecord:
    """
    Something that a run did or waited for, as it is on record.

    Attributes:
        key: Its place in the run.
        sort: "step", "signal", "timer" or "child".
        status: "completed" or "failed".
        attempts: How many attempts a step took; 1 for the others.
        value: Its result as plain data.
        error: Why it failed, with its class if that is loaded here.
        fingerprint: Hash of a step's arguments, or of the input of a child with a chosen id.
    """

    key: str
    sort: str
    status: str
    attempts: int
    value: Any
    error: BaseException | None
    fingerprint: str | None
    started_at: datetime | None
    completed_at: datetime


class DurableResult(NamedTuple, Generic[R]):
    """
    A durable call that has ended: ``result, record, steps = await run_durable(…)``.

    Attributes:
        result: What the function returned.
        record: The run.
        steps: What it did, in the order in which it was done, from this call and earlier ones.
    """

    result: R
    record: RunInfo
    steps: list[StepRecord]


@dataclass(frozen=True, slots=True)
class Suspended:
    """
    A durable call that only waits, and that nobody needs to sit out: call again, from any process, to go on.

    Attributes:
        until: When there is something to do at the latest; None while only a message can bring that.
        waiting_for: Topics whose messages let it go on, such as "signal:approval".
        record: The run.
        steps: What it has done so far.
    """

    until: datetime | None
    waiting_for: list[str]
    record: RunInfo
    steps: list[StepRecord]


async def steps_of(store: Store, payloads: Payloads, number: int) -> list[StepRecord]:
    """What a run has done so far, in that order."""
    return list(_records(standing(await load_journal(store, number)), payloads))


def _records(history: Iterable[Entry], payloads: Payloads) -> Iterable[StepRecord]:
    for entry in history:
        sort = _SORTS.get(Kind(entry.kind))
        if sort is None:
            continue
        failed = entry.kind in _FAILED
        text = None if entry.data is None else payloads.open(entry.data)
        yield StepRecord(
            key=entry.key,
            sort=sort,
            status="failed" if failed else "completed",
            attempts=entry.attempt or 1,
            value=None if failed or text is None else codec_for(Any).decode(text, f"Entry {entry.seq}"),
            error=decode_error(text) if failed and text is not None else None,
            fingerprint=entry.fingerprint,
            started_at=None if entry.started_at is None else to_datetime(entry.started_at),
            completed_at=to_datetime(entry.at),
        )
