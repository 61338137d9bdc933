"""Claiming what is due: each run by one worker, the longest due first."""

import json

import pytest
import queuekit
from storekit.database import ALL, claim, entry, line, start
from storekit.kinds import NOW

from perdure.model.queue import Queue
from perdure.model.run import Claimed, Message
from perdure.model.status import TERMINAL, Status


def claimed(rows):
    """The ids of the claimed runs, in the order of the rows."""
    assert all(row[0] == "claimed" for row in rows)
    return [Claimed(*row[1:]).id for row in rows]


def test_a_claim_gives_all_that_a_driver_needs(db):
    """A driver would begin with another input, seed or deadline than the run was started with."""
    worker = db.worker()
    number = db.queued("a", input='"in"', seed=7, deadline_at=NOW + 9, forked_from="b@2").number
    ((label, *columns),) = db.apply(claim(worker, NOW + 1))
    assert (label, Claimed(*columns)) == (
        "claimed",
        Claimed(number, "a", "w", "running", 1, 1, None, '"in"', 7, NOW + 1, NOW + 9, "b@2"),
    )
    row = db.row("a")
    assert (row.owner, row.epoch, row.due_at, row.status, row.started_at) == (worker, 1, None, "running", NOW + 1)


def test_a_claim_tells_whose_mail_there_is_to_read(db):
    """A driver would begin without the messages that came while nobody drove its run."""
    worker = db.worker()
    row = db.owned("c")
    for run_id in ("a", "b"):
        db.queued(run_id)
    for run_id in ("a", "c"):
        db.apply(line("send", run_id=run_id, topic="t", key=None, data="1", now=NOW))
    (message,) = db.rows("mail", json.dumps([row.number]))
    db.write(row, ("take", Message(*message), 1))
    db.write(row, ("release", NOW))
    mail = {Claimed(*columns).id: bool(Claimed(*columns).mail) for _, *columns in db.apply(claim(worker))}
    assert mail == {"a": True, "b": False, "c": False}


def test_each_claim_is_a_new_epoch_and_keeps_the_first_start(db):
    """A former owner would pass for the new one (I1), or the run's time would begin again."""
    worker = db.worker()
    row = db.owned()
    db.write(row, ("park", NOW + 5, [], NOW))
    ((_, *columns),) = db.apply(claim(worker, NOW + 5))
    again = Claimed(*columns)
    assert (again.epoch, again.started_at, again.status) == (row.epoch + 1, NOW, "running")


def test_only_due_runs_are_claimed(db):
    """A run would be driven before its time, or never (I8)."""
    worker = db.worker()
    for run_id, due_at in (("past", NOW - 1), ("now", NOW), ("later", NOW + 1), ("never", None)):
        db.queued(run_id, due_at=due_at)
    assert sorted(claimed(db.apply(claim(worker)))) == ["now", "past"]
    assert db.apply(claim(worker)) == []


def test_runs_that_are_ending_are_claimed_as_they_are(db):
    """A cancelled run's clean-up would never be driven, or it would be driven as if it went on."""
    worker = db.worker()
    for status in (Status.CANCELLING, Status.COMPENSATING, Status.WAITING):
        db.in_status(status, status)
        db.sql("update perdure_runs set due_at = ? where id = ?", NOW, str(status))
    found = {row[2]: row[4] for row in db.apply(claim(worker))}
    assert found == {"cancelling": "cancelling", "compensating": "compensating", "waiting": "running"}


def test_the_longest_due_come_first_and_no_more_than_asked(db):
    """A worker would be given more runs than it can drive, or an old run would starve."""
    worker = db.worker()
    for place, run_id in enumerate("dbeac"):
        db.queued(run_id, due_at=NOW - {"a": 50, "b": 40, "c": 30, "d": 20, "e": 20}[run_id], seed=place)
    assert sorted(claimed(db.apply(claim(worker, most=3)))) == ["a", "b", "c"]
    assert claimed(db.apply(claim(worker, most=1))) == ["d"], "of two due at once, the one that was inserted first"
    assert claimed(db.apply(claim(worker, most=5))) == ["e"]
    assert db.apply(claim(worker, most=0)) == []


def test_only_known_workflows_are_claimed(db):
    """A worker would be given runs whose code it does not have."""
    worker = db.worker()
    for name in ("w", "v", "u"):
        db.queued(f"of {name}", workflow=name)
    assert claimed(db.apply(claim(worker, workflows=json.dumps(["v", "x"])))) == ["of v"]
    assert db.apply(claim(worker, workflows="[]")) == []
    assert sorted(claimed(db.apply(claim(worker, workflows=json.dumps(["u", "w"]))))) == ["of u", "of w"]


