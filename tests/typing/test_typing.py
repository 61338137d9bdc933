"""What type checkers see of perdure: users' code passes, and users' mistakes do not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
IGNORED = re.compile(r"  # type: ignore\[([\w-]+)\].*$")
FOUND = re.compile(r"^refused\.py:(\d+): error: .*\[([\w-]+)\]$", re.MULTILINE)


def mypy(file: Path) -> subprocess.CompletedProcess[str]:
    """Check one file as the project's own are."""
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--no-pretty", file.name]
    return subprocess.run(command, cwd=file.parent, capture_output=True, text=True, timeout=300, check=False)


def test_code_as_users_write_it_passes(tmp_path: Path) -> None:
    """A right program is refused, or a result of start, call, step, map or receive has lost its type."""
    file = tmp_path / "api.py"
    file.write_text((HERE / "api.py").read_text())
    checked = mypy(file)
    assert checked.returncode == 0, checked.stdout


def test_mistakes_are_found(tmp_path: Path) -> None:
    """A mistake passes, or something right beside it does not."""
    lines = (HERE / "refused.py").read_text().splitlines()
    expected = {(number, match[1]) for number, line in enumerate(lines, 1) if (match := IGNORED.search(line))}
    file = tmp_path / "refused.py"
    file.write_text("\n".join(IGNORED.sub("", line) for line in lines) + "\n")
    checked = mypy(file)
    assert {(int(line), code) for line, code in FOUND.findall(checked.stdout)} == expected
    assert len(expected) > 20, "there are mistakes to find"
