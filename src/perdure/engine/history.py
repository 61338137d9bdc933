"""From a run's journal to the history that its present generation replays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from perdure.errors import StepNotFound
from perdure.model.entry import ENDINGS, MARKS, OUTCOMES, PROGRESS, Entry, Kind

CHILD_ENDS = frozenset({Kind.CHILD_COMPLETED, Kind.CHILD_FAILED, Kind.STEP_CANCELLED})
"""What tells, under a child's key, that its parent no longer waits for it."""


def present(journal: Sequence[Entry]) -> list[Entry]:
    """
    The entries that the run's present generation replays, in order.

    The journal only grows: a rerun keeps a part of what was before it, a skip leaves one entry out, and
    continue_as_new begins again with nothing.
    """
    if not any(entry.kind in MARKS for entry in journal):
        return list(journal)
    kept: list[Entry] = []
    for entry in journal:
        if entry.kind == Kind.CONTINUED:
            kept = []
        elif entry.kind == Kind.RERUN:
            before = len(kept)
            kept = thawed(kept, _fields(entry).get("keep", 0), entry.at)
            if len(kept) < before:
                kept.append(entry)
        elif entry.kind == Kind.FORKED:
            if not _fields(entry).get("whole"):
                kept.append(entry)
        elif entry.kind == Kind.SKIPPED:
            skipped = _fields(entry).get("seq", 0)
            kept = [earlier for earlier in kept if earlier.seq != skipped]
        elif entry.kind not in MARKS:
            kept.append(entry)
    return kept


def base_time(journal: Sequence[Entry], started_at: int) -> int:
    """The run's time before its first outcome: its start, its last continue_as_new, or what it was forked with."""
    for entry in reversed(journal):
        if entry.kind == Kind.CONTINUED:
            return entry.at
        if entry.kind == Kind.FORKED:
            return int(_fields(entry)["base"])
    return started_at


def key_prefix(journal: Sequence[Entry]) -> str:
    """
    What all keys of the present history begin with: nothing, or where the last continue_as_new was.

    Without it, the second history would ask for the children, UUIDs and idempotency keys of the first one.
    """
    for entry in reversed(journal):
        if entry.kind == Kind.CONTINUED:
            return f"~from{entry.seq}/"
        if entry.kind == Kind.FORKED:
            return str(_fields(entry).get("prefix", ""))
    return ""


def cut_before(run_id: str, history: Sequence[Entry], key: str) -> int:
    """
    Where to cut a history so that an operation is done again.

    Args:
        history: The present history.
        key: The operation's key; an empty one means from the very beginning.

    Returns:
        The seq of the last entry to keep; 0 to keep none. Everything that was delivered after the
        operation's outcome is dropped too, as it may depend on it.

    Raises:
        StepNotFound: Nothing was delivered under this key.
    """
    if not key:
        return 0
    for place, entry in enumerate(history):
        if entry.key == key and entry.kind in OUTCOMES:
            return history[place - 1].seq if place else 0
    raise StepNotFound(run_id, key)


def cut_before_end(history: Sequence[Entry], *, completed: bool) -> int:
    """
    Where to cut a history so that all of it is kept, but not the cancellation or deadline that ended it.

    Args:
        completed: Whether the run completed, in spite of either.

    Returns:
        The seq of the last entry to keep; 0 to keep none.
    """
    for place, entry in enumerate(() if completed else history):
        if entry.kind in {Kind.CANCEL_REQUESTED, Kind.DEADLINE_REACHED}:
            return history[place - 1].seq if place else 0
    return history[-1].seq if history else 0


def thawed(history: Sequence[Entry], keep: int, now: int) -> list[Entry]:
    """
    What is kept of a history that is cut, as a run that takes it up later must see it.

    Between the cut and now time stood still: spans that were running there have as much left as they had, and
    steps that had not ended begin with their first attempt. An attempt that may run at most once, and of which
    nothing is known but that it was begun, stays begun.

    Args:
        keep: The seq of the last entry to keep. If nothing is behind it, nothing is changed.
        now: Microseconds since 1970.
    """
    kept = [entry for entry in history if entry.seq <= keep]
    if not kept or len(kept) == len(history):
        return kept
    settled = {entry.key for entry in kept if entry.kind in OUTCOMES}
    known = {entry.key for entry in history if entry.kind in OUTCOMES}
    last_word = {entry.key: entry.seq for entry in history if entry.kind in PROGRESS and entry.key not in known}
    frozen_for = max(0, now - kept[-1].at)
    found = []
    for entry in kept:
        if entry.key in settled:
            found.append(entry)
        elif entry.kind in PROGRESS:
            if entry.kind == Kind.ATTEMPT_STARTED and last_word.get(entry.key) == entry.seq:
                found.append(entry)
        elif entry.kind in {Kind.TIMER_SET, Kind.RECEIVE_STARTED} and entry.data is not None and entry.data.isdigit():
            found.append(entry._replace(data=str(int(entry.data) + frozen_for)))
        else:
            found.append(entry)
    return found


def end_of(journal: Sequence[Entry]) -> Entry | None:
    """The entry that ended the present generation, if it has ended."""
    last = journal[-1] if journal else None
    return last if last is not None and last.kind in ENDINGS else None


def _fields(mark: Entry) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(mark.data or "{}")
    return found
