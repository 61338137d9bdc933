"""From where a failed run is to be run again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from perdure.codec.payload import Payloads
from perdure.engine.history import standing
from perdure.model.entry import Entry, Kind

_CHILD_FAILED = "perdure.errors:ChildFailed"
_TIMED_OUT = "perdure.errors:ReceiveTimedOut"


def failed_at(journal: Sequence[Entry], error: str | None, payloads: Payloads) -> str | None:
    """
    The operation that a run has failed by: the last one on record with the very error that ended the run.

    To run it again means to do that one again. Other failures on record are replayed as failures, as the function has
    dealt with them and gone on. (A child that has failed is told of again; run it again first.)

    Args:
        journal: The whole of it, blobs resolved.
        error: The run's, resolved.

    Returns:
        Its key; None if the function has failed by itself, so that everything on record counts.
    """
    history = standing(journal)
    ended_by = _told(error, payloads)
    waits = {entry.key for entry in history if entry.kind == Kind.RECEIVE_STARTED}
    for entry in reversed(history):
        if (
            (entry.kind == Kind.STEP_FAILED and _told(entry.data, payloads) == ended_by)
            or (entry.kind == Kind.CHILD_FAILED and ended_by[0] == _CHILD_FAILED)
            or (entry.kind == Kind.TIMER_FIRED and entry.key in waits and ended_by[0] == _TIMED_OUT)
        ):
            return entry.key
    return None


def _told(sealed: str | None, payloads: Payloads) -> tuple[str, str]:
    """Class and message of a stored error."""
    found: dict[str, Any] = json.loads(payloads.open(sealed or "{}"))
    return str(found.get("type")), str(found.get("message"))
