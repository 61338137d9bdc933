"""A connection that is made again when it breaks, and what is asked of it until there is an answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from perdure import ids
from perdure.clock import Clock, elapsed, standing_still
from perdure.errors import StoreClosed
from perdure.store.base import CLOSED
from perdure.store.pg.address import Address
from perdure.store.pg.errors import AGAIN, FAILURES, mapped, passing, state_of, unsure

T = TypeVar("T")
log = logging.getLogger("perdure.store")
PATIENCE_S = 10.0
"""How long to try to connect before those who wait are told. What may have been done already is never given up."""
LONGEST_PAUSE_S = 1.0
IDLE_S = 10.0
"""
How long a user's function may leave its transaction alone before the server ends it.

A process that stands still inside a transaction holds up all who have to do with the same runs.
"""
STATEMENT = "120s"


def idle() -> str:
    """As a setting of a session."""
    return f"{IDLE_S * 1000:.0f}ms"


class Lasting:
    """
    One connection at a time, to write with.

    Args:
        settings: Of its sessions, beside those that all have.

    Attributes:
        closed: Whoever still waits is told that it is in vain.
        primary: Whether it has ever led to a server that is not a standby; one is good for a look only.
    """

    def __init__(self, address: Address, clock: Clock, **settings: str) -> None:
        self._address = address
        self._clock = clock
        self._settings = settings
        self._connection: asyncpg.Connection | None = None
        self.closed = False
        self.primary = False

    async def connect(self) -> asyncpg.Connection:
        """
        The connection; a new one when the last has failed.

        Raises:
            StoreClosed: Nobody wants it any more.
        """
        if self._connection is None or self._connection.is_closed():
            with standing_still(self._clock):
                connection = await self._address.connect(
                    statement_timeout=STATEMENT, idle_in_transaction_session_timeout=idle(), **self._settings
                )
            if self.closed:
                connection.terminate()
                raise StoreClosed(CLOSED)
            self._connection = connection
            self.primary = self.primary or not self._address.on_standby(connection)
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

    def abandon(self) -> None:
        """Let go of the server."""
        self.closed = True
        self.drop()

    async def insist(self, call: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """
        Call it with the connection until the database has answered.

        What may have been done is asked for as long as it takes, so a call has to tell that it is a repetition.
        """
        begun, pause, unanswered = elapsed(), 0.01, False
        silent = begun
        while True:
            connection = None
            try:
                connection = await self.connect()
                self._address.check_primary(connection)
                return await call(connection)
            except FAILURES as error:
                if state_of(error) in AGAIN:
                    # Undone for certain; the others have what they waited for.
                    await asyncio.sleep(ids.jitter() * 0.01)
                    continue
                unanswered = unanswered or (connection is not None and unsure(error))
                # Once an answer is missing, that a connection is refused, or that a repetition cannot be done now,
                # says nothing of what was asked first.
                missing = unanswered and (connection is None or mapped(error, self._address.where).retryable)
                if not (missing or passing(error)):
                    raise
                self.drop()
                if self.closed or (not unanswered and elapsed() - begun > PATIENCE_S):
                    raise mapped(error, self._address.where) from error
                if elapsed() - silent > PATIENCE_S:
                    log.warning("still without an answer of %s, asking again: %s", self._address.where, error)
                    silent = elapsed()
                await asyncio.sleep(pause * (0.5 + ids.jitter()))
                pause = min(pause * 2, LONGEST_PAUSE_S)
