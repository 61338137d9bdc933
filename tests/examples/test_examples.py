"""The examples run as they stand, print what they promise, and leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PRINTS = {
    "checkout.py": [
        "attempt_failed    charge            the card service does not answer",
        "step_completed    charge            1900 cents of 4111, idempotency key order-42/charge",
        "child_completed   make_invoice      invoice for 42: 2390 cents",
        "emitted           shipped           {'name': 'shipped', 'data': {'label': 'label-42'}}",
        "refunded: nobody approved in time",
    ],
    "agent.py": [
        "~1/look_up: attempt failed",
        "~3/look_up: step failed",
        "Those I could find have 5800000 inhabitants together.",
    ],
    "order.py": [
        'n3[/"approval: wait for approve, at most 2 s"/]',
        "A: A in a box handed over, label on it",
        "B: Terminal: ada said no",
        "    attempt_failed  charge#compensate",
        "    step_completed  stock#compensate\n    2 chairs left, 4900 cents taken\n    unpacked: C in a box",
        "C: ReceiveTimedOut: No signal 'approve' came within 2 s.",
    ],
    "pages.py": [
        "killed; second process\n",
        "  fetching page 4\nkilled",
        "  fetching page 6\n  completed: page 1, page 2, page 3, page 4, page 5, page 6",
    ],
    "papers.py": [
        "read → lines + links → describe → report\nlog: read ['files']\nthe worker has left\n",
        "refused: guide.md: more than 20,000 characters",
        "texts/guide.md kept: True - batches paid for: 1\ngeneration 2 - batches paid for: 1",
    ],
    "poll.py": ["job-7 was done at poll 10", "entries in the journal at the end: 6, of 31 that were made"],
    "tenants.py": [
        "waits for queue exports: 1 of 1 running for the key 'big'",
        "the small tenants did not wait for the flood to end: True",
    ],
    "webhook.py": [
        "out of order\nevent 0 of order-7: started\nevent 1 of order-7: packed\nevent 2 of order-7: completed\n",
        "refused: The webhook is not to be trusted: it lacks one of the headers",
        "a stranger gets 401",
    ],
    "follow.py": [
        "Once upon a time there was a process that died and went on.\neach entry once, in order: True\n",
        "the last one: completed | result: 57",
    ],
    "report.py": ["3 regions saved by sales-2025-06", "west/save    3"],
}


def run(program: Path, folder: Path, *arguments: str) -> str:
    """Run a program in an empty folder; it must succeed, complain of nothing and leave nothing."""
    command = [sys.executable, "-W", "error", str(program), *arguments]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    assert list(folder.iterdir()) == []
    return ended.stdout


def test_every_example_has_its_expectations():
    """An example that nobody runs would rot."""
    assert {file.name for file in EXAMPLES.glob("*.py")} == set(PRINTS)


@pytest.mark.parametrize("name", sorted(PRINTS))
def test_example(name, tmp_path):
    """A reader who runs the example sees something else than it says."""
    printed = run(EXAMPLES / name, tmp_path)
    for line in PRINTS[name]:
        assert line in printed


@pytest.mark.timeout(180)
def test_census_survives_the_kill(tmp_path, monkeypatch):
    """The demo fails, its checks do not hold, or it leaves its database behind."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    empty = tmp_path / "empty"
    empty.mkdir()
    printed = run(EXAMPLES / "census" / "demo.py", empty)
    assert list(temporary.iterdir()) == []
    assert "kill -9" in printed
    assert printed.count("\nok   ") == 7
    assert printed.endswith("Every file was counted exactly once.\n")


def test_census_says_so_when_it_proved_nothing(tmp_path):
    """A demo that never fails proves nothing: here the census is over before the kill, which must not pass."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "one.py").write_text("'One.'\n")
    command = [sys.executable, str(EXAMPLES / "census" / "demo.py"), "--root", str(tmp_path / "tree")]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "NO   the kill came in the middle, with 1 of 1 files recorded" in ended.stdout
