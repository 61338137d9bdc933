"""The end of a run is final (I3), and its status moves only along the table of legal moves."""

from contextlib import suppress

import pytest
from storekit.database import claim, entry, line
from storekit.kinds import NOW

from perdure.model.status import MOVES, TERMINAL, Status

FINISHED = sorted(TERMINAL)
OUTPUT = {Status.COMPLETED: ('"out"', None), Status.FAILED: (None, '"bad"'), Status.CANCELLED: (None, '"stop"')}


def finished(db, status=Status.COMPLETED, run_id="a"):
    """A run that its owner has ended."""
    worker = db.worker("of " + run_id)
    row = db.owned(run_id, worker)
    assert db.write(row, ("entries", [entry(1, str(status), "")]), ("finish", status, *OUTPUT[status], NOW)) == []
    return db.row(run_id)


@pytest.mark.parametrize("status", FINISHED)
def test_finish_ends_the_run_with_what_it_came_to(db, status):
    """Whoever waits for the run would not get its result or error."""
    row = finished(db, status)
    assert (row.status, row.output, row.error, row.finished_at) == (status, *OUTPUT[status], NOW)
    assert (row.owner, row.due_at, row.waiting_for, row.reason) == (None, None, None, None)
    assert [found.kind for found in db.journal("a")] == [status]


@pytest.mark.parametrize("status", FINISHED)
def test_no_statement_changes_a_finished_run(db, status):
    """A finished run would be cancelled, paused, claimed or woken (I3)."""
    row = finished(db, status)
    db.worker("w")
    number, epoch = row.number, row.epoch
    lines = [
        line("append", run=number, epoch=epoch, seq=2, kind="s", key="", at=1, data=None, started_at=None, attempt=None,
             fingerprint=None),
        line("park", run=number, epoch=epoch, due_at=NOW, waiting_for="[]", now=NOW),
        line("release", run=number, epoch=epoch, now=NOW),
        line("renew", run=number, epoch=epoch, input="9"),
        line("forget", run=number, epoch=epoch, seq=9),
        line("pause_own", run=number, epoch=epoch, reason="{}"),
        line("finish", run=number, epoch=epoch, status="failed", output=None, error="2", now=NOW + 1),
        line("wake", run=number, topic="control:cancel", now=NOW),
        line("wake_id", id="a", topic="control:cancel", now=NOW),
        line("send", run_id="a", topic="signal:x", key=None, data="1", now=NOW),
        line("ask_pause", id="a", data="1", now=NOW),
        line("cancel", id="a", now=NOW),
        line("pause_idle", id="a", epoch=epoch, reason="{}"),
        line("resume", id="a", epoch=epoch, now=NOW),
        line("expire_runs", now=NOW + 10**9, most_takeovers=1, reason="{}"),
        line("copy_entry", id="a", seq=2, kind="s", key="", at=1, data=None, started_at=None, attempt=None,
             fingerprint=None),
        claim(2, NOW + 10**9),
    ]  # fmt: skip
    for statement in lines:
        assert db.apply(statement) == [], statement
    assert db.row("a") == row
    assert len(db.journal("a")) == 1
    assert db.count("inbox") == 0


CHANGES = (
    "output = '\"other\"'", "error = null", "error = '\"other\"'", "finished_at = null", "finished_at = 5",
    "status = 'queued'", "status = 'running', owner = 1", "due_at = 5", "owner = 1", "epoch = epoch + 1",
    "input = '2'", "generation = generation + 1", "generation = generation + 1, output = '2'",
    "generation = generation + 2, status = 'queued'", "generation = generation + 1, status = 'running'",
    "reason = 'x'", "seed = 2", "id = 'b'", "workflow = 'v'", "waiting_for = '[]'", "parent = 1",
)  # fmt: skip


@pytest.mark.parametrize("status", FINISHED)
def test_no_sql_changes_a_finished_run(db, status):
    """A mistake in code to come, or at a console, would change what is final (I3)."""
    row = finished(db, status)
    refused = []
    for change in CHANGES:
        with suppress(db.kind.refusal):
            db.sql(f"update perdure_runs set {change} where id = 'a'")
            continue
        refused.append(change)
    assert refused == list(CHANGES)
    assert db.row("a") == row


