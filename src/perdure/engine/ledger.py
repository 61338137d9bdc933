"""What rides along with a run's next commit beside its entries: remarks, and what its steps have used."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from perdure.clock import micros
from perdure.codec.payload import Payloads
from perdure.codec.value import ANY
from perdure.errors import InvalidOption
from perdure.model.ledger import Actor, Remark, Remarks, billionths, check_text, check_tokens, check_topic

if TYPE_CHECKING:
    from datetime import timedelta
    from decimal import Decimal

    from perdure.engine.machine import Machine
    from perdure.store.record import Record

_RIDING = threading.Lock()


class Rider(NamedTuple):
    """
    A statement with its parameters behind run and epoch.

    Attributes:
        attempt: Of the step whose body has made it; None when the workflow's own code has.
    """

    statement: str
    values: tuple[Any, ...]
    attempt: int | None


Riders = deque[Rider] | None


class RemarkOptions(TypedDict, total=False):
    """What a remark may have beside its key and its value; see `Client.annotate`."""

    payload: Any
    actor: Actor | str | None
    dedupe: str | None


def of_steps(riders: Riders) -> Riders:
    """Those that bodies have made; what the workflow's own code has made is forgotten with its entries."""
    return riders and deque(rider for rider in riders if rider.attempt)


def ride(machine: Machine, rider: Rider) -> None:
    """Let it commit with what the run writes next; callable from any thread."""
    with _RIDING:
        if machine.riders is None:
            machine.riders = deque()
        machine.riders.append(rider)


def ride_along(record: Record, riders: deque[Rider]) -> None:
    """Put all riders into a record."""
    while riders:
        rider = riders.popleft()
        record.add(rider.statement, record.number, record.epoch, *rider.values)


def remark(machine: Machine, note: Callable[[], bool], key: str, value: Any, more: RemarkOptions) -> None:
    """
    What the workflow's own code remarks.

    Args:
        note: Puts it into the journal; whether it is new there, and no replay.
    """
    rows, dedupe = remarks(machine.payloads, key, value, **more)
    for row in rows if note() else ():
        ride(machine, Rider("annotate", (*row, machine.run.generation, None, dedupe, machine.time), None))


def remarks(  # noqa: PLR0917 - what a remark consists of
    payloads: Payloads,
    key: str | Mapping[str, Any],
    value: Any,
    payload: Any = None,
    actor: Actor | str | None = None,
    scope: str = "run",
    scope_id: str | None = None,
    dedupe: str | None = None,
) -> tuple[list[tuple[Any, ...]], str | None]:
    """
    The columns of one remark, or of one for each key of a mapping; those whose value is None are left out.

    Returns:
        Their key, value, payload, actor (id, kind, version), scope and its id; and the deduplication key.

    Raises:
        InvalidOption: A key, actor or scope that cannot be stored.
        NotSerializable, PayloadTooLarge: A value that cannot.
    """
    if isinstance(key, Mapping) and value is not None:
        option = "value"
        raise InvalidOption(option, "the mapping has the values")
    pairs = dict(key) if isinstance(key, Mapping) else {key: value}
    who = Actor(actor) if isinstance(actor, str) else actor
    author = (None, None, None) if who is None else (
        check_text("actor", who.id, empty=False), check_text("actor", who.kind) or None,
        check_text("actor", who.version) or None,
    )  # fmt: skip
    where = check_text("scope", scope, empty=False), None if scope_id is None else check_text("scope_id", scope_id)
    more = None if payload is None else _sealed(payloads, payload, "The payload of a remark")
    rows = [
        (check_text("key", name, empty=False), _sealed(payloads, found, f"Remark {name!r}"), more, *author, *where)
        for name, found in pairs.items()
        if found is not None
    ]
    return rows, None if dedupe is None else check_text("dedupe", dedupe, empty=False)


def first_remarks(payloads: Payloads, annotations: Remarks) -> list[tuple[Any, ...]]:
    """
    The columns of what is remarked with the start of a run, from the key to the deduplication key.

    Raises:
        InvalidOption, NotSerializable, PayloadTooLarge: As for `remarks`; or what is given is no remarks.
    """
    given: Any = [Remark(annotations)] if isinstance(annotations, Mapping) else annotations
    found = []
    for each in given:
        if not isinstance(each, Remark):
            option = "annotations"
            raise InvalidOption(option, f"{each!r} is no Remark; for plain values give a mapping")
        rows, dedupe = remarks(payloads, *each)
        found += [(*row, dedupe) for row in rows]
    return found


def _sealed(payloads: Payloads, value: Any, what: str) -> str:
    return payloads.seal(ANY.encode(value, what), what)


def used(  # what is recorded of a call
    *,
    model: str,
    provider: str,
    kind: str,
    topic: str,
    input_tokens: int,
    output_tokens: int,
    cached_tokens: int,
    cost: Decimal | str | float,
    seconds: float | timedelta,
    dedupe: str | None,
) -> tuple[Any, ...]:
    """
    The columns of a record of usage, from its topic to its deduplication key.

    Raises:
        InvalidOption: One of them cannot be.
    """
    counts = check_tokens(input_tokens=input_tokens, output_tokens=output_tokens, cached_tokens=cached_tokens)
    texts = [check_text(name, text) for name, text in (("kind", kind), ("model", model), ("provider", provider))]
    once = None if dedupe is None else check_text("dedupe", dedupe, empty=False)
    return check_topic(topic), *texts, *counts, billionths(cost), micros(seconds, "seconds"), once
