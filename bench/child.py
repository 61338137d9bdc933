"""Processes of a measurement: starting them, hearing from them, killing them, and counting what they did."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from meter import Figures

POLL_S = 0.0005


class AppendLog:
    """Notes across processes and kills: one short O_APPEND write each. Means nothing while it is not open."""

    def __init__(self) -> None:
        self._fd: int | None = None

    def open(self, path: str | Path) -> None:
        """Begin to note, in this file; it is created when missing."""
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def _note(self, line: bytes) -> None:
        if self._fd is not None:
            os.write(self._fd, line)


class StepLog(AppendLog):
    """Counts executed step bodies."""

    def hit(self, step: int) -> None:
        """Say that the body of this step runs now."""
        self._note(b"%d\n" % step)

    @staticmethod
    def read(path: str | Path) -> list[int]:
        """The steps in the order in which their bodies ran."""
        return [int(line) for line in Path(path).read_bytes().split(b"\n")[:-1]]


def spawn(role: str, *args: object) -> subprocess.Popen[str]:
    """Start this same script once more, in a role of its own; its stdout is ours to read."""
    command = [sys.executable, str(Path(sys.argv[0]).resolve()), "--role", role, *map(str, args)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, bufsize=1)


def say(**figures: Any) -> None:
    """Tell the parent that this role is done."""
    print("DONE " + json.dumps(figures), flush=True)


def hear(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for what the child says; raises RuntimeError when it ends without a word."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("DONE "):
            said: dict[str, Any] = json.loads(line[5:])
            return said
    problem = f"child ended without a result, exit code {process.wait()}"
    raise RuntimeError(problem)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL, and wait until it is gone."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    process.wait()


def ask(role: str, *args: object) -> dict[str, Any]:
    """What a child in this role says, after which it is ended."""
    process = spawn(role, *args)
    try:
        return hear(process)
    finally:
        kill(process)


def kill_and_recover(
    log: Path, role: str, args: tuple[object, ...], *, steps: int, kill_at: int, limit_s: float = 300
) -> Figures:
    """
    Kill a run in the middle, start its process again, and time the recovery.

    Args:
        log: The StepLog that the bodies of the run write to.
        role: Of this script; it starts the run or, when the store knows it already, waits for it.
        args: Arguments of the role.
        steps: Steps of the run.
        kill_at: Step bodies executed when the first process gets its SIGKILL.
        limit_s: Give up when the first process needs longer.

    Returns:
        ``recover_s`` from the start of the second process to the result in it, interpreter start and
        imports included; how many bodies ran twice (``steps_repeated``) or never (``steps_lost``).
    """
    log.touch()
    first = spawn(role, *args)
    give_up = time.monotonic() + limit_s
    while log.stat().st_size < 2 * kill_at or len(StepLog.read(log)) < kill_at:
        if first.poll() is not None or time.monotonic() > give_up:
            kill(first)
            problem = "the first process did not reach the kill point"
            raise RuntimeError(problem)
        time.sleep(POLL_S)
    kill(first)
    before = len(StepLog.read(log))
    started = time.perf_counter()
    second = spawn(role, *args)
    try:
        said = hear(second)
        recover_s = time.perf_counter() - started
    finally:
        kill(second)
    ran = StepLog.read(log)
    return {
        "recover_s": round(recover_s, 3),
        "steps_before_kill": before,
        "steps_repeated": len(ran) - len(set(ran)),
        "steps_lost": steps - len(set(ran)),
        **said,
    }


def import_ms(package: str, times: int) -> Figures:
    """Time of ``import package`` in fresh interpreters with warm bytecode: median, milliseconds."""
    code = f"import time; t = time.perf_counter()\nimport {package}\nprint((time.perf_counter() - t) * 1e3)"
    took = []
    for _ in range(times + 1):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        took.append(float(done.stdout))
    return {"import_ms": round(statistics.median(took[1:]), 1)}
