"""
What the documents show is run.

A fenced block ```python is a program; ```python more goes on with the one before it on the page, as one
program. A ```text block that follows such a block immediately is what it prints; a program either shows all that
it prints, or nothing. ```python orders.py is a file of a project that another test runs. ```python no-run is only
compiled, and a comment before it says why. Blocks of the kind ```console show commands; those of perdure must
exist.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import typer

from perdure.cli.main import app as cli

ROOT = Path(__file__).resolve().parents[2]
TESTED_ELSEWHERE = {ROOT / "docs" / "testing.md": ROOT / "tests" / "testing" / "test_guide.py"}
PAGES = [ROOT / "README.md", ROOT / "DESIGN.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\S*) ?(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(r"`((?:tests|src|docs|examples|bench|tools)/[\w/.]+)(?:::(\w+))?`")
MEMBER = re.compile(r"`([A-Z]\w+)\.([a-z_]\w*)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
KNOWN = {"", "console", "javascript", "python", "text", "toml", "sql"}


@dataclass
class Block:
    language: str
    info: str
    code: str
    line: int
    end: int


@dataclass
class Program:
    page: Path
    code: str
    line: int
    prints: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(match[1], match[2], match[3], line, line + match[0].count("\n")))
    return found


def programs_of(page: Path) -> list[Program]:
    """The programs of a page: each block of Python, joined with what goes on with it."""
    programs: list[Program] = []
    before: Block | None = None
    for block in blocks_of(page):
        if block.language == "python" and block.info == "":
            programs.append(Program(page, block.code, block.line))
        elif block.language == "python" and block.info == "more":
            programs[-1].code += "\n" + block.code
        elif block.language == "text" and before and before.language == "python" and block.line == before.end + 2:
            programs[-1].prints += block.code
        before = block
    return programs


SHOWN = [page for page in PAGES if page not in TESTED_ELSEWHERE]
PROGRAMS = [program for page in SHOWN for program in programs_of(page)]


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    text = FENCE.sub("", page.read_text())
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(text)}


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_program(program, tmp_path):
    """A reader who copies the program gets an error, or sees something else than the page says."""
    file = tmp_path / "program.py"
    file.write_text(program.code)
    command = [sys.executable, "-W", "error", str(file)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, f"{program}\n{ended.stdout}\n{ended.stderr}"
    if program.prints:
        assert ended.stdout == program.prints


@pytest.mark.parametrize(("name", "most"), [("README.md", 150), ("DESIGN.md", 300)])
def test_page_stays_short(name, most):
    """The page that everybody reads first has become one that nobody reads."""
    assert len((ROOT / name).read_text().splitlines()) <= most


def test_pages_with_tests_of_their_own():
    """A page that is left out here is not run anywhere."""
    for page, test in TESTED_ELSEWHERE.items():
        assert page.name in test.read_text()


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_are_of_a_known_kind(page):
    """A misspelt info string would keep a block from being run, and nobody would notice."""
    for block in blocks_of(page):
        assert block.language in KNOWN, f"line {block.line}: ```{block.language}"
        if block.language == "python":
            assert block.info in {"", "more", "no-run"} or block.info.endswith(".py"), (
                f"line {block.line}: {block.info}"
            )
            compile(block.code, f"{page}:{block.line}", "exec")
        if block.info == "no-run":
            above = page.read_text().splitlines()[block.line - 2]
            assert above.startswith("<!-- not run:"), f"line {block.line}: say why"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """A link to another page or heading of the repository is dead."""
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors_of(there), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_and_tests_exist(page):
    """A page points to a test, or to a file of the repository, that is not there."""
    for name, test in NAMED.findall(page.read_text()):
        there = ROOT / name
        assert there.exists(), name
        if test:
            assert f"\ndef {test}(" in there.read_text(), f"{name}::{test}"


@cache
def classes() -> dict[str, tuple[set[str], set[str]]]:
    """The names that each class of perdure defines, and its bases."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for file in sorted((ROOT / "src").rglob("*.py")):
        for cls in ast.walk(ast.parse(file.read_text())):
            if isinstance(cls, ast.ClassDef):
                names, bases = found.setdefault(cls.name, (set(), set()))
                bases |= {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in cls.bases}
                for node in ast.walk(cls):
                    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                        names.add(node.name)
                    elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                        names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return found


def defines(cls: str, member: str) -> bool:
    names, bases = classes()[cls]
    return member in names or any(defines(base, member) for base in bases if base in classes())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_members_of_classes_exist(page):
    """A page says that something is done where it no longer is."""
    for cls, member in MEMBER.findall(page.read_text()):
        assert cls not in classes() or defines(cls, member), f"{cls}.{member}"


def test_readme_survives_kill(tmp_path):
    """The README's own story is not true: a line that was recorded is written again, or one is lost."""
    file = tmp_path / "story.py"
    file.write_text(programs_of(ROOT / "README.md")[0].code)
    command = [sys.executable, str(file)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        before = [first.stdout.readline() for _ in range(4)]
        first.kill()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    written = [f"writing line {n}\n" for n in range(6)]
    story = ", ".join(f"line {n}" for n in range(6)) + "\n"
    assert before == written[:4]
    assert again.stdout == "".join(written[3:]) + story
    assert again.stderr in (ROOT / "README.md").read_text()
    begun = time.monotonic()
    third = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert third.stdout == story
    assert time.monotonic() - begun < 10


def commands_of(page: Path) -> list[tuple[int, list[str]]]:
    """Every call of perdure's command line that a page shows, with its line."""
    found = []
    for block in blocks_of(page):
        if block.language == "console":
            for offset, line in enumerate(block.code.splitlines(), 1):
                match = re.match(r"\$ (?:\w+=\S+ )*perdure (.+)", line)
                if match:
                    found.append((block.line + offset, shlex.split(match[1], comments=True)))
    return found


@pytest.mark.parametrize(
    ("page", "line", "words"),
    [pytest.param(page, line, words, id=f"{page.name}:{line}") for page in PAGES for line, words in commands_of(page)],
)
def test_command_exists(page, line, words):
    """A page shows a command or an option that perdure does not have."""
    command = typer.main.get_command(cli)
    while isinstance(command, typer.core.TyperGroup):
        assert words[0] in command.commands, f"{page.name}:{line}: {words[0]}"
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    for word in words:
        if word.startswith("-"):
            assert word.partition("=")[0] in known, f"{page.name}:{line}: {word}"
