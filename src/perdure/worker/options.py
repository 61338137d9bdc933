"""How a worker behaves."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

from perdure.clock import duration, micros
from perdure.errors import InvalidOption
from perdure.ids import check_id
from perdure.model.check import check_number


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """
    Options of one worker. Durations are seconds or timedeltas.

    Attributes:
        concurrency: Runs that it owns at a time; parked runs do not count.
        threads: Threads for steps that are plain functions.
        cached_runs: Parked runs whose coroutines stay in memory; others are replayed when they go on.
        lease: How long the worker counts as alive after its last heartbeat. It beats three times as often.
        hold: Waits shorter than this are sat out instead of parking the run.
        drain: How long running bodies may take when the worker stops.
        blocked: A loop that does not answer for this long is reported, with the stack that blocks it.
        most_takeovers: A run whose worker dies this often in a row without progress of the run is paused.
        id: Its identity among the workers of the database; made up when empty.
        retention: Runs that ended longer ago are removed, with all that belongs to them: 30 days unless you say
            otherwise. None keeps them for ever.
        deliver: Whether it delivers events to the app's sinks.
    """

    concurrency: int = 1_000
    threads: int = min(32, (os.cpu_count() or 1) * 4)
    cached_runs: int = 10_000
    lease: float | timedelta = 30.0
    hold: float | timedelta = 0.1
    drain: float | timedelta = 10.0
    blocked: float | timedelta = 2.0
    most_takeovers: int = 10
    id: str = ""
    retention: float | timedelta | None = timedelta(days=30)
    deliver: bool = True

    def __post_init__(self) -> None:
        if self.id:
            check_id("worker id", self.id)
        for option, least in (("concurrency", 1), ("threads", 1), ("cached_runs", 0), ("most_takeovers", 3)):
            check_number(option, getattr(self, option), least)
        for option in ("lease", "hold", "drain", "blocked"):
            micros(getattr(self, option), option)
        if self.retention is not None:
            micros(self.retention, "retention")
        if micros(self.lease) < micros(0.3):
            option = "lease"
            raise InvalidOption(option, "it must be 0.3 s or more")


def retention_of(text: str, option: str) -> timedelta | None:
    """
    Read how long to keep finished runs: a duration, or never (to remove any).

    Raises:
        InvalidOption: It is neither.
    """
    return None if text == "never" else duration(text, option)
