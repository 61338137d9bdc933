"""A pooler in transaction mode, as PgBouncer is one: what perdure leaves on a connection the next client finds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from postgreskit.proxy import SOCKET, refusal

KNOWN = {
    "user",
    "database",
    "client_encoding",
    "datestyle",
    "timezone",
    "standard_conforming_strings",
    "application_name",
}
"""What PgBouncer lets a client ask for when it connects; it refuses anything else."""
LEFT = """
select coalesce(string_agg(what, ', '), '') from (
  select 'statement ' || name as what from pg_prepared_statements
  union all select 'setting ' || name from pg_settings where source = 'session'
  union all select 'channel ' || c from pg_listening_channels() c
  union all select 'lock ' || locktype from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'
  union all select 'table ' || relname from pg_class where relnamespace = pg_my_temp_schema()
) found
"""
"""What a session has that outlives its transactions."""


class Session:
    """A connection to the server, or a client's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def message(self) -> bytes:
        kind = await self.reader.readexactly(1)
        size = await self.reader.readexactly(4)
        return kind + size + await self.reader.readexactly(int.from_bytes(size) - 4)

    async def hello(self) -> dict[str, str]:
        """Who a client is, and what it asks for."""
        size = int.from_bytes(await self.reader.readexactly(4))
        words = (await self.reader.readexactly(size - 4))[4:].decode().rstrip("\0").split("\0")
        return dict(zip(words[::2], words[1::2], strict=True))


class Lent:
    """
    A server's session while a client has it.

    Attributes:
        answers: So many are still to come before the client may have ended its transaction.
        asking: Whether the client is in the midst of asking for one more.
        over: Whether it has been given back.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.answers = 0
        self.asking = self.over = False


class Pooler:
    """
    Lends a client a session of the server for one transaction; for the next one it gets another.

    Attributes:
        lent: How many transactions there were.
        refused: What clients asked for that a pooler cannot give.
    """

    def __init__(self, folder: Path, server: Path, *, sessions: int = 3) -> None:
        self.folder = folder
        self._server = server
        self._count = sessions
        self._free: asyncio.Queue[Session] = asyncio.Queue()
        self._welcome = b""
        self._tasks: set[asyncio.Task] = set()
        self.lent = 0
        self.refused: list[str] = []

    def leading(self, url: str) -> str:
        """A URL of the server, through here."""
        return url.replace(quote(str(self._server), safe=""), quote(str(self.folder), safe="")) + "&pooler=transaction"

    async def start(self) -> None:
        for _ in range(self._count):
            self._free.put_nowait(await self._connect())
        self._listening = await asyncio.start_unix_server(self._accept, str(self.folder / SOCKET))

    async def stop(self) -> list[str]:
        """Once all clients have left; what they have left behind on the server's sessions."""
        self._listening.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        left = []
        for _ in range(self._count):
            session = await self._free.get()
            query = LEFT.encode() + b"\0"
            session.writer.write(b"Q" + (len(query) + 4).to_bytes(4) + query)
            while (message := await session.message())[:1] != b"Z":
                if message[:1] == b"D":
                    left.append(message[11:].decode())
            session.writer.close()
        return [what for what in left if what]

    async def _connect(self) -> Session:
        session = Session(*await asyncio.open_unix_connection(str(self._server / SOCKET)))
        hello = (3 << 16).to_bytes(4) + b"user\0postgres\0database\0postgres\0\0"
        session.writer.write((len(hello) + 4).to_bytes(4) + hello)
        welcome = b""
        while (message := await session.message())[:1] != b"Z":
            welcome += message if message[:1] in b"RSK" else b""
        self._welcome = welcome + message
        return session

    # -------------------------------------------------------------------------------------- clients
    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        client = Session(reader, writer)
        # A request to cancel a statement is no text; it is not passed on.
        with suppress(ConnectionError, asyncio.IncompleteReadError, UnicodeDecodeError):
            asked = await client.hello()
            if unknown := {name.lower() for name in asked} - KNOWN:
                self.refused.append(f"startup parameters {sorted(unknown)}")
                writer.write(refusal("08P01"))
            else:
                writer.write(self._welcome)
                await self._serve(client)
        writer.close()

    async def _serve(self, client: Session) -> None:
        lent = answering = None
        try:
            while (message := await client.message())[:1] != b"X":
                if message[:1] == b"P" and message[5:6] != b"\0":
                    self.refused.append(f"a prepared statement with a name: {message[5:60]!r}")
                if lent is None or lent.over:
                    lent = Lent(await self._free.get())
                    self.lent += 1
                    answering = asyncio.create_task(self._answer(client, lent))
                ends = message[:1] in b"SQ"
                lent.answers += ends
                lent.asking = not ends
                lent.session.writer.write(message)
        finally:
            if lent is not None and not lent.over:
                # In the middle of a transaction: nobody else may have what is left of it.
                answering.cancel()
                lent.session.writer.close()
                self._free.put_nowait(await self._connect())

    async def _answer(self, client: Session, lent: Lent) -> None:
        """Pass on what the server says, until the transaction is over."""
        while not lent.over:
            message = await lent.session.message()
            client.writer.write(message)
            if message[:1] == b"Z":
                lent.answers -= 1
                lent.over = message[5:] == b"I" and not lent.answers and not lent.asking
        self._free.put_nowait(lent.session)


@asynccontextmanager
async def pooled(folder: Path, server: Path, url: str, *, sessions: int = 3) -> AsyncIterator[str]:
    """The URL through a pooler; at the end nobody has asked it for what it cannot give, or left anything behind."""
    pooler = Pooler(folder, server, sessions=sessions)
    await pooler.start()
    yield pooler.leading(url)
    assert await pooler.stop() == []
    assert pooler.refused == []
    assert pooler.lent > sessions
