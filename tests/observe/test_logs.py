"""Log lines that say which run they are about."""

import asyncio
import io
import json
import logging
import re
import sys

import pytest

from perdure import Context
from perdure.observe.logs import JsonLines, RunFields, TextLines

own = logging.getLogger("somebody.elses")


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
    line = json.loads(JsonLines().format(record(run_id="a", value={1})))
    assert line == {
        "time": "2001-09-09T01:46:40.250000+00:00", "level": "warning", "logger": "perdure.run", "message": "at 7 %",
        "run_id": "a", "value": "{1}",
    }  # fmt: skip
    text = JsonLines().format(record(failed=True))
    assert "\n" not in text
    assert json.loads(text)["exception"].endswith("ValueError: no tea")


def test_an_object_that_cannot_be_shown():
    """One odd object among the extras would cost the whole line."""

    class Odd:
        def __str__(self):
            raise ValueError("no")

    assert json.loads(JsonLines().format(record(value=Odd(), level="mine")))["value"] == "<Odd>"


def test_an_extra_takes_no_standard_fields_place():
    """Whatever filters by level would be misled by an extra of that name."""
    assert json.loads(JsonLines().format(record(level="mine")))["level"] == "warning"


def test_text_lines():
    """Somebody who reads the log would not see which run a line is about, or why something failed."""
    line = TextLines().format(record(run_id="a"))
    assert re.fullmatch(r"[\d-]+ [\d:]+\.250 WARNING perdure\.run: at 7 % run_id=a", line)
    assert TextLines().format(record(failed=True)).endswith("\nValueError: no tea")


@pytest.fixture
def lines():
    """What the process logs, as JSON lines, with the fields of runs."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    handler.addFilter(RunFields(lambda: "w1"))
    root = logging.getLogger()
    root.addHandler(handler)
    level = root.level
    root.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(level)


def test_what_is_logged_in_a_run(play, lines):
    """Lines of libraries in step bodies, and of ctx.log, could not be found by the run's id."""

    def plain():
        own.info("in a thread")

    async def looped():
        await asyncio.sleep(1)
        own.info("on the loop", extra={"run_id": "mine"})

    async def flow(ctx: Context) -> None:
        ctx.log.info("begun", extra={"cents": 7})
        await ctx.step(plain)
        await ctx.step("second", looped)
        await ctx.sleep(100)

    async def main(app):
        await (await app.start("flow", id="r")).result()
        own.info("outside")

    play(main, flow, worker={"cached_runs": 0})
    found = {line["message"]: line for line in lines() if line["logger"] in {"perdure.run", "somebody.elses"}}
    run = {"run_id": "r", "workflow": "flow", "worker_id": "w1"}
    shown = {
        message: {key: line[key] for key in line if key not in {"time", "logger", "message", "level"}}
        for message, line in found.items()
    }
    assert shown == {
        "begun": {**run, "cents": 7},
        "in a thread": {**run, "step": "plain", "attempt": 1},
        "on the loop": {**run, "run_id": "mine", "step": "second", "attempt": 1},
        "outside": {"worker_id": "w1"},
    }
    assert len([line for line in lines() if line["message"] == "begun"]) == 1
