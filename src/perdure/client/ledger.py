"""Remarks about runs, made and read from outside; and what runs have used."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from perdure.client.view import Annotation, Usage, Used
from perdure.clock import SECOND, Clock, from_datetime, to_datetime
from perdure.codec.payload import Payloads
from perdure.codec.value import ANY
from perdure.engine.ledger import RemarkOptions, remarks
from perdure.errors import InvalidOption
from perdure.model.check import check_number
from perdure.model.ledger import UNIT, Actor
from perdure.model.run import MAX_PAGE
from perdure.store.load import load_run
from perdure.store.operation import Operation, Row
from perdure.store.store import Store


class Where(RemarkOptions, total=False):
    """What a remark from outside may have beside its key and its value; see `Ledger.annotate`."""

    scope: str
    scope_id: str | None


class Ledger:
    """The part of the client that notes and counts."""

    store: Store
    payloads: Payloads
    _clock: Clock

    async def annotate(
        self,
        run_id: str,
        key: str | Mapping[str, Any],
        value: Any = None,
        *,
        payload: Any = None,
        actor: Actor | str | None = None,
        scope: str = "run",
        scope_id: str | None = None,
        dedupe: str | None = None,
    ) -> int:
        """
        Make a remark about a run, whether it has ended or not. It is durable when this returns.

        Args:
            key: What it is about, such as "approval.outcome"; or a mapping of several keys to their values.
            value: Plain data; None is no remark.
            payload: More of it, for whoever reads this one.
            actor: Who makes it: an `Actor`, or its id.
            scope, scope_id: What of the run it is about: "step" and a key, "call" and an id, or the run itself.
            dedupe: Of several remarks under the same key and this only the first counts.

        Returns:
            How many were stored.

        Raises:
            RunNotFound: There is no such run.
        """
        rows, once = remarks(self.payloads, key, value, payload, actor, scope, scope_id, dedupe)
        operation = Operation([("attach", (run_id, *row, once, self._clock.now())) for row in rows])
        stored = await self.store.apply(operation) if rows else []
        if not stored:
            await load_run(self.store, run_id)
        return len(stored)

    async def annotations(
        self,
        run_id: str | None = None,
        *,
        key: str | None = None,
        prefix: str | None = None,
        scope: str | None = None,
        scope_id: str | None = None,
        actor: str | None = None,
        actor_kind: str | None = None,
        attempt: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = MAX_PAGE,
    ) -> list[Annotation]:
        """
        Remarks, in the order in which they were stored.

        Args:
            run_id: Of this run; else of all runs, by `key` or by `actor`.
            key, prefix: This key, or all that begin so.
            actor, actor_kind: Whose.
            attempt: Of a step's attempt.
            since, until: Aware datetimes, from inclusive to exclusive.
            limit: 1 to 1,000; to go on, ask `since` the last one's time.

        Raises:
            RunNotFound: There is no such run.
            InvalidOption: Neither run nor key nor actor.
        """
        check_number("limit", limit, 1, MAX_PAGE)
        times = _micros(since, "since"), _micros(until, "until")
        if run_id is not None:
            rows = await self.store.rows(
                "annotations_of", run_id, key, prefix, scope, scope_id, actor, actor_kind, attempt, *times, limit
            )
            if not rows:
                await load_run(self.store, run_id)
        elif key is not None:
            rows = await self.store.rows(
                "annotations_by_key", key, scope, scope_id, actor, actor_kind, attempt, *times, limit
            )
        elif actor is not None:
            rows = await self.store.rows(
                "annotations_by_actor", actor, prefix, scope, scope_id, actor_kind, attempt, *times, limit
            )
        else:
            option = "annotations"
            raise InvalidOption(option, "name a run, a key or an actor: all remarks of all runs are too many")
        return [self._annotation(row) for row in rows]

    def _annotation(self, row: Row) -> Annotation:
        run_id, key, value, payload, actor, kind, version, scope, scope_id, generation, attempt, at = row
        opened = [
            None if text is None else ANY.decode(self.payloads.open(text), "A remark") for text in (value, payload)
        ]
        who = None if actor is None else Actor(actor, kind or "", version or "")
        return Annotation(
            run_id, key, opened[0], opened[1], who, scope, scope_id, generation, attempt, to_datetime(at)
        )  # fmt: skip

    async def usage(
        self,
        run_id: str | None = None,
        *,
        deep: bool = True,
        topic: str | None = None,
        model: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Usage:
        """
        What runs have used, as far as their steps have recorded it; nothing is all zeros.

        Args:
            run_id: Of this run, with its children down to the last unless `deep` is off; of all runs when left out.
            topic: Of this topic and those below it: "research" counts "research.search" and not "researcher".
            model: Of this one.
            since, until: Aware datetimes, from inclusive to exclusive.

        Raises:
            RunNotFound: There is no such run.
        """
        first, last = _micros(since, "since"), _micros(until, "until")
        if run_id is not None:
            rows = await self.store.rows("usage_of", run_id, int(deep), topic, model, first, last)
            if not rows:
                await load_run(self.store, run_id)
        elif topic is not None:
            # "/" comes right behind ".".
            rows = await self.store.rows("usage_by_topic", topic, f"{topic}/", model, first, last)
        else:
            rows = await self.store.rows("usage_between", first or 0, 2**62 if last is None else last, model)
        return _summed(rows)


def _summed(rows: list[Row]) -> Usage:
    total, models, kinds = Used(), dict[str, Used](), dict[str, Used]()
    for model, provider, kind, *sums in rows:
        calls, given, made, cached, cost, duration = map(int, sums)
        used = Used(calls, given, made, cached, Decimal(cost) / UNIT, duration / SECOND)
        total = total.plus(used)
        name = f"{provider}/{model}" if provider else model
        models[name] = models.get(name, Used()).plus(used)
        kinds[kind] = kinds.get(kind, Used()).plus(used)
    return Usage(total, models, kinds)


def _micros(moment: datetime | None, option: str) -> int | None:
    return None if moment is None else from_datetime(moment, option)
