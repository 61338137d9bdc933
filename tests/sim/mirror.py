"""
What has been durable so far, read from the file after every commit by somebody who takes no part.

Here are the invariants that must hold between any two commits; those of the end are in invariants.py.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import apsw

from perdure.model.entry import ENDINGS, OUTCOMES, Kind
from perdure.model.status import MOVES, TERMINAL, Status
from perdure.store.operation import Operation

ENTRIES = """
select rowid, run, seq, kind, key, at, data, attempt from perdure_journal where rowid > ? order by rowid
"""
RUNS = """
select number, id, workflow, status, generation, owner, epoch, due_at, waiting_for, parent, detached, output, error,
  reason, finished_at, rank from perdure_runs order by number
"""
LIMITS = """
select q.name || ': ' || count(*) || ' slots of ' || q.concurrency
from perdure_queues q join perdure_runs r on r.queue = q.name where r.slot = 2 and r.finished_at is null
group by q.name having count(*) > q.concurrency
union all
select q.name || ', key ' || r.queue_key || ': ' || count(*) || ' slots of ' || q.per_key
from perdure_queues q join perdure_runs r on r.queue = q.name where r.slot = 2 and r.finished_at is null
group by q.name, r.queue_key having count(*) > q.per_key
union all
select q.name || ', worker ' || r.owner || ': ' || count(*) || ' runs of ' || q.per_worker
from perdure_queues q join perdure_runs r on r.queue = q.name where r.owner is not null and r.slot = 2
group by q.name, r.owner having count(*) > q.per_worker
union all
select r.id || ' is driven without its slot' from perdure_runs r
where r.queue is not null and r.owner is not null and r.slot = 1
"""
FORGOTTEN = """
select r.id, i.topic, r.due_at from perdure_inbox i join perdure_runs r on r.number = i.run
where i.taken_seq is null and r.owner is null and r.status in ('waiting', 'cancelling', 'compensating')
  and r.rank is null and (r.due_at is null or r.due_at > ?)
  and (i.topic glob 'control:*' or exists (select 1 from json_each(r.waiting_for) where value = i.topic))
