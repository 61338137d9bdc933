"""What a rerun or a fork writes: the part of a run's history that is kept, and what must be told again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from perdure import ids
from perdure.engine.history import (
    CHILD_ENDS,
    base_time,
    cut,
    cut_before,
    cut_before_end,
    cut_before_names,
    key_prefix,
    standing,
)
from perdure.engine.request import child_topic, signal_topic
from perdure.engine.saga import SUFFIX
from perdure.engine.waits import CANCEL, PAUSE
from perdure.errors import IllegalMove, RunNotFound
from perdure.model.entry import RESTARTS, Entry, Kind
from perdure.model.run import RunRow
from perdure.model.status import Status
from perdure.store.load import blobs_in, find_run, resolve
from perdure.store.operation import Guarded, Line, Operation
from perdure.store.store import Store

DROPPED = json.dumps("its parent is run again from before its start")
_CHILD_OUTCOMES = frozenset({Kind.CHILD_COMPLETED, Kind.CHILD_FAILED})
_DONE = frozenset({Kind.STEP_COMPLETED, Kind.CHILD_COMPLETED})
_UNDONE = frozenset({Kind.STEP_COMPLETED, Kind.STEP_RESOLVED})
_REPEAT = re.compile(r"#\d+$")


def guarded(guards: list[Line], lines: Iterable[Line], *, changed: Iterable[int] = ()) -> Operation:
    """
    An operation that does nothing, and returns a row "stale", when one of its guards says so.

    The guards run in the same transaction, after everything else that commits with it.
    """
    return Operation(guards, changed=changed, makes_due=True, body=Guarded(list(lines)))


def unchanged(row: RunRow) -> Line:
    """The guard that the run is still what it was when it was read: owner and status are the same."""
    return ("guard", (row.id, row.epoch, row.status))


Before = str | frozenset[str] | None
"""
What to do again, with all that came after it.

