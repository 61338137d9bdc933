"""The pages that answer an acceptance list statement by statement, against the tests that their tables name."""

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`(tests/[^`:]+)(?:::(\w+))?`")
MARK = re.compile(r"\b[A-Z]\d+\b")


@dataclass(frozen=True)
class Row:
    """Statements that have one answer, and the tests that show it, each a file and a name."""

    statements: list[str]
    answer: str
    tests: list[tuple[str, str]]


@dataclass(frozen=True)
class Page:
    """
    A page of behaviours.

    Attributes:
        asked: The numbers of the statements, by kind.
        digits: How many digits a number has at the least, by kind.
        marked: Files whose tests name what they show, in a comment on the line of their `def` or in their docstring.
        each: Whether every such test names all statements of its row; otherwise they do so together.
        without: How an answer begins that needs no test, or what stands where the test would.
        borrowed: Statements of other pages that are answered here as well.
    """

    name: str
    asked: dict[str, list[int]]
    marked: tuple[str, ...]
    without: tuple[str, ...] = ()
    digits: dict[str, int] | None = None
    each: bool = False
    docstrings: bool = False
    borrowed: tuple[str, ...] = ()

    @property
    def statements(self) -> list[str]:
        digits = self.digits or {}
        asked = (f"{kind}{n:0{digits.get(kind, 1)}}" for kind, numbers in self.asked.items() for n in numbers)
        return sorted([*asked, *self.borrowed])

    @property
    def rows(self) -> list[Row]:
        lines = (ROOT / "docs" / f"{self.name}-behaviours.md").read_text().splitlines()
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if re.match(r"\| [A-Z]\d", line)]
        return [
            Row(statements.split(), tests if tests in self.without else answer, NAMED.findall(tests))
            for statements, answer, tests in cells
        ]

    def marks(self, file: str, test: str) -> set[str]:
        """The statements that a test names."""
        definition, docstring = definitions(file)[test]
        return set(MARK.findall(docstring if self.docstrings else definition.partition("#")[2]))


@cache
def definitions(file: str) -> dict[str, tuple[str, str]]:
    """The line of the definition, and the docstring, of every test of a file."""
    text = (ROOT / file).read_text()
    lines = text.splitlines()
    found = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    return {node.name: (lines[node.lineno - 1], ast.get_docstring(node) or "") for node in found}


def upto(most: int) -> list[int]:
    return list(range(1, most + 1))


PAGES = [
    Page(
        "delivery",
        {"A": [11, 12, 13, 64, *range(80, 86), *range(90, 95), *range(100, 109), 112, 113],
         "W": [5, 8, 10, 11, 15, 19, 20, 23, 28]},
        marked=("tests/",), each=True, without=("differs", "not here", "as A"), digits={"A": 3, "W": 2},
    ),
    Page(
        "durable",
        {"M": upto(10), "I": upto(12), "S": upto(34), "E": upto(4), "R": upto(20), "W": upto(5), "D": upto(8),
         "X": upto(31)},
        marked=("tests/durable/", "tests/agent/", "tests/crash/test_durable.py", "tests/testing/test_platform.py"),
        docstrings=True, without=("left: ", "belong"),
    ),
    Page(
        "flows",
        {"B": [*range(1, 6), *range(10, 18), *range(20, 24), *range(30, 33), *range(40, 44), *range(50, 54), 60, 61,
               *range(70, 76), *range(80, 83), *range(90, 96), *range(100, 106), *range(110, 115), *range(120, 126),
               *range(130, 133), 140],
         "W": upto(27)},
        marked=("tests/flow/", "tests/engine/test_sagas.py"), without=("no test",), digits={"B": 3, "W": 2},
    ),
    Page(
        "pipelines",
        {"A": [*range(1, 9), *range(10, 19), *range(20, 36), *range(40, 46), *range(50, 59), *range(60, 67),
               *range(70, 74)],
         "W": [1, 2, 3, 4, 6, 7, 8, 9, 12, 13, 14, 16, 17, 18, 19, 21, 22, 23, 24, 27, 28, 29]},
        marked=("tests/pipeline/", "tests/cli/test_pipelines.py"), each=True, digits={"A": 3, "W": 2},
    ),
    Page(
        "turns",
        {"T": upto(9), "C": upto(20), "V": upto(16), "H": upto(8)},
        marked=("tests/turn/",), without=("none of its own",), borrowed=("I11",),
    ),
]  # fmt: skip
ROWS = [pytest.param(page, row, id=f"{page.name}: {' '.join(row.statements)}") for page in PAGES for row in page.rows]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_statement_is_answered(page):
    """A statement of the acceptance list is forgotten, or answered twice."""
    assert sorted(statement for row in page.rows for statement in row.statements) == page.statements


@pytest.mark.parametrize(("page", "row"), ROWS)
def test_tests_name_their_statements(page, row):
    """A test that is said to show a statement is not there, or does not know of it."""
    assert row.tests or row.answer.startswith(page.without), "a statement without a test says why"
    for file, test in row.tests:
        assert not test or test in definitions(file), f"{file}::{test}"
    marks = [page.marks(file, test) for file, test in row.tests if test and file.startswith(page.marked)]
    for known in marks if page.each or not marks else [set().union(*marks)]:
        assert set(row.statements) <= known
