"""A terminal for each test, in a folder of its own."""

import logging
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from clikit.terminal import Terminal


@pytest.fixture
def root():
    """The root logger, as it was before when the test has ended."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def terminal(tmp_path, monkeypatch, root):
    """The current folder is empty, and nothing of PERDURE_* is set; the log is set up for this test alone."""
    monkeypatch.chdir(tmp_path)
    for name in [*os.environ, "NO_COLOR", "FORCE_COLOR", "COLUMNS"]:
        if name.startswith("PERDURE_") or name in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}:
            monkeypatch.delenv(name, raising=False)
    made = Terminal(tmp_path)
    yield made
    for process in made.processes:
        process.forget()


@pytest.fixture
def shop(terminal, monkeypatch):
    """As `terminal`, with the shop's database there and named by PERDURE_URL."""
    monkeypatch.setenv("PERDURE_URL", terminal.url)
    terminal.done("db", "migrate")
    return terminal