def test_two_claimers_in_one_batch_never_get_the_same_run(db):
    """Two workers would drive one run (I1)."""
    workers = [db.worker(name) for name in ("one", "two", "three")]
    for place in range(20):
        db.queued(f"r{place}")
    outcomes = db.batch(*[[claim(worker, most=6)] for worker in workers for _ in range(2)])
    shares = [claimed(rows) for rows, _ in outcomes]
    assert [len(share) for share in shares] == [6, 6, 6, 2, 0, 0]
    assert len({run_id for share in shares for run_id in share}) == 20
    for worker, share in zip(workers, (shares[0] + shares[1], shares[2] + shares[3], []), strict=True):
        assert {db.row(run_id).owner for run_id in share} <= {worker}


def test_two_stores_never_claim_the_same_run(db):
    """Two processes on one database would drive one run (I1)."""
    stores = [db.store, db.another() if db.kind.shared else db.store]
    workers = [db.worker("one"), db.worker("two")]
    for place in range(40):
        db.queued(f"r{place}")
    shares = [[], []]
    while len(shares[0]) + len(shares[1]) < 40:
        for share, store, worker in zip(shares, stores, workers, strict=True):
            share += claimed(db.apply(claim(worker, most=3), store=store))
    assert len(set(shares[0]) | set(shares[1])) == 40
    assert all(shares)


def test_a_run_started_in_the_batch_of_a_claim_is_claimed(db):
    """A claim that commits with a start would miss it, and nobody might look again."""
    worker = db.worker()
    started, found = db.batch([start("a")], [claim(worker)])
    assert started[0][0][0] == "started"
    assert claimed(found[0]) == ["a"]


def test_nothing_that_stands_or_has_ended_is_claimed(db):
    """A paused or finished run would be driven (I3)."""
    worker = db.worker()
    for status in {Status.PAUSED, *TERMINAL}:
        db.in_status(status, status)
    assert db.apply(claim(worker, NOW + 10**9)) == []


def test_a_claim_leaves_journal_and_inbox_alone(db):
    """A run that is taken up again would have lost what it did or what was said to it."""
    worker = db.worker()
    row = db.owned()
    db.write(row, ("entries", [entry(1)]), ("release", NOW))
    db.apply(line("send", run_id="a", topic="signal:go", key=None, data="1", now=NOW))
    db.apply(claim(worker))
    assert len(db.journal("a")) == 1
    assert len(db.mail("a")) == 1


def test_what_is_due_is_told_without_claiming_it(db):
    """Workers that hear of a commit would all claim, or none of them would."""
    db.worker()
    knows = json.dumps(["v", "w"])
    assert db.rows("any_due", NOW, knows) == []
    db.queued("later", due_at=NOW + 1)
    db.queued("unknown", workflow="u")
    assert db.rows("any_due", NOW, knows) == []
    row = db.queued("now")
    assert db.rows("any_due", NOW, knows) == [(row.number,)]
    assert db.rows("any_due", NOW, "[]") == []
    assert db.row("now") == row


@pytest.mark.parametrize("end", ["leave", "declare_dead", "forget_workers"])
def test_a_worker_that_is_gone_for_the_others_gets_nothing(db, end):
    """A process that wakes up after its runs were taken over would own runs that nobody drives until the next look."""
    worker, other = db.worker("gone"), db.worker("other")
    queuekit.make(db, Queue("q"))
    queuekit.put(db, "in line", "held")
    held = queuekit.claim(db, other, most=1)[0].id
    db.queued("plain")
    row = db.row(held)
    db.apply(line("release", run=row.number, epoch=row.epoch, now=NOW))
    if end == "forget_workers":
        db.apply(line("leave", worker=worker, now=NOW), line("forget_workers", before=NOW + 1))
    else:
        db.apply(line(end, worker=worker, now=NOW))
    common = {"worker": worker, "now": NOW, "most": 9, "top": 99, "workflows": ALL, "queue": "q"}
    lines = [
        claim(worker), line("claim_lone", worker=worker, now=NOW, ids='["plain"]'), line("claim_held", **common),
        line("claim_line", **common),
    ]  # fmt: skip
    assert db.apply(*lines) == []
    assert [db.row(name).owner for name in ("plain", "in line", "held")] == [None] * 3
    lines = [(name, (other, *rest)) for name, (_, *rest) in lines]
    assert sorted(claimed(db.apply(*lines))) == ["held", "in line", "plain"]
