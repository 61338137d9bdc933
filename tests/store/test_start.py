"""Starting runs: ids, children, tags, large payloads."""

import json

import pytest
from storekit.database import claim, entry, line, start
from storekit.kinds import NOW

from perdure.model.run import Claimed
from perdure.model.status import Status
from perdure.store.operation import Operation
from perdure.store.record import shelve


def test_start_inserts_the_run_and_names_its_number(db):
    """A started run would lack what it was started with, or its starter would not learn its number."""
    rows = db.apply(
        start("a", workflow="bill", input='{"n": 1}', seed=7, deadline_at=NOW + 5, forked_from="b@3", due_at=NOW + 2)
    )
    row = db.row("a")
    assert rows == [("started", row.number)]
    assert (row.workflow, row.status, row.generation, row.owner, row.epoch) == ("bill", "queued", 1, None, 0)
    assert (row.input, row.seed, row.due_at, row.deadline_at) == ('{"n": 1}', 7, NOW + 2, NOW + 5)
    assert (row.created_at, row.started_at, row.finished_at, row.forked_from) == (NOW, None, None, "b@3")
    assert (row.output, row.error, row.reason, row.waiting_for, row.takeovers) == (None, None, None, None, 0)
    assert (row.parent, row.root, row.detached) == (None, None, 0)


def test_start_with_a_taken_id_gives_no_row_and_changes_nothing(db):
    """A second start under an id would overwrite the first run or look like a new one."""
    before = db.queued("a", input="1")
    assert db.apply(start("a", input="2", workflow="other")) == []
    assert db.row("a") == before
    assert db.count("runs") == 1


def test_start_can_insert_a_run_as_claimed(db):
    """The process that starts a run could not drive it without claiming it first."""
    worker = db.worker()
    db.apply(start("a", status="running", owner=worker, epoch=1, due_at=None, started_at=NOW))
    row = db.row("a")
    assert (row.status, row.owner, row.epoch, row.due_at, row.started_at) == ("running", worker, 1, None, NOW)
    assert db.apply(claim(worker)) == []
    assert db.write(row, ("entries", [entry(1)])) == []
    assert len(db.journal("a")) == 1


def test_two_starts_of_one_id_in_one_batch_give_one_run(db):
    """Two callers who start the same run at the same moment would get two, or an error."""
    first, second = db.batch([start("a", input="1")], [start("a", input="2")])
    assert first == ([("started", db.row("a").number)], None)
    assert second == ([], None)
    assert db.row("a").input == "1"


@pytest.mark.parametrize("status", ["waiting", "paused", "cancelling", "compensating", "completed", "failed"])
def test_a_run_begins_queued_or_running(db, status):
    """A run could be inserted in the middle or at the end of its life (I3)."""
    ((rows, error),) = db.batch([start("a", status=status)])
    assert rows == []
    assert error.code == "operation_refused"
    assert db.count("runs") == 0


def test_nobody_is_owned_and_due_at_once(db):
    """A run could be claimed while it is driven (I1, I8)."""
    ((_, error),) = db.batch([start("a", owner=1, due_at=NOW)])
    assert error.code == "operation_refused"
    assert db.count("runs") == 0


def test_numbers_of_removed_runs_are_not_used_again(db):
    """A late writer of a pruned run would write into a new one's journal."""
    number = db.queued("a").number
    db.sql("delete from perdure_runs")
    assert db.queued("b").number > number


def test_start_child_belongs_to_its_parent_and_to_the_first_of_the_tree(db):
    """Cancellation and pruning would not find a run's descendants."""
    db.worker()
    top = db.owned("top")
    child = db.child("top/c", top)
    assert (child.parent, child.root, child.status, child.due_at, child.detached) == (
        top.number, top.number, "queued", NOW, 0,
    )  # fmt: skip
    ((_, *columns),) = db.apply(claim(1))
    assert Claimed(*columns).parent == top.number
    grandchild = db.child("top/c/g", db.row("top/c"), detached=True)
    assert (grandchild.parent, grandchild.root, grandchild.detached) == (child.number, top.number, 1)