def test_the_stores_table_of_moves_is_the_models(db):
    """The code and the database would disagree about what a run may do."""
    stored = set(db.run(db.store.select("select old, new from perdure_moves")))
    assert stored == {(str(old), str(new)) for old, moves in MOVES.items() for new in moves}


@pytest.mark.parametrize("old", Status)
def test_a_status_moves_only_along_the_table(db, old):
    """A run could go where no code expects it, such as from paused to completed."""
    possible = set()
    for new in Status:
        before = db.in_status(old, new)
        with suppress(db.kind.refusal):
            db.sql("update perdure_runs set status = ? where id = ?", str(new), str(new))
            possible.add(new)
        assert db.row(new) == (before._replace(status=new) if new in possible else before)
    assert possible - {old} == MOVES[old]
    assert (old in possible) == (old not in TERMINAL)


@pytest.mark.parametrize("status", sorted(set(Status) - TERMINAL - {Status.CANCELLING}))
def test_cancel_marks_the_run_and_makes_it_due(db, status):
    """A cancelled run would go on as if nothing had been asked, or wait for ever; or its rollback would look ended."""
    expected = status if status == Status.COMPENSATING else "cancelling"
    row = db.in_status(status)
    assert db.apply(line("cancel", id="a", now=NOW + 3)) == [("cancelling", row.number, None)]
    cancelled = db.row("a")
    assert (cancelled.status, cancelled.due_at, cancelled.reason) == (expected, NOW + 3, None)


def test_cancel_leaves_an_owned_run_to_its_owner(db):
    """A run that is cancelled while it is driven would be claimed by a second worker (I1)."""
    db.worker()
    row = db.owned()
    assert db.apply(line("cancel", id="a", now=NOW)) == [("cancelling", row.number, 1)]
    cancelled = db.row("a")
    assert (cancelled.status, cancelled.owner, cancelled.due_at, cancelled.epoch) == ("cancelling", 1, None, row.epoch)
    assert db.write(row, ("entries", [entry(1)]), ("finish", Status.CANCELLED, None, '"stop"', NOW)) == []
    assert db.row("a").status == "cancelled"


@pytest.mark.parametrize("status", [*FINISHED, Status.CANCELLING])
def test_cancel_of_a_run_that_ends_anyway_gives_no_row(db, status):
    """A finished run would be cancelled (I3), or a second request would count as the first."""
    before = db.in_status(status)
    assert db.apply(line("cancel", id="a", now=NOW)) == []
    assert db.row("a") == before


def test_cancel_and_end_in_one_batch_end_the_run(db):
    """A cancellation that commits with the end would bring the finished run back (I3)."""
    db.worker()
    row = db.owned()
    record = db.record(row)
    record.finish(Status.COMPLETED, "1", None, NOW)
    db.batch(record, [line("cancel", id="a", now=NOW)])
    assert (db.row("a").status, db.row("a").due_at) == ("completed", None)


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
def test_children_that_are_not_detached_end_with_their_parent(db, status):
    """Children of a failed run would work on for nobody, or a detached one would be stopped."""
    db.worker()
    parent = db.owned("p")
    for name in ("queued", "owned", "done"):
        db.child(name, parent)
    db.child("detached", parent, detached=True)
    db.sql("update perdure_runs set due_at = ? where id <> 'owned' and due_at is not null", NOW + 99)
    db.apply(claim(1))
    db.sql("update perdure_runs set status = 'running', due_at = null where id = 'done'")
    db.sql("update perdure_runs set status = 'completed', finished_at = 1 where id = 'done'")
    rows = db.write(parent, ("finish", status, None, '"bad"', NOW + 5))
    asked = {db.row(name).number for name in ("queued", "owned")}
    assert {row for row in rows if row[0] == "asked"} == {("asked", number) for number in asked}
    ends = {name: (db.row(name).status, db.row(name).due_at) for name in ("queued", "owned", "done", "detached")}
    assert ends == {
        "queued": ("cancelling", NOW + 5),
        "owned": ("cancelling", None),
        "done": ("completed", None),
        "detached": ("queued", NOW + 99),
    }
    for name in ("queued", "owned"):
        assert [message.topic for message in db.mail(name)] == ["control:cancel"]


