"""Log lines of a worker process."""

import json
import logging
import re
import sys

import pytest

from perdure.cli.logs import Level, _JsonLines, _TextLines, configure


def record(**extra):
    try:
        raise ValueError("no tea")
    except ValueError:
        made = logging.makeLogRecord({"name": "perdure.run", "levelno": 30, "levelname": "WARNING", "msg": "at %d %%"})
        made.args = (7,)
        made.created = 1_000_000_000.25
        made.exc_info = sys.exc_info() if extra.pop("failed", False) else None
        made.__dict__.update(extra)
        return made


def test_json_lines():
    """A log collector could not tell which run a line is about, or when it was written."""
    line = json.loads(_JsonLines().format(record(run_id="a", value={1})))
    assert line == {
        "at": "2001-09-09T01:46:40.250000+00:00", "level": "warning", "logger": "perdure.run", "message": "at 7 %",
        "run_id": "a", "value": "{1}",
    }  # fmt: skip
    text = _JsonLines().format(record(failed=True))
    assert "\n" not in text
    assert json.loads(text)["traceback"].endswith("ValueError: no tea")


def test_text_lines():
    """Somebody who reads the log would not see which run a line is about, or why something failed."""
    line = _TextLines().format(record(run_id="a"))
    assert re.fullmatch(r"[\d-]+ [\d:]+\.250 WARNING perdure\.run: at 7 % run_id=a", line)
    assert _TextLines().format(record(failed=True)).endswith("\nValueError: no tea")


@pytest.fixture
def root():
    """The root logger, as it was before when the test has ended."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("level", list(Level))
def test_the_level_is_kept(root, capsys, level):
    """--log-level would not make the log shorter."""
    configure(level, as_json=True)
    for each in Level:
        logging.getLogger("app").log(logging.getLevelNamesMapping()[each.upper()], "said")
    printed = [json.loads(line)["level"] for line in capsys.readouterr().err.splitlines()]
    assert printed == list(Level)[list(Level).index(level) :]
