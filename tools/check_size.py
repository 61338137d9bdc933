"""Refuse files and functions that have grown too long. There is no list of exceptions: split instead."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE_FOLDERS = ("src", "tools", "bench", "examples")
SOURCE_LINES = 500
TEST_LINES = 800
SQL_LINES = 400
PAGE_LINES = {"README.md": 150, "DESIGN.md": 300}
FUNCTION_LINES = 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


def limits(root: Path) -> Iterator[tuple[Path, int]]:
    """Yield every file that has a limit, with the lines it may have."""
    for folder in SOURCE_FOLDERS:
        for path in (root / folder).rglob("*.py"):
            yield path, SOURCE_LINES
    for path in (root / "tests").rglob("*.py"):
        yield path, TEST_LINES
    for folder in (*SOURCE_FOLDERS, "tests"):
        for path in (root / folder).rglob("*.sql"):
            yield path, SQL_LINES
    for name, most in PAGE_LINES.items():
        if (root / name).is_file():
            yield root / name, most


def span(node: ast.AST) -> int:
    """Count the lines that a parsed function or statement covers."""
    return (getattr(node, "end_lineno", None) or 0) - getattr(node, "lineno", 0) + 1


def length(function: Function) -> int:
    """Count a function's lines from ``def`` to its end, nested functions included, its docstring not."""
    documented = ast.get_docstring(function, clean=False) is not None
    return span(function) - (span(function.body[0]) if documented else 0)


def long_functions(tree: ast.Module) -> Iterator[tuple[int, str, int]]:
    """Yield first line, name and length of each function that is too long."""
    for node in ast.walk(tree):
        if isinstance(node, Function) and length(node) > FUNCTION_LINES:
            yield node.lineno, node.name, length(node)


def violations(root: Path) -> Iterator[str]:
    """Yield one ``path:line: what`` for each limit exceeded, ordered by path."""
    for path, most in sorted(limits(root)):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(root)
        lines = text.count("\n") + (not text.endswith("\n") and text != "")
        if lines > most:
            yield f"{name}:{most + 1}: {lines} lines, at most {most}"
        if path.suffix == ".py":
            for line, function, long in long_functions(ast.parse(text, str(path))):
                yield f"{name}:{line}: {function}() has {long} lines, at most {FUNCTION_LINES}"


def main() -> int:
    """Print what is too long; return the exit code."""
    found = list(violations(Path(__file__).resolve().parent.parent))
    for violation in found:
        print(violation)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
