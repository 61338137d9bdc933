"""Run batches of operations on one connection, each in one round trip, whatever happens to the connection."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import asyncpg

from perdure.clock import Clock, standing_still
from perdure.errors import StoreError
from perdure.store.batch import Probe
from perdure.store.operation import Operation, Outcome, is_lone_entry
from perdure.store.pg.address import Address
from perdure.store.pg.dialect import within
from perdure.store.pg.errors import FAILURES, UNSTORABLE, by_state, mapped
from perdure.store.pg.function import PLANNING, functions
from perdure.store.pg.lasting import Lasting
from perdure.store.pg.transactor import Transactor
from perdure.store.pg.work import answered, work

APPEND = """
with owned as (
  select number from perdure_runs where number = $1 and epoch = $2 and owner is not null for no key update
), appended as (
  insert into perdure_journal (run, seq, kind, key, at, data, started_at, attempt, fingerprint)
  select number, $3, $4, $5, $6, $7, $8, $9, $10 from owned
)
select true from owned
"""
"""
The one entry of a sequential step: `fence` and `append` in one statement, which is a transaction.

It locks the run's row as its owner's; when nothing comes back, the driver no longer owns the run (I1).
"""
APPEND_AGAIN = APPEND.replace("from owned\n)", "from owned on conflict (run, seq) do nothing\n)")
"""The answer to the first did not come. What is there under this number, in a run of our own, is what we have sent."""


class Writer:
    """
    Owns the writing connection.

    A batch has a number, which the database keeps with it: one whose answer did not come is sent again over a
    new connection, and is done exactly once. The one entry of a sequential step has a number of its own.

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
        self._apply = f"select {functions(address.schema).apply}($1, $2, $3, $4, $5, $6)"
        self._append_once, self._append_again = (within(address.schema, sql) for sql in (APPEND, APPEND_AGAIN))
        self._batch = 0
        self._prepared: dict[str, Any] = {}
        self._prepared_on: asyncpg.Connection | None = None
        self.connection = Lasting(address, clock, **PLANNING)

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
        if len(batch) == 1 and is_lone_entry(batch[0]):
            return [await self._append(batch[0])]
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
        return answered(await self._insist(lambda again: (self._apply, (*given, again))))

    async def _append(self, operation: Operation) -> Outcome:
        _, (_, entry) = operation.lines
        owned = await self._insist(lambda again: (self._append_again if again else self._append_once, entry))
        return [] if owned else [("stale",)], None

    async def _insist(self, query: Callable[[bool], tuple[str, tuple[Any, ...]]]) -> Any:
        """
        The answer to a query, sent as often as it takes.

        Args:
            query: Its text and values; told whether it was sent before.
        """
        again = False

        async def call(connection: asyncpg.Connection) -> Any:
            nonlocal again
            (sql, values), again = query(again), True
            with standing_still(self._clock):
                if self._address.pooled:
                    async with connection.transaction():
                        return await connection.fetchval(sql, *values)
                if self._prepared_on is not connection:
                    self._prepared_on, self._prepared = connection, {}
                if sql not in self._prepared:
                    self._prepared[sql] = await connection.prepare(sql)
                return await self._prepared[sql].fetchval(*values)

        return await self.connection.insist(call)
