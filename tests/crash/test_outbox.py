"""Processes that deliver events are killed again and again: each event arrives, in order, and repeats say so."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from postgreskit.server import server

pytestmark = pytest.mark.crash

PROGRAM = """
import asyncio, sys, time
from perdure import App, Context, JsonLines, WorkerOptions

url, file = sys.argv[1:]
app = App(url, synchronous="NORMAL", worker=WorkerOptions(lease=1.0))
lines = JsonLines(file)

@app.sink("file", concurrency=4)
def slowly(event):
    lines(event)
    time.sleep(0.02)

@app.workflow
async def talk(ctx: Context, times: int) -> int:
    for place in range(times):
        await ctx.emit("said", place)
        await ctx.step(f"say-{place}", lambda: place)
    return times

async def main():
    async with app:
        for place in range(20):
            await app.start(talk, 6, id=f"r{place}")
        print("ready", flush=True)
        while await app.client.store.select("select run from perdure_outbox") or any(
            str(status) != "completed" for status in await app.client.counts()
        ):
            await asyncio.sleep(0.01)
        print("done", flush=True)

asyncio.run(main())
"""
MOST_DEATHS = 12
SAID = [*range(6)]


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_a_killed_deliverer_loses_nothing_and_repeats_by_the_same_id(tmp_path: Path, store):
    """An event would be lost with the process that was delivering it, come out of order, or pass for a new one."""
    url = f"sqlite:///{tmp_path / 'outbox.db'}" if store == "sqlite" else server().url()
    file, program, chance = tmp_path / "events.jsonl", tmp_path / "program.py", random.Random(7)
    program.write_text(PROGRAM)
    for death in range(MOST_DEATHS + 1):
        process = subprocess.Popen(
            [sys.executable, str(program), url, str(file)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        with process:
            assert process.stdout is not None
            if death == MOST_DEATHS:
                assert process.stdout.read().splitlines()[-1:] == ["done"]
                break
            process.stdout.readline()
            # While it delivers.
            time.sleep(chance.random() * 0.2)
            os.kill(process.pid, signal.SIGKILL)
    lines = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    assert len(lines) > len({line["id"] for line in lines}), "no death was between a delivery and its record"
    for place in range(20):
        events = [line for line in lines if line["run_id"] == f"r{place}"]
        first = list({event["id"]: event for event in events}.values())
        assert [event["seq"] for event in first] == sorted(event["seq"] for event in first)
        assert [event["data"] for event in first if event["topic"] == "said"] == SAID
        assert [first[0]["kind"], first[-1]["kind"]] == ["started", "completed"]
        assert len({event["seq"] for event in events}) == len(first) == 8
