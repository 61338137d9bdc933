"""From a run's journal to the history that its present generation replays."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from perdure.errors import StepNotFound
from perdure.model.entry import MARKS, OUTCOMES, PROGRESS, RESTARTS, Entry, Kind

_STOPS = frozenset({Kind.CANCEL_REQUESTED, Kind.DEADLINE_REACHED})
_FIRST_NAME = re.compile(r"[^#/]+")
CHILD_ENDS = frozenset({Kind.CHILD_COMPLETED, Kind.CHILD_FAILED, Kind.STEP_CANCELLED})
"""What tells, under a child's key, that its parent no longer waits for it."""
_SORTED_OUT = MARKS | {Kind.STEP_EMITTED}


def first_name(key: str) -> str:
    """What a key begins with: of a declared workflow, the name of one of its parts."""
    found = _FIRST_NAME.match(key)
    return found.group() if found else ""


def present(journal: Sequence[Entry]) -> list[Entry]:
    """
    The entries that the run's present generation replays, in order.

    Where a rerun or a fork took the run up again, time stood still before: spans that were running there (timers,
    waits with a timeout) have as much left as they had. Dates are as they were.
    """
    history = standing(journal)
    open_spans: dict[str, int] = {}
    for place, entry in enumerate(history):
        if entry.kind in RESTARTS:
            frozen_for = max(0, entry.at - history[place - 1].at) if place else 0
            for earlier in open_spans.values():
                span = history[earlier]
                history[earlier] = span._replace(data=str(int(span.data or 0) + frozen_for))
        elif entry.kind in OUTCOMES:
            open_spans.pop(entry.key, None)
        elif entry.kind in {Kind.TIMER_SET, Kind.RECEIVE_STARTED} and entry.data is not None and entry.data.isdigit():
            open_spans[entry.key] = place
    return history


def standing(journal: Sequence[Entry]) -> list[Entry]:
    """
    The entries of the present history as they were written, with the marks where it was taken up again.

    The journal only grows: a rerun keeps a part of what was before it, a skip leaves one entry out, and
    continue_as_new begins again with nothing. What steps have emitted is for readers and no part of it.
    """
    if not any(entry.kind in _SORTED_OUT for entry in journal):
        return list(journal)
    kept: list[Entry] = []
    for entry in journal:
        if entry.kind == Kind.CONTINUED:
            kept = []
        elif entry.kind == Kind.RERUN:
            before = len(kept)
            kept = cut(kept, _fields(entry).get("keep", 0))
            if len(kept) < before:
                kept.append(entry)
        elif entry.kind == Kind.FORKED:
            if not _fields(entry).get("whole"):
                kept.append(entry)
        elif entry.kind == Kind.SKIPPED:
            skipped = _fields(entry).get("seq", 0)
            kept = [earlier for earlier in kept if earlier.seq != skipped]
        elif entry.kind not in _SORTED_OUT:
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


def cut_before_names(run_id: str, history: Sequence[Entry], names: frozenset[str]) -> int:
    """
    Where to cut a history so that parts of a declared workflow are done again.

    Args:
        names: What the keys of these parts begin with.

    Returns:
        The seq of the last entry to keep: the one before the first of theirs, or before the cancellation or deadline
        that has stopped them.

    Raises:
        StepNotFound: There is nothing of them.
    """
    mine = [place for place, entry in enumerate(history) if first_name(entry.key) in names]
    if not mine:
        raise StepNotFound(run_id, min(names))
    stopped = (place for place, entry in enumerate(history) if entry.kind in _STOPS)
    place = min(mine[0], next(stopped, mine[0]))
    return history[place - 1].seq if place else 0


def cut_before_end(history: Sequence[Entry], *, completed: bool) -> int:
    """
    Where to cut a history so that all of it is kept, but not the cancellation or deadline that ended it.

    Args:
        completed: Whether the run completed, in spite of either.

    Returns:
        The seq of the last entry to keep; 0 to keep none.
    """
    for place, entry in enumerate(() if completed else history):
        if entry.kind in _STOPS:
            return history[place - 1].seq if place else 0
    return history[-1].seq if history else 0


def cut(history: Sequence[Entry], keep: int) -> list[Entry]:
    """
    What a rerun or a fork keeps of a history.

    Steps that had not ended at the cut begin with their first attempt. An attempt that may run at most once, and
    of which nothing is known but that it was begun, stays begun.

    Args:
        keep: The seq of the last entry to keep. If nothing is behind it, nothing is changed.
    """
    kept = [entry for entry in history if entry.seq <= keep]
    if len(kept) == len(history):
        return kept
    settled = {entry.key for entry in kept if entry.kind in OUTCOMES}
    known = {entry.key for entry in history if entry.kind in OUTCOMES}
    begun = {
        entry.key: (entry.seq if entry.kind == Kind.ATTEMPT_STARTED else 0)
        for entry in history
        if entry.kind in PROGRESS and entry.key not in known
    }
    return [
        entry
        for entry in kept
        if entry.kind not in PROGRESS or entry.key in settled or begun.get(entry.key) == entry.seq
    ]


def _fields(mark: Entry) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(mark.data or "{}")
    return found
