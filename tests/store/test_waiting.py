"""Parking and waking: a run that nobody owns is due, or waits for a named thing that makes it due (I8)."""

import json

import pytest
from storekit.database import claim, line
from storekit.kinds import NOW

from perdure.model.status import TERMINAL, Status

LATER = NOW + 1_000


def send(run_id="a", topic="signal:go", key=None):
    return line("send", run_id=run_id, topic=topic, key=key, data="1", now=NOW)


def wake(db, topic, now=NOW + 5, run_id="a"):
    """Both ways of waking are the same but for how they name the run."""
    return [
        line("wake", run=db.row(run_id).number, topic=topic, now=now),
        line("wake_id", id=run_id, topic=topic, now=now),
    ]


@pytest.fixture
def row(db):
    """A run that is owned."""
    db.worker()
    return db.owned()


@pytest.mark.parametrize("due_at", [LATER, None])
def test_park_gives_up_the_run_until_its_time(db, row, due_at):
    """A parked run would be lost, or be driven before its time (I8)."""
    db.write(row, ("park", due_at, ["signal:go", "child:b"], NOW))
    parked = db.row("a")
    assert (parked.status, parked.owner, parked.due_at) == ("waiting", None, due_at)
    assert json.loads(parked.waiting_for) == ["signal:go", "child:b"]
    assert parked.epoch == row.epoch, "the coroutine in memory may go on if nobody owned the run in between"
    assert db.apply(claim(1, LATER - 1)) == []
    assert len(db.apply(claim(1, LATER))) == (due_at is not None)


@pytest.mark.parametrize("topic", ["signal:go", "control:cancel", "control:pause"])
def test_mail_that_is_there_already_makes_a_parked_run_due(db, row, topic):
    """A message that came between the last look and the parking would wake nobody (I8, I9)."""
    db.apply(send(topic=topic))
    db.write(row, ("park", LATER, ["signal:other", "signal:go"], NOW + 1))
    assert db.row("a").due_at == NOW + 1


@pytest.mark.parametrize("due_at", [LATER, None])
def test_mail_that_nobody_waits_for_does_not_make_a_parked_run_due(db, row, due_at):
    """A run would be claimed and parked again for ever because of a signal that it does not want yet."""
    db.apply(send(topic="signal:other"), send(topic="child:go"), send(topic="signal:go2"))
    db.write(row, ("park", due_at, ["signal:go"], NOW))
    assert db.row("a").due_at == due_at


def test_mail_that_was_taken_does_not_make_a_parked_run_due(db, row):
    """A run that waits for the same signal again would be woken by the one it has received."""
    db.apply(send(), send(key="k"))
    taken = [("take", message, 1) for message in db.mail("a")]
    db.write(row, *taken, ("park", LATER, ["signal:go"], NOW))
    assert db.row("a").due_at == LATER


def test_mail_of_others_does_not_make_a_parked_run_due(db, row):
    """Every signal would wake every run."""
    db.queued("b", due_at=LATER)
    db.apply(send("b"))
    db.write(row, ("park", None, ["signal:go"], NOW))
    assert db.row("a").due_at is None


def test_mail_sent_in_the_same_batch_makes_a_parked_run_due(db, row):
    """A signal that commits together with the parking would wake nobody (I9)."""
    record = db.record(row)
    record.park(None, ["signal:go"], NOW)
    db.batch(record, [send(), line("wake_id", id="a", topic="signal:go", now=NOW)])
    assert db.row("a").due_at == NOW


def test_a_cancelling_run_stays_cancelling_when_it_is_parked(db, row):
    """A run that waits in its clean-up would forget that it is being cancelled."""
    db.apply(line("cancel", id="a", now=NOW))
    db.write(row, ("park", LATER, ["signal:go"], NOW))
    assert (db.row("a").status, db.row("a").due_at) == ("cancelling", LATER)
    db.apply(line("wake_id", id="a", topic="signal:go", now=NOW + 1))
    assert db.row("a").due_at == NOW + 1


@pytest.mark.parametrize("way", [0, 1], ids=["wake", "wake_id"])
@pytest.mark.parametrize("due_at", [LATER, None])
def test_a_run_is_woken_by_what_it_waits_for(db, row, way, due_at):
    """A waiting run would not be due when its message has come (I8)."""
    db.write(row, ("park", due_at, ["signal:no", "signal:go"], NOW))
    db.apply(wake(db, "signal:go")[way])
    assert db.row("a").due_at == NOW + 5


@pytest.mark.parametrize("way", [0, 1], ids=["wake", "wake_id"])
def test_a_run_is_not_woken_by_anything_else(db, row, way):
    """Runs would be claimed for nothing."""
    db.write(row, ("park", LATER, ["signal:go"], NOW))
    for topic in ("signal:other", "signal:g", "signal:go2", "child:go", "signal:*"):
        db.apply(wake(db, topic)[way])
    assert db.row("a").due_at == LATER


@pytest.mark.parametrize("way", [0, 1], ids=["wake", "wake_id"])
def test_control_messages_wake_whatever_a_run_waits_for(db, row, way):
    """A run that waits could not be cancelled or paused."""
    db.write(row, ("park", None, [], NOW))
    db.apply(wake(db, "control:cancel")[way])
    assert db.row("a").due_at == NOW + 5


