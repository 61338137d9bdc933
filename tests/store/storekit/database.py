"""A store as the conformance tests see it: plain calls, one operation or one batch at a time."""

import asyncio
import json
from collections.abc import Iterable

from perdure.model.entry import Entry
from perdure.model.run import Claimed, Message, RunRow
from perdure.model.status import TERMINAL, Status
from perdure.store.load import load_messages
from perdure.store.operation import Line, Operation, Row
from perdure.store.queries import statements
from perdure.store.record import Record
from storekit.kinds import NOW

ALL = json.dumps(["w"])
"""What the workers of these tests can run."""


def line(statement: str, **parameters) -> Line:
    """One statement with its parameters by name."""
    names = [name for name in statements("sqlite")[statement].parameters if name != "tag"]
    assert set(names) == set(parameters), f"{statement} takes {names}"
    return statement, tuple(parameters[name] for name in names)


def start(run_id: str, **parameters) -> Line:
    """A new run, queued and due now."""
    usual = {
        "workflow": "w", "status": "queued", "owner": None, "epoch": 0, "due_at": NOW, "input": "null", "seed": 1,
        "created_at": NOW, "started_at": None, "deadline_at": None, "forked_from": None,
    }  # fmt: skip
    return line("start", id=run_id, **usual | parameters)


def claim(worker: int, now: int = NOW, most: int = 100, workflows: str = ALL) -> Line:
    """Claim what is due."""
    return line("claim", worker=worker, now=now, most=most, workflows=workflows)


def entry(seq: int, kind: str = "step_completed", key: str = "s", data: str | None = "1") -> Entry:
    return Entry(seq, kind, key, NOW + seq, data, NOW, 1, "f")


class Database:
    """The plain face of a store. Every call has been committed when it returns."""

    def __init__(self, kind) -> None:
        self.kind = kind
        self._loop = asyncio.new_event_loop()
        self._stores = []
        self.store = self.another()

    def another(self, **options):
        """One more store: on the same database where the kind can share it."""
        store = self.kind.store(**options)
        self.run(store.connect())
        self._stores.append(store)
        return store

    def close(self) -> None:
        for store in self._stores:
            self.run(store.close())
        self._loop.close()
        self.kind.close()

    def run(self, coroutine):
        return self._loop.run_until_complete(coroutine)

    # ------------------------------------------------------------------------------------- writing
    def apply(self, *lines: Line, store=None) -> list[Row]:
        """Commit one operation; its rows."""
        return self.run((store or self.store).apply(Operation(lines)))

    def batch(self, *operations: Operation | Iterable[Line], store=None) -> list[tuple[list[Row], Exception | None]]:
        """Commit several operations in one transaction; what each was answered."""
        store = store or self.store
        outcomes: dict[int, tuple[list[Row], Exception | None]] = {}

        async def main() -> None:
            answered = asyncio.Event()
            # On Postgres those with a function have transactions of their own.
            apart = [one for one in operations if isinstance(one, Operation) and callable(one.body)]
            commits = len(apart) + (len(apart) < len(operations)) if store.dialect == "postgres" else 1
            before = store.commits

            def answer(place: int, rows: list[Row], error: Exception | None) -> None:
                outcomes[place] = rows, error
                if len(outcomes) == len(operations):
                    answered.set()

            for place, operation in enumerate(operations):
                whole = operation if isinstance(operation, Operation) else Operation(operation)
                store.submit(whole, lambda rows, error, place=place: answer(place, rows, error))
            await answered.wait()
            assert store.commits == before + commits, "the batch was not one batch"

        self.run(main())
        return [outcomes[place] for place in range(len(operations))]

    def sql(self, text: str, *parameters) -> list[tuple]:
        """Whatever somebody with a console could do."""
        return self.kind.execute(self.store, text, parameters)

    # ------------------------------------------------------------------------------------- reading
    def rows(self, name: str, *parameters) -> list[Row]:
        return self.run(self.store.rows(name, *parameters))

    def row(self, run_id: str) -> RunRow:
        (found,) = self.rows("run_by_id", run_id)
        return RunRow(*found)

    def journal(self, run_id: str) -> list[Entry]:
        return [Entry(*found) for found in self.rows("history", self.row(run_id).number)]

    def mail(self, run_id: str) -> list[Message]:
        """What the run has not taken yet."""
        number = self.row(run_id).number
        return self.run(load_messages(self.store, [number])).get(number, [])

    def count(self, table: str) -> int:
        ((count,),) = self.run(self.store.select(f"select count(*) from perdure_{table}"))
        return count

    # --------------------------------------------------------------------------------------- given
    def worker(self, worker_id: str = "worker", *, lease_until: int = NOW + 1_000) -> int:
        """A registered worker's number."""
        ((label, number),) = self.apply(
            line(
                "register_worker", id=worker_id, host="h", place="p", pid=1, workflows=ALL, now=NOW,
                lease_until=lease_until,
            )
        )  # fmt: skip
        assert label == "registered"
        return number

    def hire(self, number: int) -> int:
        """The worker of this number, registered if it is not; only such a one gets runs."""
        known = {found[0] for found in self.rows("workers")}
        while number not in known:
            known.add(self.worker(f"hired {len(known)}"))
        return number

    def queued(self, run_id: str = "a", **parameters) -> RunRow:
        """A run that is due."""
        assert self.apply(start(run_id, **parameters))
        return self.row(run_id)

    def owned(self, run_id: str = "a", worker: int = 1, **parameters) -> RunRow:
        """A run that a worker has claimed: it is `running` in epoch 1, and nothing else was due."""
        self.hire(worker)
        self.queued(run_id, **parameters)
        ((_, *columns),) = self.apply(claim(worker, most=1))
        assert Claimed(*columns).id == run_id
        return self.row(run_id)

    def child(self, run_id: str, parent: RunRow, *, detached: bool = False) -> RunRow:
        """A child of an owned run, due."""
        record = self.record(parent)
        record.start_child(
            run_id, "w", "null", seed=2, now=NOW, deadline_at=None, detached=detached, tags=()
        )  # fmt: skip
        assert self.run(self.store.apply(record)) == [("child", run_id)]
        return self.row(run_id)

    def record(self, row: RunRow, epoch: int | None = None) -> Record:
        """What the owner writes; with another epoch, what a former owner does."""
        return Record(row.number, row.id, row.epoch if epoch is None else epoch, inline_bytes=100)

    def write(self, row: RunRow, *calls: tuple, epoch: int | None = None) -> list[Row]:
        """Commit one record of an owner: `("entries", [entry(1)])`, `("park", due_at, topics, now)`, …"""
        record = self.record(row, epoch)
        for name, *arguments in calls:
            getattr(record, name)(*arguments)
        return self.run(self.store.apply(record))

    def in_status(self, status: Status, run_id: str = "a") -> RunRow:
        """A run in this status, which nobody owns; got there by legal moves."""
        self.queued(run_id)
        path = {
            Status.QUEUED: (),
            Status.RUNNING: ("running",),
            Status.WAITING: ("running", "waiting"),
            Status.PAUSED: ("paused",),
            Status.COMPENSATING: ("running", "compensating"),
            Status.CANCELLING: ("cancelling",),
        }.get(status, ("running", str(status)))
        for step in path:
            ended = NOW if step in TERMINAL else None
            self.sql(
                "update perdure_runs set status = ?, due_at = null, finished_at = ? where id = ?", step, ended, run_id
            )
        return self.row(run_id)