def test_start_child_of_a_lost_run_gives_no_row(db):
    """A worker that was presumed dead would start children of a run that another one drives (I1)."""
    db.worker()
    parent = db.owned("a")
    record = db.record(parent, epoch=parent.epoch - 1)
    record.start_child("a/c", "w", "null", seed=2, now=NOW, deadline_at=None, detached=False, tags=("t",))
    assert db.batch(record) == [([("stale",)], None)]
    assert db.rows("run_by_id", "a/c") == []
    assert db.count("tags") == 0


def test_start_child_with_a_taken_id_gives_no_row(db):
    """A child would take over a run that belongs to somebody else."""
    db.worker()
    other = db.queued("other", due_at=NOW + 9)
    parent = db.owned("a")
    record = db.record(parent)
    record.start_child("other", "w", "null", seed=2, now=NOW, deadline_at=None, detached=False, tags=())
    assert db.batch(record) == [([], None)]
    assert db.row("other") == other


def test_tags_are_set_once(db):
    """A tag given twice would be an error, or listed twice."""
    db.apply(start("a"), line("add_tag", id="a", name="red"), line("add_tag", id="a", name="blue"))
    db.apply(line("add_tag", id="a", name="red"))
    assert db.rows("tags_of", db.row("a").number) == [("blue",), ("red",)]


def test_a_large_payload_is_stored_once_and_referred_to_by_each_run(db):
    """Equal large payloads would fill the database, or one run's end would take another's payload along."""
    text = json.dumps("x" * 500)
    names = set()
    for run_id in ("a", "b"):
        operation = Operation()
        name = shelve(operation, run_id, text)
        operation.lines.append(start(run_id, input=name))
        db.batch(operation)
        names.add(name)
    assert len(names) == 1
    name = names.pop()
    assert (db.count("blobs"), db.count("blob_refs")) == (1, 2)
    assert db.rows("blob", name[1:]) == [(text,)]
    assert db.rows("blobs", json.dumps([name[1:], "unknown"])) == [(name[1:], text)]


def test_an_owner_shelves_what_is_too_large_for_a_row(db):
    """A journal entry, an output or a child's input would be stored whole in its row, whatever its size."""
    db.worker()
    row = db.owned()
    big = {name: json.dumps(name * 200) for name in ("entry", "input", "output")}
    db.write(row, ("entries", [entry(1, data=big["entry"]), entry(2)]))
    record = db.record(row)
    record.start_child("c", "w", big["input"], seed=2, now=NOW, deadline_at=None, detached=True, tags=())
    record.finish(Status.COMPLETED, big["output"], None, NOW)
    db.batch(record)
    stored = {
        "entry": db.journal("a")[0].data,
        "input": db.row("c").input,
        "output": db.row("a").output,
    }
    for name, at in stored.items():
        assert at.startswith("@")
        assert db.rows("blob", at[1:]) == [(big[name],)]
    assert db.journal("a")[1].data == "1"
    owners = db.run(
        db.store.select("select r.id, b.hash from perdure_blob_refs b join perdure_runs r on r.number = b.run")
    )
    assert set(owners) == {("a", stored["entry"][1:]), ("c", stored["input"][1:]), ("a", stored["output"][1:])}


def test_copy_entry_fills_a_fork_that_has_not_begun(db):
    """A fork would begin with an empty history, or entries could be slipped into a run that somebody drives."""
    db.worker()
    copied = {"kind": "step_completed", "key": "s", "at": NOW, "data": "1", "started_at": NOW, "attempt": 1}
    db.apply(start("f"), *[line("copy_entry", id="f", seq=seq, fingerprint="f", **copied) for seq in (1, 2)])
    assert [found.seq for found in db.journal("f")] == [1, 2]
    db.apply(claim(1))
    db.apply(line("copy_entry", id="f", seq=3, fingerprint=None, **copied))
    assert [found.seq for found in db.journal("f")] == [1, 2]
