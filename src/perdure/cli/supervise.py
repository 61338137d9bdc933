"""Several worker processes under one: started, named, started again when they die, told to stop together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from perdure.cli.exits import KEEP_DYING, UNEXPECTED, USAGE
from perdure.clock import elapsed
from perdure.worker.stop import NOT_DRAINED, StopSignals

SETTLED_S = 10.0
"""A process that dies before that has died at once."""
MOST_AT_ONCE = 5
"""So often in a row, and there is no sense in starting it again."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
log = logging.getLogger("perdure.cli")


class Supervisor:
    """
    Keeps a number of processes running.

    Each is a new interpreter, in a process group of its own, so that Ctrl-C reaches this process alone. Its standard
    input is a pipe from here, which ends with this process: see `orphaned`.

    Args:
        command: Gives the words to start the process of a number, from 1.
        count: How many.
        say: Told what happens: an event's name, a sentence, and its facts.
    """

    def __init__(self, command: Callable[[int], Sequence[str]], count: int, say: Callable[..., None]) -> None:
        self._command = command
        self._count = count
        self._say = say
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._code = 0

    async def run(self) -> int:
        """
        Until SIGTERM or SIGINT, which is passed on, or until it is given up.

        Returns:
            The exit code: 0 when all have drained; otherwise the first that was not 0, or `KEEP_DYING`.
        """
        with StopSignals(at_once=self._kill) as stop:
            keepers = [asyncio.ensure_future(self._keep(number)) for number in range(1, self._count + 1)]
            told = asyncio.ensure_future(stop.told.wait())
            given_up = asyncio.ensure_future(self._stopping.wait())
            # None of the keepers ends before, unless by a mistake, which must not leave fewer processes in silence.
            await asyncio.wait((told, given_up, *keepers), return_when=asyncio.FIRST_COMPLETED)
            self._stopping.set()
            for waiting in (told, given_up):
                waiting.cancel()
            if stop.by:
                text = f"{stop.by}: {len(self._running)} processes are told to drain."
                self._say("draining", text, signal=stop.by, processes=len(self._running))
            for process in self._running.values():
                _send(process, signal.SIGTERM)
            await asyncio.wait(keepers)
            for process in self._running.values():  # those whose keepers have gone
                await process.wait()
            await asyncio.gather(*keepers)
        return self._code

    async def _keep(self, number: int) -> None:
        at_once = 0
        while not self._stopping.is_set():
            begun = elapsed()
            end, code = await self._once(number)
            if self._stopping.is_set():
                self._ended(end, code)
                return
            at_once = 0 if elapsed() - begun >= SETTLED_S else at_once + 1
            if code == USAGE or at_once >= MOST_AT_ONCE:
                self._give_up(number, end, code)
                return
            pause = min(FIRST_PAUSE_S * 2 ** (at_once - 1), LONGEST_PAUSE_S) if at_once else 0.0
            log.warning("%s; started again in %g s", end, pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _once(self, number: int) -> tuple[str, int]:
        """Start a process, and wait for its end; returns that in words, and the exit code."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command(number), stdin=asyncio.subprocess.PIPE, process_group=0
            )
        except OSError as error:  # no memory, too many processes: as if it had died at once
            return f"process {number} could not be started ({error})", UNEXPECTED
        self._running[number] = process
        if self._stopping.is_set():
            _send(process, signal.SIGTERM)  # it came between the two
        self._say("started", f"Process {number} is {process.pid}.", process=number, pid=process.pid)
        code = await process.wait()
        del self._running[number]
        return f"process {number} ({process.pid}) ended by {named(code)}", code

    def _ended(self, end: str, code: int) -> None:
        if code not in {0, -signal.SIGTERM}:  # before a worker hears signals it has nothing to drain
            log.warning("%s instead of draining", end)
            self._code = self._code or (code if code > 0 else NOT_DRAINED)

    def _give_up(self, number: int, end: str, code: int) -> None:
        if code == USAGE:
            log.error("process %d cannot be what was asked for, so all are stopped", number)
            self._code = USAGE
        else:
            log.error(
                "%s, like %d before it within %g s of their start; all are stopped", end, MOST_AT_ONCE - 1, SETTLED_S
            )
            self._code = KEEP_DYING
        self._stopping.set()

    def _kill(self) -> None:
        for process in tuple(self._running.values()):
            _send(process, signal.SIGKILL)


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def named(code: int) -> str:
    """An exit code as Python gives it, in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:  # those for real time have no names
        return f"signal {-code}"


def orphaned(tell: Callable[[], None]) -> None:
    """
    Call this when the supervisor of this process is gone, however it went.

    Without it, the processes of a supervisor that was killed would work on, and nobody could tell them to stop.
    """
    loop = asyncio.get_running_loop()

    def heard() -> None:
        if not os.read(0, 1):
            loop.remove_reader(0)
            log.warning("the supervisor of this process is gone; draining")
            tell()

    loop.add_reader(0, heard)


def worker_command(app: str, process: str, options: dict[str, Any], flags: Sequence[str]) -> list[str]:
    """
    The words that start one process of `perdure worker`.

    Args:
        process: Its name.
        options: By their names on the command line; those that are None are left out.
    """
    words = [sys.executable, "-m", "perdure.cli", "worker", app, "--processes", "1", "--process", process, *flags]
    for option, value in options.items():
        if value is not None:
            words += [option, str(value)]
    return words
