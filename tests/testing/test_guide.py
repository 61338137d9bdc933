"""The guide's code, as a user's project that knows perdure only as an installed package."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "testing.md"


def files() -> dict[str, str]:
    """The guide's blocks of Python, joined by the file that each names."""
    found: dict[str, str] = {}
    for name, block in re.findall(
        r"^```python (.*)\n((?:.*\n)*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE
    ):
        assert block.startswith(f"# {name}"), f"readers cannot see which file this is:\n{block}"
        found[name] = found.get(name, "") + block + "\n\n"
    return found


def run_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    command = [sys.executable, "-m", "pytest", "-q", *options]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path):
    for name, text in files().items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("options", [("-p", "no:randomly"), ("-n", "2")], ids=["in order", "in parallel"])
def test_the_guides_tests_pass(project, options):
    """A user who copies from the guide would get errors; tests would disturb each other, or touch the real database."""
    ran = run_pytest(project, *options)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"\b8 passed\b", ran.stdout)
    assert not (project / "orders.db").exists()


def test_the_mismatch_in_the_guide_is_what_one_gets(project):
    """The guide would show a message that nobody will see."""
    path = project / "test_orders.py"
    text = path.read_text()
    assert "        if not charges:" in text
    path.write_text(re.sub(r"        if not charges:.*", "        if True:", text))
    ran = run_pytest(project, "-k", "every_crash")
    assert "killed before commit 1 (step completed 'charge'" in ran.stdout
    shown = re.search(r"^        (observed: .*)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert shown[1] in ran.stdout


def test_a_missing_app_is_asked_for(project):
    """A user without conftest.py would have to guess what is missing."""
    (project / "conftest.py").unlink()
    ran = run_pytest(project, "-k", "is_asked_again")
    assert "def perdure_app():" in ran.stdout
    assert "1 error" in ran.stdout


def test_the_plugin_costs_those_nothing_who_do_not_use_it():
    """Every test suite of an environment with perdure would start slower by the import of perdure."""
    code = "import sys, pytest, _perdure_pytest; print({'perdure', 'pydantic', 'apsw', 'asyncio'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
