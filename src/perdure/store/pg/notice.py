"""Tell other processes of commits, and hear of theirs: LISTEN/NOTIFY, and asking where that does not work."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress

import asyncpg

from perdure.clock import Clock
from perdure.errors import StoreError
from perdure.store.changes import Changes
from perdure.store.operation import Row
from perdure.store.pg.address import Address
from perdure.store.pg.clock import NOW, ServerClock
from perdure.store.pg.dialect import channel, readable, within
from perdure.store.pg.errors import FAILURES
from perdure.store.pg.reader import Reader

GATHER_S = 0.003
"""Commits within this time of the last notification are told together: NOTIFY takes a lock of the whole server."""
CALM_S = 0.02
"""So long after the last notification news for watchers only wait: or many steps would make as many of them."""
MOST_NUMBERS = 300
"""Of more runs than this only "some" is said, as a notification has room for 8,000 bytes."""
POLL_QUICK_S = 0.02
POLL_SLOW_S = 0.5
POLL_LISTENING_S = 5.0
"""Between looks all the same, in case that a notification got lost."""
SLOWER = 1.5
RETRY_S = 1.0
GOODBYE_S = 1.0
"""How long closing waits for the last commits to be told."""
log = logging.getLogger("perdure.store")


class Notice:
    """
    One per store.

    A notification is a reason to look, never a fact: one that is lost, late or doubled costs time at most.

    Args:
        writer: Whose commits need not be noticed, as they are this store's own.
        clock: Is told the server's time whenever it comes with an answer.

    Attributes:
        listening: Whether notifications arrive now.
        nudged: Set when there is a reason to look at once.
        lost: Set while they do not arrive, after they did.
    """

    def __init__(self, address: Address, changes: Changes, writer: str, reader: Reader, *, clock: Clock) -> None:
        self._address = address
        self._changes = changes
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._channel = channel(address.schema)
        self._seen = within(
            address.schema,
            # NOW is a fixed text.
            f"select coalesce(sum(batch), 0)::bigint, {NOW} from perdure_writers where not starts_with(id, $1::text)",  # noqa: S608
        )
        self._ended = readable(address.schema)["ended"]
        # Whoever lives on a virtual clock is alone.
        self._tells = address.listen and not clock.virtual
        self._telling: asyncio.Task[None] | None = None
        self._speaking: asyncpg.Connection | None = None
        self._connection: asyncpg.Connection | None = None
        self.listening = False
        self._tasks: list[asyncio.Task[None]] = []
        self._changed: set[int] = set()
        self._over: set[int] = set()
        self._mail: set[int] = set()
        self._due = False
        self._something = asyncio.Event()
        self._urgent = asyncio.Event()
        self._told = asyncio.Event()
        self._told.set()
        self.nudged = asyncio.Event()
        self.lost = asyncio.Event()

    # ------------------------------------------------------------------------------------- telling
    def publish(self, changed: set[int], ended: set[int], mail: set[int], due: bool) -> None:  # noqa: FBT001 - a fact
        """After a commit of this store; other processes are told soon."""
        if not self._tells:
            return
        self._changed |= changed
        self._over |= ended
        self._mail |= mail
        self._due = self._due or due
        if self._changed or self._due:
            self._something.set()
            self._told.clear()
            if due or ended or mail:
                self._urgent.set()
            if self._telling is None:
                self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        loop, last = asyncio.get_running_loop(), float("-inf")
        while True:
            await self._something.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(last + CALM_S):
                    await self._urgent.wait()
            last = loop.time()
            await self._say()
            await asyncio.sleep(GATHER_S)

    async def _say(self) -> None:
        """What has gathered; a client that does not listen has a connection for this alone."""
        self._something.clear()
        self._urgent.clear()
        text = json.dumps([
            self._writer, self._due,
            *(sorted(found) if len(found) <= MOST_NUMBERS else None
              for found in (self._changed, self._over, self._mail)),
        ])  # fmt: skip
        self._changed, self._over, self._mail, self._due = set(), set(), set(), False
        try:
            if self._connection is None and (self._speaking is None or self._speaking.is_closed()):
                self._speaking = await self._connect()
            if self._connection is not None and self._speaking is not None:
                self._speaking.terminate()
                self._speaking = None
            connection = self._connection or self._speaking
            if connection is not None:
                await connection.execute("select pg_notify($1, $2)", self._channel, text[:7_900])
        except FAILURES as error:
            # Others find it out by asking.
            log.info("other processes could not be notified: %s", error)
            self._connection = None
        except Exception:
            # As below: whatever it is, nobody would take the place of this task.
            log.exception("other processes could not be notified")
            self._connection = None
        if not self._something.is_set():
            self._told.set()

    async def _connect(self) -> asyncpg.Connection:
        # A notification is a commit with a record in the log, and not worth a flush of the disk.
        connection = await self._address.connect(synchronous_commit="off")
        self._address.check_primary(connection)
        return connection

    # ------------------------------------------------------------------------------------- hearing
    def start(self) -> None:
        """Tell and hear from now on."""
        if not self._tasks:
            loop = asyncio.get_running_loop()
            work = [self._look()]
            if self._address.listen:
                work.append(self._listen())
            self._tasks = [loop.create_task(each) for each in work]

    def stop(self) -> None:
        """Neither tell nor hear any more."""
        for task in self._tasks:
            task.cancel()
        self._tasks = []

    async def _listen(self) -> None:
        """Keep a connection that listens, and tells."""
        said = False  # once is enough, however long the database is away
        while True:
            try:
                connection = await self._connect()
                try:
                    await self._hear(connection)
                finally:
                    said = said and not self.listening
                    self._connection, self.listening = None, False
                    connection.terminate()
                    self.lost.set()
                    self.nudged.set()
            except FAILURES as error:
                level = logging.DEBUG if said else logging.INFO
                log.log(level, "cannot listen for other processes' commits, asking for them instead: %s", error)
                said = True
            except Exception:
                log.exception("cannot listen for other processes' commits, asking for them instead")
            await asyncio.sleep(RETRY_S)

    async def _hear(self, connection: asyncpg.Connection) -> None:
        """Listen until the connection breaks."""
        gone = asyncio.Event()
        await connection.add_listener(self._channel, self._heard)
        connection.add_termination_listener(lambda *_: gone.set())
        self._connection, self.listening = connection, True
        self.lost.clear()
        self.nudged.set()
        await gone.wait()

    def _heard(self, _connection: object, _process: int, _channel: str, text: object) -> None:
        try:
            sender, due, changed, ended, mail = json.loads(str(text))
        except ValueError:
            self.nudged.set()
            return
        if sender == self._writer:
            return
        if changed is None or ended is None or mail is None:
            self._changes.committed_elsewhere()
        else:
            self._changes.committed(set(changed), dict.fromkeys(ended), set(mail), due=due, elsewhere=True)

    async def _look(self) -> None:
        """Ask whether others have committed: often after something happened, less and less while all is quiet."""
        seen, pause = -1, POLL_QUICK_S
        while True:
            self.nudged.clear()
            try:
                found = await self._count()
                if found != seen:
                    seen, pause = found, POLL_QUICK_S
                    self._changes.committed_elsewhere(await self._ends())
            except StoreError as error:
                log.warning("cannot look for other processes' commits, trying again: %s", error)
                seen = -1
            except Exception:
                log.exception("cannot look for other processes' commits, trying again")
                seen = -1
            pause = min(pause * SLOWER, POLL_SLOW_S)
            wait = POLL_LISTENING_S if self.listening else pause
            try:
                async with asyncio.timeout(wait):
                    await self.nudged.wait()
            except TimeoutError:
                pass

    async def _count(self) -> int:
        """A number that others' commits change; the server's time comes with it."""
        clock = self._clock
        before = clock.reading() if isinstance(clock, ServerClock) else 0
        ((found, theirs),) = await self._reader.fetch(self._seen, (self._writer,))
        if isinstance(clock, ServerClock):
            clock.told(before, theirs)
        return int(found)

    async def _ends(self) -> set[int]:
        awaited = self._changes.awaited
        rows: list[Row] = await self._reader.fetch(self._ended, (json.dumps(awaited),)) if awaited else []
        return {number for (number,) in rows}

    # ---------------------------------------------------------------------------------------- end
    async def close(self) -> None:
        """Tell what has not been told yet, and say goodbye to the server."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self._told.wait()
        tasks = self._tasks
        self.stop()
        if self._telling is not None:
            tasks.append(self._telling)
            self._telling.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._speaking is not None:
            self._speaking.terminate()

    def abandon(self) -> None:
        """Let go of the connection."""
        self.stop()
        if self._telling is not None:
            self._telling.cancel()
        for connection in (self._connection, self._speaking):
            if connection is not None:
                connection.terminate()
