"""The table of docs/durable-behaviours.md against the tests that it names."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in (ROOT / "docs" / "durable-behaviours.md").read_text().splitlines()
    if re.match(r"\| [A-Z]\d", line)
]
MARKED = ("tests/durable/", "tests/agent/", "tests/crash/test_durable.py", "tests/testing/test_platform.py")
NO_STORE = {
    "test_a_hash_is_that_of_the_canonical_text", "test_what_has_no_place_in_json", "test_ids_of_several_parts",
    "test_a_database_in_memory_needs_an_app", "test_by_url",
}  # fmt: skip
"""Tests that touch no store, or are about the URL of one."""
ASKED = {"M": 10, "I": 12, "S": 34, "E": 4, "R": 20, "W": 5, "D": 8, "X": 31}


def docstring(file, test):
    """What a test says of itself."""
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == test:
            return ast.get_docstring(node) or ""
    raise AssertionError(f"{file}::{test} is not there")


def test_every_statement_is_answered():
    """A statement of the reference is forgotten, or answered twice."""
    found = [statement for row in ROWS for statement in row[0].split()]
    assert sorted(found) == sorted(f"{kind}{n}" for kind, count in ASKED.items() for n in range(1, count + 1))


def test_the_matrix_is_whole():
    """A store is left out, or a test of calls has one store only without a reason."""
    assert 'KINDS = ("file", "memory", "postgres")' in (ROOT / "tests/durable/conftest.py").read_text()
    for file in ("test_run.py", "test_events.py", "test_identity.py"):
        tests = [node for node in ast.parse((ROOT / "tests/durable" / file).read_text()).body
                 if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]  # fmt: skip
        alone = {test.name for test in tests if not {"place", "shared"} & {arg.arg for arg in test.args.args}}
        assert alone <= NO_STORE, alone - NO_STORE


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_tests_know_what_they_show(row):
    """A test that is said to show a statement is not there, or does not know of it."""
    statements, what, tests = set(row[0].split()), row[1], row[2]
    known = set()
    named = re.findall(r"`(tests/[^`:]+)(?:::(\w+))?`", tests)
    assert named or what.startswith(("left: ", "belong")), "a statement without a test says why"
    for file, test in named:
        assert (ROOT / file).is_file()
        if test and file.startswith(MARKED):
            known |= set(re.findall(r"\b[A-Z]\d+\b", docstring(file, test)))
    if any(file.startswith(MARKED) for file, test in named if test):
        assert statements <= known
