"""What operators do to runs: decided on what the run is when it commits, not on what somebody read before."""

import pytest
from storekit.database import claim, entry, line
from storekit.kinds import NOW

from perdure.model.entry import Entry
from perdure.model.status import Status
from perdure.store.operation import Guarded, Operation


def guarded(guards, *then):
    """An operation that writes only if its guards let it."""
    return Operation(guards, body=Guarded(list(then)))


@pytest.mark.parametrize("status", Status)
def test_only_a_run_at_rest_is_paused_from_outside(db, status):
    """A run that is driven or has ended would be put aside under its owner's hands (I1, I3)."""
    before = db.in_status(status)
    rows = db.apply(line("pause_idle", id="a", epoch=before.epoch, reason='{"code": "x"}'))
    if status in {Status.QUEUED, Status.WAITING}:
        assert rows == [("paused", before.number)]
        paused = db.row("a")
        assert (paused.status, paused.reason, paused.due_at) == ("paused", '{"code": "x"}', None)
        assert (paused.waiting_for, paused.epoch) == (None, before.epoch + 1)
    else:
        assert rows == []
        assert db.row("a") == before


def test_an_owned_run_is_not_paused_from_outside(db):
    """A run would be put aside while its owner goes on driving it (I1)."""
    db.worker()
    row = db.owned()
    assert db.apply(line("pause_idle", id="a", epoch=row.epoch, reason="{}")) == []
    assert db.row("a") == row


@pytest.mark.parametrize("statement", ["pause_idle", "resume", "rerun"])
def test_what_has_changed_meanwhile_is_left_alone(db, statement):
    """Of two operators at once, the second would undo what the first has done."""
    before = db.in_status(Status.QUEUED if statement == "pause_idle" else Status.PAUSED)
    more = {"reason": "{}"} if statement == "pause_idle" else {"now": NOW}
    for epoch in (before.epoch - 1, before.epoch + 1):
        assert db.apply(line(statement, id="a", epoch=epoch, **more)) == []
    first, second = db.batch(*[[line(statement, id="a", epoch=before.epoch, **more)]] * 2)
    assert (len(first[0]), second) == (1, ([], None))
    assert db.row("a").epoch == before.epoch + 1


@pytest.mark.parametrize("status", Status)
def test_only_a_paused_run_is_resumed(db, status):
    """A finished run would come to life, or a waiting one would be woken by a resume (I3)."""
    before = db.in_status(status)
    rows = db.apply(line("resume", id="a", epoch=before.epoch, now=NOW + 4))
    if status is Status.PAUSED:
        assert rows == [("resumed", before.number)]
        resumed = db.row("a")
        assert (resumed.status, resumed.reason, resumed.due_at) == ("queued", None, NOW + 4)
        assert (resumed.epoch, resumed.generation) == (before.epoch + 1, before.generation)
    else:
        assert rows == []
        assert db.row("a") == before


def test_a_rerun_of_a_paused_run_is_due_without_its_reason_and_deadline(db):
    """A run that is done again would stay paused, or time out at once by the deadline it once had."""
    db.queued(deadline_at=NOW + 5)
    db.apply(line("pause_idle", id="a", epoch=0, reason="{}"))
    assert db.apply(line("rerun", id="a", epoch=1, now=NOW + 9)) == [("rerun", db.row("a").number)]
    row = db.row("a")
    assert (row.status, row.generation, row.reason, row.deadline_at) == ("queued", 2, None, None)


def test_a_guard_lets_pass_only_what_was_seen(db):
    """A rerun would be made of a run that has changed since its history was read."""
    row = db.in_status(Status.PAUSED)
    right = {"id": "a", "epoch": row.epoch, "status": "paused"}
    for wrong in ({"epoch": row.epoch + 1}, {"status": "queued"}, {"id": "b"}):
        assert db.apply(line("guard", **right | wrong)) == [("stale",)]
    assert db.apply(line("guard", **right)) == []
    db.worker()
    owned = db.owned("b")
    assert db.apply(line("guard", id="b", epoch=owned.epoch, status="running")) == [("stale",)]


def test_guards_of_a_fork(db):
    """A fork would be made of a run that was pruned meanwhile, or over another run."""
    number = db.queued().number
    assert db.apply(line("guard_there", number=number)) == []
    assert db.apply(line("guard_there", number=number + 1)) == [("stale",)]
    assert db.apply(line("guard_vacant", id="b")) == []
    assert db.apply(line("guard_vacant", id="a")) == [("stale",)]


