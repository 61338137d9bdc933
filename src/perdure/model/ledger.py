"""Remarks about runs, and what can be recorded of what their steps have used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from perdure import ids
from perdure.errors import InvalidName, InvalidOption
from perdure.model.check import check_number

MOST = 2**63 - 1
UNIT = 1_000_000_000
"""Money is kept in billionths."""


@dataclass(frozen=True, slots=True)
class Actor:
    """
    Who made a remark.

    Attributes:
        id: Such as a person's name, or a model's.
        kind: Such as "human", "agent" or "rule".
        version: Of what made it.
    """

    id: str
    kind: str = ""
    version: str = ""


class Remark(NamedTuple):
    """
    A remark to be made about a run that is started.

    Attributes:
        key: What it is about, such as "trigger.source"; or a mapping of several keys to their values.
        value, payload: Plain data; a value of None is no remark.
        actor: Who makes it: an `Actor`, or its id.
        scope, scope_id: What of the run it is about.
        dedupe: Of several remarks under the same key and this only the first counts.
    """

    key: str | Mapping[str, Any]
    value: Any = None
    payload: Any = None
    actor: Actor | str | None = None
    scope: str = "run"
    scope_id: str | None = None
    dedupe: str | None = None


Remarks = Mapping[str, Any] | Iterable[Remark]
"""What is remarked with a start: values by their keys, or more of each."""


def check_text(option: str, value: object, *, empty: bool = True) -> str:
    """
    Return a text that is stored in a column.

    Raises:
        InvalidOption: It is none, or longer than 200 characters.
    """
    if value == "" and empty:
        return ""
    try:
        return ids.check_id(option, value)
    except InvalidName as error:
        raise InvalidOption(option, f"{value!r} cannot be one: {error.problem}") from None


def check_topic(topic: object) -> str:
    """
    Return a topic: names joined by dots, or nothing.

    Raises:
        InvalidOption: It is something else.
    """
    text = check_text("topic", topic)
    if text and not all(text.split(".")):
        option = "topic"
        raise InvalidOption(option, f"{text!r} is not names joined by dots, such as research.search")
    return text


def billionths(cost: object) -> int:
    """
    Money as it is stored: billionths of a unit, halves to the even one.

    Raises:
        InvalidOption: It is no number, negative or too much.
    """
    from decimal import Decimal, InvalidOperation  # noqa: PLC0415 - who counts no money need not wait for it

    option = "cost"
    if isinstance(cost, bool) or not isinstance(cost, Decimal | str | int | float):
        raise InvalidOption(option, f"{cost!r} is not an amount: write Decimal('0.0125') or '0.0125'")
    try:
        amount = Decimal(str(cost)) * UNIT
        found = int(amount.to_integral_value())
    except (InvalidOperation, OverflowError, ValueError):
        raise InvalidOption(option, f"{cost!r} is not an amount") from None
    if not 0 <= found <= MOST:
        raise InvalidOption(option, f"{cost!r} is negative, or too much")
    return found


def check_tokens(**counts: int) -> tuple[int, ...]:
    """
    Return counts of tokens.

    Raises:
        InvalidOption: One is no whole number of 0 or more.
    """
    for name, count in counts.items():
        check_number(name, count, 0, MOST)
    return tuple(counts.values())
