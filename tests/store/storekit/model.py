"""
What a store must do, in plain Python: a second, independent telling of what the SQL says.

Slow and simple on purpose. Each statement is a method of the same name that yields the rows it returns.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from perdure.model.run import SUSPICIOUS, Claimed, RunRow
from perdure.model.status import MOVES, TERMINAL, Status
from perdure.store.operation import ORDER, Operation, Row
from perdure.store.queries import statements

STATEMENTS = statements("sqlite")
PARAMETERS = {name: [p for p in found.parameters if p != "tag"] for name, found in STATEMENTS.items()}
AT_REST = ("waiting", "cancelling", "compensating")
CANCELLABLE = ("queued", "running", "waiting", "paused", "compensating")


class Refused(Exception):
    """A rule of the schema forbids it."""


@dataclass
class Model:
    """The tables of a store, and what statements do to them."""

    runs: dict[int, dict[str, Any]] = field(default_factory=dict)
    journal: dict[tuple[int, int], tuple[Any, ...]] = field(default_factory=dict)
    inbox: dict[int, dict[str, Any]] = field(default_factory=dict)
    tags: set[tuple[str, int]] = field(default_factory=set)
    blobs: dict[str, tuple[int, str]] = field(default_factory=dict)
    refs: set[tuple[int, str]] = field(default_factory=set)
    traces: dict[int, str] = field(default_factory=dict)
    artifacts: dict[tuple[int, str], tuple[Any, ...]] = field(default_factory=dict)
    chores: dict[str, int] = field(default_factory=dict)
    workers: dict[int, dict[str, Any]] = field(default_factory=dict)
    doomed: set[int] = field(default_factory=set)
    last: dict[str, int] = field(default_factory=lambda: {"run": 0, "message": 0, "worker": 0})

    def copy(self) -> "Model":
        """Another model in the same state."""
        return Model(
            {number: dict(row) for number, row in self.runs.items()}, dict(self.journal),
            {number: dict(found) for number, found in self.inbox.items()}, set(self.tags), dict(self.blobs),
            set(self.refs), dict(self.traces), dict(self.artifacts), dict(self.chores), {number: dict(row) for number, row in self.workers.items()}, set(self.doomed),
            dict(self.last),
        )  # fmt: skip

    # ------------------------------------------------------------------------------------ batches
    def batch(self, operations: list[Operation]) -> list[tuple[list[Row], bool]]:
        """Run operations as one batch; the rows of each, and whether it was refused."""
        trial = self.copy()
        try:
            outcomes = trial._together(operations)
        except Refused:
            return [self._alone(operation) for operation in operations]
        self.__dict__ = trial.__dict__
        return outcomes

    def _together(self, operations: list[Operation]) -> list[tuple[list[Row], bool]]:
        outcomes: list[tuple[list[Row], bool]] = [([], False) for _ in operations]
        plain = [(tag, line) for tag, found in enumerate(operations) if not found.body for line in found.lines]
        for tag, (name, parameters) in sorted(plain, key=lambda item: ORDER.index(item[1][0])):
            outcomes[tag][0].extend(self._run(name, parameters))
        for tag, operation in enumerate(operations):
            if operation.body:
                outcomes[tag] = self._alone(operation)
        return outcomes

    def _alone(self, operation: Operation) -> tuple[list[Row], bool]:
        trial = self.copy()
        rows: list[Row] = []
        try:
            for name, parameters in sorted(operation.lines, key=lambda line: ORDER.index(line[0])):
                rows.extend(trial._run(name, parameters))
            if operation.body and not any(row[0] == "stale" for row in rows):
                for name, parameters in sorted(operation.body.lines, key=lambda line: ORDER.index(line[0])):
                    rows.extend(trial._run(name, parameters))
        except Refused:
            return [], True
        self.__dict__ = trial.__dict__
        return rows, False

    def _run(self, name: str, parameters: tuple[Any, ...]) -> list[Row]:
        return list(getattr(self, name)(**dict(zip(PARAMETERS[name], parameters, strict=True))) or ())

    # ------------------------------------------------------------------------------------- helpers
    def by_id(self, run_id: str) -> dict[str, Any] | None:
        return next((row for row in self.runs.values() if row["id"] == run_id), None)

    def owned(self, run: int, epoch: int) -> dict[str, Any] | None:
        row = self.runs.get(run)
        return row if row and row["epoch"] == epoch and row["owner"] is not None else None

    def last_seq(self, run: int) -> int | None:
        return max((seq for number, seq in self.journal if number == run), default=None)

    def change(self, row: dict[str, Any], **values: Any) -> None:
        """Update a run's row as the triggers allow."""
        new = row | values
        renewed = new["generation"] == row["generation"] + 1 and new["status"] == "queued"
        old, status = Status(row["status"]), Status(new["status"])
        if (status is not old and status not in MOVES[old] and not renewed) or (old in TERMINAL and not renewed):
            raise Refused
        if new["owner"] is not None and new["due_at"] is not None:
            raise Refused
        row.update(values)

    def insert_run(self, **values: Any) -> dict[str, Any]:
        row = dict.fromkeys(RunRow._fields)
        row |= {"generation": 1, "epoch": 0, "detached": 0, "takeovers": 0} | values
        row |= {"queue_key": "", "priority": 0, "weight": 1, "slot": 0}
        if row["status"] not in {"queued", "running"} or (row["owner"] is not None and row["due_at"] is not None):
            raise Refused
        self.last["run"] += 1
        row["number"] = self.last["run"]
        self.runs[row["number"]] = row
        return row

    def insert_message(self, message: int | None = None, **values: Any) -> None:
        if message is None:
            self.last["message"] += 1
            message = self.last["message"]
        self.inbox[message] = dict.fromkeys(("key", "data", "sender", "taken_seq")) | values

    def insert_entry(self, run: int, seq: int, *rest: Any) -> None:
        if (run, seq) in self.journal:
            raise Refused
        self.journal[run, seq] = rest

    def open_mail(self, run: int) -> list[dict[str, Any]]:
        return [found for found in self.inbox.values() if found["run"] == run and found["taken_seq"] is None]

    # -------------------------------------------------------------------------------------- guards
    def fence(self, run, epoch):
        if not self.owned(run, epoch):
            yield ("stale",)

    def guard(self, id, epoch, status):
        row = self.by_id(id)
        if not row or (row["epoch"], row["status"], row["owner"]) != (epoch, status, None):
            yield ("stale",)

    def guard_there(self, number):
        if number not in self.runs:
            yield ("stale",)

    def guard_blob(self, hash):
        if hash not in self.blobs:
            yield ("stale",)

    def guard_vacant(self, id):
        if self.by_id(id):
            yield ("stale",)

    # ------------------------------------------------------------------------------------ starting
    def add_blob(self, hash, size, data):
        self.blobs.setdefault(hash, (size, data))

    def add_blob_ref(self, id, hash):
        if row := self.by_id(id):
            self.refs.add((row["number"], hash))

    def add_tag(self, id, name):
        if row := self.by_id(id):
            self.tags.add((name, row["number"]))

    def start_trace(self, id, now, trace):
        row = self.by_id(id)
        if row and row["created_at"] == now and row["finished_at"] is None:
            self.traces.setdefault(row["number"], trace)

    def trace_run(self, run, epoch, trace):
        if self.owned(run, epoch):
            self.traces[run] = trace

    def save_artifact(self, run, epoch, name, step, form, media_type, size, data, now):
        if self.owned(run, epoch):
            self.artifacts[run, name] = (step, form, media_type, size, data, now)
            yield ("saved",)

    def remove_artifact(self, run, epoch, name):
        if self.owned(run, epoch):
            self.artifacts.pop((run, name), None)

    def copy_artifacts(self, id, number):
        if row := self.by_id(id):
            for (run, name), rest in tuple(self.artifacts.items()):
                if run == number:
                    self.artifacts.setdefault((row["number"], name), rest)

    def take_chore(self, name, now, until):
        if self.chores.get(name, now) <= now:
            self.chores[name] = until
            yield ("chore",)

    def due_now(self, now, most):
        due = [row for row in self.runs.values() if row["due_at"] is not None and row["due_at"] <= now]
        for row in sorted(due, key=lambda row: (row["due_at"], row["number"]))[:most]:
            yield "due", row["number"], row["due_at"]

    def start(self, **values):
        if not self.by_id(values["id"]):
            yield "started", self.insert_run(**values)["number"]

    def start_child(self, id, workflow, input, seed, now, deadline_at, detached, parent, epoch):
        above = self.owned(parent, epoch)
        if above and not self.by_id(id):
            self.insert_run(
                id=id, workflow=workflow, status="queued", input=input, seed=seed, due_at=now, created_at=now,
                deadline_at=deadline_at, detached=detached, parent=parent, root=above["root"] or parent,
            )  # fmt: skip
            yield "child", id

    def fork_child(self, id, workflow, input, seed, now, deadline_at, detached, parent_id):
        if above := self.by_id(parent_id):
            if self.by_id(id):
                raise Refused
            self.insert_run(
                id=id, workflow=workflow, status="queued", input=input, seed=seed, due_at=now, created_at=now,
                deadline_at=deadline_at, detached=detached, parent=above["number"], root=above["number"],
            )  # fmt: skip

    # ------------------------------------------------------------------------------------- journal
    def copy_entry(self, id, seq, kind, key, at, data, started_at, attempt, fingerprint):
        row = self.by_id(id)
        if row and row["epoch"] == 0 and row["started_at"] is None:
            self.insert_entry(row["number"], seq, kind, key, at, data, started_at, attempt, fingerprint)

    def append(self, run, epoch, seq, kind, key, at, data, started_at, attempt, fingerprint):
        if self.owned(run, epoch):
            self.insert_entry(run, seq, kind, key, at, data, started_at, attempt, fingerprint)

    def forget(self, run, epoch, seq):
        if self.owned(run, epoch):
            for place in [place for place in self.journal if place[0] == run and place[1] < seq]:
                del self.journal[place]

    def note(self, id, epoch, kind, data, now, key=""):
        row = self.by_id(id)
        if row and row["epoch"] == epoch and row["owner"] is None:
            seq = (self.last_seq(row["number"]) or 0) + 1
            self.insert_entry(row["number"], seq, kind, key, now, data, None, None, None)

    def resolve(self, id, epoch, key, data, now):
        self.note(id, epoch, "step_resolved", data, now, key)

    def _note_pause(self, row, data, now):
        seq = self.last_seq(row["number"])
        if row["status"] == "paused" and (seq is None or self.journal[row["number"], seq][0] != "paused"):
            self.insert_entry(row["number"], (seq or 0) + 1, "paused", "", now, data, None, None, None)

    def note_pause(self, run, epoch, data, now):
        row = self.runs.get(run)
        if row and (row["epoch"], row["owner"]) == (epoch, None):
            self._note_pause(row, data, now)

    def note_poison(self, reason, data, now):
        for row in self.runs.values():
            if row["reason"] == reason:
                self._note_pause(row, data, now)

    # --------------------------------------------------------------------------------------- inbox
    def take(self, run, epoch, message):
        found = self.inbox.get(message)
        if self.owned(run, epoch) and found and found["run"] == run and found["key"] is None:
            del self.inbox[message]

    def take_keyed(self, run, epoch, message, seq):
        found = self.inbox.get(message)
        if self.owned(run, epoch) and found and found["run"] == run and found["taken_seq"] is None:
            found["taken_seq"] = seq

    def send(self, run_id, topic, key, data, now):
        row = self.by_id(run_id)
        if not row or row["status"] in TERMINAL:
            return
        number = row["number"]
        if key is not None and any(
            (found["run"], found["topic"], found["key"]) == (number, topic, key) for found in self.inbox.values()
        ):
            return
        self.insert_message(run=number, topic=topic, key=key, data=data, sent_at=now)
        yield "sent", number

    def _ask(self, rows, topic, data, now):
        for row in rows:
            self.insert_message(run=row["number"], topic=topic, data=data, sent_at=now)
            yield "asked", row["number"]

    def ask_pause(self, id, data, now):
        row = self.by_id(id)
        asked = row and row["owner"] is not None and row["status"] == "running"
        return self._ask([row] if asked else [], "control:pause", data, now)

    def ask_child(self, id, parent, epoch, data, now):
        row = self.by_id(id)
        asked = row and row["parent"] == parent and row["status"] not in TERMINAL and self.owned(parent, epoch)
        return self._ask([row] if asked else [], "control:cancel", data, now)

    def _children(self, run, epoch):
        there = self.owned(run, epoch)
        return [row for row in self.runs.values() if there and row["parent"] == run and not row["detached"]]

    def ask_children(self, run, epoch, data, now):
        asked = [row for row in self._children(run, epoch) if row["status"] not in {*TERMINAL, "cancelling"}]
        return self._ask(asked, "control:cancel", data, now)

    def notify_parent(self, run, epoch, status, topic, now):
        child = self.runs.get(run)
        if not child or (child["epoch"], child["status"], child["owner"], child["finished_at"]) != (
            epoch, status, None, now,
        ):  # fmt: skip
            return
        above = self.runs.get(child["parent"])
        if above and above["status"] not in TERMINAL:
            self.insert_message(run=above["number"], topic=topic, sender=run, sent_at=now)
            yield "notified", above["number"]

    def _drop_mail(self, wanted):
        for message in [number for number, found in self.inbox.items() if wanted(found)]:
            del self.inbox[message]

    def drop_control(self, id, topic):
        row = self.by_id(id)
        self._drop_mail(
            lambda found: row and (found["run"], found["topic"], found["taken_seq"]) == (row["number"], topic, None)
        )

    def drop_taken(self, id, seq):
        row = self.by_id(id)
        self._drop_mail(
            lambda found: (
                row and found["run"] == row["number"] and found["key"] is not None and found["taken_seq"] == seq
            )
        )

    def recall(self, id):
        row = self.by_id(id)
        self._drop_mail(
            lambda found: (
                row and (found["run"], found["sender"], found["taken_seq"]) == (row["parent"], row["number"], None)
            )
        )

    def restore(self, id, nth, topic, key, data, sent_at):
        if row := self.by_id(id):
            first = min((number for number in self.inbox if number < 0), default=0)
            self.insert_message(first - nth, run=row["number"], topic=topic, key=key, data=data, sent_at=sent_at)

    def tell_end(self, id, child, topic, now):
        row, ended = self.by_id(id), self.by_id(child)
        if row and ended and ended["status"] in TERMINAL:
            if not any(found["topic"] == topic for found in self.open_mail(row["number"])):
                self.insert_message(run=row["number"], topic=topic, sender=ended["number"], sent_at=now)

    # --------------------------------------------------------------------------- giving up and ending
    def park(self, run, epoch, due_at, waiting_for, now):
        if row := self.owned(run, epoch):
            topics = json.loads(waiting_for)
            wanted = any(
                found["topic"].startswith("control:") or found["topic"] in topics for found in self.open_mail(run)
            )
            status = "waiting" if row["status"] == "running" else row["status"]
            due_at = now if wanted else due_at
            self.change(row, owner=None, waiting_for=waiting_for, status=status, due_at=due_at, takeovers=0)

    def finish(self, run, epoch, status, output, error, now):
        if row := self.owned(run, epoch):
            self.change(
                row, status=status, output=output, error=error, finished_at=now, owner=None, due_at=None,
                waiting_for=None, reason=None,
            )  # fmt: skip

    def release(self, run, epoch, now):
        if row := self.owned(run, epoch):
            status = "queued" if row["status"] == "running" else row["status"]
            self.change(row, owner=None, epoch=epoch + 1, due_at=now, waiting_for=None, status=status)

    def renew(self, run, epoch, input):
        if row := self.owned(run, epoch):
            first = row["input"] if row["first_input"] is None else row["first_input"]
            self.change(row, first_input=first, input=input, takeovers=0, takeover_seq=None)

    def forget_refs(self, run, epoch):
        if row := self.owned(run, epoch):
            texts = {row["input"], row["first_input"]}
            texts |= {found[3] for (number, _), found in self.journal.items() if number == run}
            texts |= {found["data"] for found in self.inbox.values() if found["run"] == run}
            self.refs = {(number, name) for number, name in self.refs if number != run or f"@{name}" in texts}

    def clear_suspicion(self, run, epoch):
        if row := self.owned(run, epoch):
            self.change(row, takeovers=0)

    def compensate(self, run, epoch):
        row = self.owned(run, epoch)
        if row and row["status"] in {"running", "cancelling"}:
            self.change(row, status="compensating")

    def pause_own(self, run, epoch, reason):
        if row := self.owned(run, epoch):
            self.change(row, status="paused", reason=reason, owner=None, due_at=None, waiting_for=None, epoch=epoch + 1)

    def cancel_paused(self, run, epoch, now):
        row = self.runs.get(run)
        asked = any(found["topic"] == "control:cancel" for found in self.open_mail(run))
        if row and asked and (row["epoch"], row["status"]) == (epoch, "paused"):
            list(self._cancel([row], now))

    def _wake(self, row, topic, now):
        if not row or row["owner"] is not None or row["status"] not in AT_REST:
            return
        if row["due_at"] is not None and row["due_at"] <= now:
            return
        if topic.startswith("control:") or topic in json.loads(row["waiting_for"] or "[]"):
            self.change(row, due_at=now)

    def wake(self, run, topic, now):
        self._wake(self.runs.get(run), topic, now)

    def wake_id(self, id, topic, now):
        self._wake(self.by_id(id), topic, now)

    # ------------------------------------------------------------------------------------ steering
    def _cancel(self, rows, now):
        for row in rows:
            if row["status"] in CANCELLABLE:
                status = "compensating" if row["status"] == "compensating" else "cancelling"
                self.change(row, status=status, reason=None, due_at=now if row["owner"] is None else None)
                yield "cancelling", row["number"], row["owner"]

    def cancel(self, id, now):
        row = self.by_id(id)
        yield from self._cancel([row] if row else [], now)

    def cancel_children(self, run, epoch, now):
        list(self._cancel(self._children(run, epoch), now))

    def cancel_child(self, id, parent, epoch, now):
        row = self.by_id(id)
        if row and row["parent"] == parent and self.owned(parent, epoch):
            list(self.cancel(id, now))

    def pause_idle(self, id, epoch, reason):
        row = self.by_id(id)
        if row and (row["epoch"], row["owner"]) == (epoch, None) and row["status"] in {"queued", "waiting"}:
            self.change(row, status="paused", reason=reason, due_at=None, waiting_for=None, epoch=epoch + 1)
            yield "paused", row["number"]

    def resume(self, id, epoch, now):
        row = self.by_id(id)
        if row and (row["epoch"], row["status"]) == (epoch, "paused"):
            self.change(row, status="queued", reason=None, due_at=now, epoch=epoch + 1, takeovers=0)
            yield "resumed", row["number"]

    def rerun(self, id, epoch, now):
        row = self.by_id(id)
        if row and (row["epoch"], row["owner"]) == (epoch, None) and row["status"] in {*TERMINAL, "paused"}:
            nothing = dict.fromkeys(
                ("output", "error", "reason", "finished_at", "deadline_at", "waiting_for", "takeover_seq")
            )
            again = {"generation": row["generation"] + 1, "status": "queued", "due_at": now, "epoch": epoch + 1}
            self.change(row, **nothing, **again, takeovers=0)
            yield "rerun", row["number"]

    def move_version(self, id, epoch, workflow):
        row = self.by_id(id)
        if row and (row["epoch"], row["owner"]) == (epoch, None) and row["status"] not in TERMINAL:
            self.change(row, workflow=workflow, epoch=epoch + 1)
            yield "moved", row["number"]

    # ------------------------------------------------------------------------------------- workers
    def register_worker(self, id, host, place, pid, workflows, now, lease_until):
        if all(row["id"] != id for row in self.workers.values()):
            self.last["worker"] += 1
            self.workers[self.last["worker"]] = {
                "id": id, "host": host, "place": place, "pid": pid, "workflows": workflows, "state": "alive",
                "started_at": now, "heartbeat_at": now, "lease_until": lease_until,
            }  # fmt: skip
            yield "registered", self.last["worker"]

    def free_id(self, id):
        for number, row in self.workers.items():
            if row["id"] == id and row["state"] != "alive":
                row["id"] = f"{id}#{number}"

    def _alive(self, worker):
        row = self.workers.get(worker)
        return row if row and row["state"] == "alive" else None

    def heartbeat(self, worker, now, lease_until):
        if row := self._alive(worker):
            row |= {"heartbeat_at": now, "lease_until": lease_until}
            yield ("alive",)

    def learn(self, worker, workflows):
        if row := self._alive(worker):
            row |= {"workflows": workflows}

    def leave(self, worker, now):
        if row := self._alive(worker):
            row |= {"state": "left", "lease_until": now}

    def declare_dead(self, worker, now):
        if row := self._alive(worker):
            row |= {"state": "dead", "lease_until": now}

    def bury(self, now):
        for row in self.workers.values():
            if row["state"] == "alive" and row["lease_until"] < now:
                row["state"] = "dead"

    def forget_workers(self, before):
        owners = {row["owner"] for row in self.runs.values()}
        for number, row in list(self.workers.items()):
            if row["state"] != "alive" and row["lease_until"] < before and number not in owners:
                del self.workers[number]

    def claim(self, worker, now, most, workflows):
        if worker not in self.workers or self.workers[worker]["state"] != "alive":
            return
        due = [row for row in self.runs.values() if row["due_at"] is not None and row["due_at"] <= now]
        due = [row for row in due if row["workflow"] in json.loads(workflows)]
        suspects = [row for row in due if row["takeovers"] >= SUSPICIOUS]
        if any(row["owner"] == worker and row["takeovers"] >= SUSPICIOUS for row in self.runs.values()):
            suspects = []
        found = [row for row in due if row["takeovers"] < SUSPICIOUS]
        found += sorted(suspects, key=lambda row: (row["takeovers"], row["due_at"], row["number"]))[:1]
        for row in sorted(found, key=lambda row: (row["due_at"], row["number"]))[:most]:
            status = "running" if row["status"] in {"queued", "waiting"} else row["status"]
            begun = now if row["started_at"] is None else row["started_at"]
            self.change(row, owner=worker, epoch=row["epoch"] + 1, due_at=None, started_at=begun, status=status)
            given = row | {"mail": bool(self.open_mail(row["number"]))}
            yield "claimed", *(given[name] for name in Claimed._fields if name != "trace")

    def expire_runs(self, now, most_takeovers, reason):
        alive = {
            number for number, row in self.workers.items() if row["state"] == "alive" and row["lease_until"] >= now
        }
        for row in self.runs.values():
            if row["owner"] is None or row["owner"] in alive:
                continue
            seq = self.last_seq(row["number"])
            still = row["takeover_seq"] == seq
            poison = still and row["takeovers"] + 1 >= most_takeovers
            status = "queued" if row["status"] == "running" else row["status"]
            self.change(
                row, owner=None, epoch=row["epoch"] + 1, waiting_for=None, takeover_seq=seq,
                takeovers=row["takeovers"] + 1 if still and row["takeovers"] else 1,
                status="paused" if poison else status, reason=reason if poison else None,
                due_at=None if poison else now,
            )  # fmt: skip
            yield "expired", row["number"], row["status"]

    # ------------------------------------------------------------------------------------- pruning
    def doom(self, before, statuses, most, undelivered):
        tops = [
            row for row in self.runs.values()
            if row["parent"] is None and row["finished_at"] is not None and row["finished_at"] < before
            and row["status"] in json.loads(statuses)
            and not any(d["root"] == row["number"] and d["finished_at"] is None for d in self.runs.values())
        ]  # fmt: skip
        found = {row["number"] for row in sorted(tops, key=lambda row: row["finished_at"])[:most]}
        while more := {row["number"] for row in self.runs.values() if row["parent"] in found} - found:
            found |= more
        if found & self.doomed:
            raise Refused
        self.doomed |= found

    def drop_journal(self):
        self.journal = {place: found for place, found in self.journal.items() if place[0] not in self.doomed}

    def drop_inbox(self):
        self._drop_mail(lambda found: found["run"] in self.doomed and found["taken_seq"] is None)

    def drop_keyed(self):
        self._drop_mail(lambda found: found["run"] in self.doomed and found["key"] is not None)

    def drop_tags(self):
        self.tags = {found for found in self.tags if found[1] not in self.doomed}

    def drop_artifacts(self):
        self.artifacts = {place: rest for place, rest in self.artifacts.items() if place[0] not in self.doomed}

    def drop_traces(self):
        self.traces = {run: trace for run, trace in self.traces.items() if run not in self.doomed}

    def drop_blobs(self):
        kept = {hash for run, hash in self.refs if run not in self.doomed}
        for hash in {hash for run, hash in self.refs if run in self.doomed} - kept:
            self.blobs.pop(hash, None)

    def drop_blob_refs(self):
        self.refs = {found for found in self.refs if found[0] not in self.doomed}

    def drop_runs(self):
        for number in sorted(self.doomed & self.runs.keys()):
            del self.runs[number]
            yield "pruned", number

    def clear_doomed(self):
        self.doomed = set()

    def drop_orphans(self, most):
        held = {hash for _, hash in self.refs}
        assert most >= len(self.blobs), "which ones go is not said"
        for hash in [hash for hash in self.blobs if hash not in held]:
            del self.blobs[hash]
            yield "orphan", hash
