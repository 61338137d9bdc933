"""Run batches of operations on one connection, each in one round trip, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from perdure import ids
from perdure.clock import Clock, elapsed, standing_still
from perdure.errors import StoreError
from perdure.store.batch import Probe
from perdure.store.operation import Operation, Outcome, Row
from perdure.store.pg.address import Address
from perdure.store.pg.dialect import within
from perdure.store.pg.errors import AGAIN, FAILURES, UNSTORABLE, by_state, mapped, state_of, unsure
from perdure.store.pg.function import functions
from perdure.store.pg.transaction import Theirs, run_body
from perdure.store.pg.work import work

T = TypeVar("T")
PATIENCE_S = 10.0
"""How long to try to connect before those who wait are told. What may have been done already is never given up."""
LONGEST_PAUSE_S = 1.0
IDLE = "10s"
"""
How long a user's function may leave its transaction alone before the server ends it.

A process that stands still inside a transaction holds up all who have to do with the same runs.
"""
WRITER_SETTINGS = {"statement_timeout": "120s", "idle_in_transaction_session_timeout": IDLE}


class Writer:
    """
    Owns the writing connection.

    A batch has a number, which the database keeps with it: one whose answer did not come is sent again over a
    new connection, and is done exactly once.

    Args:
        probe: See `BatchRunner`; "before_commit" comes before a batch is sent.
    """

    def __init__(self, address: Address, clock: Clock, probe: Probe | None = None) -> None:
        self.id = uuid.UUID(int=ids.Random(ids.seed()).getrandbits(128)).hex
        self._address = address
        self._clock = clock
        self._probe = probe
        self._functions = functions(address.schema)
        self._apply = f"select {self._functions.apply}($1, $2, $3, $4, $5)"
        self._mark = within(
            address.schema,
            "insert into perdure_writers as w (id, batch, at) values ($1, $2, $3) "
            "on conflict (id) do update set batch = excluded.batch, answer = null, at = excluded.at "
            "where w.batch < excluded.batch returning true",
        )
        self._keep = within(address.schema, "update perdure_writers set answer = $2::json where id = $1")
        self._answer = within(address.schema, "select answer from perdure_writers where id = $1")
        self._batch = 0
        self._connection: asyncpg.Connection | None = None
        self._prepared: Any = None
        self.closed = False

    # -------------------------------------------------------------------------------------- connecting
    async def connect(self) -> asyncpg.Connection:
        """The connection; a new one when the last has failed."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._address.connect(**WRITER_SETTINGS)
            self._prepared = None
        return self._connection

    def drop(self) -> None:
        """The connection is not to be used again."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def close(self) -> None:
        """Say goodbye to the server."""
        self.closed = True
        if self._connection is not None and not self._connection.is_closed():
            try:
                with standing_still(self._clock):
                    await self._connection.close(timeout=1)
            except FAILURES:
                self.drop()

    # ---------------------------------------------------------------------------------------- running
    async def run(self, batch: list[Operation]) -> list[Outcome]:
        """
        Commit a batch; a bad operation is isolated and the others still commit.

        Returns:
            For each operation its rows, or the error that kept it from being stored.
        """
        if self._probe:
            self._probe("before_commit", batch)
        try:
            outcomes = await self._run(batch)
        except (StoreError, *FAILURES) as error:
            outcomes = [([], mapped(error, self._address.where)) for _ in batch]
        if self._probe:
            self._probe("after_commit", batch)
        return outcomes

    async def _run(self, batch: list[Operation]) -> list[Outcome]:
        plain = [(place, operation) for place, operation in enumerate(batch) if operation.body is None]
        outcomes: list[Outcome] = [([], None) for _ in batch]
        try:
            if plain:
                whole = work(operation.lines for _, operation in plain)
                for tag, *row in await self._insist(self._call([whole])):
                    outcomes[plain[tag][0]][0].append(tuple(row))
        except (asyncpg.PostgresError, *UNSTORABLE) as error:
            if len(batch) == 1 or mapped(error, self._address.where).retryable:
                raise
            return await self._in_turn(batch)
        for place, operation in enumerate(batch):
            if operation.body is not None:
                outcomes[place] = await self._with_body(operation)
        return outcomes

    async def _in_turn(self, batch: list[Operation]) -> list[Outcome]:
        """One of them is bad: each by itself, in their order."""
        outcomes: list[Outcome] = []
        for with_body, group in itertools.groupby(batch, key=lambda operation: operation.body is not None):
            if with_body:
                outcomes += [await self._with_body(operation) for operation in group]
            else:
                outcomes += await self._apart(list(group))
        return outcomes

    async def _apart(self, batch: list[Operation]) -> list[Outcome]:
        """Each in a transaction of its own inside one, so that a failure undoes only its operation."""
        outcomes: list[Outcome] = [([], None) for _ in batch]
        works, places = [], []
        for place, operation in enumerate(batch):
            try:
                works.append(work([operation.lines]))
                places.append(place)
            except UNSTORABLE as error:
                outcomes[place] = [], mapped(error, self._address.where)
        answers = await self._insist(self._call(works, apart=True)) if works else []
        for place, answer in zip(places, answers, strict=True):
            match answer:
                case (rows,):
                    outcomes[place] = [tuple(row) for _, *row in rows], None
                case (state, problem):
                    outcomes[place] = [], by_state(state, problem, self._address.where)
        return outcomes

    def _call(self, works: list[str], *, apart: bool = False) -> Callable[[], Awaitable[list[Any]]]:
        """One numbered batch, to be sent as often as it takes."""
        self._batch += 1
        number, at = self._batch, self._clock.now()

        async def call() -> list[Any]:
            connection = await self.connect()
            if self._address.pooled:
                async with connection.transaction():
                    answer = await connection.fetchval(self._apply, self.id, number, at, works, apart)
            else:
                if self._prepared is None:
                    self._prepared = await connection.prepare(self._apply)
                answer = await self._prepared.fetchval(self.id, number, at, works, apart)
            return _rows(answer)

        return call

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Until the database has answered; what may have been done is asked for as long as it takes."""
        begun, pause, sent = elapsed(), 0.01, False
        while True:
            try:
                with standing_still(self._clock):
                    await self.connect()
                    sent = True
                    return await call()
            except FAILURES as error:
                if state_of(error) in AGAIN:
                    # Undone for certain; the others have what they waited for.
                    await asyncio.sleep(ids.jitter() * 0.01)
                    continue
                if not unsure(error):
                    raise
                self.drop()
                if self.closed or (not sent and elapsed() - begun > PATIENCE_S):
                    raise mapped(error, self._address.where) from error
                await asyncio.sleep(pause * (0.5 + ids.jitter()))
                pause = min(pause * 2, LONGEST_PAUSE_S)

    # -------------------------------------------------------------------------------- with a function
    async def _with_body(self, operation: Operation) -> Outcome:
        """An operation with a function in the middle of its transaction."""
        self._batch += 1
        number = self._batch
        try:
            return await self._insist(lambda: self._transact(operation, number)), None
        except Theirs as error:
            return [], error.cause
        except (StoreError, *FAILURES) as error:
            return [], mapped(error, self._address.where)

    async def _transact(self, operation: Operation, number: int) -> list[Row]:
        connection = await self.connect()
        run = f"select {self._functions.run}($1::jsonb)"
        # Nothing that is read may change until the commit, also rows that are not there yet; if something does,
        # all of it is done again.
        async with connection.transaction(isolation="repeatable_read"):
            if self._address.pooled:
                await connection.execute(f"set local idle_in_transaction_session_timeout = '{IDLE}'")
            if not await connection.fetchval(self._mark, self.id, number, self._clock.now()):
                return _tuples(await connection.fetchval(self._answer, self.id))
            rows = _tuples(await connection.fetchval(run, work([operation.lines])))
            if not any(row[0] == "stale" for row in rows):
                lines = await run_body(operation, connection)
                rows += _tuples(await connection.fetchval(run, work([lines])))
            await connection.execute(self._keep, self.id, json.dumps([[0, *row] for row in rows]))
        return rows


def _rows(answer: str | None) -> list[Any]:
    """The rows of an answer, in which each is an object whose names do not count and may come twice."""
    return json.loads(answer, object_pairs_hook=lambda pairs: [value for _, value in pairs]) if answer else []


def _tuples(answer: str | None) -> list[Row]:
    return [tuple(row) for _, *row in _rows(answer)]
