"""The only source of time. Inside perdure a time is an integer: microseconds since 1970, UTC."""

from __future__ import annotations

import re
import time
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Protocol, runtime_checkable

from perdure.errors import InvalidOption

SECOND = 1_000_000
MAX_DURATION = 100 * 366 * 86_400 * SECOND
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", re.ASCII)
PLAIN = re.compile(r"\d+(?:\.\d+)?", re.ASCII)


@runtime_checkable
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


class ComparedClock:
    """
    A machine's clock, corrected to agree with another one: that of the database, by which all its workers go.

    The other clock was read at some moment between `before` and `after`, so each comparison says between which bounds
    the correction lies. It is changed only as far as the bounds demand: clocks that agree are not corrected at all,
    however long an answer takes, and time does not jump to and fro.

    Attributes:
        correction: Microseconds that are added to what the machine's clock says.
    """

    virtual = False

    def __init__(self, own: Clock) -> None:
        self._own = own
        self.correction = 0

    def now(self) -> int:
        """Microseconds since 1970, UTC, by the other clock."""
        return self._own.now() + self.correction

    def reading(self) -> int:
        """What the machine's own clock says, for `compare`."""
        return self._own.now()

    def compare(self, before: int, theirs: int, after: int) -> None:
        """
        Take a reading of the other clock into account.

        Args:
            before, after: The machine's own clock before the other one was asked, and when it had answered.
            theirs: The answer.
        """
        if before <= after:  # otherwise it was set meanwhile, and says nothing
            self.correction = min(max(self.correction, theirs - after), theirs - before)


def standing_still(clock: Clock) -> AbstractContextManager[object]:
    """Inside, a virtual clock's time does not jump: something real, such as a database's answer, is waited for."""
    still = getattr(clock, "still", nullcontext)
    found: AbstractContextManager[object] = still()
    return found


elapsed = time.perf_counter
"""Seconds of a clock that never goes back, for measuring how long something takes."""


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


def some_micros(duration: timedelta | float, option: str) -> int:
    """
    As `micros`, of a duration that must not be nothing.

    Raises:
        InvalidOption: As there, or it is 0.
    """
    found = micros(duration, option)
    if found == 0:
        raise InvalidOption(option, "it must be more than 0")
    return found


def duration(text: str, option: str = "duration") -> timedelta:
    """
    Read a duration: 30 and 30s are seconds, 250ms, 5m, 2h, 7d and 1w are what they say, 1h30m is their sum.

    Raises:
        InvalidOption: It is none, or longer than 100 years.
    """
    parts = PART.findall(text)
    if PLAIN.fullmatch(text):
        seconds = float(text)
    elif parts and "".join(number + unit for number, unit in parts) == text:
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        raise InvalidOption(option, f"{text!r} is no duration; write 30, 30s, 250ms, 5m, 2h, 7d or 1h30m")
    return timedelta(microseconds=micros(seconds, option))


def to_datetime(at: int) -> datetime:
    """The aware UTC datetime of a stored time."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)


def from_datetime(moment: datetime, option: str = "time") -> int:
    """
    The stored form of an aware datetime.

    Raises:
        InvalidOption: It is no datetime, or has no time zone.
    """
    given: object = moment
    if not isinstance(given, datetime):
        raise InvalidOption(option, f"{given!r} is not a datetime")
    if moment.tzinfo is None:
        raise InvalidOption(option, f"{moment!r} has no time zone; use datetime.now(UTC) or another aware time")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
