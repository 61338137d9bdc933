"""Rows and filters."""

import pytest

from perdure.errors import InvalidOption
from perdure.model.run import MAX_PAGE, SUSPICIOUS, Claimed, RunFilter, RunRow
from perdure.model.status import TERMINAL, Status


@pytest.mark.parametrize("status", Status)
def test_a_row_knows_whether_its_run_has_ended(status):
    """A finished run would be taken for one that goes on, or the other way round."""
    row = RunRow(*[None] * len(RunRow._fields))._replace(status=str(status))
    assert row.finished is (status in TERMINAL)


@pytest.mark.parametrize("takeovers", range(4))
def test_a_run_is_suspect_after_two_deaths(takeovers):
    """A poisonous run would take innocent ones with it, or innocent ones would be driven alone."""
    claimed = Claimed(*[0] * len(Claimed._fields))._replace(takeovers=takeovers)
    assert claimed.suspect is (takeovers >= 2)
    assert SUSPICIOUS == 2


@pytest.mark.parametrize("limit", [1, MAX_PAGE])
def test_a_filter_takes_every_page_size_within_bounds(limit):
    """A page of the largest size allowed would be refused."""
    assert RunFilter(limit=limit).limit == limit


@pytest.mark.parametrize("limit", [0, MAX_PAGE + 1, "5"])
def test_a_filter_refuses_others(limit):
    """One request would load the whole table (I10)."""
    with pytest.raises(InvalidOption):
        RunFilter(limit=limit)


@pytest.mark.parametrize("status", ["failed", Status.FAILED, ("failed",), [Status.FAILED]])
def test_a_filter_takes_statuses_only(status):
    """A mistake would end in an error of perdure's own, or list nothing."""
    with pytest.raises(InvalidOption, match="status"):
        RunFilter(status=status)
