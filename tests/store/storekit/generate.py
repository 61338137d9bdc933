"""Random operations, such as clients, drivers, workers and operators make: most of them right, some late or wrong."""

import json
import random
from collections.abc import Callable, Iterable

from perdure.model.entry import Entry
from perdure.model.run import Message
from perdure.model.status import TERMINAL, Status
from perdure.store.operation import Guarded, Line, Operation
from perdure.store.record import Record, shelve
from storekit.database import line, start
from storekit.kinds import NOW
from storekit.model import PARAMETERS, Model
from storekit.system import NOBODY

TOPICS = ("signal:a", "signal:b", "signal:c")
WORKFLOWS = ("v", "w")
INLINE_BYTES = 40
ENDS = [Status.COMPLETED, Status.COMPLETED, Status.FAILED, Status.CANCELLED]


class Generator:
    """
    Makes up operations that fit the model's state, or just do not.

    Args:
        seed: The same seed and the same answers give the same operations.
        most_runs: About how many there may be at once; then more are removed.
        orderly: An owner waits for its commit before it writes again, as drivers do, and within a batch time
            stands still.
    """

    def __init__(self, model: Model, seed: object, most_runs: int = 40, *, orderly: bool = False) -> None:
        self.model = model
        self.orderly = orderly
        self.chance = random.Random(str(seed))
        self.most_runs = most_runs
        self.now = NOW
        self.count = 0
        self.written: set[int] = set()
        self.kinds: dict[Callable[[], Operation], int] = {
            self.start: 10, self.drive: 45, self.claim: 14, self.send: 12, self.cancel: 3, self.pause: 3,
            self.resume: 4, self.rerun: 5, self.fork: 3, self.register: 2, self.beat: 4, self.go: 2, self.sweep: 4,
            self.prune: 1, self.tidy: 1, self.mistake: 1, self.move: 1,
        }  # fmt: skip

    def batch(self, size: int) -> list[Operation]:
        """Operations that all know the state before them, but not what the others of the batch do."""
        self.written = set()
        self.now += self.chance.randrange(1, 60)
        return [self.operation() for _ in range(size)]

    def operation(self) -> Operation:
        if not self.orderly:
            self.now += self.chance.randrange(1, 30)
        if not self.model.workers:
            return self.register()
        kinds = dict(self.kinds)
        if len(self.model.runs) > self.most_runs:
            kinds |= {self.start: 1, self.fork: 0, self.prune: 12}
        (kind,) = self.chance.choices(list(kinds), list(kinds.values()))
        return kind()

    # ------------------------------------------------------------------------------------- choosing
    def happens(self, probability: float) -> bool:
        return self.chance.random() < probability

    def new(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def some_run(self, wanted: Callable[[dict], bool] = lambda _row: True) -> dict | None:
        found = [row for row in self.model.runs.values() if wanted(row)]
        return self.chance.choice(found) if found else None

    def run_id(self) -> str:
        """One that there is, nearly always."""
        row = self.some_run()
        return "nobody" if row is None or self.happens(0.03) else row["id"]

    def worker(self) -> int:
        return self.chance.choice(list(self.model.workers) or [NOBODY])

    def payload(self) -> str:
        text = self.new("p")
        if self.happens(0.15):
            # Large, and the same as others now and then.
            text = self.chance.choice("xyz") * 60
        return json.dumps(text)

    def reason(self) -> str:
        return json.dumps({"code": self.new("r")})

    # -------------------------------------------------------------------------------------- clients
    def start(self) -> Operation:
        taken = self.some_run() if self.happens(0.1) else None
        run_id = taken["id"] if taken else self.new("r")
        operation = Operation()
        payload = self.payload()
        if len(payload) > INLINE_BYTES:
            payload = shelve(operation, run_id, payload)
        here = {"status": "running", "owner": self.worker(), "epoch": 1, "due_at": None, "started_at": self.now}
        later = self.chance.choice((0, 0, 50, 500))
        there = {"status": "queued", "owner": None, "epoch": 0, "due_at": self.now + later, "started_at": None}
        operation.lines.append(
            line(
                "start", id=run_id, workflow=self.chance.choice(WORKFLOWS), input=payload,
                seed=self.chance.getrandbits(62), created_at=self.now,
                deadline_at=self.now + 900 if self.happens(0.2) else None, forked_from=None,
                **here if self.happens(0.4) else there,
            )
        )  # fmt: skip
        for tag in self.chance.sample("abc", self.chance.randrange(3)):
            operation.lines.append(line("add_tag", id=run_id, name=tag))
        if self.happens(0.3):
            operation.lines.append(line("start_trace", id=run_id, now=self.now, trace=self.new("t")))
        return operation

    def send(self) -> Operation:
        run_id, topic = self.run_id(), self.chance.choice(TOPICS)
        key = self.chance.choice("kl") if self.happens(0.4) else None
        operation = Operation()
        payload = self.payload()
        if len(payload) > INLINE_BYTES:
            payload = shelve(operation, run_id, payload)
        operation.lines.append(line("send", run_id=run_id, topic=topic, key=key, data=payload, now=self.now))
        operation.lines.append(line("wake_id", id=run_id, topic=topic, now=self.now))
        return operation

    def cancel(self) -> Operation:
        run_id = self.run_id()
        return Operation([
            line("send", run_id=run_id, topic="control:cancel", key=None, data='"stop"', now=self.now),
            line("cancel", id=run_id, now=self.now),
        ])  # fmt: skip

    # -------------------------------------------------------------------------------------- drivers
    def drive(self) -> Operation:
        """What a driver writes; one in ten no longer owns its run, or never did."""
        row = self.some_run(lambda row: row["owner"] is not None)
        late = row is None or self.happens(0.1)
        if late:
            row = self.some_run()
        if row is None:
            return self.start()
        number, epoch = row["number"], row["epoch"]
        if late:
            epoch += self.chance.choice((-1, -1, 1) if self.orderly else (-1, -1, 0, 1))
        if number in self.written and (self.orderly or self.happens(0.97)):
            return self.send()
        self.written.add(number)
        record = Record(number, row["id"], epoch, INLINE_BYTES)
        self.fill(record, row)
        return record

    def fill(self, record: Record, row: dict) -> None:
        number = row["number"]
        seq = (self.model.last_seq(number) or 0) + 1
        entries = []

        def add(kind: str, key: str, data: str | None) -> None:
            entries.append(Entry(seq + len(entries), kind, key, self.now, data, self.now - 1, 1, "f"))

        for _ in range(self.chance.randrange(3)):
            add("step_completed", self.new("s"), self.payload())
        for found, message in sorted(self.model.inbox.items()):
            mine = message["run"] == number and message["taken_seq"] is None
            if mine and self.happens(0.6):
                taken = Message(
                    number, found, message["topic"], message["key"], message["data"], 0, None, None, None, None
                )  # fmt: skip
                record.take(taken, seq + len(entries))
                add("signal_received", message["topic"].partition(":")[2], message["data"])
        if self.happens(0.2):
            child = self.run_id() if self.happens(0.1) else self.new(row["id"] + "/")
            record.start_child(
                child, self.chance.choice(WORKFLOWS), self.payload(), seed=self.count, now=self.now, deadline_at=None,
                detached=self.happens(0.3), tags=("child",),
            )  # fmt: skip
            add("child_started", child, json.dumps({"id": child}))
        if self.happens(0.05):
            child = self.some_run(lambda other: other["parent"] == number)
            record.cancel(child["id"] if child else self.run_id(), '"given up"', self.now)
        if row["takeovers"] and self.happens(0.3):
            record.clear_suspicion()
        if self.happens(0.05):
            record.compensate()
        if self.happens(0.2):
            record.add("trace_run", number, record.epoch, self.new("t"))
        self.keep(record, number)
        self.give_up(record, row, seq + len(entries), add)
        record.entries(entries)

    def keep(self, record: Record, number: int) -> None:
        """What a step keeps beside the journal."""
        if self.happens(0.2):
            kept = ("s", "json", "text/plain", 3, self.payload(), self.now)
            record.add("save_artifact", number, record.epoch, self.chance.choice("ab"), *kept)
        if self.happens(0.05):
            record.add("remove_artifact", number, record.epoch, self.chance.choice("ab"))

    def give_up(self, record: Record, row: dict, seq: int, add: Callable[[str, str, str | None], None]) -> None:
        """How the driver leaves its run, if it does."""
        way = self.chance.choices(
            ("stay", "park", "release", "pause", "give up", "renew", "finish"), (30, 35, 5, 4, 2, 4, 20)
        )[0]  # fmt: skip
        children = [f"child:{other['id']}" for other in self.model.runs.values() if other["parent"] == row["number"]]
        if way == "park":
            topics = self.chance.sample(TOPICS, self.chance.randrange(1, 3)) + children[:2]
            due_at = self.chance.choice((None, self.now, self.now + 200))
            record.park(due_at, topics, self.now)
        elif way == "release":
            record.release(self.now)
        elif way == "pause":
            add("paused", "", None)
            record.pause(self.reason(), self.chance.choice((None, self.now)))
        elif way == "give up":
            reason = self.reason()
            record.pause(reason)
            record.add("note_pause", record.number, record.epoch + 1, reason, self.now)
        elif way == "renew":
            add("continued", "", None)
            record.renew(self.payload(), seq, self.now)
        elif way == "finish":
            status = self.chance.choice(ENDS)
            add(str(status), "", None)
            payload = self.payload()
            done = status is Status.COMPLETED
            record.finish(status, payload if done else None, None if done else payload, self.now)
            if row["parent"] is not None:
                record.tell_parent(row["parent"], f"child:{row['id']}", status, self.now)

    # -------------------------------------------------------------------------------------- workers
    def claim(self) -> Operation:
        names = json.dumps(self.chance.choice((WORKFLOWS, WORKFLOWS, ("v",), ("w",), ())))
        most = self.chance.choice((1, 3, 100))
        asked = [line("due_now", now=self.now, most=1_000)] if self.happens(0.3) else []
        return Operation([*asked, line("claim", worker=self.worker(), now=self.now, most=most, workflows=names)])

    def register(self) -> Operation:
        lines = []
        worker_id = self.new("w")
        if self.model.workers and self.happens(0.3):
            worker_id = self.model.workers[self.worker()]["id"].partition("#")[0]
            lines = [line("free_id", id=worker_id)] if self.happens(0.6) else []
        register = line(
            "register_worker", id=worker_id, host="h", place="p", pid=self.count, workflows='["v", "w"]', now=self.now,
            lease_until=self.now + self.chance.randrange(100, 900),
        )  # fmt: skip
        return Operation([*lines, register])

    def beat(self) -> Operation:
        until = self.now + self.chance.randrange(200, 900)
        worker = self.worker()
        learn = [line("learn", worker=worker, workflows='["w"]')] if self.happens(0.2) else []
        if self.happens(0.2):
            until = self.now + self.chance.randrange(1, 90)
            return Operation([line("take_chore", name=self.chance.choice("ab"), now=self.now, until=until)])
        return Operation([*learn, line("heartbeat", worker=worker, now=self.now, lease_until=until)])

    def go(self) -> Operation:
        how = self.chance.choice(("leave", "declare_dead"))
        return Operation([line(how, worker=self.worker(), now=self.now)])

    def sweep(self) -> Operation:
        reason = self.reason()
        return Operation([
            line("bury", now=self.now),
            line("expire_runs", now=self.now, most_takeovers=self.chance.choice((1, 2, 3)), reason=reason),
            line("note_poison", reason=reason, data=reason, now=self.now),
        ])  # fmt: skip

    # ------------------------------------------------------------------------------------ operators
    def guarded(self, row: dict, then: Iterable[Line]) -> Operation:
        """As the client makes it; sometimes of a state that is no longer."""
        epoch = row["epoch"] - self.happens(0.1)
        lines = list(then)
        guard = line("guard", id=row["id"], epoch=epoch, status=row["status"])
        return Operation([guard], body=Guarded(lines))

    def note(self, row: dict, kind: str, data: str) -> Line:
        return line("note", id=row["id"], epoch=row["epoch"] + 1, kind=kind, data=data, now=self.now)

    def pause(self) -> Operation:
        row = self.some_run()
        if row is None or row["owner"] is not None:
            return Operation([line("ask_pause", id=self.run_id(), data='"stop"', now=self.now)])
        reason = self.reason()
        pause = line("pause_idle", id=row["id"], epoch=row["epoch"], reason=reason)
        return self.guarded(row, [pause, self.note(row, "paused", reason)])

    def resume(self) -> Operation:
        row = self.some_run(lambda row: row["status"] == "paused") or self.some_run()
        if row is None:
            return self.start()
        lines = [
            line("resume", id=row["id"], epoch=row["epoch"], now=self.now),
            line("drop_control", id=row["id"], topic="control:pause"),
            self.note(row, "resumed", "{}"),
        ]
        if self.happens(0.3):
            decided = {"key": "charge#compensate", "data": "{}", "now": self.now}
            lines.append(line("resolve", id=row["id"], epoch=row["epoch"] + 1, **decided))
        return self.guarded(row, lines)

    def move(self) -> Operation:
        row = self.some_run()
        if row is None:
            return self.start()
        target = "w" if self.happens(0.7) else "w@2"
        return self.guarded(row, [
            line("move_version", id=row["id"], epoch=row["epoch"], workflow=target), self.note(row, "moved", "{}"),
        ])  # fmt: skip

    def rerun(self) -> Operation:
        row = self.some_run(lambda row: row["status"] in TERMINAL) or self.some_run()
        if row is None:
            return self.start()
        number, run_id = row["number"], row["id"]
        journal = {seq: found for (run, seq), found in self.model.journal.items() if run == number}
        keep = self.chance.choice([0, *journal])
        lines = [
            line("rerun", id=run_id, epoch=row["epoch"], now=self.now),
            line("drop_control", id=run_id, topic="control:cancel"),
            line("drop_control", id=run_id, topic="control:pause"),
            line("recall", id=run_id),
            self.note(row, "rerun", json.dumps({"keep": keep})),
        ]
        received = [seq for seq, found in journal.items() if seq > keep and found[0] == "signal_received"]
        keyed = {m["taken_seq"]: m["key"] for m in self.model.inbox.values() if m["run"] == number and m["key"]}
        for place, seq in enumerate(sorted(received, reverse=True), 1):
            if keyed.get(seq):
                lines.append(line("drop_taken", id=run_id, seq=seq))
            topic, data = f"signal:{journal[seq][1]}", journal[seq][3]
            lines.append(
                line("restore", id=run_id, nth=place, topic=topic, key=keyed.get(seq), data=data, sent_at=self.now)
            )
        for child in [other["id"] for other in self.model.runs.values() if other["parent"] == number][:3]:
            lines.append(line("tell_end", id=run_id, child=child, topic=f"child:{child}", now=self.now))
        return self.guarded(row, lines)

    def fork(self) -> Operation:
        row = self.some_run()
        if row is None:
            return self.start()
        fork_id = self.run_id() if self.happens(0.1) else self.new("f")
        journal = sorted((seq, found) for (run, seq), found in self.model.journal.items() if run == row["number"])
        child = f"{fork_id}/c"
        lines = [
            line("start", id=fork_id, workflow=row["workflow"], status="queued", owner=None, epoch=0, due_at=self.now,
                 input=row["input"], seed=row["seed"], created_at=self.now, started_at=None, deadline_at=None,
                 forked_from=row["id"]),
            *[line("copy_entry", id=fork_id, seq=place, **dict(zip(PARAMETERS["copy_entry"][2:], found, strict=True)))
              for place, (_, found) in enumerate(journal[:3], 1)],
            line("copy_artifacts", id=fork_id, number=row["number"]),
            line("fork_child", id=child, workflow="w", input="1", seed=self.count, now=self.now, deadline_at=None,
                 detached=0, parent_id=fork_id),
        ]  # fmt: skip
        guards = [
            line("guard_there", number=NOBODY if self.happens(0.1) else row["number"]),
            line("guard_vacant", id=fork_id),
            line("guard_vacant", id=child),
            *[line("guard_blob", hash=found[3][1:]) for _, found in journal[:3] if (found[3] or "").startswith("@")],
        ]
        return Operation(guards, body=Guarded(lines))

    def prune(self) -> Operation:
        most = self.chance.choice((2, 5, 100))
        before = self.now - self.chance.choice((0, 100, 1000))
        drops = (
            "drop_journal", "drop_inbox", "drop_keyed", "drop_tags", "drop_traces", "drop_artifacts", "drop_blobs",
            "drop_blob_refs", "drop_runs",
        )  # fmt: skip
        return Operation([
            line("forget_workers", before=before),
            line("doom", before=before, statuses=json.dumps(sorted(TERMINAL)), most=most, undelivered=0),
            *[line(name) for name in drops],
            line("clear_doomed"),
        ])  # fmt: skip

    def tidy(self) -> Operation:
        return Operation([line("drop_orphans", most=1_000_000)])

    # ------------------------------------------------------------------------------------- mistakes
    def mistake(self) -> Operation:
        """What the schema refuses; the rest of its batch must not suffer from it."""
        row = self.some_run()
        wrong = self.chance.choice(("twice", "middle", "both"))
        if wrong == "twice" and row:
            lines = [line("note", id=row["id"], epoch=row["epoch"], kind="n", data=None, now=self.now)]
            # The note, which is right, must not stay without the start.
            return Operation([*lines, start(self.new("x"), status="completed")])
        if wrong == "middle":
            return Operation([start(self.new("x"), status="waiting")])
        return Operation([start(self.new("x"), owner=self.worker(), due_at=self.now)])
