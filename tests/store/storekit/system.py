"""Systems that take the same operations, and whose states can be compared: the model, and stores of all kinds."""

from collections.abc import Iterable
from typing import Any

from perdure.model.run import RunRow
from perdure.store.operation import Guarded, Line, Operation, Row
from storekit.database import Database
from storekit.model import PARAMETERS, Model

Dump = dict[str, list[Any]]
"""The state by tables. Numbers, which each database makes up, are replaced by the ids that they stand for."""

RUN_COLUMNS = [name for name in RunRow._fields if name != "number"]
WORKER_COLUMNS = ["id", "host", "place", "pid", "workflows", "state", "started_at", "heartbeat_at", "lease_until"]
MESSAGE_COLUMNS = ["run", "topic", "key", "data", "sender", "sent_at", "taken_seq"]
ENTRY_COLUMNS = ["run", "seq", "kind", "key", "at", "data", "started_at", "attempt", "fingerprint"]
NOBODY = 1_000_000_000
"""A number that nothing has."""


class Names:
    """What the numbers of one system stand for."""

    def __init__(
        self, runs: list[tuple[int, str]], workers: list[tuple[int, str]], messages: list[tuple[int, int]]
    ) -> None:
        self.runs = dict(runs)
        self.workers = worker_names(workers)
        places: dict[int, int] = {}
        self.messages: dict[int, tuple[str, int]] = {}
        for number, run in sorted(messages):
            places[run] = places.get(run, 0) + 1
            self.messages[number] = self.runs.get(run, "gone"), places[run]

    def include(self, later: "Names") -> None:
        """Also those that came with the batch."""
        self.runs |= later.runs
        self.workers |= later.workers

    def row(self, row: Row) -> Row:
        """A returned row without numbers."""
        label, *values = row
        if label in {"stale", "alive", "child", "orphan", "chore", "saved"}:
            return row
        if label == "registered":
            return label, self.workers[values[0]]
        values[0] = self.runs[values[0]]
        if label == "cancelling":
            values[1] = self.workers.get(values[1])
        if label == "claimed":
            values[6] = self.runs.get(values[6])
        return label, *values


def worker_names(workers: Iterable[tuple[int, str]]) -> dict[int, str]:
    """Names for workers by number: free_id puts the number into the id."""
    found: dict[int, str] = {}
    for number, worker_id in sorted(workers):
        chosen = worker_id.partition("#")[0]
        found[number] = f"{chosen}({sum(name.startswith(chosen + '(') for name in found.values())})"
    return found


def rows_of(outcomes: list[list[Row]], names: Names) -> list[list[Row]]:
    """What the operations returned, comparable: in which order one statement returns its rows is not said."""
    return [sorted((names.row(row) for row in rows), key=repr) for rows in outcomes]


def lines_of(operation: Operation) -> list[Line]:
    """All its statements, those of its body too."""
    return operation.lines + (operation.body.lines if operation.body else [])


def translated(operation: Operation, here: Names, there: Names) -> Operation:
    """The same operation with the numbers of another system."""
    run_ids, worker_ids = here.runs, here.workers
    runs = {run_id: number for number, run_id in there.runs.items()}
    workers = {worker_id: number for number, worker_id in there.workers.items()}
    messages = {place: number for number, place in there.messages.items()}

    def value(statement: str, parameter: str, given: Any) -> Any:
        if statement in {"take", "take_keyed"} and parameter == "message":
            return messages.get(here.messages.get(given, ("", 0)), NOBODY)
        if parameter in {"run", "parent", "number"} and isinstance(given, int):
            return runs.get(run_ids.get(given, ""), NOBODY)
        if parameter in {"worker", "owner"} and given is not None:
            return workers.get(worker_ids.get(given, ""), NOBODY)
        return given

    def lines(given: list[Any]) -> list[Any]:
        return [
            (name, tuple(value(name, *pair) for pair in zip(PARAMETERS[name], parameters, strict=True)))
            for name, parameters in given
        ]

    return Operation(lines(operation.lines), body=operation.body and Guarded(lines(operation.body.lines)))