def test_children_go_on_when_their_parent_completes(db):
    """A child that the parent does not wait for would be cancelled by the parent's success."""
    db.worker()
    parent = db.owned("p")
    child = db.child("c", parent)
    db.write(parent, ("finish", Status.COMPLETED, "1", None, NOW))
    assert db.row("c") == child
    assert db.mail("c") == []


@pytest.mark.parametrize("call", [("finish", Status.FAILED, None, '"bad"', NOW), ("cancel", "c", '"why"', NOW)])
@pytest.mark.parametrize("lost", ["claimed", "parked"])
def test_a_stale_owner_cancels_no_children(db, call, lost):
    """A worker that was presumed dead would stop the children of a run that another one drives (I1)."""
    db.worker()
    row = db.owned("p")
    child = db.child("c", row)
    db.sql("update perdure_runs set due_at = ? where id = 'c'", NOW + 99)
    if lost == "claimed":
        db.write(row, ("release", NOW))
        db.apply(claim(1))
    else:
        db.write(row, ("park", None, [], NOW))
    assert db.write(row, call) == [("stale",)]
    assert db.row("c") == child._replace(due_at=NOW + 99)
    assert db.mail("c") == []


def test_an_owner_cancels_a_child_that_it_no_longer_waits_for(db):
    """A child that was given up would run to its end."""
    db.worker()
    row = db.owned("p")
    child = db.child("c", row)
    assert db.write(row, ("cancel", "c", '"why"', NOW + 5)) == [("asked", child.number)]
    assert (db.row("c").status, db.row("c").due_at) == ("cancelling", NOW + 5)
    assert [(message.topic, message.data) for message in db.mail("c")] == [("control:cancel", '"why"')]


def test_a_strangers_run_with_the_childs_id_is_not_cancelled(db):
    """A child's id that was taken would end whoever has it, when the parent gives up the call."""
    db.worker()
    row, stranger = db.owned("p"), db.queued("c", due_at=NOW + 99)
    assert db.write(row, ("cancel", "c", '"why"', NOW + 5)) == []
    assert (db.row("c"), db.mail("c")) == (stranger, [])


@pytest.mark.parametrize("parent_first", [True, False])
def test_a_child_that_parks_in_the_batch_that_cancels_it_is_due(db, parent_first):
    """A child would sleep on though its parent has ended (I8)."""
    db.worker()
    parent = db.owned("p")
    db.child("c", parent)
    db.apply(claim(1))
    ending, parking = db.record(parent), db.record(db.row("c"))
    ending.finish(Status.FAILED, None, '"bad"', NOW + 1)
    parking.park(NOW + 10**6, ["signal:go"], NOW + 1)
    db.batch(*(ending, parking) if parent_first else (parking, ending))
    assert (db.row("c").status, db.row("c").due_at, db.row("c").owner) == ("cancelling", NOW + 1, None)


def test_a_rerun_is_a_new_generation_and_leaves_nothing_of_the_end(db):
    """An ended run could not be done again, or would come to life with its old result."""
    for status in FINISHED:
        row = finished(db, status, run_id=status)
        assert db.apply(line("rerun", id=status, epoch=row.epoch, now=NOW + 9)) == [("rerun", row.number)]
        again = db.row(status)
        assert (again.generation, again.status, again.due_at) == (row.generation + 1, "queued", NOW + 9)
        assert (again.output, again.error, again.finished_at, again.owner) == (None, None, None, None)
        assert again.epoch == row.epoch + 1
        assert (again.input, again.seed, again.created_at) == (row.input, row.seed, row.created_at)


@pytest.mark.parametrize("status", sorted(set(Status) - TERMINAL - {Status.PAUSED}))
def test_only_ended_and_paused_runs_are_run_again(db, status):
    """A run that goes on would be started a second time."""
    before = db.in_status(status)
    assert db.apply(line("rerun", id="a", epoch=before.epoch, now=NOW)) == []
    assert db.row("a") == before
