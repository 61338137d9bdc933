"""Options are checked where they are given."""

import pytest

from perdure.errors import InvalidOption
from perdure.model.check import check_classes, check_number


@pytest.mark.parametrize("value", [1, 5, 9])
def test_numbers_of_the_range_are_taken(value):
    """A right option would be refused."""
    check_number("size", value, 1, 9)
    check_number("size", value + 0.0, 1, 9, whole=False)


@pytest.mark.parametrize("value", [0, 10, "5", None, True, 2.5, float("nan"), [1]])
def test_what_is_no_number_of_the_range_is_refused(value):
    """A mistake in an option would show up later, as a TypeError of perdure's own."""
    with pytest.raises(InvalidOption, match=r"size.* is not a whole number from 1 to 9"):
        check_number("size", value, 1, 9)


@pytest.mark.parametrize("value", [0.5, "5", None, True, float("nan")])
def test_what_is_no_number_at_all_is_refused(value):
    """As above, for numbers that need not be whole."""
    with pytest.raises(InvalidOption, match=r"size.* is not a number of 1 or more"):
        check_number("size", value, 1, whole=False)


def test_tuples_of_exception_classes_are_taken():
    """A right policy would be refused."""
    check_classes("on", ())
    check_classes("on", (ValueError, KeyboardInterrupt))


@pytest.mark.parametrize("value", [ValueError, [ValueError], (ValueError("x"),), ("ValueError",), (int,), None])
def test_what_is_no_tuple_of_exception_classes_is_refused(value):
    """A mistake in a policy would show up in production, at the first failure."""
    with pytest.raises(InvalidOption, match=r"on.* is not a tuple of exception classes"):
        check_classes("on", value)
