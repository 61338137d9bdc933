"""Rates in words of the store, and queues as one text."""

from datetime import timedelta

import pytest

from perdure.model.queue import Queue, QueueRow, Rate


@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize("period", [60, 61, 1_000_000, 59_999_999])
def test_a_count_counts_as_long_as_any_window_can_hold_it(sliding, period):
    """A rate would be exceeded by what is forgotten too early."""
    rate = Rate(1, per=timedelta(microseconds=period), sliding=sliding)
    for given in range(0, 3 * period, max(1, period // 7)):
        part = given // rate.grain * rate.grain
        until = part + rate.span
        end = given + period if sliding else (given // period + 1) * period
        assert end <= until <= end + (rate.grain if sliding else 0)


def test_two_declarations_are_the_same_text_exactly_if_they_mean_the_same():
    """A deploy without a change would overrule operators, or one with a change would not."""
    first = Queue("q", concurrency=5, rate=Rate(1, per=60), ageing=timedelta(minutes=1))
    assert first.text == Queue("other", concurrency=5, rate=(Rate(1, per=timedelta(minutes=1)),)).text
    for changed in ({"concurrency": 6}, {"rate": ()}, {"per_key": 1}, {"while_waiting": "free"}, {"ageing": 1}):
        assert first.changed(**changed).text != first.text


def test_a_stored_queue_is_the_one_that_was_declared():
    """An operator's change of one limit would change the others."""
    queue = Queue("q", 5, 2, 3, (Rate(7, per=1.5, sliding=True, per_key=True),), "free", 30.0)
    concurrency, per_worker, per_key, frees, ageing = queue.columns
    row = QueueRow("q", "open", concurrency, per_worker, per_key, frees, ageing, 0, "", None)
    assert row.queue(queue.rates).columns == queue.columns
    assert str(queue.rates[0]) == "7 in any 1.5 s per key"
