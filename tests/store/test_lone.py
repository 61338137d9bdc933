"""The runs of run_durable: claimed by their ids, by those who have their functions."""

import json

import pytest
from storekit.database import claim, line
from storekit.kinds import NOW

from perdure.model.run import Claimed
from perdure.model.status import Status


def claim_lone(worker, *run_ids, now=NOW):
    return line("claim_lone", worker=worker, now=now, ids=json.dumps(run_ids))


def claimed(rows):
    assert all(row[0] == "claimed" for row in rows)
    return sorted(Claimed(*row[1:]).id for row in rows)


def test_only_those_that_are_named_and_due(db):
    """A call would drive another call's run, or its own before its time."""
    worker = db.worker()
    for run_id, due_at in (("a", NOW), ("b", NOW), ("later", NOW + 1), ("never", None), ("other", NOW)):
        db.queued(run_id, workflow="~durable", due_at=due_at)
    assert claimed(db.apply(claim_lone(worker, "a", "b", "later", "never", "nobody"))) == ["a", "b"]
    assert db.apply(claim_lone(worker, "a", "b", "later", "never")) == []


def test_a_claim_of_one_gives_what_any_claim_gives(db):
    """A driver would begin with less than it needs, or under the former owner's epoch (I1)."""
    worker = db.worker()
    row = db.queued("a", workflow="~durable", input='{"manifest":1}', seed=7)
    ((_, *columns),) = db.apply(claim_lone(worker, "a"))
    assert Claimed(*columns) == Claimed(
        row.number, "a", "~durable", "running", 1, row.epoch + 1, None, '{"manifest":1}', 7, NOW, None, None
    )
    assert (db.row("a").owner, db.row("a").due_at) == (worker, None)


@pytest.mark.parametrize("status", [Status.CANCELLING, Status.WAITING])
def test_one_that_ends_is_claimed_as_it_is(db, status):
    """A cancelled run would be driven as if it went on."""
    worker = db.worker()
    db.in_status(status)
    db.sql("update perdure_runs set due_at = ? where id = 'a'", NOW)
    ((_, *columns),) = db.apply(claim_lone(worker, "a"))
    assert Claimed(*columns).status == ("running" if status == Status.WAITING else status)


def test_no_worker_takes_what_it_has_no_name_for(db):
    """An ordinary worker would put the run aside as one of an unknown workflow."""
    worker = db.worker()
    db.queued("a", workflow="~durable")
    assert db.apply(claim(worker, workflows='["w"]')) == []


def test_of_two_workers_one_gets_it(db):
    """Two processes would drive one run (I1)."""
    first, second = db.worker("first"), db.worker("second")
    db.queued("a", workflow="~durable")
    answers = db.batch([claim_lone(first, "a")], [claim_lone(second, "a")])
    assert [len(rows) for rows, _ in answers] == [1, 0]


def test_the_first_message_under_a_key_is_found_when_it_was_taken(db):
    """A late teller could not be told what the run has heard."""
    row = db.owned()
    assert db.rows("keyed", "a", "signal:news", "event") == []
    for data in ("1", "2"):
        db.apply(line("send", run_id="a", topic="signal:news", key="event", data=data, now=NOW))
    (message,) = db.mail("a")
    db.write(row, ("take", message, 1))
    assert db.mail("a") == []
    assert db.rows("keyed", "a", "signal:news", "event") == [("1", NOW)]
