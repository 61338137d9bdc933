"""The only source of time. Inside perdure a time is an integer: microseconds since 1970, UTC."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

from perdure.errors import InvalidOption

SECOND = 1_000_000
MAX_DURATION = 100 * 366 * 86_400 * SECOND


class Clock(Protocol):
    """Where time comes from. Waiting is done by the event loop that the clock belongs to."""

    def now(self) -> int:
        """Microseconds since 1970, UTC."""

    @property
    def virtual(self) -> bool:
        """Whether time jumps when everything waits, as in tests: threads cannot wait by it."""


class SystemClock:
    """The machine's clock."""

    virtual = False

    def now(self) -> int:
        """Microseconds since 1970, UTC."""
        return time.time_ns() // 1000


def elapsed() -> float:
    """Seconds of a clock that never goes back, for measuring how long something takes."""
    return time.perf_counter()


def micros(duration: timedelta | float, option: str = "duration") -> int:
    """
    Turn a duration of the API into microseconds.

    Args:
        duration: Seconds or a timedelta, from 0 to 100 years.
        option: What to name in the error.

    Raises:
        InvalidOption: Negative, not finite, not a duration, or more than 100 years.
    """
    if isinstance(duration, timedelta):
        duration = duration.total_seconds()
    if isinstance(duration, bool) or not isinstance(duration, int | float):
        raise InvalidOption(option, f"{duration!r} is neither seconds nor a timedelta")
    if not 0 <= duration <= MAX_DURATION / SECOND:
        raise InvalidOption(option, f"{duration!r} is not between 0 and 100 years")
    return round(duration * SECOND)


def to_datetime(at: int) -> datetime:
    """The aware UTC datetime of a stored time."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)


def from_datetime(moment: datetime, option: str = "time") -> int:
    """
    The stored form of an aware datetime.

    Raises:
        InvalidOption: The datetime has no time zone.
    """
    if moment.tzinfo is None:
        raise InvalidOption(option, f"{moment!r} has no time zone; use datetime.now(UTC) or another aware time")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
