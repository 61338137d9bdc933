"""The table of docs/pipelines-behaviours.md against the tests that it names."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    line.split("|")[1:-1]
    for line in (ROOT / "docs" / "pipelines-behaviours.md").read_text().splitlines()
    if line[:3] in {"| A", "| W"}
]
MARKED = ("tests/pipeline/", "tests/cli/test_pipelines.py")
ASKED = {
    "A": [*range(1, 9), *range(10, 19), *range(20, 36), *range(40, 46), *range(50, 59), *range(60, 67),
          *range(70, 74)],
    "W": [1, 2, 3, 4, 6, 7, 8, 9, 12, 13, 14, 16, 17, 18, 19, 21, 22, 23, 24, 27, 28, 29],
}  # fmt: skip


def test_every_statement_is_answered():
    """A statement of the acceptance list is forgotten, or answered twice."""
    found = sorted(statement for row in ROWS for statement in row[0].split())
    assert found == sorted(f"{kind}{number:03}" if kind == "A" else f"{kind}{number:02}"
                           for kind, numbers in ASKED.items() for number in numbers)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip())
def test_tests_name_their_statements(row):
    """A test that is said to show a statement is not there, or does not know of it."""
    named = [name.split("::") for name in re.findall(r"`(tests/[^`]+)`", row[2])]
    assert named, "no test"
    for file, test in named:
        found = re.search(rf"^def {test}\((.*)$", (ROOT / file).read_text(), re.MULTILINE)
        assert found, f"{file}::{test}"
        if file.startswith(MARKED):
            missing = set(row[0].split()) - set(re.findall(r"[AW]\d+", found[1]))
            assert not missing, f"{test} does not name {missing}"
