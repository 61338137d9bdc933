"""The table of docs/flows-behaviours.md against the tests that it names."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    line.split("|")[1:-1]
    for line in (ROOT / "docs" / "flows-behaviours.md").read_text().splitlines()
    if line[:3] in {"| B", "| W"}
]
MARKED = ("tests/flow/", "tests/engine/test_sagas.py")
ASKED = {
    "B": [*range(1, 6), *range(10, 18), *range(20, 24), *range(30, 33), *range(40, 44), *range(50, 54), 60, 61,
          *range(70, 76), *range(80, 83), *range(90, 96), *range(100, 106), *range(110, 115), *range(120, 126),
          *range(130, 133), 140],
    "W": range(1, 28),
}  # fmt: skip


def test_every_statement_is_answered():
    """A statement of the acceptance list is forgotten, or answered twice."""
    found = sorted(statement for row in ROWS for statement in row[0].split())
    assert found == sorted(f"{kind}{number:03}" if kind == "B" else f"{kind}{number:02}"
                           for kind, numbers in ASKED.items() for number in numbers)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip())
def test_tests_name_their_statements(row):
    """A test that is said to show a statement is not there, or does not know of it."""
    named = [name.split("::") for name in re.findall(r"`(tests/[^`]+)`", row[2])]
    marks = set()
    for file, test in named:
        found = re.search(rf"^def {test}\((.*)$", (ROOT / file).read_text(), re.MULTILINE)
        assert found, f"{file}::{test}"
        if file.startswith(MARKED):
            marks |= set(re.findall(r"[BW]\d+", found[1]))
    if any(file.startswith(MARKED) for file, _ in named):
        assert set(row[0].split()) <= marks