class ModelSystem:
    """The model. The operations of the tests are made up with its numbers."""

    def __init__(self, model: Model | None = None) -> None:
        self.model = model or Model()

    def names(self) -> Names:
        model = self.model
        return Names(
            [(number, row["id"]) for number, row in model.runs.items()],
            [(number, row["id"]) for number, row in model.workers.items()],
            [(number, found["run"]) for number, found in model.inbox.items()],
        )

    def batch(self, operations: list[Operation]) -> tuple[list[list[Row]], list[bool]]:
        """Rows and refusals of the operations, run as one batch."""
        names = self.names()
        outcomes = self.model.batch(operations)
        names.include(self.names())
        return rows_of([rows for rows, _ in outcomes], names), [refused for _, refused in outcomes]

    def dump(self) -> Dump:
        model = self.model
        return dump(
            [[row[name] for name in RunRow._fields] for row in model.runs.values()],
            [[*place, *rest] for place, rest in model.journal.items()],
            [[number, *[found[name] for name in MESSAGE_COLUMNS]] for number, found in model.inbox.items()],
            [[number, *[row[name] for name in WORKER_COLUMNS]] for number, row in model.workers.items()],
            [
                list(model.tags),
                [(hash, *rest) for hash, rest in model.blobs.items()],
                list(model.refs),
                list(model.traces.items()),
                list(model.chores.items()),
                [(*place, *rest) for place, rest in model.artifacts.items()],
            ],
        )


class StoreSystem:
    """A store."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def _select(self, what: str) -> list[Row]:
        return self.database.run(self.database.store.select(f"select {what}"))

    def names(self) -> Names:
        return Names(
            self._select("number, id from perdure_runs"),
            self._select("number, id from perdure_workers"),
            self._select("id, run from perdure_inbox"),
        )

    def translated(self, operations: list[Operation], named: Names) -> list[Operation]:
        """Operations with the numbers that `named` explains, with this store's instead."""
        names = self.names()
        return [translated(operation, named, names) for operation in operations]

    def batch(self, operations: list[Operation]) -> tuple[list[list[Row]], list[bool]]:
        """Rows and refusals of the operations, run as one batch."""
        names = self.names()
        outcomes = self.database.batch(*operations)
        names.include(self.names())
        codes = {getattr(error, "code", error) for _, error in outcomes} - {None}
        assert codes <= {"operation_refused"}, codes
        return rows_of([rows for rows, _ in outcomes], names), [error is not None for _, error in outcomes]

    def dump(self) -> Dump:
        runs = ", ".join(RunRow._fields)
        return dump(
            self._select(f"{runs} from perdure_runs"),
            self._select(f"{', '.join(ENTRY_COLUMNS)} from perdure_journal"),
            self._select(f"id, {', '.join(MESSAGE_COLUMNS)} from perdure_inbox"),
            self._select(f"number, {', '.join(WORKER_COLUMNS)} from perdure_workers"),
            [
                self._select("tag, run from perdure_tags"),
                self._select("hash, size, data from perdure_blobs"),
                self._select("run, hash from perdure_blob_refs"),
                self._select("run, trace from perdure_traces"),
                self._select("name, until from perdure_chores"),
                self._select("run, name, step, form, media_type, size, data, saved_at from perdure_artifacts"),
            ],
        )


def dump(runs: list[Any], journal: list[Any], inbox: list[Any], workers: list[Any], small: list[list[Any]]) -> Dump:
    """The canonical form of a state."""
    ids = {row[0]: row[1] for row in runs}
    worker_ids = worker_names((row[0], row[1]) for row in workers)
    tags, blobs, refs, traces, chores, artifacts = small

    def run(row: Any) -> dict[str, Any]:
        found = dict(zip(RunRow._fields, row, strict=True))
        del found["number"]
        found["owner"] = found["owner"] and worker_ids.get(found["owner"], "unknown")
        for name in ("parent", "root"):
            found[name] = found[name] and ids.get(found[name], "unknown")
        return found

    def message(row: Any) -> tuple[Any, ...]:
        _, at, topic, key, data, sender, *rest = row
        return ids.get(at, "unknown"), topic, key, data, sender and ids.get(sender, "unknown"), *rest

    return {
        "runs": [run(row) for row in sorted(runs)],
        "journal": sorted((ids.get(row[0], "unknown"), *row[1:]) for row in journal),
        # Of the messages of one run the order counts, of those of different runs it does not.
        "inbox": sorted((message(row) for row in sorted(inbox)), key=lambda found: found[0]),
        "workers": sorted((worker_ids[row[0]], "#" in row[1], *row[2:]) for row in workers),
        "tags": sorted((tag, ids.get(at, "unknown")) for tag, at in tags),
        "blobs": sorted(tuple(row) for row in blobs),
        "refs": sorted((ids.get(at, "unknown"), hash) for at, hash in refs),
        "traces": sorted((ids.get(at, "unknown"), trace) for at, trace in traces),
        "chores": sorted(tuple(row) for row in chores),
        "artifacts": sorted((ids.get(at, "unknown"), *rest) for at, *rest in artifacts),
    }
