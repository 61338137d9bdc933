"""What of a run may leave the house: nothing but its shape, unless somebody says so."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from perdure.client.handle import RunHandle
from perdure.client.view import RunEvent
from perdure.codec.sse import sse_event
from perdure.errors import InvalidOption
from perdure.model.check import check_texts
from perdure.model.entry import ENDINGS, Kind
from perdure.model.wire import wire_json

REDACTED = "[redacted]"
SECRETS = re.compile(r"passw|secret|token|api.?key|authorization|cookie|credential|private.?key", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Disclosure:
    """
    What telemetry may show of a run's journal.

    Without any of it, it shows kinds, keys, times, attempts, classes of errors, names of events and the structure of
    children; so keep users' words out of names and ids.

    Attributes:
        results: What steps and children gave.
        signals: What was sent to the run.
        errors: The messages of errors, and the reasons of pauses and cancellations. Tracebacks and fields never.
        events: Names of emitted events, annotations and live topics whose data is shown.
        secrets: Keys of objects whose values are never shown, wherever they are.

    Raises:
        InvalidOption: `events` are not texts, or `secrets` is no compiled pattern.
    """

    results: bool = False
    signals: bool = False
    errors: bool = False
    events: Collection[str] = frozenset()
    secrets: re.Pattern[str] = SECRETS

    def __post_init__(self) -> None:
        object.__setattr__(self, "events", frozenset(check_texts("Disclosure(events)", self.events)))
        secrets: object = self.secrets
        if not isinstance(secrets, re.Pattern):
            option = "Disclosure(secrets)"
            raise InvalidOption(option, f"{secrets!r} is not what re.compile gives")

    def without_secrets(self, data: Any) -> Any:
        """Data that may be shown, but for what stands under the name of a secret."""
        if isinstance(data, dict):
            return {
                key: REDACTED if self.secrets.search(str(key)) else self.without_secrets(value)
                for key, value in data.items()
            }
        if isinstance(data, list | tuple):
            return [self.without_secrets(part) for part in data]
        return data


NOTHING = Disclosure()


def sanitised(event: RunEvent, disclosure: Disclosure = NOTHING) -> RunEvent:
    """A copy of a journal entry with nothing in it that may not be shown. What is not known is not shown."""
    if event.data is None:
        return event
    show = _SHOWN.get(Kind(event.kind)) if event.kind in _KINDS else None
    return replace(event, data=REDACTED if show is None else show(event.data, disclosure))


async def telemetry(
    run: RunHandle[Any], disclosure: Disclosure = NOTHING, *, after: int = 0, follow: bool = True
) -> AsyncIterator[RunEvent]:
    """As `RunHandle.events`, sanitised."""
    async with aclosing(run.events(after=after, follow=follow)) as events:
        async for event in events:
            yield sanitised(event, disclosure)


def sse_run_event(event: RunEvent, disclosure: Disclosure = NOTHING) -> bytes:
    """A journal entry, sanitised, as a server-sent event: its id is the seq to go on behind, its type the kind."""
    shown = sanitised(event, disclosure)
    fields = {"key": shown.key, "at": shown.at, "attempt": shown.attempt, "data": shown.data}
    text = wire_json({name: value for name, value in fields.items() if value is not None}, default=_time)
    return sse_event(text, event=shown.kind, id=str(shown.seq))


@dataclass(slots=True)
class Summary:
    """
    What a stream of entries amounts to; nothing in it needs to be redacted.

    Attributes:
        kinds: How many entries there were of each kind.
        failed_attempts: By key of the step.
        ended: "completed", "failed" or "cancelled" once the run has ended.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    failed_attempts: Counter[str] = field(default_factory=Counter)
    ended: str | None = None

    def add(self, event: RunEvent) -> None:
        """Count an entry."""
        self.kinds[event.kind] += 1
        if event.kind in {Kind.ATTEMPT_FAILED, Kind.STEP_FAILED}:
            self.failed_attempts[event.key] += 1
        self.ended = event.kind if event.kind in ENDINGS else None


# --------------------------------------------------------------------------------------- kind by kind
Show = Callable[[Any, Disclosure], Any]


def _as_it_is(data: Any, _disclosure: Disclosure) -> Any:
    return data


def _result(data: Any, disclosure: Disclosure) -> Any:
    return disclosure.without_secrets(data) if disclosure.results else REDACTED


def _signal(data: Any, disclosure: Disclosure) -> Any:
    return disclosure.without_secrets(data) if disclosure.signals else REDACTED


def _error(data: Any, disclosure: Disclosure) -> Any:
    if not isinstance(data, dict):
        return REDACTED
    if "error" in data and "type" not in data:  # of an attempt, with the time of the next one
        return {"error": _error(data["error"], disclosure), "next_at": data.get("next_at")}
    return {"type": data.get("type"), "message": data.get("message") if disclosure.errors else REDACTED}


def _event(data: Any, disclosure: Disclosure) -> Any:
    if not isinstance(data, dict):
        return REDACTED
    name = data.get("name", data.get("topic"))
    shown = name in disclosure.events
    return {
        part: value if part in {"name", "topic"} else disclosure.without_secrets(value) if shown else REDACTED
        for part, value in data.items()
    }


def _reason(data: Any, disclosure: Disclosure) -> Any:
    if isinstance(data, dict) and "code" in data:
        return {"code": data["code"], "message": data.get("message") if disclosure.errors else REDACTED}
    return data if disclosure.errors else REDACTED


def _time(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else REDACTED


_SHOWN: dict[Kind, Show] = {
    Kind.STEP_COMPLETED: _result,
    Kind.CHILD_COMPLETED: _result,
    Kind.STEP_FAILED: _error,
    Kind.CHILD_FAILED: _error,
    Kind.ATTEMPT_FAILED: _error,
    Kind.SIGNAL_RECEIVED: _signal,
    Kind.EMITTED: _event,
    Kind.ANNOTATED: _event,
    Kind.STEP_EMITTED: _event,
    Kind.PAUSED: _reason,
    Kind.CANCEL_REQUESTED: _reason,
    Kind.TIMER_SET: _as_it_is,
    Kind.RECEIVE_STARTED: _as_it_is,
    Kind.CHILD_STARTED: _as_it_is,
    Kind.SKIPPED: _as_it_is,
    Kind.MOVED: _as_it_is,
}
_KINDS = frozenset(kind.value for kind in Kind)
