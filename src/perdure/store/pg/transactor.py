"""Operations with a function in the middle of their transaction, each on a connection of its own."""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import nullcontext

import asyncpg

from perdure import ids
from perdure.clock import Clock, standing_still
from perdure.errors import StoreError
from perdure.store.batch import Probe
from perdure.store.operation import Guarded, Operation, Outcome, Row, is_stale
from perdure.store.pg.address import Address
from perdure.store.pg.dialect import within
from perdure.store.pg.errors import FAILURES, mapped
from perdure.store.pg.function import functions
from perdure.store.pg.lasting import Lasting, idle
from perdure.store.pg.transaction import Theirs, run_body
from perdure.store.pg.work import tuples, work

MOST = 4
"""Functions that run at a time; more wait for a connection. The writer may have one of its own."""


class Lane:
    """A connection, under a name of its own as a writer: what it has done is kept until the next that it does."""

    def __init__(self, address: Address, clock: Clock, name: str) -> None:
        self.name = name
        self.batch = 0
        self.connection = Lasting(address, clock)


class Transactor:
    """
    Runs them, a few at a time. One is done once, whatever happens to its connection, as a batch is.

    It reads at REPEATABLE READ: nothing that it has seen may change until its commit, also rows that are not there
    yet; if something does, all of it is done again.

    Args:
        probe: See `Writer`.

    Attributes:
        name: Its connections are called after it.
    """

    def __init__(self, address: Address, clock: Clock, probe: Probe | None = None) -> None:
        self._address = address
        self._clock = clock
        self.name = uuid.UUID(int=ids.Random(ids.seed()).getrandbits(128)).hex
        self._probe = probe
        self._lanes: list[Lane] = []
        self._idle: list[Lane] = []
        self._room = asyncio.Semaphore(MOST)
        schema = address.schema
        self._run = f"select {functions(schema).run}($1::jsonb)"
        self._mark = within(
            schema,
            "insert into perdure_writers as w (id, batch, at) values ($1, $2, $3) "
            "on conflict (id) do update set batch = excluded.batch, answer = null, at = excluded.at "
            "where w.batch < excluded.batch returning true",
        )
        self._keep = within(schema, "update perdure_writers set answer = $2::json where id = $1")
        self._answer = within(schema, "select answer from perdure_writers where id = $1")

    async def run(self, operation: Operation) -> Outcome:
        """
        Commit one operation with its function.

        Returns:
            Its rows; or what its function raised, or what kept it from being stored. Then nothing of it was.
        """
        # What follows behind guards is a part of the writer's batch, which would keep all waiting for the functions.
        room = nullcontext() if isinstance(operation.body, Guarded) else self._room
        async with room:
            if self._probe:
                self._probe("before_commit", [operation])
            lane = self._lane()
            lane.batch += 1
            try:
                rows = await lane.connection.insist(lambda connection: self._transact(lane, connection, operation))
                outcome: Outcome = rows, None
            except Theirs as error:
                outcome = [], error.cause
            except (StoreError, *FAILURES) as error:
                outcome = [], mapped(error, self._address.where)
            self._idle.append(lane)
            if self._probe:
                self._probe("after_commit", [operation])
            return outcome

    def _lane(self) -> Lane:
        if self._idle:
            return self._idle.pop()
        self._lanes.append(Lane(self._address, self._clock, f"{self.name}/{len(self._lanes)}"))
        return self._lanes[-1]

    async def _transact(self, lane: Lane, connection: asyncpg.Connection, operation: Operation) -> list[Row]:
        transaction = connection.transaction(isolation="repeatable_read")
        with standing_still(self._clock):
            await transaction.start()
        try:
            rows = await self._within(lane, connection, operation)
        except BaseException:
            with standing_still(self._clock):
                await self._undo(lane, transaction)
            raise
        with standing_still(self._clock):
            await transaction.commit()
        return rows

    async def _within(self, lane: Lane, connection: asyncpg.Connection, operation: Operation) -> list[Row]:
        with standing_still(self._clock):
            if self._address.pooled:
                await connection.execute(f"set local idle_in_transaction_session_timeout = '{idle()}'")
            if not await connection.fetchval(self._mark, lane.name, lane.batch, self._clock.now()):
                return tuples(await connection.fetchval(self._answer, lane.name))
            ours = isinstance(operation.body, Guarded)
            rows = tuples(await connection.fetchval(self._run, work([operation.lines], locking=ours)))
        if not is_stale(rows):
            lines = await run_body(operation, connection, self._clock)
            # The run's row is locked now only, or whoever has a message for it would wait for a user's function, and
            # everybody for their batch. If the row has changed since, this fails and all is done again.
            last = lines if ours else [*operation.lines, *lines]
            with standing_still(self._clock):
                rows += tuples(await connection.fetchval(self._run, work([last])))
        with standing_still(self._clock):
            await connection.execute(self._keep, lane.name, json.dumps([[0, *row] for row in rows]))
        return rows

    @staticmethod
    async def _undo(lane: Lane, transaction: asyncpg.transaction.Transaction) -> None:
        try:
            await transaction.rollback()
        except FAILURES:
            lane.connection.drop()

    async def close(self) -> None:
        """Say goodbye to the server."""
        for lane in self._lanes:
            await lane.connection.close()

    def abandon(self) -> None:
        """Let go of the connections."""
        for lane in self._lanes:
            lane.connection.abandon()
