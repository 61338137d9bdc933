"""Random operations in random batches: each store does what the model says, and no invariant breaks."""

import itertools
import os

import pytest
from storekit.database import Database
from storekit.generate import Generator
from storekit.kinds import KINDS
from storekit.model import PARAMETERS, Model
from storekit.system import ModelSystem, StoreSystem, lines_of

from perdure.model.status import TERMINAL
from perdure.store.operation import ORDER
from perdure.store.queries import parse, read_sql

SEEDS = int(os.environ.get("PERDURE_STORE_SEEDS", "3"))
OPERATIONS = 1_000


def check(dump, before):
    """What must hold of every state, whatever led there."""
    blobs = {hash for hash, *_ in dump["blobs"]}
    assert {hash for _, hash in dump["refs"]} <= blobs
    former = {row["id"]: row for row in before["runs"]}
    for row in dump["runs"]:
        last = former.get(row["id"])
        check_run(row)
        if last:
            assert (row["generation"], row["epoch"]) >= (last["generation"], last["epoch"]), row
            assert last["status"] not in TERMINAL or row["generation"] > last["generation"] or row == last, "I3"
    for run_id, entries in itertools.groupby(dump["journal"], key=lambda found: found[0]):
        seqs = [found[1] for found in entries]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs))), f"a gap in the journal of {run_id}"


def difference(found, wanted):
    """What is only in one of two states, found (-) or wanted (+)."""
    if found == wanted:
        return ""
    lines = [
        f"{sign} {table} {row}"
        for table in wanted
        for sign, one, other in (("-", found, wanted), ("+", wanted, found))
        for row in one[table]
        if row not in other[table]
    ]
    return "\n".join(lines or [f"order of {table}" for table in wanted if found[table] != wanted[table]])


def check_run(row):
    if row["status"] in TERMINAL:
        assert row["finished_at"] is not None
        assert row["owner"] is row["due_at"] is None
        assert (row["output"] is None) is (row["status"] != "completed")
    else:
        assert row["finished_at"] is row["output"] is row["error"] is None
        aside = row["status"] == "paused" and row["reason"] is not None
        ways = [row["owner"] is not None, row["due_at"] is not None, aside]
        waits = row["waiting_for"] not in {None, "[]"} and row["status"] not in {"queued", "paused"}
        assert sum(ways) == 1 or (sum(ways) == 0 and waits), f"I8: {row}"
    if row["owner"] is not None:
        assert row["status"] in {"running", "cancelling", "compensating"}


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_store_does_what_the_model_says(kind, seed, tmp_path):
    """A statement, or the order in which a batch runs them, would do something else than was meant."""
    database, model = Database(kind(tmp_path)), ModelSystem()
    store, generator = StoreSystem(database), Generator(model.model, seed)
    done, before = 0, model.dump()
    while done < OPERATIONS:
        operations = generator.batch(generator.chance.choice((1, 1, 2, 5, 20)))
        theirs = store.translated(operations, model.names())
        wanted, refused = model.batch(operations)
        rows, errors = store.batch(theirs)
        told = [operation.lines for operation in operations]
        assert errors == refused, f"after {done} operations, in {told}"
        for operation, expected, found in zip(operations, wanted, rows, strict=True):
            assert found == expected, f"after {done} operations, of {operation.lines}"
        dump = model.dump()
        assert not difference(store.dump(), dump), f"after {done} operations, in {told}"
        check(dump, before)
        done, before = done + len(operations), dump
    database.close()


APART = {
    name
    for file in (
        "queues.sql",
        "sqlite_queues.sql",
        "sqlite_lone.sql",
        "delivery.sql",
        "sqlite_delivery.sql",
        "streams.sql",
        "sqlite_streams.sql",
        "ledger.sql",
    )
    for name in parse(read_sql(file), file)
}
"""What has tests of its own: test_queues.py, test_queue_races.py, test_lone.py, tests/delivery, tests/stream, and the simulation."""


def test_every_statement_is_among_the_random_operations():
    """A statement would never be compared with what it should do."""
    seen = set()
    for seed in range(16):
        model = Model()
        generator = Generator(model, f"all {seed}", most_runs=15)
        for _ in range(150):
            operations = generator.batch(4)
            seen |= {name for operation in operations for name, _ in lines_of(operation)}
            model.batch(operations)
    assert seen == set(ORDER) - APART


def families(model, operation):
    """The trees of runs that an operation of a client, a driver or an operator touches."""
    ids = {number: row["id"] for number, row in model.runs.items()}
    tops = {row["id"]: ids.get(row["root"], row["id"]) for row in model.runs.values()}
    found = set()
    for name, parameters in lines_of(operation):
        for parameter, value in zip(PARAMETERS[name], parameters, strict=True):
            if parameter in {"run", "parent", "number", "id", "run_id", "child"} and not name.startswith("take"):
                run_id = ids.get(value, value)
                found.add(tops.get(run_id, run_id))
    return found


def apart(generator, most):
    """Some operations of which no two touch the same tree of runs."""
    operations, touched = [], set()
    kinds = [generator.start, generator.drive, generator.send, generator.cancel, generator.resume, generator.rerun]
    for kind in generator.chance.choices(kinds, [20, 50, 20, 4, 3, 3], k=most):
        generator.now += 1
        operation = kind()
        mine = families(generator.model, operation)
        if not mine & touched:
            operations.append(operation)
            touched |= mine
    generator.written.clear()
    return operations


def by_id(dump):
    """Which of two runs that begin together gets the lower number is not said."""
    return dump | {"runs": sorted(dump["runs"], key=lambda row: row["id"])}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_operations_on_different_runs_do_together_what_they_do_alone(kind, tmp_path):
    """What a run becomes would depend on who else commits at the same moment."""
    folders = [tmp_path / "together", tmp_path / "alone"]
    for folder in folders:
        folder.mkdir()
    together, alone = (StoreSystem(Database(kind(folder))) for folder in folders)
    model = ModelSystem()
    generator = Generator(model.model, "apart")
    on_all = (generator.register, generator.claim, generator.beat, generator.claim, generator.sweep, generator.claim,
              generator.prune)  # fmt: skip
    done = 0
    for turn in range(60):
        operations = apart(generator, 15) if turn % 3 else [on_all[turn // 3 % len(on_all)]()]
        batches = [system.translated(operations, model.names()) for system in (together, alone)]
        model.batch(operations)
        at_once, _ = together.batch(batches[0])
        one_by_one = [alone.batch([operation])[0][0] for operation in batches[1]]
        assert at_once == one_by_one
        assert not difference(by_id(together.dump()), by_id(alone.dump()))
        done += len(operations)
    for system in (together, alone):
        system.database.close()
    assert done > 200


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_batch_does_what_its_operations_do_in_some_order(seed):
    """Two operations on one run in one commit would see halves of each other."""
    for history in range(5):
        model = Model()
        generator = Generator(model, f"order {seed} {history}", orderly=True)
        for _ in range(100):
            operations = generator.batch(3)
            before = model.copy()
            model.batch(operations)
            orders = itertools.permutations(operations)
            assert any(state(one_by_one(before.copy(), order)) == state(model) for order in orders), [
                lines_of(operation) for operation in operations
            ]


def one_by_one(model, operations):
    for operation in operations:
        model.batch([operation])
    return model


def state(model):
    found = by_id(ModelSystem(model).dump())
    return found | {"inbox": sorted(found["inbox"], key=repr)}
