"""
See a run survive `kill -9`: a census of this Python's standard library.

    python examples/census/demo.py            # the library
    python examples/census/demo.py --tests    # its test suite too: three times as long
    python examples/census/demo.py --root DIR --keep

The demo starts the census and a worker process, kills the worker on the way, starts another one, and then
proves from the journals that every file was counted exactly once. Exit code 1 if that is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from ledger import Ledger, Moments, bodies
from picture import Progress, console, show_journal, show_report, show_timeline, show_verdict
from worker import CENSUS
from workflow import BODIES_LOG, Job, Report, app, census, find_packages

WORKER = Path(__file__).resolve().with_name("worker.py")
LOOK_EVERY = 0.1
PATIENCE_S = 60.0
TWICE = 2


async def main(job: Job, kill_at: float) -> int:
    async with app.connected():
        handle = await app.start(census, job, id=CENSUS)
        ledger = Ledger(app, CENSUS)
        progress = Progress()
        started = datetime.now(UTC)
        worker = start_worker()
        try:
            with progress:
                await follow(ledger, progress, worker, until=kill_at)
                worker.kill()
                worker.wait()
                killed = datetime.now(UTC)
                await ledger.read()
                recorded = set(ledger.files())
                progress.say(f"[bold red]kill -9[/] {worker.pid} with {len(recorded)} of {ledger.expected} recorded")
                moments = Moments(started, killed, datetime.now(UTC), recorded, worker.pid)
                worker = start_worker()
                progress.say(f"[bold green]started[/] worker {worker.pid}")
                await follow(ledger, progress, worker, until=2)
            report = await handle.result()
            await ledger.read()
            worker.wait(timeout=30)
        finally:
            worker.kill()
            worker.wait()
    show_report(report)
    show_journal(ledger)
    show_timeline(ledger, moments)
    return 0 if show_verdict(check(job, report, ledger, moments), moments.recovery(ledger)) else 1


def start_worker() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(WORKER)])


async def follow(ledger: Ledger, progress: Progress, worker: subprocess.Popen[bytes], *, until: float) -> None:
    """Show how far the census is, until this share of the files is recorded or the census has ended."""
    seen, seen_at = -1, time.monotonic()
    while True:
        await ledger.read()
        if len(ledger.outcomes) != seen:
            seen, seen_at = len(ledger.outcomes), time.monotonic()
        elif time.monotonic() > seen_at + PATIENCE_S:
            raise SystemExit(f"nothing was recorded for {PATIENCE_S:g} s: look at the worker's messages above")
        progress.update(len(ledger.outcomes), ledger.expected, len(ledger.ended), ledger.packages)
        if ledger.expected and len(ledger.outcomes) >= until * ledger.expected:
            return
        if ledger.entries and ledger.entries[-1].kind in {"completed", "failed", "cancelled"}:
            return
        if worker.poll() not in {None, 0}:
            raise SystemExit(f"the worker ended with exit code {worker.returncode}")
        await asyncio.sleep(LOOK_EVERY)


def check(job: Job, report: Report, ledger: Ledger, moments: Moments) -> list[tuple[bool, str]]:
    """What must hold, and whether it does."""
    on_disk = {file for package in find_packages(job) for file in package.files}
    counted = ledger.files()
    begun = bodies(Path(BODIES_LOG))
    before = begun.pop(moments.first_worker)
    after = sum(begun.values(), start=type(before)())
    in_flight = set(before) - moments.recorded
    again = set(before) & set(after)
    lines = sum(outcome.count["lines"] for outcome in ledger.outcomes)
    return [
        (
            0 < len(moments.recorded) < len(on_disk),
            f"the kill came in the middle, with {len(moments.recorded):,} of {len(on_disk):,} files recorded",
        ),
        (
            set(counted) == on_disk,
            f"{len(on_disk):,} files on disk, {len(counted):,} in the journals: the same ones",
        ),
        (
            max(counted.values()) == 1,
            f"{counted.total():,} outcomes recorded: each file's exactly once",
        ),
        (
            not moments.recorded & set(after),
            "what was recorded before the kill was not run again",
        ),
        (
            again == in_flight and max((before + after).values()) <= TWICE,
            f"{len(again)} had begun but were not recorded when the kill came: exactly those ran again",
        ),
        (
            (report.total.files, report.total.lines) == (counted.total(), lines),
            f"the report's {report.total.lines:,} lines are the sum of what the journals hold",
        ),
        (
            not ledger.gaps,
            f"{len(ledger.ended) + 1} journals, numbered without a gap",
        ),
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A census of the standard library that survives kill -9.")
    parser.add_argument("--root", default=sysconfig.get_path("stdlib"), help="count the Python files below this folder")
    parser.add_argument("--tests", action="store_true", help="the library's own test suite too")
    parser.add_argument("--kill-at", type=float, default=0.4, metavar="SHARE", help="when to kill; 0.4 by default")
    parser.add_argument("--keep", action="store_true", help="keep the database and say where it is")
    return parser.parse_args()


def run() -> int:
    options = arguments()
    root = os.path.abspath(options.root)  # noqa: PTH100 - before the folder changes; no link is resolved
    folder = tempfile.mkdtemp(prefix="perdure-census-")
    back = Path.cwd()
    os.chdir(folder)  # the app's database is census.db, here
    console.print(f"Census of [bold]{root}[/], Python {platform.python_version()}", soft_wrap=True)
    try:
        return asyncio.run(main(Job(root, options.tests), options.kill_at))
    finally:
        os.chdir(back)
        if options.keep:
            console.print(
                f"\nKept in {folder}: PERDURE_URL=sqlite:///{folder}/census.db perdure run show {CENSUS}",
                soft_wrap=True,
            )
        else:
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(run())
