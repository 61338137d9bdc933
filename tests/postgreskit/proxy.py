"""Between perdure and Postgres: connections that break at the worst moment."""

import asyncio
from pathlib import Path
from urllib.parse import quote

SOCKET = ".s.PGSQL.5432"
READ_ONLY = "25006"


def restricted(hello: bytes) -> bytes:
    """A client's first message, as of one that wants to write nothing."""
    body = hello[4:-1] + b"options\0-c default_transaction_read_only=on\0\0"
    return (len(body) + 4).to_bytes(4) + body


def refusal(state: str) -> bytes:
    """What Postgres says to a client that it sends away."""
    fields = f"SFATAL\0VFATAL\0C{state}\0Msent away by a test\0\0".encode()
    return b"E" + (len(fields) + 4).to_bytes(4) + fields


class Proxy:
    """
    Passes on what both sides say.

    Attributes:
        cut: "request": the next thing that the client says does not reach the server. "answer": it does, and
            what the server answers does not reach the client. Each holds once; then "" again.
        skip: So many of them are let through first.
        cuts: How many connections were cut.
        detours: What the next connections meet instead, one each: an SQLSTATE refuses it, READ_ONLY lets it write
            nothing, a folder has the socket of another server.
    """

    def __init__(self, folder: Path, server: Path) -> None:
        self.folder = folder
        self._server = server
        self._tasks: set[asyncio.Task] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.cut = ""
        self.skip = 0
        self.cuts = 0
        self.detours: list[str | Path] = []

    def leading(self, url: str) -> str:
        """A URL of the server, through here."""
        return url.replace(quote(str(self._server), safe=""), quote(str(self.folder), safe=""))

    async def start(self) -> None:
        self._listening = await asyncio.start_unix_server(self._accept, str(self.folder / SOCKET))

    async def stop(self) -> None:
        self._listening.close()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut_all(self) -> None:
        """Cut every connection there is, whatever is on its way."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        detour = self.detours.pop(0) if self.detours else self._server
        hello = b""
        if isinstance(detour, str):
            hello = await reader.read(1 << 16)
            if detour != READ_ONLY:
                writer.write(refusal(detour))
                writer.close()
                return
            hello, detour = restricted(hello), self._server
        try:
            there, back = await asyncio.open_unix_connection(str(detour / SOCKET))
        except OSError:
            writer.close()
            return
        back.write(hello)
        self._writers |= {writer, back}
        for source, target, kind in ((reader, back, "request"), (there, writer, "answer")):
            task = asyncio.create_task(self._pass_on(source, target, kind, (writer, back)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source, target, kind, both) -> None:
        try:
            while data := await source.read(1 << 16):
                if self.cut == kind and self.skip:
                    self.skip -= 1
                elif self.cut == kind:
                    self.cut = ""
                    self.cuts += 1
                    break
                target.write(data)
                await target.drain()
        except (ConnectionError, OSError):
            pass
        for writer in both:
            writer.close()
