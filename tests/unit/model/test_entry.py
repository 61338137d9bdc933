"""Kinds of journal entries: each belongs to one sort, as replay treats the sorts differently."""

from perdure.model.entry import ENDINGS, MARKS, NOTES, OUTCOMES, PROGRESS, RESTARTS, Entry, Kind
from perdure.model.status import TERMINAL


def test_every_kind_is_of_one_sort():
    """An entry would be delivered twice on replay, or not at all (I7)."""
    sorts = [OUTCOMES, PROGRESS, NOTES, MARKS]
    assert sum(map(len, sorts)) == len(Kind)
    assert frozenset().union(*sorts) == set(Kind)


def test_ends_are_called_as_the_statuses_are():
    """A journal's last entry could not be compared with its run's status."""
    assert {str(kind) for kind in ENDINGS} == {str(status) for status in TERMINAL}
    assert ENDINGS <= MARKS


def test_restarts_are_marks():
    """A rerun would be delivered to the workflow as an outcome."""
    assert RESTARTS <= MARKS


def test_an_entry_needs_little():
    """A note without payload or attempt could not be written."""
    assert Entry(1, "paused", "", 5) == (1, "paused", "", 5, None, None, None, None)
