"""What type checkers see of perdure: users' code passes, and users' mistakes do not."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
IGNORED = re.compile(r"# type: ignore\[[\w-]+\]")


@pytest.mark.timeout(300)
def test_users_see_the_types(tmp_path: Path) -> None:
    """
    A right program is refused, a mistake passes, or the types are not found outside of the repository.

    Each line of refused.py that is wrong ignores the one error that it must give, and mypy complains of an ignored
    error that is not there.
    """
    for name in ("api.py", "refused.py"):
        shutil.copy(HERE / name, tmp_path)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "api.py", "refused.py"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert checked.returncode == 0, checked.stdout
    assert len(IGNORED.findall((HERE / "refused.py").read_text())) > 20, "there are mistakes to find"