A key, or "" for the beginning; the names that the keys of some parts of a declared workflow begin with; None for
nothing that has been done.
"""


class Snapshot(NamedTuple):
    """
    A run and its journal, read together.

    Attributes:
        journal: As stored: large payloads are their blobs' names.
        history: What of it still stands, see `standing`.
    """

    row: RunRow
    journal: list[Entry]
    history: list[Entry]

    def cut(self, before: Before) -> int:
        """
        The seq of the last entry to keep; see `Steering.fork` for `before`.

        Raises:
            StepNotFound: Nothing was delivered under this key, or recorded of these names.
            IllegalMove: What would be kept as done was compensated since.
        """
        if before is None:
            keep = cut_before_end(self.history, completed=self.row.status == Status.COMPLETED)
        elif isinstance(before, frozenset):
            keep = cut_before_names(self.row.id, self.history, before)
        else:
            keep = cut_before(self.row.id, self.history, before)
        dropped = {entry.key for entry in self.history if entry.seq > keep and entry.kind in _UNDONE}
        for entry in self.history:
            if entry.seq <= keep and entry.kind in _DONE and entry.key + SUFFIX in dropped:
                problem = f"go on from there: {entry.key!r} would count as done, and was compensated. Begin before it"
                raise IllegalMove(self.row.id, self.row.status, problem)
        return keep


async def snapshot(store: Store, run_id: str) -> Snapshot:
    """
    Read a run and its journal as they were at one moment.

    Raises:
        RunNotFound: There is no such run.
    """
    row = await find_run(store, run_id)
    while row is not None:
        journal = [Entry(*columns) for columns in await store.rows("history", row.number)]
        now = await find_run(store, run_id)
        if now == row:
            return Snapshot(row, journal, standing(journal))
        row = now
    raise RunNotFound(run_id)


async def rerun_of(store: Store, source: Snapshot, before: Before, now: int) -> Operation:
    """
    The operation that makes a run that nobody owns a new generation of itself.

    Raises:
        StepNotFound: Nothing was delivered under this key.
        IllegalMove: The cut leaves a child whose id belongs to another run.
    """
    row, history = source.row, source.history
    keep = source.cut(before)
    mark = {
        "keep": keep,
        "generation": row.generation + 1,
        "previous": {"status": row.status, "output": row.output, "error": row.error},
    }
    lines: list[Line] = [
        ("rerun", (row.id, row.epoch, now)),
        ("drop_control", (row.id, CANCEL)),
        ("drop_control", (row.id, PAUSE)),
        ("recall", (row.id,)),
        ("note", (row.id, row.epoch + 1, Kind.RERUN.value, json.dumps(mark), now)),
    ]
    lines += await _signals_back(store, row, [entry for entry in history if entry.seq > keep])
    lines += await _children_again(store, row, history, keep, now)
    return guarded([unchanged(row)], lines, changed=(row.number,))


async def _signals_back(store: Store, row: RunRow, dropped: list[Entry]) -> list[Line]:
    """Signals that the dropped entries had received are in the inbox again, in their order and before all others."""
    received = [entry for entry in dropped if entry.kind == Kind.SIGNAL_RECEIVED]
    if not received:
        return []
    keyed = {seq: message for seq, *message in await store.rows("taken_keyed", row.number, received[0].seq - 1)}
    lines: list[Line] = []
    for place, entry in enumerate(reversed(received), 1):
        unkeyed = [signal_topic(name_in(entry.key)), None, entry.data, entry.at]
        if entry.seq in keyed:
            lines.append(("drop_taken", (row.id, entry.seq)))
        lines.append(("restore", (row.id, place, *keyed.get(entry.seq, unkeyed))))
    return lines


async def _children_again(store: Store, row: RunRow, history: list[Entry], keep: int, now: int) -> list[Line]:
    """
    What becomes of the children of a run that is run again.

    One whose start is kept, but not its end, is told of again, if it has ended. One whose start is dropped is
    asked to end, unless it is detached or has an id of its own, under which the parent may find it again.
    """
    lines: list[Line] = []
    told = {entry.key for entry in history if entry.seq <= keep and entry.kind in CHILD_ENDS}
    for entry in history:
        if entry.kind != Kind.CHILD_STARTED or (entry.seq <= keep and entry.key in told):
            continue
        child_id = await _child_id(store, entry)
        child = await find_run(store, child_id)
        ours = child is not None and child.parent == row.number
        if entry.seq <= keep:
            if not ours:
                raise IllegalMove(row.id, row.status, f"be run again from there (its child {child_id!r} is not its)")
            lines.append(("tell_end", (row.id, child_id, child_topic(child_id), now)))
        elif ours and child is not None and not child.finished and not child.detached:
            made_up = {ids.child_run_id(row.id, number, entry.key) for number in range(1, row.generation + 1)}
            if child_id in made_up:
                lines.append(("send", (child_id, CANCEL, None, DROPPED, now)))
                lines.append(("cancel", (child_id, now)))
    return lines


async def fork_of(store: Store, source: Snapshot, before: Before, fork_id: str, now: int) -> Operation:
    """
    The operation that inserts a fork, with its history and the children that it needs.

    Raises:
        StepNotFound: Nothing was delivered under this key.
        IllegalMove: The cut leaves a child whose id belongs to another run.
    """
    row = source.row
    keep = source.cut(before)
    kept = cut(source.history, keep)
    taken_up = {"from": row.id, "base": now, "prefix": "", "whole": False}
    if kept:
        taken_up |= {"base": base_time(source.journal, row.started_at or now), "prefix": key_prefix(source.journal)}
    whole = len(kept) == len(source.history)
    deadline = None if row.deadline_at is None else now + row.deadline_at - row.created_at
    fork = _Fork(store, source, fork_id, now)
    done = whole and row.status == Status.COMPLETED
    until = now if whole else max((entry.at for entry in kept), default=0)
    fork.lines.append((
        "start",
        (fork_id, row.workflow, Status.QUEUED.value, None, 0, now, row.input, row.seed, now, None, deadline,
         f"{row.id}@{keep}"),
    ))  # fmt: skip
    if row.queue is not None:
        fork.lines.append(("enter_queue", (fork_id, row.queue, row.queue_key, row.priority, row.weight, None)))
    fork.refer(fork_id, row.input)
    await fork.tag(fork_id, row.number)
    ended = {entry.key for entry in kept if entry.kind in CHILD_ENDS}
    for entry in kept:
        if entry.kind in RESTARTS:
            fork.copy(entry._replace(kind=Kind.FORKED, data=json.dumps(taken_up | {"seq": entry.seq})))
        elif entry.kind == Kind.CHILD_STARTED and entry.key not in ended:
            fork.copy(await fork.child(entry, until, done=done))
        else:
            fork.copy(entry)
    fork.lines.append(("copy_artifacts", (fork_id, row.number)))
    fork.copy(Entry(0, Kind.FORKED, "", max(now, until), json.dumps(taken_up | {"seq": keep, "whole": whole})))
    return guarded(fork.guards, fork.lines)


class _Fork:
    """Collects what a fork inserts."""

    def __init__(self, store: Store, source: Snapshot, fork_id: str, now: int) -> None:
        self.guards: list[Line] = [("guard_there", (source.row.number,)), ("guard_vacant", (fork_id,))]
        self.lines: list[Line] = []
        self._store = store
        self._source = source
        self._id = fork_id
        self._now = now
        self._seq = 0

    def copy(self, entry: Entry) -> None:
        """The fork's next entry."""
        self._seq += 1
        self.lines.append(("copy_entry", (self._id, self._seq, str(entry.kind), *entry[2:])))
        self.refer(self._id, entry.data)

    def refer(self, run_id: str, data: str | None) -> None:
        """If this payload is a blob, it stays as long as this run; continue_as_new may have let it go meanwhile."""
        for blob in blobs_in(data or ""):
            self.guards.append(("guard_blob", (blob[1:],)))
            self.lines.append(("add_blob_ref", (run_id, blob[1:])))

    async def tag(self, run_id: str, number: int) -> None:
        """The run has the tags of the one that it stands for."""
        self.lines += [("add_tag", (run_id, tag)) for (tag,) in await self._store.rows("tags_of", number)]

    async def child(self, entry: Entry, until: int, *, done: bool) -> Entry:
        """
        The entry of a child that the kept history does not see the end of.

        A child belongs to the run that started it, so the fork gets one of its own, which begins anew. Only a
        child that nobody waited for is not done again, if it had ended by the time of the cut.

        Args:
            until: Time of the cut.
            done: The fork will only complete again, as the other run did.
        """
        row, history = self._source.row, self._source.history
        child_id = await _child_id(self._store, entry)
        child = await find_run(self._store, child_id)
        if child is None or child.parent != row.number:
            raise IllegalMove(row.id, row.status, f"be forked there (its child {child_id!r} is not its)")
        awaited = any(end.key == entry.key and end.kind in _CHILD_OUTCOMES for end in history)
        ended = child.finished_at is not None and child.finished_at <= until
        if not awaited and (ended or done):
            self.lines.append(("tell_end", (self._id, child_id, child_topic(child_id), self._now)))
            return entry
        own = ids.child_run_id(self._id, 1, entry.key)
        deadline = None if child.deadline_at is None else self._now + child.deadline_at - child.created_at
        self.guards.append(("guard_vacant", (own,)))
        seed = ids.child_seed(row.seed, own)
        self.lines.append((
            "fork_child", (own, child.workflow, child.input, seed, self._now, deadline, child.detached, self._id),
        ))  # fmt: skip
        if child.queue is not None:
            terms = (child.queue, child.queue_key, child.priority, child.weight)
            self.lines.append(("enter_queue", (own, *terms, None)))
        self.refer(own, child.input)
        await self.tag(own, child.number)
        return entry._replace(data=json.dumps({"id": own, "workflow": child.workflow}))


def name_in(key: str) -> str:
    """The name that an operation was asked for by, from its key."""
    return _REPEAT.sub("", key.rpartition("/")[2])


async def _child_id(store: Store, started: Entry) -> str:
    fields: dict[str, Any] = json.loads(await resolve(store, started.data or "{}"))
    return str(fields["id"])
