"""The open transaction of a user's function, whichever database it is on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from perdure.errors import InvalidOption
from perdure.store.operation import Odd

T = TypeVar("T")
_CONTROL = {"begin", "commit", "end", "rollback", "savepoint", "release"}
_FIRST_WORD = re.compile(r"(?:[\s;]|--[^\n]*(?:\n|$)|/\*.*?\*/)*(\w+)", re.DOTALL)


class AsyncTransaction(Protocol):
    """
    The open transaction, as `ctx.transaction` hands it to a user's coroutine function.

    What is executed here commits together with the step's outcome, or not at all.
    """

    async def execute(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """See `Transaction.execute`."""


class Transaction(Protocol):
    """
    The open transaction, as `ctx.transaction` hands it to a user's function.

    What is executed here commits together with the step's outcome, or not at all.
    """

    def execute(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """
        Run SQL on perdure's own database.

        Args:
            sql: In the database's own words: one or more statements on SQLite, one on Postgres; no begin, commit
                or rollback.
            parameters: A sequence for ?, ?1 (SQLite) or $1 (Postgres), or on SQLite a dict for :name.

        Returns:
            All rows.

        Raises:
            InvalidOption: The SQL would begin or end a transaction.
        """


def at_once(coroutine: Coroutine[Any, Any, T], option: str, problem: str) -> T:
    """
    Run a coroutine that never has to wait, without an event loop.

    Raises:
        InvalidOption: It had to wait; this option has this problem then.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    except RuntimeError as error:
        if not _from_asyncio(error):
            raise
        # In a thread there is no loop to wait on.
        raise InvalidOption(option, problem) from error
    coroutine.close()
    raise InvalidOption(option, problem)


def _from_asyncio(error: RuntimeError) -> bool:
    """Whether asyncio itself has raised it."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and str(place.tb_frame.f_globals.get("__name__", "")).startswith("asyncio.")


def carried(function: Callable[..., T], *args: Any) -> T:
    """
    Call a user's function; whatever it raises must be its own outcome, and end neither a thread nor a loop of ours.

    Raises:
        Odd: It raised what is no `Exception`.
    """
    try:
        return function(*args)
    except Exception:
        raise
    except BaseException as raised:
        raise Odd(raised) from raised


async def carried_in_task(function: Coroutine[Any, Any, T]) -> T:
    """The same for a coroutine that runs on the loop, whose own task may be cancelled or dropped."""
    try:
        return await function
    except (Exception, asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as raised:
        raise Odd(raised) from raised


def refuse_control(sql: str) -> None:
    """
    A user's function must not begin or end a transaction: other people's operations commit with it.

    Raises:
        InvalidOption: This SQL would.
    """
    found = _FIRST_WORD.match(sql)
    if found and found[1].lower() in _CONTROL:
        option = "transaction.execute"
        raise InvalidOption(option, f"{found[1]!r} is not for a function whose rows commit with its step")
