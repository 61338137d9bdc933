"""The open transaction of a user's function, whichever database it is on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

from perdure.errors import InvalidOption

_CONTROL = {"begin", "commit", "end", "rollback", "savepoint", "release"}
_FIRST_WORD = re.compile(r"(?:[\s;]|--[^\n]*(?:\n|$)|/\*.*?\*/)*(\w+)", re.DOTALL)


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
