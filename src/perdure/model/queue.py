"""Queues, and on what terms runs go through them: frozen data, no I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, NamedTuple

from perdure.clock import SECOND, micros
from perdure.errors import InvalidOption
from perdure.ids import check_id
from perdure.model.check import check_known, check_number

SLIDING_PARTS = 60
"""A sliding window is counted in this many parts, so that a limit costs as many numbers at most."""
MOST_PRIORITY = 1_000_000
REPLACED = "another run has taken its place"
"""Why a run was asked to end that had the deduplication key of a new one."""
UNBOUNDED = 2**60
"""Microseconds, or items: more than there are."""
Span = float | timedelta


@dataclass(frozen=True, slots=True)
class Rate:
    """
    How often a queue gives slots out.

    It counts the weights of the runs that get one, at the moment when they get it. A run that is heavier than the
    limit counts as the whole limit, so that it can begin at all.

    Attributes:
        limit: Most weight in one window, 1 or more.
        per: The window: seconds or timedelta.
        sliding: Off: windows stand next to each other, aligned to 1970 (full minutes, full hours), and each has the
            whole limit. On: no span of this length, wherever it begins, has more than the limit; its end is rounded
            up by a sixtieth.
        per_key: Whether each key has a limit of its own.
    """

    limit: int
    per: Span
    sliding: bool = False
    per_key: bool = False

    def __post_init__(self) -> None:
        check_number("Rate(limit)", self.limit, 1)
        if self.period < SLIDING_PARTS:
            option = "Rate(per)"
            raise InvalidOption(option, "it must be 60 microseconds or more")

    @property
    def period(self) -> int:
        """The window in microseconds."""
        return micros(self.per, "Rate(per)")

    @property
    def grain(self) -> int:
        """How finely it is counted, in microseconds."""
        return self.period // SLIDING_PARTS if self.sliding else self.period

    @property
    def span(self) -> int:
        """How long a count counts from the beginning of its part on, in microseconds."""
        return self.period + self.grain if self.sliding else self.period

    def __str__(self) -> str:
        """For people: 10 in 60 s per key."""
        slides = "any " if self.sliding else ""
        return f"{self.limit} in {slides}{self.period / SECOND:g} s{' per key' if self.per_key else ''}"


@dataclass(frozen=True, slots=True)
class Queue:
    """
    A queue and its limits; several limits hold at once, and None is no limit.

    A run of a queue needs a slot to begin. It holds it until it ends or is paused, also while its worker is dead and
    another one has not taken it over yet.

    Attributes:
        name: 1 to 200 characters.
        concurrency: Most slots that are held at a time, over all workers.
        per_key: The same for the runs of each key.
        per_worker: Most runs of the queue that one worker drives at a time.
        rate: How often slots are given out; several rates hold at once.
        while_waiting: What a run does with its slot while it only waits (for a time, a signal, a child): "hold" it,
            or "free" it and stand in line again when it can go on.
        ageing: Seconds or timedelta of waiting that one level of priority is worth.
    """

    name: str
    concurrency: int | None = None
    per_key: int | None = None
    per_worker: int | None = None
    rate: Rate | tuple[Rate, ...] = ()
    while_waiting: Literal["hold", "free"] = "hold"
    ageing: Span = 60.0

    def __post_init__(self) -> None:
        check_id("queue name", self.name)
        for option in ("concurrency", "per_key", "per_worker"):
            value = getattr(self, option)
            if value is not None:
                check_number(f"Queue({option})", value, 1)
        if self.while_waiting not in ("hold", "free"):
            option = "Queue(while_waiting)"
            raise InvalidOption(option, f"{self.while_waiting!r} is neither 'hold' nor 'free'")
        micros(self.ageing, "Queue(ageing)")
        given: object = self.rate
        rates = tuple(given) if isinstance(given, tuple | list) else (given,)
        for rate in rates:
            if not isinstance(rate, Rate):
                option, problem = "Queue(rate)", f"{rate!r} is not a Rate(…)"
                raise InvalidOption(option, problem)
        object.__setattr__(self, "rate", rates)

    @property
    def rates(self) -> tuple[Rate, ...]:
        """Its rates, however they were given."""
        return (self.rate,) if isinstance(self.rate, Rate) else self.rate

    def changed(self, **fields: Any) -> Queue:
        """
        A copy with other limits.

        Raises:
            InvalidOption: There is no such field, or a value is out of range.
        """
        check_known("queue", fields, Queue.__dataclass_fields__)
        return replace(self, **fields)

    @property
    def columns(self) -> tuple[int | None, int | None, int | None, int, int]:
        """Concurrency, per worker, per key, whether waiting frees, ageing in microseconds: as they are stored."""
        return (
            self.concurrency, self.per_worker, self.per_key, int(self.while_waiting == "free"), micros(self.ageing)
        )  # fmt: skip

    @property
    def text(self) -> str:
        """What the code says of it, as one text to compare."""
        rates = [[rate.limit, rate.period, rate.sliding, rate.per_key] for rate in self.rates]
        return json.dumps([*self.columns, rates])


class QueueRow(NamedTuple):
    """A row of the table of queues."""

    name: str
    state: str
    concurrency: int | None
    per_worker: int | None
    per_key: int | None
    frees: int
    ageing: int
    served: int
    cursor: str
    declared: str | None

    def queue(self, rates: tuple[Rate, ...]) -> Queue:
        """The queue that it stands for."""
        return Queue(
            self.name, self.concurrency, self.per_key, self.per_worker, rates, "free" if self.frees else "hold",
            timedelta(microseconds=self.ageing),
        )  # fmt: skip


class Terms(NamedTuple):
    """
    On what terms a run goes through a queue.

    Attributes:
        queue: Its name; "" for none.
        key: Whose line it stands in; keys take turns.
        priority: Levels before (or, below 0, behind) others of its key; each is worth the queue's `ageing`.
        weight: What it counts for in rates.
    """

    queue: str = ""
    key: str = ""
    priority: int = 0
    weight: int = 1

    def checked(self) -> Terms:
        """
        The same, as a user may give them.

        Raises:
            InvalidName, InvalidOption: They are none.
        """
        if self.key:
            check_id("queue key", self.key)
        check_number("weight", self.weight, 1)
        priority: object = self.priority
        if not isinstance(priority, int) or abs(priority) > MOST_PRIORITY:
            option = "priority"
            raise InvalidOption(option, f"{priority!r} is not a whole number between -{MOST_PRIORITY} and its opposite")
        if not self.queue and (self.key or self.priority or self.weight != 1):
            option = "queue"
            raise InvalidOption(option, "key, priority and weight are terms of a queue, and there is none")
        return self


def name_of(queue: str | Queue) -> str:
    """A queue's name, however it was given."""
    return queue.name if isinstance(queue, Queue) else queue


NO_TERMS = Terms()
"""Those of a run without a queue."""
