"""The journal's entries: what a run did and saw, one kind for each sort of fact."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """
    What an entry records.

    Outcomes come from outside and are delivered to the workflow, one at a time, in journal order (I7).
    Notes are what the workflow itself asked for; replaying it must ask for the same again.
    Progress tells how far a step has come; marks are about the run and are not replayed. What a step has emitted is
    for readers only: no replay needs it, so no claim loads it.
    """

    # outcomes
    STEP_COMPLETED = "step_completed"
    STEP_FAILED = "step_failed"
    STEP_RESOLVED = "step_resolved"
    TIMER_FIRED = "timer_fired"
    SIGNAL_RECEIVED = "signal_received"
    CHILD_COMPLETED = "child_completed"
    CHILD_FAILED = "child_failed"
    CANCEL_REQUESTED = "cancel_requested"
    DEADLINE_REACHED = "deadline_reached"
    # progress of a step
    ATTEMPT_STARTED = "attempt_started"
    ATTEMPT_FAILED = "attempt_failed"
    STEP_EMITTED = "step_emitted"
    # notes
    TIMER_SET = "timer_set"
    RECEIVE_STARTED = "receive_started"
    CHILD_STARTED = "child_started"
    EMITTED = "emitted"
    ANNOTATED = "annotated"
    PATCHED = "patched"
    STEP_CANCELLED = "step_cancelled"
    COMPENSATING = "compensating"
    # marks
    PAUSED = "paused"
    RESUMED = "resumed"
    CONTINUED = "continued"
    RERUN = "rerun"
    SKIPPED = "skipped"
    FORKED = "forked"
    MOVED = "moved"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


OUTCOMES = frozenset({
    Kind.STEP_COMPLETED, Kind.STEP_FAILED, Kind.STEP_RESOLVED, Kind.TIMER_FIRED, Kind.SIGNAL_RECEIVED,
    Kind.CHILD_COMPLETED, Kind.CHILD_FAILED, Kind.CANCEL_REQUESTED, Kind.DEADLINE_REACHED,
})  # fmt: skip
PROGRESS = frozenset({Kind.ATTEMPT_STARTED, Kind.ATTEMPT_FAILED, Kind.STEP_EMITTED})
NOTES = frozenset({
    Kind.TIMER_SET, Kind.RECEIVE_STARTED, Kind.CHILD_STARTED, Kind.EMITTED, Kind.ANNOTATED, Kind.PATCHED,
    Kind.STEP_CANCELLED, Kind.COMPENSATING,
})  # fmt: skip
MARKS = frozenset(Kind) - OUTCOMES - PROGRESS - NOTES
ENDINGS = frozenset({Kind.COMPLETED, Kind.FAILED, Kind.CANCELLED})
RESTARTS = frozenset({Kind.RERUN, Kind.FORKED})
"""Marks behind which the run goes on later than it once did: its time passes to theirs."""


class Entry(NamedTuple):
    """
    One journal entry.

    Attributes:
        seq: Position in the run's journal, from 1 without gaps.
        kind: One of `Kind`.
        key: Which operation of the workflow it belongs to; empty for marks.
        at: When, in microseconds since 1970.
        data: Payload as stored: JSON text, sealed text, or a blob's name; None when there is none.
        started_at: When the attempt that it reports was begun.
        attempt: Number of that attempt, from 1.
        fingerprint: Hash of the step's arguments, checked on replay; or of the input of a child with a chosen id.
    """

    seq: int
    kind: str
    key: str
    at: int
    data: str | None = None
    started_at: int | None = None
    attempt: int | None = None
    fingerprint: str | None = None
