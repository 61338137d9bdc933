"""The tables of docs/turns-behaviours.md against the tests that they name."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES = (ROOT / "docs" / "turns-behaviours.md").read_text().splitlines()
ROWS = [line.split("|")[1:-1] for line in LINES if re.match(r"\| [TCVH]\d", line)]
ASKED = {"T": range(1, 10), "C": range(1, 21), "V": range(1, 17), "H": range(1, 9)}
NAMED = sorted(set(re.findall(r"`(tests/[^`]+)`", "\n".join(LINES))))


def test_every_statement_is_answered():
    """A statement of the reference is forgotten."""
    found = {statement for row in ROWS for statement in row[0].split()}
    assert {f"{kind}{number}" for kind, numbers in ASKED.items() for number in numbers} <= found


@pytest.mark.parametrize("name", NAMED)
def test_named_tests_are_there(name):
    """A statement rests on a test that was renamed or removed."""
    file, _, test = name.partition("::")
    assert (ROOT / file).exists(), name
    if test:
        assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE), name


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip())
def test_tests_name_their_statements(row):
    """A test that is said to show a statement does not know of it."""
    named = [name.split("::") for name in re.findall(r"`(tests/turn/[^`]+)`", row[2])]
    marks = set()
    for file, test in named:
        found = re.search(rf"^def {test}\((.*)$", (ROOT / file).read_text(), re.MULTILINE)
        assert found, f"{file}::{test}"
        marks |= set(re.findall(r"[TCVHI]\d+", found[1]))
    if named:
        assert set(row[0].split()) <= marks
