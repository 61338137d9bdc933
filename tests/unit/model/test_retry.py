"""Retry policies: which failures are tried again, and after how long."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import InvalidOption, NotSerializable, RetryAfter, StepInterrupted, StepTimedOut, Terminal
from perdure.model.retry import NO_RETRY, Retry

SECOND = 1_000_000
PLAIN = Retry(max_attempts=None, delay=1, backoff=2, cap=10, jitter=0)


def test_delays_double_up_to_the_cap():
    """A service that is down would be asked as often as one that is up."""
    delays = [PLAIN.next_delay(attempt, OSError(), 0.5) for attempt in range(1, 8)]
    assert delays == [second * SECOND for second in (1, 2, 4, 8, 10, 10, 10)]


@given(st.integers(1, 5_000), st.floats(0, 1, exclude_max=True), st.floats(0, 1))
def test_a_delay_is_between_what_jitter_leaves_and_the_cap(attempt, chance, jitter):
    """A retry would come before its time, after the cap, or after so many attempts fail by arithmetic."""
    policy = Retry(max_attempts=None, delay=1, cap=10, jitter=jitter)
    full = PLAIN.next_delay(attempt, OSError(), 0)
    delay = policy.next_delay(attempt, OSError(), chance)
    assert full * (1 - jitter) - 1 <= delay <= full


def test_full_jitter_takes_all_of_chance():
    """All clients of a failed service would come back at once."""
    policy = Retry(delay=4, jitter=1)
    assert [policy.next_delay(1, OSError(), chance) for chance in (0, 0.25, 0.5)] == [4_000_000, 3_000_000, 2_000_000]


@pytest.mark.parametrize("most", [1, 2, 6])
def test_attempts_are_counted_to_the_last(most):
    """A step would be tried once more or once less than was asked for."""
    policy = Retry(max_attempts=most)
    assert [policy.next_delay(attempt, OSError(), 0) is None for attempt in range(1, most + 2)] == [
        attempt >= most for attempt in range(1, most + 2)
    ]


def test_who_asks_for_more_time_than_there_is_gets_what_there_is():
    """A server that answers with nonsense would end in an error of ours, and the delivery or the run be put aside."""
    assert PLAIN.next_delay(1, RetryAfter(1e20), 0) == 100 * 366 * 86_400 * SECOND


def test_no_retry_is_one_attempt():
    """A step that must not be repeated would be."""
    assert NO_RETRY.next_delay(1, OSError(), 0) is None


@pytest.mark.parametrize("error", [Terminal("no"), NotSerializable("x", "y"), KeyboardInterrupt()])
def test_some_failures_are_final_at_once(error):
    """A mistake in the program, or a user's verdict, would be tried again and again."""
    assert PLAIN.next_delay(1, error, 0) is None


def test_on_and_never_choose_the_failures():
    """A step would be repeated for an error that its author ruled out."""
    policy = Retry(on=(OSError, StepTimedOut), never=(FileNotFoundError,))
    assert policy.next_delay(1, ConnectionError(), 0) is not None
    assert policy.next_delay(1, StepTimedOut("s", 1, "attempt"), 0) is not None
    assert policy.next_delay(1, FileNotFoundError(), 0) is None
    assert policy.next_delay(1, ValueError(), 0) is None


def test_an_interrupted_attempt_counts_whatever_on_says():
    """A step whose worker died would fail because its policy does not name that."""
    policy = Retry(max_attempts=2, on=(OSError,))
    assert policy.next_delay(1, StepInterrupted("s", 1), 0) is not None
    assert policy.next_delay(2, StepInterrupted("s", 2), 0) is None
    assert Retry(never=(StepInterrupted,)).next_delay(1, StepInterrupted("s", 1), 0) is None


def test_a_users_delay_replaces_the_policys():
    """A service's own "try again in an hour" would be ignored."""
    assert Retry(cap=1).next_delay(1, RetryAfter(3600), 0.9) == 3600 * SECOND
    assert Retry(on=()).next_delay(1, RetryAfter(1), 0) == SECOND
    assert Retry(max_attempts=2).next_delay(2, RetryAfter(1), 0) is None


@pytest.mark.parametrize(
    "options",
    [{"max_attempts": 0}, {"max_attempts": -1}, {"backoff": 0.9}, {"backoff": float("nan")}, {"jitter": -0.1},
     {"jitter": 1.1}, {"jitter": float("nan")}, {"delay": -1}, {"on": ValueError}, {"never": ["x"]}, {"delay": "1"}, {"cap": timedelta(seconds=-1)}],
)  # fmt: skip
def test_an_option_out_of_range_is_refused(options):
    """A mistake in a policy would show up in production, at the first failure."""
    with pytest.raises(InvalidOption, match=next(iter(options))):
        Retry(**options)
