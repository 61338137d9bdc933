"""Time: whole microseconds since 1970, and durations that are what they say."""

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.clock import (
    MAX_DURATION,
    SECOND,
    ComparedClock,
    SystemClock,
    elapsed,
    from_datetime,
    micros,
    to_datetime,
)
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


class Watch:
    """A clock that the test sets."""

    virtual = False

    def __init__(self) -> None:
        self.at = 10**15

    def now(self) -> int:
        return self.at


delays = st.integers(0, 3 * SECOND)


@given(skew=st.integers(-(10**10), 10**10), answers=st.lists(st.tuples(delays, delays), min_size=1, max_size=20))
def test_a_compared_clock_is_right_up_to_the_quickest_answer(skew, answers):
    """A worker whose machine's clock is wrong would call others dead, or be called dead, although it lives."""
    watch = Watch()
    clock = ComparedClock(watch)
    seen = clock.correction
    for there, back in answers:
        before = watch.at
        watch.at += there + back
        clock.compare(before, before + there + skew, watch.at)
        assert abs(clock.correction - skew) <= there + back
        assert clock.now() - (watch.at + skew) == clock.correction - skew
        # What was learnt before is not unlearnt by an answer that came late.
        assert abs(clock.correction - skew) <= abs(seen - skew)
        seen = clock.correction
    assert abs(clock.correction - skew) <= min(there + back for there, back in answers)


@given(answers=st.lists(st.tuples(delays, delays), max_size=20))
def test_clocks_that_agree_are_not_corrected(answers):
    """Time would jump to and fro with the moods of the network."""
    watch = Watch()
    clock = ComparedClock(watch)
    for there, back in answers:
        before = watch.at
        watch.at += there + back
        clock.compare(before, before + there, watch.at)
        assert clock.correction == 0


def test_a_clock_that_is_set_during_a_comparison_says_nothing():
    """A step of the machine's clock would be taken for a fault of the other one."""
    clock = ComparedClock(Watch())
    clock.compare(10**15, 10**15, 10**15 - SECOND)
    assert clock.correction == 0
