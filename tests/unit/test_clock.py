"""Time: whole microseconds since 1970, and durations that are what they say."""

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.clock import MAX_DURATION, SECOND, SystemClock, elapsed, from_datetime, micros, to_datetime
from perdure.errors import InvalidOption


@pytest.mark.parametrize(
    ("duration", "expected"),
    [(0, 0), (1, SECOND), (1.5, 1_500_000), (timedelta(milliseconds=2), 2_000), (0.000001, 1), (1e-9, 0),
     (MAX_DURATION / SECOND, MAX_DURATION), (timedelta(days=30), 30 * 86_400 * SECOND)],
)  # fmt: skip
def test_a_duration_becomes_microseconds(duration, expected):
    """A sleep would last a thousand times as long, or as short."""
    assert micros(duration) == expected


@pytest.mark.parametrize(
    "duration",
    [-1, -0.001, float("nan"), float("inf"), "1", None, True, timedelta(seconds=-1), timedelta(days=40_000), [1]],
)
def test_what_is_no_duration_is_refused_by_the_options_name(duration):
    """A mistake in an option would show up as a run that never wakes."""
    with pytest.raises(InvalidOption, match="patience"):
        micros(duration, "patience")


@given(st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1)), st.integers(-14, 14))  # noqa: DTZ001 - the zone comes below
def test_times_survive_storage(naive, hours):
    """A deadline would move by being stored."""
    moment = naive.replace(tzinfo=timezone(timedelta(hours=hours)))
    stored = from_datetime(moment)
    assert isinstance(stored, int)
    assert to_datetime(stored) == moment
    assert to_datetime(stored).tzinfo is UTC


def test_a_time_without_zone_is_refused():
    """A time would mean another moment on another machine."""
    with pytest.raises(InvalidOption, match="time zone"):
        from_datetime(datetime(2025, 1, 1))  # noqa: DTZ001 - that is the point


def test_the_epoch_is_1970():
    """Stored times would mean something else than documented."""
    assert to_datetime(0) == datetime(1970, 1, 1, tzinfo=UTC)


def test_the_systems_clock_counts_microseconds():
    """Every timer would be due at once, or in a thousand years."""
    before = time.time_ns() // 1000
    now = SystemClock().now()
    assert before <= now <= time.time_ns() // 1000
    assert not SystemClock().virtual


def test_elapsed_never_goes_back():
    """A commit would seem to have taken less than no time."""
    first = elapsed()
    assert elapsed() >= first
