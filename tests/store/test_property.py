"""Random operations in random batches: every store does what the model of its semantics says, and no invariant breaks."""

import itertools
import os

import pytest
from storekit.database import Database
from storekit.generate import Generator
from storekit.kinds import KINDS
from storekit.model import Model
from storekit.system import ModelSystem, StoreSystem

from perdure.model.status import TERMINAL

SEEDS = int(os.environ.get("PERDURE_STORE_SEEDS", "4"))
OPERATIONS = 1_200


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
        ways = [
            row["owner"] is not None, row["due_at"] is not None, row["status"] == "paused" and row["reason"] is not None,
        ]  # fmt: skip
        waits = row["waiting_for"] not in {None, "[]"} and row["status"] not in {"queued", "paused"}
        assert sum(ways) == 1 or (sum(ways) == 0 and waits), f"I8: {row}"
    if row["owner"] is not None:
        assert row["status"] in {"running", "cancelling", "compensating"}
        assert row["owner"] != "unknown"


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_store_does_what_the_model_says(kind, seed, tmp_path):
    """A statement, or the order in which a batch runs them, would do something else than was meant."""
    database, model = Database(kind(tmp_path)), ModelSystem()
    store, generator = StoreSystem(database), Generator(model.model, seed)
    done, before = 0, model.dump()
    while done < OPERATIONS:
        operations = generator.batch(generator.chance.choice((1, 1, 2, 5, 20)))
        names = model.names()
        wanted, refused = model.batch(operations)
        rows, errors = store.batch(operations, names)
        told = [operation.lines for operation in operations]
        assert errors == refused, f"after {done} operations, in {told}"
        for operation, expected, found in zip(operations, wanted, rows, strict=True):
            assert found == expected, f"after {done} operations, of {operation.lines}"
        dump = model.dump()
        assert not difference(store.dump(), dump), f"after {done} operations, in {told}"
        check(dump, before)
        done, before = done + len(operations), dump
    database.close()
    assert len(model.model.runs) > 5