@pytest.mark.parametrize("way", [0, 1], ids=["wake", "wake_id"])
def test_waking_never_puts_a_run_off(db, row, way):
    """A run that is due would be made due later by a message."""
    db.write(row, ("park", NOW + 1, ["signal:go"], NOW))
    db.apply(wake(db, "signal:go", NOW + 2)[way])
    assert db.row("a").due_at == NOW + 1


@pytest.mark.parametrize("way", [0, 1], ids=["wake", "wake_id"])
def test_a_run_that_is_owned_is_not_made_due(db, row, way):
    """A run would be claimed while it is driven (I1)."""
    db.write(row, ("park", NOW, ["signal:go"], NOW))
    db.apply(claim(1))
    assert db.row("a").waiting_for is not None
    db.apply(wake(db, "signal:go")[way])
    assert db.row("a").due_at is None
    assert db.row("a").owner == 1


@pytest.mark.parametrize("way", [0, 1], ids=["wake", "wake_id"])
@pytest.mark.parametrize("status", sorted({Status.PAUSED, Status.QUEUED, *TERMINAL}))
def test_only_waiting_runs_are_woken(db, way, status):
    """A message would set a paused or finished run going, or bring a delayed start forward (I3)."""
    db.in_status(status)
    before = db.row("a")
    db.apply(wake(db, "control:cancel")[way])
    assert db.row("a") == before


def test_a_childs_end_wakes_the_parent_that_waits_for_it(db, row):
    """A parent would wait for ever for a child that has ended (I4, I8)."""
    db.child("c", row)
    db.write(row, ("park", None, ["child:c"], NOW))
    db.apply(claim(1))
    child = db.row("c")
    told = ("tell_parent", row.number, "child:c", Status.COMPLETED, NOW + 3)
    db.write(child, ("finish", Status.COMPLETED, "1", None, NOW + 3), told)
    assert db.row("a").due_at == NOW + 3


def test_a_childs_end_in_the_batch_of_its_parents_parking_is_not_missed(db, row):
    """A parent that parks at the moment of its child's end would wait for ever (I8)."""
    db.child("c", row)
    db.apply(claim(1))
    parking, ending = db.record(row), db.record(db.row("c"))
    parking.park(None, ["child:c"], NOW)
    ending.finish(Status.COMPLETED, "1", None, NOW)
    ending.tell_parent(row.number, "child:c", Status.COMPLETED, NOW)
    for order in ((parking, ending),):
        db.batch(*order)
    assert db.row("a").due_at == NOW


def test_release_gives_the_run_back_at_once_under_a_new_epoch(db, row):
    """A worker that leaves would keep its runs, or the coroutine it dropped would be taken for current."""
    db.write(row, ("release", NOW + 2))
    given = db.row("a")
    assert (given.status, given.owner, given.due_at, given.epoch) == ("queued", None, NOW + 2, row.epoch + 1)


def test_a_released_run_that_is_cancelling_stays_so(db, row):
    """A cancelled run would begin to work again when its worker leaves."""
    db.apply(line("cancel", id="a", now=NOW))
    db.write(row, ("release", NOW))
    assert db.row("a").status == "cancelling"


def test_pause_own_puts_the_run_aside_with_its_reason(db, row):
    """A run that has diverged would be retried for ever, or nobody would know why it stands (I12)."""
    db.write(row, ("pause", '{"code": "divergence"}'))
    paused = db.row("a")
    assert (paused.status, paused.owner, paused.due_at, paused.waiting_for) == ("paused", None, None, None)
    assert (paused.reason, paused.epoch) == ('{"code": "divergence"}', row.epoch + 1)


@pytest.mark.parametrize("heeded_at", [None, NOW + 1])
@pytest.mark.parametrize("topic", ["control:cancel", "control:pause", None])
def test_a_run_that_was_asked_to_end_does_not_rest_unless_it_would_in_vain(db, row, topic, heeded_at):
    """Whoever has cancelled it would find it paused, and it would end only when somebody resumes it."""
    if topic:
        db.apply(line("send", run_id="a", topic=topic, key=None, data='""', now=NOW))
    db.write(row, ("pause", "{}", heeded_at))
    found = db.row("a")
    ends = topic == "control:cancel" and heeded_at is not None
    expected = ("cancelling", None, heeded_at) if ends else ("paused", "{}", None)
    assert (found.status, found.reason, found.due_at) == expected
    assert (found.owner, found.epoch) == (None, row.epoch + 1)


def test_the_next_due_time_is_that_of_the_earliest_run_behind_now(db):
    """A worker would sleep past the next timer."""
    assert db.rows("next_due", NOW) == [(None, None, 0)]
    db.queued("a", due_at=NOW)
    db.queued("b", due_at=NOW + 30)
    db.queued("c", due_at=NOW + 20)
    assert db.rows("next_due", NOW) == [(None, NOW + 20, 0)]
    assert db.rows("next_due", NOW + 30) == [(None, None, 0)]