def test_a_guarded_operation_writes_nothing_when_its_guard_says_so(db):
    """Half of a rerun would be written over what another operator has just done (I4)."""
    row = db.in_status(Status.PAUSED)
    resume = line("resume", id="a", epoch=row.epoch, now=NOW)
    note = line("note", id="a", epoch=row.epoch + 1, kind="resumed", data="{}", now=NOW)
    guard = line("guard", id="a", epoch=row.epoch, status="paused")
    first, second = db.batch(guarded([guard], resume, note), guarded([guard], resume, note))
    assert first == ([("resumed", row.number)], None)
    assert second == ([("stale",)], None)
    assert db.journal("a") == [Entry(1, "resumed", "", NOW, "{}")]


def test_a_guarded_operation_sees_what_commits_with_it(db):
    """An operator's change would be decided on what was before the batch."""
    worker = db.worker()
    row = db.in_status(Status.PAUSED)
    guard = line("guard", id="a", epoch=row.epoch, status="paused")
    again = line("rerun", id="a", epoch=row.epoch, now=NOW)
    rerun, resumed, found = db.batch(
        guarded([guard], again), [line("resume", id="a", epoch=row.epoch, now=NOW)], [claim(worker)]
    )
    assert resumed[0] == [("resumed", row.number)]
    assert len(found[0]) == 1
    assert rerun == ([("stale",)], None)
    assert db.row("a").generation == 1


def test_a_forks_child_belongs_to_the_fork(db):
    """A fork would wait for children of the run that it was forked from, or have none."""
    fork = db.queued("f")
    db.apply(
        line(
            "fork_child",
            id="f/c",
            workflow="v",
            input="3",
            seed=9,
            now=NOW,
            deadline_at=NOW + 8,
            detached=1,
            parent_id="f",
        )
    )
    child = db.row("f/c")
    assert (child.parent, child.root, child.status, child.due_at) == (fork.number, fork.number, "queued", NOW)
    assert (child.workflow, child.input, child.seed, child.deadline_at, child.detached) == ("v", "3", 9, NOW + 8, 1)


def test_a_rerun_keeps_the_journal(db):
    """What a run did before it was done again would be gone."""
    db.worker()
    row = db.owned()
    db.write(row, ("entries", [entry(1), entry(2, "completed", "")]), ("finish", Status.COMPLETED, "1", None, NOW))
    db.apply(
        line("rerun", id="a", epoch=row.epoch, now=NOW),
        line("note", id="a", epoch=row.epoch + 1, kind="rerun", data='{"keep": 1}', now=NOW),
    )
    assert [(found.seq, found.kind) for found in db.journal("a")] == [
        (1, "step_completed"), (2, "completed"), (3, "rerun"),
    ]  # fmt: skip


@pytest.mark.parametrize("status", Status)
def test_a_run_that_nobody_drives_is_moved_to_another_version(db, status):
    """A finished run would change, or a move would lose what a run waits for (I3, I8)."""
    before = db.in_status(status)
    rows = db.apply(line("move_version", id="a", epoch=before.epoch, workflow="w@2"))
    if before.finished or before.owner is not None:
        assert rows == []
        assert db.row("a") == before
    else:
        assert rows == [("moved", before.number)]
        assert db.row("a") == before._replace(workflow="w@2", epoch=before.epoch + 1)


def test_a_run_that_is_driven_or_has_changed_is_not_moved(db):
    """A driver would write entries of one version under the name of another (I1)."""
    db.worker()
    row = db.owned()
    for epoch in (row.epoch - 1, row.epoch, row.epoch + 1):
        assert db.apply(line("move_version", id="a", epoch=epoch, workflow="w@2")) == []
    assert db.row("a") == row


def test_live_workers_tell_what_they_know(db):
    """A run that nobody can drive would not be told from one whose turn has not come."""
    alive = db.worker()
    gone = db.worker("gone")
    db.apply(line("learn", worker=alive, workflows='["w@2"]'))
    db.apply(line("leave", worker=gone, now=NOW))
    ((lease_until,),) = db.sql("select lease_until from perdure_workers where number = ?", alive)
    assert db.rows("known_workflows", lease_until) == [('["w@2"]',)]
    assert db.rows("known_workflows", lease_until + 1) == []
