"""Starts that are more than an insert: through a queue, under a name, into a batch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from perdure.clock import micros
from perdure.errors import DuplicateRun, QueueDraining, StoreBusy, UnknownQueue
from perdure.model.queue import REPLACED, UNBOUNDED, QueueRow, Terms
from perdure.model.start import Debounce, Dedupe
from perdure.model.version import unpin
from perdure.store.operation import Operation
from perdure.store.record import shelve
from perdure.store.store import Database

TRIES = 50
"""How often a start is tried again because the run that it was to join has begun meanwhile."""


@dataclass(frozen=True, slots=True)
class Start:
    """
    A run about to be started. Times are microseconds since 1970.

    Attributes:
        payload: Its input, sealed.
        batch: When a run of these gathers several: under which key, and how many at most.
        trace: What an observer keeps with it.
        remarks: Their columns, from the key to the deduplication key.
    """

    id: str
    workflow: str
    payload: str
    seed: int
    now: int
    due_at: int
    deadline_at: int | None
    terms: Terms
    tags: tuple[str, ...] = ()
    dedupe: Dedupe | None = None
    debounce: Debounce | None = None
    batch: tuple[str, int] | None = None
    trace: str | None = None
    remarks: Sequence[tuple[Any, ...]] = ()
    scope: str | None = field(init=False, default=None)
    name: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        for kind, name, where in (
            ("dedupe", self.dedupe and self.dedupe.key, self.terms.queue or f"/{unpin(self.workflow)[0]}"),
            ("debounce", self.debounce and self.debounce.key, self.workflow),
            ("batch", self.batch and self.batch[0], self.workflow),
        ):
            if name is not None:
                object.__setattr__(self, "scope", f"{kind}:{where}")
                object.__setattr__(self, "name", name)

    def operation(self, inline_bytes: int) -> Operation:
        """What inserts it, or lets an earlier start under its name take it in."""
        operation = Operation(makes_due=True)
        stored = self.payload
        if len(stored) > inline_bytes:
            stored = shelve(operation, self.id, stored)
            if self.scope is not None:
                operation.add("refer_named", self.scope, self.name, stored[1:])
        self._name(operation)
        batch = self.batch is not None
        operation.add(
            "enqueue", self.id, self.workflow, self.due_at, f"+{json.dumps([stored])}" if batch else stored, self.seed,
            self.now, self.deadline_at, self.terms.queue or None, self.terms.key, self.terms.priority,
            self.terms.weight, self.scope, self.name,
        )  # fmt: skip
        add_beside(operation, (self.id, self.seed, self.now), self.tags, self.trace, self.remarks)
        if self.debounce is not None:
            longest = UNBOUNDED if self.debounce.longest is None else micros(self.debounce.longest)
            operation.add("debounce", self.scope, self.name, stored, self.due_at, longest, self.now)
        if self.batch is not None:
            operation.add("add_item", self.scope, self.name, self.id, json.dumps(stored), self.batch[1], self.now)
        return operation

    def _name(self, operation: Operation) -> None:
        """Free the name if its run gives no reason to keep it, and take it if it is free."""
        if self.scope is None:
            return
        until = None
        if self.dedupe is not None:
            until = None if self.dedupe.ttl is None else self.now + micros(self.dedupe.ttl)
            if self.dedupe.then == "replace":
                operation.add("ask_named", self.scope, self.name, self.id, json.dumps(REPLACED), self.now)
                operation.add("cancel_named", self.scope, self.name, self.id, self.now)
                operation.add("lose_name", self.scope, self.name, self.id)
            else:
                operation.add("free_name", self.scope, self.name, self.now)
        else:
            most = self.batch[1] if self.batch is not None else UNBOUNDED
            operation.add("free_open", self.scope, self.name, most, self.now)
        operation.add("take_name", self.scope, self.name, self.id, until, self.terms.queue or None)


def add_beside(
    operation: Operation,
    run: tuple[str, int, int],
    tags: Iterable[str],
    trace: str | None,
    remarks: Iterable[tuple[Any, ...]],
) -> None:
    """
    Add what is stored with a run that is started.

    Args:
        run: Its id and seed, and the time of its start.
    """
    run_id, seed, now = run
    for tag in tags:
        operation.add("add_tag", run_id, tag)
    if trace is not None:
        operation.add("start_trace", run_id, now, trace)
    for remark in remarks:
        operation.add("attach_first", run_id, seed, *remark, now)


async def enqueue(store: Database, start: Start, inline_bytes: int) -> str | None:
    """
    Start a run, or join the one that its name belongs to.

    Returns:
        The id of the run that the start has led to; None when its own id was taken before.

    Raises:
        UnknownQueue, QueueDraining: Its queue does not take it.
        DuplicateRun: Another run has its deduplication key.
    """
    for _ in range(TRIES):
        labels = {row[0]: row[1] for row in await store.apply(start.operation(inline_bytes))}
        for joined in ("debounced", "added"):
            if joined in labels:
                return str(labels[joined])
        if "started" in labels:
            return start.id
        if await store.rows("run_by_id", start.id):
            return None
        await _check_queue(store, start.terms.queue)
        if start.dedupe is not None and start.dedupe.then != "replace":
            named = await store.rows("named", start.scope, start.name)
            if named and named[0][0] != start.id:
                if start.dedupe.then == "reject":
                    raise DuplicateRun(start.dedupe.key, str(named[0][0]))
                return str(named[0][0])
    problem = f"A start under {start.name!r} found another run under way each time; try again."
    raise StoreBusy(problem)


async def _check_queue(store: Database, name: str) -> None:
    if not name:
        return
    rows = {row[0]: QueueRow(*row) for row in await store.rows("queues")}
    if name not in rows:
        raise UnknownQueue(name, sorted(rows))
    if rows[name].state == "draining":
        raise QueueDraining(name)
