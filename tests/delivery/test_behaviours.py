"""The table of docs/delivery-behaviours.md against the tests that it names."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    line.split("|")[1:-1]
    for line in (ROOT / "docs" / "delivery-behaviours.md").read_text().splitlines()
    if line[:3] in {"| A", "| W"}
]
ASKED = {
    *(f"A{number:03}" for number in (11, 12, 13, 64, *range(80, 86), *range(90, 95), *range(100, 109), 112, 113)),
    *(f"W{number:02}" for number in (5, 8, 10, 11, 15, 19, 20, 23, 28)),
}


def test_every_statement_is_answered():
    """A statement of the acceptance list is forgotten, or answered twice."""
    found = [statement for row in ROWS for statement in row[0].split()]
    assert sorted(found) == sorted(ASKED)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip())
def test_tests_name_their_statements(row):
    """A test that is said to show a statement is not there, or does not know of it."""
    for name in re.findall(r"`(tests/[^`]+)`", row[2]):
        file, test = name.split("::")
        found = re.search(rf"^def {test}\(.*$", (ROOT / file).read_text(), re.MULTILINE)
        assert found, name
        assert set(row[0].split()) <= set(re.findall(r"[AW]\d+", found[0])), name
    assert "`tests/" in row[2] or row[1].strip().startswith(("differs", "not here", "as A"))
