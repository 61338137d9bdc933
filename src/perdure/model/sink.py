"""Where events go, and on what terms."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from perdure.clock import from_datetime, micros
from perdure.errors import InvalidOption
from perdure.ids import check_name
from perdure.model.check import check_known, check_number, check_texts, must_take
from perdure.model.entry import Kind
from perdure.model.event import STARTED, Event
from perdure.model.retry import Retry

T = TypeVar("T")
USUAL = (STARTED, Kind.EMITTED, Kind.PAUSED, Kind.RESUMED, Kind.COMPLETED, Kind.FAILED, Kind.CANCELLED)
"""What a sink is told of that names no kinds."""
PATIENT = Retry(max_attempts=12, delay=1.0, backoff=3.0, cap=timedelta(hours=3), jitter=0.5)
"""Given up after half a day or so."""


@dataclass(frozen=True, slots=True)
class Sink:
    """
    Who is told of events.

    Attributes:
        name: Stored with what is still to be delivered: the same sink has the same name after a restart.
        target: Called with each `Event`: a coroutine function, or a plain one, in a thread. The event is delivered when
            it has returned.
        events: Kinds: "started", and those of `perdure.model.entry.Kind`.
        topics: Of the emitted events only those whose names fit one of these patterns, such as "order.*".
        workflows: Only events of runs of workflows with these names.
        retry: When a delivery that failed is tried again, and how often, until the sink is given up for that run.
        timeout: Seconds or timedelta for one delivery.
        concurrency: Runs whose events are delivered at a time, by each worker.
        since: Also what has happened since this aware datetime, when the sink is declared for the first time; without
            it, events from then on.
    """

    name: str
    target: Callable[[Event], Any]
    events: tuple[str, ...] = USUAL
    topics: tuple[str, ...] = ()
    workflows: tuple[str, ...] = ()
    retry: Retry = PATIENT
    timeout: float | timedelta = 30.0
    concurrency: int = 8
    since: datetime | None = None

    def __post_init__(self) -> None:
        check_name("sink name", self.name)
        for option in ("events", "topics", "workflows"):
            object.__setattr__(self, option, check_texts(option, getattr(self, option)))
        known = {STARTED, *map(str, Kind)}
        if not self.events or not known.issuperset(self.events):
            option, odd = "events", ", ".join(sorted(set(self.events) - known)) or "nothing"
            raise InvalidOption(option, f"{odd} is no kind of events; there are {', '.join(sorted(known))}")
        must_take("target", self.target, "event")
        if inspect.isgeneratorfunction(self.target) or inspect.isasyncgenfunction(self.target):
            option = "target"
            raise InvalidOption(option, f"{self.target!r} has a `yield`: a call of it would do nothing")
        retry: object = self.retry
        if not isinstance(retry, Retry):
            option = "retry"
            raise InvalidOption(option, f"{retry!r} is not a Retry(…)")
        check_number("concurrency", self.concurrency, 1)
        if micros(self.timeout, "timeout") == 0:
            option = "timeout"
            raise InvalidOption(option, "it must be more than 0")
        if self.since is not None:
            from_datetime(self.since, "since")

    @property
    def is_async(self) -> bool:
        """Whether the target is a coroutine function, or an object that is called like one."""
        return inspect.iscoroutinefunction(self.target) or inspect.iscoroutinefunction(type(self.target).__call__)

    def wants(self, event: Event) -> bool:
        """Whether an event of its kinds is for it."""
        if self.workflows and event.workflow not in self.workflows:
            return False
        return not (self.topics and event.topic) or any(fnmatchcase(event.topic, topic) for topic in self.topics)


def declaring(
    add: Callable[[Sink], None], name: str, target: Callable[[Event], Any] | None, options: dict[str, Any]
) -> Callable[[T], T]:
    """
    Make a sink, of this target or of what the result decorates.

    Raises:
        InvalidOption: An option that there is not, or that is wrong.
    """

    def declare(fn: Any) -> Any:
        add(Sink(name, fn, **options))
        return fn

    check_known("sink options", options, Sink.__dataclass_fields__.keys() - {"name", "target"})

    if target is not None:
        declare(target)
    return declare
