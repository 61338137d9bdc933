"""Run batches of operations on one connection, each in one round trip, whatever happens to the connection."""

from __future__ import annotations

import itertools
from typing import Any

import asyncpg

from perdure.clock import Clock, standing_still
from perdure.errors import StoreError
from perdure.store.batch import Probe
from perdure.store.operation import Operation, Outcome
from perdure.store.pg.address import Address
from perdure.store.pg.errors import FAILURES, UNSTORABLE, by_state, mapped
from perdure.store.pg.function import functions
from perdure.store.pg.lasting import Lasting
from perdure.store.pg.transactor import Transactor
from perdure.store.pg.work import answered, work


class Writer:
    """
    Owns the writing connection.

    A batch has a number, which the database keeps with it: one whose answer did not come is sent again over a
    new connection, and is done exactly once.

    Args:
        transactor: For what comes behind guards.
        probe: See `BatchRunner`; "before_commit" comes before a batch is sent.
    """

    def __init__(self, address: Address, clock: Clock, transactor: Transactor, probe: Probe | None = None) -> None:
        self.id = transactor.name
        self._transactor = transactor
        self._address = address
        self._clock = clock
        self._probe = probe
        self._functions = functions(address.schema)
        self._apply = f"select {self._functions.apply}($1, $2, $3, $4, $5, $6)"
        self._batch = 0
        self._prepared: Any = None
        self.connection = Lasting(address, clock)

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
                for tag, *row in await self._done([whole]):
                    outcomes[plain[tag][0]][0].append(tuple(row))
        except (asyncpg.PostgresError, *UNSTORABLE) as error:
            if len(batch) == 1 or mapped(error, self._address.where).retryable:
                raise
            return await self._in_turn(batch)
        for place, operation in enumerate(batch):
            if operation.body is not None:
                outcomes[place] = await self._transactor.run(operation)
        return outcomes

    async def _in_turn(self, batch: list[Operation]) -> list[Outcome]:
        """One of them is bad: each by itself, in their order."""
        outcomes: list[Outcome] = []
        for guarded, group in itertools.groupby(batch, key=lambda operation: operation.body is not None):
            if guarded:
                outcomes += [await self._transactor.run(operation) for operation in group]
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
        answers = await self._done(works, apart=True) if works else []
        for place, answer in zip(places, answers, strict=True):
            match answer:
                case (rows,):
                    outcomes[place] = [tuple(row) for _, *row in rows], None
                case (state, problem):
                    outcomes[place] = [], by_state(state, problem, self._address.where)
        return outcomes

    async def _done(self, works: list[str], *, apart: bool = False) -> list[Any]:
        """One numbered batch, sent as often as it takes."""
        self._batch += 1
        given = (self.id, self._batch, self._clock.now(), works, apart)
        again = False

        async def call(connection: asyncpg.Connection) -> list[Any]:
            nonlocal again
            arguments, again = (*given, again), True
            with standing_still(self._clock):
                if self._address.pooled:
                    async with connection.transaction():
                        answer = await connection.fetchval(self._apply, *arguments)
                else:
                    if self._prepared is None or self._prepared[0] is not connection:
                        self._prepared = connection, await connection.prepare(self._apply)
                    answer = await self._prepared[1].fetchval(*arguments)
            return answered(answer)

        return await self.connection.insist(call)
