"""The ceiling on Postgres, through asyncpg: what has gathered in one commit, or each row in its own."""

import asyncio
from typing import Any, Self

import asyncpg

from ceiling import END, START, STEP, Write, check, settle

CONNECTIONS = 10
SCHEMA = """
create table run(id bigint primary key, uid text unique, name text, input text, status text, output text);
create table log(id bigserial primary key, run bigint not null, seq int not null, name text, out text);
"""
ONE = {
    START: "insert into run(id, uid, name, input, status) values ($1, $2, $3, $4, 'running')",
    STEP: "insert into log(run, seq, name, out) values ($1, $2, $3, $4)",
    END: "update run set status = 'completed', output = $1 where id = $2",
}
MANY = {
    START: "insert into run(id, uid, name, input, status) "
    "select i, u, n, p, 'running' from unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) as g(i, u, n, p)",
    STEP: "insert into log(run, seq, name, out) select * from unnest($1::bigint[], $2::int[], $3::text[], $4::text[])",
    END: "update run set status = 'completed', output = g.o from unnest($1::text[], $2::bigint[]) as g(o, i) "
    "where id = g.i",
}


class PostgresWriter:
    """Commits rows; subclasses say how many at a time."""

    connections = CONNECTIONS

    def __init__(self, connections: list[asyncpg.Connection]) -> None:
        """Start with nothing pending."""
        self._all = connections
        self._free: asyncio.Queue[asyncpg.Connection] = asyncio.Queue()
        for connection in connections:
            self._free.put_nowait(connection)
        self._tasks: set[asyncio.Task[None]] = set()
        self.batches: list[list[int]] = []

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to a new database; without a pool, which would ask for more between two statements."""
        connections = [await asyncpg.connect(url) for _ in range(cls.connections)]
        await connections[0].execute(SCHEMA)
        return cls(connections)

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Close the connections, after checking that no two rows of one run shared a commit."""
        for connection in self._all:
            await connection.close()
        check(self.batches)


class Each(PostgresWriter):
    """Every row is a statement and a commit, on whichever connection is free."""

    def write(self, run: int, kind: str, *values: Any) -> asyncio.Future[None]:
        """Commit the row."""
        landed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._begin(self._commit(Write(run, kind, values, landed)))
        return landed

    async def _commit(self, write: Write) -> None:
        connection = await self._free.get()
        # Prepared by the connection itself, once per statement.
        await connection.fetch(ONE[write.kind], *write.values)
        self._free.put_nowait(connection)
        self.batches.append([write.run])
        settle([write])


class Batch(PostgresWriter):
    """One connection; a batch is what was written during the commit before, a statement for each kind of row."""

    connections = 1

    def __init__(self, connections: list[asyncpg.Connection]) -> None:
        """Start with nothing pending."""
        super().__init__(connections)
        self._pending: list[Write] = []
        self._busy = False

    def write(self, run: int, kind: str, *values: Any) -> asyncio.Future[None]:
        """Add the row to the next batch."""
        landed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append(Write(run, kind, values, landed))
        if not self._busy:
            self._busy = True
            self._begin(self._commit())
        return landed

    async def _commit(self) -> None:
        (connection,) = self._all
        while self._pending:
            batch, self._pending = self._pending, []
            kinds = {write.kind for write in batch}
            if len(kinds) == 1:
                await self._run(connection, kinds.pop(), batch)
            else:
                async with connection.transaction():
                    for kind in kinds:
                        await self._run(connection, kind, [write for write in batch if write.kind == kind])
            self.batches.append([write.run for write in batch])
            settle(batch)
            await asyncio.sleep(0)
        self._busy = False

    async def _run(self, connection: asyncpg.Connection, kind: str, batch: list[Write]) -> None:
        await connection.fetch(MANY[kind], *map(list, zip(*[write.values for write in batch], strict=True)))
