"""A run's status, and the one table of its legal moves."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """
    What a run is doing.

    Who drives it is another matter (its owner): a run that is cancelling or compensating may be driven,
    or be due, or wait.
    """

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    COMPENSATING = "compensating"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})

_ENDS = TERMINAL
_S = Status
MOVES: dict[Status, frozenset[Status]] = {
    _S.QUEUED: frozenset({_S.RUNNING, _S.PAUSED, _S.CANCELLING}),
    _S.RUNNING: frozenset({_S.QUEUED, _S.WAITING, _S.PAUSED, _S.COMPENSATING, _S.CANCELLING, *_ENDS}),
    _S.WAITING: frozenset({_S.RUNNING, _S.QUEUED, _S.PAUSED, _S.CANCELLING}),
    _S.PAUSED: frozenset({_S.QUEUED, _S.CANCELLING}),
    _S.COMPENSATING: frozenset({_S.PAUSED, _S.CANCELLING, *_ENDS}),
    _S.CANCELLING: frozenset({_S.PAUSED, _S.COMPENSATING, *_ENDS}),
    _S.COMPLETED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}
"""From each status, where a run may go within one generation. A rerun begins a new generation, queued."""
