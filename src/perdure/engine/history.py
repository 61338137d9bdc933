"""From a run's journal to the history that its present generation replays."""

from __future__ import annotations

import json
from collections.abc import Sequence

from perdure.errors import StepNotFound
from perdure.model.entry import ENDINGS, MARKS, OUTCOMES, Entry, Kind


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
            keep = json.loads(entry.data or "{}").get("keep", 0)
            kept = [earlier for earlier in kept if earlier.seq <= keep]
        elif entry.kind == Kind.SKIPPED:
            skipped = json.loads(entry.data or "{}").get("seq", 0)
            kept = [earlier for earlier in kept if earlier.seq != skipped]
        elif entry.kind not in MARKS:
            kept.append(entry)
    return kept


def base_time(journal: Sequence[Entry], started_at: int) -> int:
    """The run's time before its first outcome: its start, or its last continue_as_new."""
    for entry in reversed(journal):
        if entry.kind == Kind.CONTINUED:
            return entry.at
    return started_at


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


def cut_for_fork(history: Sequence[Entry], keep: int) -> list[Entry]:
    """
    The entries that a fork takes along: up to `keep`, and before the first child that had not ended there.

    A child belongs to the run that started it, so the fork starts that one anew.
    """
    kept = [entry for entry in history if entry.seq <= keep]
    ended = {entry.key for entry in kept if entry.kind in {Kind.CHILD_COMPLETED, Kind.CHILD_FAILED}}
    for place, entry in enumerate(kept):
        if entry.kind == Kind.CHILD_STARTED and entry.key not in ended:
            return kept[:place]
    return kept


def end_of(journal: Sequence[Entry]) -> Entry | None:
    """The entry that ended the present generation, if it has ended."""
    last = journal[-1] if journal else None
    return last if last is not None and last.kind in ENDINGS else None
