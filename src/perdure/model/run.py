"""Runs as the store keeps them, and how to ask for many."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from perdure.clock import from_datetime
from perdure.errors import InvalidOption
from perdure.model.check import check_kind, check_number
from perdure.model.status import TERMINAL, Status

MAX_PAGE = 1_000
SUSPICIOUS = 2


class RunRow(NamedTuple):
    """
    A row of the table of runs, column for column. Times are microseconds since 1970.

    Attributes:
        number: The run's number in its database; never used again.
        id: Its public id.
        workflow: Name and version of its workflow, see `pin`.
        generation: 1, and one more with each rerun.
        owner: Number of the worker that drives it, or None.
        epoch: Fencing number: changes with every change of owner (I1).
        due_at: When a worker should claim it; None while owned, and while it waits for others.
        waiting_for: JSON array of the topics whose messages make it due.
        parent, root: Numbers of the run that started it, and of the first of its tree.
        reason: Why it is paused, as JSON.
        seed: Where ctx.uuid() and ctx.random() begin.
        takeovers: Times in a row that its worker died without progress of the run.
        queue: The queue that it goes through; None for none. `queue_key`, `priority` and `weight` are its terms there.
        slot: 0 when it needs no slot of a queue, 1 when it wants one, 2 while it holds one.
        rank: Its place while it stands in line; the smallest comes first.
        ticket, slot_at: Which of all the slots that its queue has given out was its last, and when.
        first_input: What it was started with, once continue_as_new has replaced its input.
    """

    number: int
    id: str
    workflow: str
    status: str
    generation: int
    owner: int | None
    epoch: int
    due_at: int | None
    waiting_for: str | None
    parent: int | None
    root: int | None
    detached: int
    input: str
    output: str | None
    error: str | None
    reason: str | None
    seed: int
    created_at: int
    started_at: int | None
    finished_at: int | None
    deadline_at: int | None
    takeovers: int
    takeover_seq: int | None
    forked_from: str | None
    queue: str | None
    queue_key: str
    priority: int
    weight: int
    slot: int
    rank: int | None
    ticket: int | None
    slot_at: int | None
    first_input: str | None

    @property
    def finished(self) -> bool:
        """Whether the run has ended in this generation."""
        return self.status in TERMINAL

    @property
    def end(self) -> End | None:
        """How it has ended in this generation, if it has."""
        return End(self.status, self.output, self.error) if self.finished else None


class End(NamedTuple):
    """How a run has ended, as it is stored: large payloads by name, sealed ones sealed."""

    status: str
    output: str | None
    error: str | None


class Claimed(NamedTuple):
    """
    What a worker gets with a run that it now owns.

    Attributes:
        mail: Whether its inbox holds messages that it has not taken.
        trace: What an observer keeps with it; None if there is nothing, or nobody asked.
    """

    number: int
    id: str
    workflow: str
    status: str
    generation: int
    epoch: int
    parent: int | None
    input: str
    seed: int
    started_at: int
    deadline_at: int | None
    forked_from: str | None
    takeovers: int = 0
    queue: str | None = None
    mail: bool = False
    trace: str | None = None

    @property
    def suspect(self) -> bool:
        """Whether its worker has died twice in a row without progress: workers drive such runs one at a time."""
        return self.takeovers >= SUSPICIOUS


class Message(NamedTuple):
    """
    A message in a run's inbox.

    Attributes:
        topic: "signal:<name>", "child:<run id>", "control:cancel" or "control:pause".
        key: The sender's deduplication key; of a child's topic, the key of the one call that it is for, None for all.
        data: Payload as stored.
        status, output, error, child_id: The child's end, when a child sent it.
    """

    run: int
    id: int
    topic: str
    key: str | None
    data: str | None
    sent_at: int
    status: str | None
    output: str | None
    error: str | None
    child_id: str | None


class WorkerRow(NamedTuple):
    """A worker process, and how many runs it owns now."""

    number: int
    id: str
    host: str
    place: str
    pid: int
    workflows: str
    state: str
    started_at: int
    heartbeat_at: int
    lease_until: int
    owned: int


@dataclass(frozen=True, slots=True)
class RunFilter:
    """
    Which runs to list; all conditions must hold.

    Attributes:
        status: Any of these.
        workflow: Name of the workflow, in any version.
        version: Only this version of it; "" for runs without one.
        parent: Id of the parent run.
        tag: A tag given at the start.
        id_prefix: What the id begins with.
        created_from, created_to: Aware datetimes, from inclusive to exclusive.
        after: Continue behind the run of this number (keyset paging; see `RunPage.next`).
        limit: 1 to 1,000 runs.
        oldest_first: Order by number, upwards.
    """

    status: tuple[Status, ...] = ()
    workflow: str | None = None
    version: str | None = None
    parent: str | None = None
    tag: str | None = None
    id_prefix: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    after: int | None = None
    limit: int = 100
    oldest_first: bool = False

    def __post_init__(self) -> None:
        check_number("RunFilter(limit)", self.limit, 1, MAX_PAGE)
        if self.after is not None:
            check_number("RunFilter(after)", self.after, 0)
        for option in ("created_from", "created_to"):
            if getattr(self, option) is not None:
                from_datetime(getattr(self, option), f"RunFilter({option})")
        for option in ("workflow", "version", "parent", "tag", "id_prefix"):
            check_kind(f"RunFilter({option})", getattr(self, option), str)
        if self.version is not None and self.workflow is None:
            option = "RunFilter(version)"
            raise InvalidOption(option, "it needs the workflow whose version it is")
        wanted: object = self.status
        if not isinstance(wanted, tuple) or not all(isinstance(status, Status) for status in wanted):
            option = "RunFilter(status)"
            raise InvalidOption(option, f"{wanted!r} is not a tuple of Status")


class RunPage(NamedTuple):
    """One page of a list: its rows, and the `after` of the next page, None on the last."""

    rows: list[RunRow]
    next: int | None
