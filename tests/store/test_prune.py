"""Removing ended runs: whole trees, in bounded batches, with all that is theirs and nothing that is others'."""

import json

import pytest
from storekit.database import claim, entry, line
from storekit.kinds import NOW

from perdure.model.status import TERMINAL, Status
from perdure.store.operation import ORDER

TABLES = ("runs", "journal", "inbox", "tags", "artifacts", "blobs", "blob_refs")
DROPS = [
    name
    for name in ORDER
    if name.startswith("drop_") and name not in {"drop_control", "drop_taken", "drop_chunks", "drop_streams"}
]


def prune(db, before=NOW + 100, statuses=TERMINAL, most=100):
    """Remove some trees as the client does; the ids of the runs that went."""
    ids = dict(db.run(db.store.select("select number, id from perdure_runs")))
    parameters = {"drop_orphans": {"most": 100}}
    rows = db.apply(
        line("doom", before=before, statuses=json.dumps(sorted(statuses)), most=most, undelivered=0),
        *[line(name, **parameters.get(name, {})) for name in DROPS],
        line("clear_doomed"),
    )
    return sorted(ids[row[1]] for row in rows if row[0] == "pruned")


def ended(db, run_id, status=Status.COMPLETED, at=NOW, parent=None, detached=False):
    """A run that has ended, with a row in every table."""
    if parent is None:
        db.queued(run_id)
    else:
        db.child(run_id, db.row(parent), detached=detached)
    db.apply(claim(1))
    row = db.row(run_id)
    payload = json.dumps(run_id * 150)
    db.apply(line("add_tag", id=run_id, name="t"))
    kept = {"name": "a", "step": "s", "form": "json", "media_type": "t", "size": 1, "data": "1", "now": NOW}
    db.apply(line("save_artifact", run=row.number, epoch=row.epoch, **kept))
    for key in (None, "k", "taken"):
        db.apply(line("send", run_id=run_id, topic="signal:go", key=key, data="1", now=NOW))
    keyed = next(message for message in db.mail(run_id) if message.key == "taken")
    db.write(row, ("take", keyed, 1), ("entries", [entry(1, data=payload), entry(2, str(status), "")]))
    finish(db, run_id, status, at)
    return db.row(run_id)


def finish(db, run_id, status=Status.COMPLETED, at=NOW):
    output = "1" if status is Status.COMPLETED else None
    db.write(db.row(run_id), ("finish", status, output, None if output else "1", at))


@pytest.fixture(autouse=True)
def worker(db):
    assert db.worker() == 1


def test_an_ended_run_goes_with_all_that_is_its_own(db):
    """Rows of runs that are gone would fill the database (I10)."""
    ended(db, "a")
    assert all(db.count(table) for table in TABLES)
    assert prune(db) == ["a"]
    assert {table: db.count(table) for table in TABLES} == dict.fromkeys(TABLES, 0)


def test_what_belongs_to_others_stays(db):
    """Pruning one run would damage another."""
    ended(db, "a", at=NOW)
    kept = ended(db, "b", at=NOW + 50)
    journal, mail = db.journal("b"), db.mail("b")
    assert prune(db, NOW + 50) == ["a"]
    assert db.row("b") == kept
    assert (db.journal("b"), db.mail("b"), db.rows("tags_of", kept.number)) == (journal, mail, [("t",)])
    assert db.rows("blob", journal[0].data[1:]) == [(json.dumps("b" * 150),)]
    assert len(db.rows("taken_keyed", kept.number, 0)) == 1


def test_only_runs_that_ended_before_are_removed(db):
    """A run would be gone before it is as old as the operator said."""
    for place, run_id in enumerate("abc"):
        ended(db, run_id, at=NOW + place)
    db.queued("open")
    assert prune(db, NOW + 1) == ["a"]
    assert prune(db, NOW + 2) == ["b"]
    assert prune(db, NOW + 100) == ["c"]
    assert prune(db, NOW + 100) == []
    assert db.row("open").status == "queued"


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_only_the_asked_ends_are_removed(db, status):
    """Failed runs would be gone before anybody has looked at them."""
    for end in TERMINAL:
        ended(db, str(end), end)
    assert prune(db, statuses={status}) == [status]
    assert db.count("runs") == 2


