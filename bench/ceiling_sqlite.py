"""The ceiling on SQLite: commits on the event loop's thread, or on a writer thread."""

import asyncio
import queue
import sqlite3
import threading
from pathlib import Path
from typing import Any

from ceiling import END, START, STEP, Write, check, settle

SCHEMA = """
create table run(id integer primary key, uid text unique, name text, input text, status text, output text);
create table log(id integer primary key, run integer not null, seq integer not null, name text, out text);
"""
SQL = {
    START: "insert into run(id, uid, name, input, status) values (?, ?, ?, ?, 'running')",
    STEP: "insert into log(run, seq, name, out) values (?, ?, ?, ?)",
    END: "update run set status = 'completed', output = ? where id = ?",
}


class SqliteWriter:
    """Commits rows in batches; subclasses say on which thread."""

    def __init__(self, path: Path) -> None:
        """Open a new file at the durability that every peer gets."""
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=full")
        self._db.executescript(SCHEMA)
        self._loop = asyncio.get_running_loop()
        self.batches: list[list[int]] = []

    def _commit(self, batch: list[Write]) -> None:
        execute = self._db.execute
        execute("begin immediate")
        for write in batch:
            execute(SQL[write.kind], write.values)
        execute("commit")
        self.batches.append([write.run for write in batch])

    async def close(self) -> None:
        """Close the file, after checking that no two rows of one run shared a commit."""
        self._db.close()
        check(self.batches)


class Inline(SqliteWriter):
    """Commits on the event loop's thread, once per turn of the loop that has rows."""

    def __init__(self, path: Path) -> None:
        """Start with nothing pending."""
        super().__init__(path)
        self._pending: list[Write] = []

    def write(self, run: int, kind: str, *values: Any) -> asyncio.Future[None]:
        """Add the row to the batch that this turn of the loop commits at its end."""
        landed: asyncio.Future[None] = self._loop.create_future()
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(Write(run, kind, values, landed))
        return landed

    def _flush(self) -> None:
        batch, self._pending = self._pending, []
        self._commit(batch)
        settle(batch)


class Threaded(SqliteWriter):
    """Commits on a thread of its own; a batch is what queued during the commit before."""

    def __init__(self, path: Path) -> None:
        """Start the thread."""
        super().__init__(path)
        self._queue: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def write(self, run: int, kind: str, *values: Any) -> asyncio.Future[None]:
        """Hand the row to the thread."""
        landed: asyncio.Future[None] = self._loop.create_future()
        self._queue.put(Write(run, kind, values, landed))
        return landed

    def _run(self) -> None:
        while first := self._queue.get():
            batch = [first]
            while not self._queue.empty():
                if (more := self._queue.get()) is None:
                    return
                batch.append(more)
            self._commit(batch)
            self._loop.call_soon_threadsafe(settle, batch)

    async def close(self) -> None:
        """Stop the thread, then the rest."""
        self._queue.put(None)
        self._thread.join()
        await super().close()
