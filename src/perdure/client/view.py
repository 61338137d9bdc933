"""Runs, entries, workers and remarks as callers see them: times as datetimes, payloads as plain data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from perdure.clock import to_datetime
from perdure.codec.payload import Payloads
from perdure.codec.value import codec_for
from perdure.model.entry import Entry, Kind
from perdure.model.ledger import Actor
from perdure.model.run import RunRow, WorkerRow
from perdure.model.status import Status
from perdure.model.version import unpin


@dataclass(frozen=True, slots=True)
class RunInfo:
    """
    A run at one moment.

    Attributes:
        version: Of the workflow, which it stays with; "" for none.
        number: Its number in the database; lists are ordered and continued by it.
        generation: 1, and one more with each rerun.
        due_at: When a worker should go on with it; None while one does, and while it waits for others.
        waiting_for: Topics whose messages make it due, such as "signal:approval" and "child:order-7/bill".
        reason: Why it is paused: {"code", "message", "at", "seq"}, the time as a datetime.
        parent, root: Numbers of the run that started it and of the first of its tree.
        stuck: Why nobody goes on with it, although it is due: no live worker has its workflow or its version, or none
            is alive. Empty otherwise.
        takeovers: Times in a row that its worker died without progress of the run.
        queue: The queue that it goes through, with its key and priority there; None for none.
        in_line: Whether it stands in the queue's line: `Client.why` says what it waits for.
    """

    id: str
    number: int
    workflow: str
    version: str
    status: Status
    generation: int
    owner: int | None
    parent: int | None
    root: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime | None
    due_at: datetime | None
    waiting_for: list[str]
    reason: dict[str, Any] | None
    takeovers: int
    forked_from: str | None
    queue: str | None
    queue_key: str
    priority: int
    in_line: bool
    stuck: str = ""

    @property
    def finished(self) -> bool:
        """Whether it has ended in this generation."""
        return self.finished_at is not None


def run_info(row: RunRow) -> RunInfo:
    """A stored run for callers; whether it is stuck, `run_infos` finds out."""
    name, version = unpin(row.workflow)
    return RunInfo(
        id=row.id,
        number=row.number,
        workflow=name,
        version=version,
        status=Status(row.status),
        generation=row.generation,
        owner=row.owner,
        parent=row.parent,
        root=row.root,
        created_at=to_datetime(row.created_at),
        started_at=_time(row.started_at),
        finished_at=_time(row.finished_at),
        deadline_at=_time(row.deadline_at),
        due_at=_time(row.due_at),
        waiting_for=json.loads(row.waiting_for) if row.waiting_for else [],
        reason=_told(json.loads(row.reason)) if row.reason else None,
        takeovers=row.takeovers,
        forked_from=row.forked_from,
        queue=row.queue,
        queue_key=row.queue_key,
        priority=row.priority,
        in_line=row.rank is not None,
    )


@dataclass(frozen=True, slots=True)
class RunEvent:
    """
    One journal entry.

    Attributes:
        seq: Its position; pass it as `after` to go on behind it.
        kind: One of `perdure.model.entry.Kind`.
        key: The operation of the workflow that it belongs to.
        data: Its payload as plain data: a step's result, an error, {"name", "data"} of an emitted event. Of a timer
            or a wait that has a timeout (timer_set, receive_started) the datetime when it is over.
        started_at, attempt: Of the step's attempt that it reports.
    """

    seq: int
    kind: str
    key: str
    at: datetime
    data: Any
    started_at: datetime | None
    attempt: int | None


def run_event(entry: Entry, payloads: Payloads) -> RunEvent:
    """A journal entry for callers; its data must be resolved."""
    data = None if entry.data is None else codec_for(Any).decode(payloads.open(entry.data), f"Entry {entry.seq}")
    return RunEvent(
        entry.seq, str(entry.kind), entry.key, to_datetime(entry.at), entry_data(entry.kind, data),
        _time(entry.started_at), entry.attempt,
    )  # fmt: skip


def entry_data(kind: str, data: Any) -> Any:
    """An entry's data for callers: what is stored, with times as datetimes."""
    if data is None:
        return None
    if kind in {Kind.TIMER_SET, Kind.RECEIVE_STARTED}:
        return to_datetime(data) if isinstance(data, int) else datetime.fromisoformat(data)
    if kind == Kind.ATTEMPT_FAILED and "next_at" in data:  # a compensation's last attempt has no next one
        return data | {"next_at": to_datetime(data["next_at"])}
    return _told(data) if kind == Kind.PAUSED else data


def _told(reason: dict[str, Any]) -> dict[str, Any]:
    """Why a run is paused, with the time as a datetime."""
    return reason | {"at": to_datetime(reason["at"])}


@dataclass(frozen=True, slots=True)
class ArtifactInfo:
    """
    What a run keeps under a name.

    Attributes:
        step: Key of the step that has saved it.
        size: Of the value, in bytes.
    """

    name: str
    step: str
    media_type: str
    size: int
    saved_at: datetime


def artifact_info(row: tuple[Any, ...]) -> ArtifactInfo:
    """A stored artifact for callers, without its data."""
    name, step, media_type, size, saved_at = row
    return ArtifactInfo(name, step, media_type, size, to_datetime(saved_at))


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """
    A worker process.

    Attributes:
        workflows: What it drives: names, with "@" and the version where there is one.
        state: "alive", "left" or "dead".
        owned: Runs that it owns.
    """

    id: str
    number: int
    host: str
    pid: int
    workflows: list[str]
    state: str
    started_at: datetime
    heartbeat_at: datetime
    lease_until: datetime
    owned: int


def worker_info(row: WorkerRow) -> WorkerInfo:
    """A stored worker for callers."""
    return WorkerInfo(
        row.id, row.number, row.host, row.pid, json.loads(row.workflows), row.state, to_datetime(row.started_at),
        to_datetime(row.heartbeat_at), to_datetime(row.lease_until), row.owned,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Annotation:
    """
    A remark about a run.

    Attributes:
        key: What it is about, such as "approval.outcome".
        value, payload: Plain data; the payload is what is too long for a list.
        scope: "run", "step", "call", or whatever else it is about; `scope_id` says which one.
        generation: Of the run; one more with each rerun.
        attempt: Of the step that made it; None for others.
    """

    run_id: str
    key: str
    value: Any
    payload: Any
    actor: Actor | None
    scope: str
    scope_id: str | None
    generation: int
    attempt: int | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Used:
    """
    What was used, summed up.

    Attributes:
        calls: How many records.
        cost: In the unit that the records were made in.
        seconds: How long the calls took, one after the other.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost: Decimal = Decimal(0)
    seconds: float = 0.0

    def plus(self, other: Used) -> Used:
        """The sum of both."""
        return Used(
            self.calls + other.calls, self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens, self.cost + other.cost, self.seconds + other.seconds,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Usage:
    """
    What runs have used.

    Attributes:
        total: All of it.
        models: By model, as "provider/model", or the model alone where no provider was named.
        kinds: By kind of call.
    """

    total: Used
    models: dict[str, Used]
    kinds: dict[str, Used]


def _time(at: int | None) -> datetime | None:
    return None if at is None else to_datetime(at)