def test_a_tree_goes_as_a_whole(db):
    """Children would stay without their parents."""
    db.owned("p")
    ended(db, "p/a", parent="p")
    db.child("p/b", db.row("p"))
    db.apply(claim(1))
    ended(db, "p/b/c", parent="p/b", detached=True, status=Status.FAILED)
    finish(db, "p/b")
    finish(db, "p")
    assert prune(db, statuses={Status.COMPLETED}) == ["p", "p/a", "p/b", "p/b/c"]
    assert {table: db.count(table) for table in TABLES} == dict.fromkeys(TABLES, 0)


@pytest.mark.parametrize("detached", [False, True])
def test_an_unfinished_descendant_keeps_its_tree(db, detached):
    """A child that works on would lose its parent, its history or itself."""
    db.owned("p")
    db.child("p/a", db.row("p"))
    db.apply(claim(1))
    db.child("p/a/b", db.row("p/a"), detached=detached)
    finish(db, "p/a")
    finish(db, "p")
    ended(db, "other")
    assert prune(db) == ["other"]
    db.apply(claim(1))
    finish(db, "p/a/b", at=NOW + 10**6)
    assert prune(db) == ["p", "p/a", "p/a/b"]


def test_a_child_does_not_go_before_its_parent(db):
    """A parent that replays would miss its child."""
    db.owned("p")
    ended(db, "p/a", parent="p")
    assert prune(db) == []
    assert db.row("p/a").status == "completed"


def test_a_shared_payload_stays_until_its_last_run_goes(db):
    """A run would lose a large payload because another one had the same."""
    for run_id in "ab":
        db.owned(run_id)
        db.write(db.row(run_id), ("entries", [entry(1, data=json.dumps("x" * 500))]))
        finish(db, run_id, at=NOW if run_id == "a" else NOW + 50)
    name = db.journal("b")[0].data
    assert prune(db, NOW + 1) == ["a"]
    assert db.rows("blob", name[1:]) == [(json.dumps("x" * 500),)]
    assert prune(db) == ["b"]
    assert db.count("blobs") == 0


def test_a_payload_shared_by_runs_that_go_together_goes_with_them(db):
    """A large payload of two runs that are removed at once would stay behind with nobody who knows of it."""
    for run_id in "ab":
        db.owned(run_id)
        db.write(db.row(run_id), ("entries", [entry(1, data=json.dumps("x" * 500))]))
        finish(db, run_id)
    doom = line("doom", before=NOW + 1, statuses='["completed"]', most=100, undelivered=0)
    db.apply(doom, *[line(name) for name in DROPS if name != "drop_orphans"], line("clear_doomed"))
    assert {table: db.count(table) for table in TABLES} == dict.fromkeys(TABLES, 0)


def test_batches_are_bounded_and_the_oldest_go_first(db):
    """Pruning a large database would hold it for minutes (I10)."""
    for place in range(7):
        ended(db, f"r{place}", at=NOW + place)
    assert prune(db, most=3) == ["r0", "r1", "r2"]
    assert prune(db, most=3) == ["r3", "r4", "r5"]
    assert prune(db, most=3) == ["r6"]


def test_two_prunes_in_one_batch_do_not_hinder_each_other(db):
    """Two operators who prune at once would get an error, or leave half of a tree."""
    for place in range(4):
        ended(db, f"r{place}", at=NOW + place)
    doom = line("doom", before=NOW + 3, statuses='["completed"]', most=100, undelivered=0)
    whole = [doom, *[line(name) for name in DROPS if name != "drop_orphans"], line("clear_doomed")]
    outcomes = db.batch(whole, whole)
    assert [error for _, error in outcomes] == [None, None]
    assert sum(len(rows) for rows, _ in outcomes) == 3
    assert db.count("runs") == 1
    assert prune(db) == ["r3"], "nothing of the former choice is left"


def test_a_payload_that_nobody_refers_to_is_dropped(db):
    """What came with a refused message would stay for ever."""
    db.apply(line("add_blob", hash="lost", size=3, data='"1"'))
    ended(db, "a")
    assert db.apply(line("drop_orphans", most=10)) == [("orphan", "lost")]
    assert db.count("blobs") == 1


def test_a_run_that_is_run_again_in_the_batch_of_a_prune_stays(db):
    """A rerun that was confirmed would have no run."""
    row = ended(db, "a")
    doom = line("doom", before=NOW + 100, statuses='["completed"]', most=100, undelivered=0)
    pruned, again = db.batch(
        [doom, *[line(name) for name in DROPS if name != "drop_orphans"], line("clear_doomed")],
        [line("rerun", id="a", epoch=row.epoch, now=NOW)],
    )
    assert (pruned[0], again[0]) == ([], [("rerun", row.number)])
    assert db.row("a").status == "queued"
    assert len(db.journal("a")) == 2
