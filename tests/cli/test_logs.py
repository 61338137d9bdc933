"""Log lines of a worker process."""

import json
import logging

import pytest

from perdure.cli.logs import Format, Level, configure


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


def test_addresses_of_webhooks_stay_out_of_the_log(root, capsys):
    """A token in a webhook's address would stand in the log of each worker that tells it."""
    configure(Level.INFO, Format.JSON)
    logging.getLogger("httpx").info("HTTP Request: POST http://hooks.example/?token=hidden")
    assert capsys.readouterr().err == ""
