"""Log lines of a worker process."""

import json
import logging

import pytest

from perdure.cli.logs import Format, Level, configure


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
    configure(level, Format.JSON)
    for each in Level:
        logging.getLogger("app").log(logging.getLevelNamesMapping()[each.upper()], "said")
    printed = [json.loads(line)["level"] for line in capsys.readouterr().err.splitlines()]
    assert printed == list(Level)[list(Level).index(level) :]


def test_lines_name_their_worker_and_process(root, capsys):
    """Lines of several workers in one log could not be told apart."""
    configure(Level.INFO, Format.JSON, lambda: "w1", process="2")
    logging.getLogger("app").info("said")
    line = json.loads(capsys.readouterr().err)
    assert (line["worker_id"], line["worker_process"]) == ("w1", "2")
