"""Names and versions of workflows."""

import pytest

from perdure.errors import InvalidName
from perdure.model.version import check_version, check_workflow_name, pin, recency, unpin, versions_between


@pytest.mark.parametrize(
    ("name", "version", "stored"), [("a", "", "a"), ("a", "2", "a@2"), ("a b", "1.0+x", "a b@1.0+x")]
)
def test_a_name_and_its_version_make_one_text_and_back(name, version, stored):
    """A run would be claimed by workers of another version, or by none."""
    assert pin(name, version) == stored
    assert unpin(stored) == (name, version)


def test_numbers_in_versions_are_compared_as_numbers():
    """Version 10 would count as older than version 9, and new runs would begin with old code."""
    ordered = ["", "1", "1.0", "1.9", "1.10", "2", "9", "10", "2026-01-05", "rc1", "rc2", "rc10"]
    mixed = [*ordered[6:], *ordered[:6]]
    assert sorted(mixed, key=recency) == ordered


def test_all_versions_of_a_name_and_no_other_names_lie_between():
    """A list of the runs of one workflow would lack a version, or show another workflow."""
    first, behind = versions_between("pay")
    for version in ("0", "10", "z"):
        assert first <= pin("pay", version) < behind
    for other in ("pay", "payment", "pay-2", "pa@1", "payA"):
        assert not first <= other < behind


@pytest.mark.parametrize("version", ["", "@", "a@b", " 1", "1 ", "a/b", "x" * 51, 2, None, ".1", "ä"])
def test_what_is_no_version_is_refused(version):
    """A version would be stored that nobody could ask for."""
    with pytest.raises(InvalidName, match="version"):
        check_version(version)


def test_a_name_cannot_pass_for_a_version():
    """The workflow "a@2" would take the runs of version 2 of "a"."""
    with pytest.raises(InvalidName, match="version="):
        check_workflow_name("a@2")
