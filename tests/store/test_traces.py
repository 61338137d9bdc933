"""What is kept with runs for observers, and the chores that one worker does for all."""

import json

import pytest
from storekit.database import claim, line, start
from storekit.kinds import NOW


@pytest.fixture(autouse=True)
def worker(db):
    assert db.worker() == 1


def kept(db, *run_ids):
    return [trace for _, trace in db.rows("traces", json.dumps([db.row(run_id).number for run_id in run_ids]))]


def test_a_trace_comes_with_the_start_of_its_run_only(db):
    """A second start of the same id would change what the first one's caller is linked to."""
    db.apply(start("a"), line("start_trace", id="a", now=NOW, trace="first"))
    db.apply(start("a", created_at=NOW + 1), line("start_trace", id="a", now=NOW + 1, trace="second"))
    db.apply(start("b"))
    db.apply(start("b", created_at=NOW + 1), line("start_trace", id="b", now=NOW + 1, trace="late"))
    assert kept(db, "a", "b") == ["first"]


def test_only_the_owner_changes_it(db):
    """I1: a worker that lost the run would overwrite what its successor keeps."""
    db.apply(start("a"), line("start_trace", id="a", now=NOW, trace="first"))
    db.apply(claim(db.hire(1)))
    row = db.row("a")
    db.apply(line("trace_run", run=row.number, epoch=row.epoch, trace="mine"))
    db.apply(line("trace_run", run=row.number, epoch=row.epoch - 1, trace="stale"))
    assert kept(db, "a") == ["mine"]
    db.apply(line("release", run=row.number, epoch=row.epoch, now=NOW))
    db.apply(line("trace_run", run=row.number, epoch=row.epoch + 1, trace="nobody's"))
    assert kept(db, "a") == ["mine"]


def test_it_is_kept_in_the_commit_that_gives_the_run_up(db):
    """What a run that parks at once was part of would be forgotten."""
    db.apply(start("a"))
    db.apply(claim(db.hire(1)))
    row = db.row("a")
    db.apply(
        line("release", run=row.number, epoch=row.epoch, now=NOW),
        line("trace_run", run=row.number, epoch=row.epoch, trace="t"),
        line("fence", run=row.number, epoch=row.epoch),
    )
    assert kept(db, "a") == ["t"]


def test_it_goes_with_its_run(db):
    """Traces of runs that are gone would fill the database (I10)."""
    db.apply(start("a"), line("start_trace", id="a", now=NOW, trace="t"))
    db.apply(claim(db.hire(1)))
    row = db.row("a")
    db.apply(line("finish", run=row.number, epoch=row.epoch, status="completed", output="1", error=None, now=NOW))
    db.apply(
        line("doom", before=NOW + 1, statuses='["completed"]', most=9, undelivered=0), line("drop_traces"), line("drop_runs"),
        line("clear_doomed"),
    )  # fmt: skip
    assert db.count("traces") == db.count("runs") == 0


def test_a_chore_is_one_workers(db):
    """All workers would prune at once, or none any more."""

    def take(now, until, name="prune"):
        return db.apply(line("take_chore", name=name, now=now, until=until))

    assert take(NOW, NOW + 100) == [("chore",)]
    assert take(NOW + 99, NOW + 200) == []
    assert take(NOW + 99, NOW + 200, "other") == [("chore",)]
    assert take(NOW + 100, NOW + 200) == [("chore",)]
    assert take(NOW + 199, NOW + 300) == []


def test_only_one_of_a_batch_gets_a_chore(db):
    """Two workers of one process ask in the same commit."""
    asked = [line("take_chore", name="prune", now=NOW, until=NOW + 100)]
    answers = [rows for rows, _ in db.batch(asked, asked)]
    assert sorted(answers) == [[], [("chore",)]]


def test_the_backlog_is_counted_up_to_a_limit(db):
    """A scrape would read a million rows, or count what is not due."""
    db.apply(*[start(f"r{n}", due_at=NOW + n) for n in range(5)])
    assert db.rows("backlog", NOW + 2, 100) == [(3, NOW)]
    assert db.rows("backlog", NOW + 9, 4) == [(4, NOW)]
    assert db.rows("backlog", NOW - 1, 4) == [(0, None)]


def test_since_when_the_claimed_were_due(db):
    """Metrics would not know how late a run was picked up, as a claim forgets it."""
    db.apply(*[start(f"r{n}", due_at=NOW + n) for n in range(3)])
    numbers = [db.row(f"r{n}").number for n in range(3)]
    rows = db.apply(claim(db.hire(1), NOW + 1), line("due_now", now=NOW + 1, most=10))
    assert sorted(row[1:] for row in rows if row[0] == "due") == [(numbers[0], NOW), (numbers[1], NOW + 1)]
    assert sorted(row[1] for row in rows if row[0] == "claimed") == numbers[:2]
