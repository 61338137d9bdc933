"""A subprocess that outlives us: its output goes to a file, which is followed."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from perdure.errors import SourceFailed, SourceGone
from perdure.model.check import check_number
from perdure.turn.supervise import Supplied

# What is run notes its group, does the work in the background, so that it is nobody's child, and notes how that ended.
_SHELL = 'echo $$ > "$0.pid"; { "$@"; code=$?; echo $code > "$0.tmp"; mv "$0.tmp" "$0.exit"; } &'
_CHUNK = 64 * 1024
_TAIL = 2_000


class SpooledProcess:
    """
    An adapter: each line that a program writes to its standard output is an event, whose id is where the line ends.

    The program has a session of its own, so it goes on when the worker dies, and whoever takes the turn over on the
    same machine follows its file. Files stay until somebody removes the folder.

    Args:
        command: The program and its arguments.
        folder: Where the files are put; on the same machine for all workers.
        parse: Makes an event's value of a line; the line itself when left out.
        environment: Of the program; ours when left out.
        every: Seconds between two looks at the file.
        event_bytes: The longest line; a longer one is SourceFailed.
        grace: Seconds that `stop` gives the program to end by itself.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: str | os.PathLike[str],
        *,
        parse: Callable[[str], Any] = str,
        environment: Mapping[str, str] | None = None,
        every: float = 0.02,
        event_bytes: int = 1024 * 1024,
        grace: float = 5.0,
    ) -> None:
        check_number("SpooledProcess(event_bytes)", event_bytes, 1)
        check_number("SpooledProcess(grace)", grace, 0, whole=False)
        self._command = list(command)
        self._folder = Path(folder)
        self._parse = parse
        self._environment = environment
        self._every = every
        self._event_bytes = event_bytes
        self._grace = grace

    async def start(self, key: str) -> AsyncGenerator[Supplied, None]:
        """See `Adapter.start`. Work that was begun under this key, and goes on or has ended, is not begun again."""
        spool = str(self._folder / hashlib.sha256(key.encode()).hexdigest()[:32])
        self._folder.mkdir(parents=True, exist_ok=True)
        self._begin(spool)
        yield Supplied(handle={"spool": spool})
        async for supplied in self.attach({"spool": spool}, None):
            yield supplied

    async def attach(self, handle: Any, after: str | None) -> AsyncGenerator[Supplied, None]:
        """See `Adapter.attach`."""
        with closing(_Tail(self._command[0], handle["spool"], int(after or 0))) as tail:
            over = False
            while not over:
                over = not tail.written
                for lines in tail.chunks():
                    for line, place in lines:
                        yield self._event(line, place)
                    self._check_length(tail.rest)
                    await asyncio.sleep(0)  # a long file leaves time for others
                if not over:
                    await asyncio.sleep(self._every)
            if tail.rest and _ended(handle["spool"]):  # a last line without an end
                yield self._event(tail.rest, tail.place + len(tail.rest))
            tail.check()

    def _event(self, line: bytes | bytearray, place: int) -> Supplied:
        self._check_length(line)
        return Supplied(self._parse(line.decode("utf-8", "replace")), str(place))

    def _check_length(self, line: bytes | bytearray) -> None:
        if len(line) > self._event_bytes:
            problem = f"a line of it has more than {self._event_bytes:,} bytes; write shorter ones, or set event_bytes="
            raise SourceFailed(self._command[0], problem)

    async def stop(self, handle: Any) -> None:
        """
        End the program and what it has started, if it runs: for a turn's ``stop``.

        What has not ended by itself ``grace`` seconds after it was asked to is killed.

        Args:
            handle: As the turn has kept it; with None, nothing was begun that anybody knows of.
        """
        if handle is None:
            return
        with suppress(SourceGone), closing(_Tail(self._command[0], handle["spool"], 0)) as tail:
            tail.signal(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._grace):
                    while tail.written:  # noqa: ASYNC110 - another program's lock can only be looked at
                        await asyncio.sleep(self._every)
            tail.signal(signal.SIGKILL)

    def _begin(self, spool: str) -> None:
        """Run the program, unless it runs or has ended: whoever writes the file holds a lock on it."""
        if _ended(spool):
            return
        with Path(f"{spool}.out").open("ab") as output, Path(f"{spool}.err").open("ab") as errors:
            try:
                fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            output.truncate(0)
            errors.truncate(0)
            # The program inherits the file, and with it the lock.
            subprocess.run(  # noqa: S603 - the program that the user names
                ["/bin/sh", "-c", _SHELL, spool, *self._command], stdin=subprocess.DEVNULL, stdout=output,
                stderr=errors, start_new_session=True, env=self._environment, check=True,
            )  # fmt: skip


class _Tail:
    """
    Reads what a program writes: a local file, so that nobody waits long for it.

    Attributes:
        place: Where the last line that was given ends.
        rest: What was read behind it, when all chunks are taken.
    """

    def __init__(self, name: str, spool: str, place: int) -> None:
        self._name = name
        self._spool = spool
        self.place = place
        self.rest = bytearray()
        try:
            self._output = Path(f"{spool}.out").open("rb")  # noqa: SIM115 - closed by close
        except FileNotFoundError:
            raise SourceGone(name, "its file is not there") from None
        self._output.seek(place)

    @property
    def written(self) -> bool:
        """Whether the program still runs, and so has its file open."""
        if _ended(self._spool):
            return False
        try:
            fcntl.flock(self._output, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._output, fcntl.LOCK_UN)
        return False

    def chunks(self) -> Iterator[list[tuple[bytes, int]]]:
        """What there is by now, piece by piece: the lines that end in it, each with the place of its end."""
        while chunk := self._output.read(_CHUNK):
            *ends, rest = chunk.split(b"\n")
            lines = [self._line(end) for end in ends]
            self.rest += rest
            yield lines

    def _line(self, end: bytes) -> tuple[bytes, int]:
        line = bytes(self.rest) + end
        self.rest.clear()
        self.place += len(line) + 1
        return line, self.place

    def check(self) -> None:
        """
        See how the program ended.

        Raises:
            SourceGone: It was killed.
            SourceFailed: It says so.
        """
        if not _ended(self._spool):
            raise SourceGone(self._name, "it was killed, and nobody knows how far it was")
        code = int(Path(f"{self._spool}.exit").read_text(encoding="ascii"))
        if code:
            raise SourceFailed(self._name, f"it ended with exit code {code}: {self._errors()}", over=True)

    def _errors(self) -> str:
        """The end of what it says about that."""
        with Path(f"{self._spool}.err").open("rb") as errors:
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - _TAIL))
            return errors.read().decode("utf-8", "replace").strip()

    def signal(self, number: signal.Signals) -> None:
        """Tell the program and what it has started, if it runs."""
        if self.written:
            with suppress(OSError, ValueError):
                os.killpg(int(Path(f"{self._spool}.pid").read_text(encoding="ascii")), number)

    def close(self) -> None:
        """Let go of the file."""
        self._output.close()


def _ended(spool: str) -> bool:
    return Path(f"{spool}.exit").exists()