"""
INBOX = "select id, run, topic, data from perdure_inbox where id > ? order by id"
ENDED = {str(status) for status in TERMINAL}
MAY_WAIT = {"waiting", "cancelling", "compensating"}


class Run(NamedTuple):
    """The columns of a run that the invariants speak of."""

    number: int
    id: str
    workflow: str
    status: str
    generation: int
    owner: int | None
    epoch: int
    due_at: int | None
    waiting_for: str | None
    parent: int | None
    detached: int
    output: str | None
    error: str | None
    reason: str | None
    finished_at: int | None
    rank: int | None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class Fact(NamedTuple):
    """A journal entry, with the number of the history it belongs to: continue_as_new and a rerun begin the next one."""

    round: int
    seq: int
    kind: str
    key: str
    at: int
    data: str | None
    attempt: int | None


class Mirror:
    """
    Every entry that was ever durable, also those that continue_as_new has dropped since, and all runs as they are.

    Args:
        latest: When a run is due now by any clock, microseconds since 1970.
        wrong: Told in words what must not be.

    Attributes:
        outcomes: Facts by (run, round, key): at most one each.
        observed: Number of durable outcomes by (run, round).
        ends: Runs in the order in which they ended.
        messages: Signals by run, as topic and payload, in the order in which they were durable.
    """

    def __init__(self, path: str, latest: Callable[[], int], wrong: Callable[[str], None]) -> None:
        self.connection = apsw.Connection(path)
        self.latest = latest
        self.wrong = wrong
        self.runs: dict[int, Run] = {}
        self.numbers: dict[str, int] = {}
        self.facts: dict[int, list[Fact]] = defaultdict(list)
        self.outcomes: dict[tuple[int, int, str], Fact] = {}
        self.begun: set[tuple[int, int, str, int | None]] = set()
        self.observed: dict[tuple[int, int], int] = defaultdict(int)
        self.ends: list[int] = []
        self.messages: dict[int, list[tuple[str, str | None]]] = defaultdict(list)
        self.rounds: dict[int, int] = defaultdict(lambda: 1)
        self.times: dict[int, int] = defaultdict(int)
        self._version = -1
        self._last = 0
        self._last_message = 0

    def refresh(self, batch: Sequence[Operation] = ()) -> list[str]:
        """
        Take in what was committed; tell it in words, an empty list when nothing was.

        Args:
            batch: What was committed just now.
        """
        version = self.connection.execute("pragma data_version").get
        if version == self._version:
            return []
        self._version = version
        news = []
        grown = set()
        for row in self.connection.execute(ENTRIES, (self._last,)):
            self._last = row[0]
            grown.add(row[1])
            news.append(f"{row[1]}.{row[2]} {row[3]} {row[4]}")
            self._add_forgotten(row[1], row[2], batch)
            self._append(row[1], *row[2:])
        self._read_inbox()
        for row in self.connection.execute(RUNS):
            run = Run(*row)
            before = self.runs.get(run.number)
            if before != run:
                self.runs[run.number] = run
                if run.ended:
                    self.ends.append(run.number)
                self.numbers[run.id] = run.number
                self._moved(before, run)
                news.append(f"{run.number} {run.status} epoch {run.epoch} owner {run.owner} due {run.due_at}")
            elif run.ended and run.number in grown:
                self.wrong(f"I3: the journal of {run.id} grew after its end")
        for run_id, topic, due_at in self.connection.execute(FORGOTTEN, (self.latest(),)):
            self.wrong(f"I8: {run_id} waits for {topic}, which has come, and is due at {due_at}")
        for (exceeded,) in self.connection.execute(LIMITS):
            self.wrong(f"a limit does not hold: {exceeded}")
        return news or ["-"]

    def _read_inbox(self) -> None:
        for number, run_number, topic, data in self.connection.execute(INBOX, (self._last_message,)):
            self._last_message = number
            if topic.startswith("signal:"):
                self.messages[run_number].append((topic, self.text(data)))

    def text(self, stored: str | None) -> str | None:
        """A payload as it was before it was perhaps put on the shelf of blobs."""
        if stored is None or not stored.startswith("@"):
            return stored
        found = rows(self.connection, "select data from perdure_blobs where hash = ?", stored[1:])
        if not found:
            self.wrong(f"the blob {stored} is gone")
            return None
        return str(found[0][0])

    def _add_forgotten(self, number: int, seq: int, batch: Sequence[Operation]) -> None:
        """Add the entries that came with a continue_as_new, which dropped them in the same commit."""
        lines = (line for operation in batch for line in operation.lines if line[0] == "append")
        entries = {line[1][2]: line[1] for line in lines if line[1][0] == number}
        if not any(entry[3] == Kind.CONTINUED for entry in entries.values()):
            return
        last = self.facts[number][-1].seq if self.facts[number] else 0
        for place in range(last + 1, seq):
            if place in entries:
                _, _, _, kind, key, at, data, _, attempt, _ = entries[place]
                self._append(number, place, kind, key, at, data, attempt)

    def run(self, run_id: str) -> Run | None:
        """The run of this id as it is now."""
        number = self.numbers.get(run_id)
        return None if number is None else self.runs[number]

    def last(self, run_id: str) -> int:
        """The seq of the last durable entry of a run, 0 for none."""
        facts = self.facts[self.numbers[run_id]] if run_id in self.numbers else []
        return facts[-1].seq if facts else 0

    def _append(
        self, number: int, seq: int, kind: str, key: str, at: int, data: str | None, attempt: int | None
    ) -> None:
        facts = self.facts[number]
        last = facts[-1].seq if facts else 0
        if seq != last + 1:
            self.wrong(f"the journal of run {number} has a gap: {last} is followed by {seq}")
        round_, data = self.rounds[number], self.text(data)
        fact = Fact(round_, seq, kind, key, at, data, attempt)
        facts.append(fact)
        if kind in OUTCOMES:
            self.observed[number, round_] += 1
            if at < self.times[number]:
                self.wrong(f"the time that run {number} sees goes back at {seq}")
            self.times[number] = at
            place = (number, round_, key)
            if key and place in self.outcomes:
                self.wrong(f"run {number} has two outcomes of {key!r}: {self.outcomes[place]} and {fact}")
            self.outcomes[place] = fact
        elif kind == Kind.ATTEMPT_STARTED:
            mark = (number, round_, key, attempt)
            if mark in self.begun:
                self.wrong(f"run {number} began attempt {attempt} of {key!r} twice, which may run at most once")
            self.begun.add(mark)
        elif kind in {Kind.CONTINUED, Kind.RERUN}:
            self.rounds[number] += 1
            if kind == Kind.RERUN:
                # What a run sees is as old as what it kept.
                self.times[number] = max((each.at for each in present(facts) if each.kind in OUTCOMES), default=0)

    def _moved(self, before: Run | None, run: Run) -> None:
        if before is not None:
            self._changed(before, run)
        if run.ended:
            last = self.facts[run.number][-1:]
            if not last or last[0].kind != run.status:
                self.wrong(f"{run.id} is {run.status}, and its journal ends with {last}")
            if run.owner is not None or run.due_at is not None:
                self.wrong(f"{run.id} is {run.status}, and owned or due: {run}")
        elif run.owner is None and run.due_at is None and run.rank is None:
            self._resting(run)
        elif run.status == "paused":
            self.wrong(f"{run.id} is paused, and owned or due: {run}")

    def _changed(self, before: Run, run: Run) -> None:
        if before.ended and run.generation == before.generation:
            self.wrong(f"I3: {run.id} changed after its end: {before} became {run}")
        if run.epoch < before.epoch:
            self.wrong(f"I1: the epoch of {run.id} went back from {before.epoch} to {run.epoch}")
        if run.owner not in {None, before.owner} and run.epoch == before.epoch:
            self.wrong(f"I1: {run.id} went from owner {before.owner} to {run.owner} in one epoch")
        if run.generation == before.generation and not _reachable(before.status, run.status):
            self.wrong(f"{run.id} moved from {before.status} to {run.status}")

    def _resting(self, run: Run) -> None:
        """I8: nobody owns it and no time is set, so something named must be awaited."""
        if run.status == "paused":
            if not run.reason:
                self.wrong(f"I8: {run.id} is paused without a reason")
            elif json.loads(run.reason).get("code") == "divergence":
                self.wrong(f"I7: {run.id} diverged from its journal: {json.loads(run.reason)['message']}")
            elif json.loads(run.reason).get("code") not in {"operator", "poison", "operation_refused"}:
                self.wrong(f"{run.id} was put aside by an error: {json.loads(run.reason)['message']}")
            elif [fact.kind for fact in self.facts[run.number][-1:]] != [Kind.PAUSED]:
                self.wrong(f"I4: {run.id} is paused, and its journal does not end with that")
        elif run.status not in MAY_WAIT or not json.loads(run.waiting_for or "[]"):
            self.wrong(f"I8: {run.id} is lost: {run}")

    def check_endings(self) -> None:
        """One end per generation and run that has ended, none for others."""
        for number, facts in self.facts.items():
            ends = [fact for fact in facts if fact.kind in ENDINGS]
            run = self.runs[number]
            if len(ends) != run.generation - (not run.ended):
                self.wrong(f"{run.id} in generation {run.generation} is {run.status} and has these ends: {ends}")


def present(facts: Sequence[Fact]) -> list[Fact]:
    """Those that no rerun has dropped."""
    kept: list[Fact] = []
    for fact in facts:
        if fact.kind == Kind.RERUN:
            last = json.loads(fact.data or "{}")["keep"]
            kept = [earlier for earlier in kept if earlier.seq <= last]
        kept.append(fact)
    return kept


def _reachable(old: str, new: str) -> bool:
    """Whether legal moves lead from one status to the other; one commit may make several."""
    found, open_ = {Status(old)}, [Status(old)]
    while open_:
        for following in MOVES[open_.pop()] - found:
            found.add(following)
            open_.append(following)
    return Status(new) in found


def rows(connection: apsw.Connection, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    return list(connection.execute(sql, parameters))
