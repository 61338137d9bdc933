"""A subprocess that outlives us: its output goes to a file, which is followed."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from perdure.errors import SourceFailed, SourceGone
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
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: str | os.PathLike[str],
        *,
        parse: Callable[[str], Any] = str,
        environment: Mapping[str, str] | None = None,
        every: float = 0.02,
    ) -> None:
        self._command = list(command)
        self._folder = Path(folder)
        self._parse = parse
        self._environment = environment
        self._every = every

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
                while lines := tail.lines():
                    for line, place in lines:
                        yield Supplied(self._parse(line.decode("utf-8", "replace")), str(place))
                if not over:
                    await asyncio.sleep(self._every)
            for line, place in tail.rest():
                yield Supplied(self._parse(line.decode("utf-8", "replace")), str(place))
            tail.check()

    async def stop(self, handle: Any) -> None:
        """End the program, if it runs: for a turn's ``stop``."""
        with suppress(SourceGone), closing(_Tail(self._command[0], handle["spool"], 0)) as tail:
            tail.kill()

    def _begin(self, spool: str) -> None:
        """Run the program, unless it runs or has ended: whoever writes the file holds a lock on it."""
        if _ended(spool):
            return
        with Path(f"{spool}.out").open("ab") as output, Path(f"{spool}.err").open("wb") as errors:
            try:
                fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            output.truncate(0)
            # The program inherits the file, and with it the lock.
            subprocess.run(  # noqa: S603 - the program that the user names
                ["/bin/sh", "-c", _SHELL, spool, *self._command], stdin=subprocess.DEVNULL, stdout=output,
                stderr=errors, start_new_session=True, env=self._environment, check=True,
            )  # fmt: skip


class _Tail:
    """Reads what a program writes: a local file, so that nobody waits long for it."""

    def __init__(self, name: str, spool: str, place: int) -> None:
        self._name = name
        self._spool = spool
        self._place = place
        self._rest = b""
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

    def lines(self) -> list[tuple[bytes, int]]:
        """The next whole lines, each with the place of its end; none when there are none yet."""
        while chunk := self._output.read(_CHUNK):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            if lines:
                return [(line, self._passed(line, 1)) for line in lines]
        return []

    def rest(self) -> list[tuple[bytes, int]]:
        """A last line without an end."""
        return [(self._rest, self._passed(self._rest, 0))] if self._rest and _ended(self._spool) else []

    def _passed(self, line: bytes, end: int) -> int:
        self._place += len(line) + end
        return self._place

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
            errors = Path(f"{self._spool}.err").read_text(encoding="utf-8", errors="replace")[-_TAIL:].strip()
            raise SourceFailed(self._name, f"it ended with exit code {code}: {errors}")

    def kill(self) -> None:
        """End the program and what it has started, if it runs."""
        if self.written:
            with suppress(OSError, ValueError):
                os.killpg(int(Path(f"{self._spool}.pid").read_text(encoding="ascii")), signal.SIGTERM)

    def close(self) -> None:
        """Let go of the file."""
        self._output.close()


def _ended(spool: str) -> bool:
    return Path(f"{spool}.exit").exists()
