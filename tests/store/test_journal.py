"""The journal: written by the owner of the newest epoch only, without gaps, and only growing (I1, I4)."""

import pytest
from storekit.database import claim, entry, line
from storekit.kinds import NOW

from perdure.model.entry import Entry, Kind
from perdure.model.status import Status
from perdure.store.operation import Operation


def test_an_owner_appends_entries_as_they_are(db):
    """Replay would read something else than what was recorded."""
    db.worker()
    row = db.owned()
    entries = [
        Entry(1, "step_completed", "s", NOW, '{"x": [1, null]}', NOW - 5, 3, "f00"),
        Entry(2, "timer_set", "~1/sleep#2", NOW + 1),
    ]
    assert db.write(row, ("entries", entries)) == []
    assert db.journal("a") == entries


def test_entries_and_the_next_state_are_one_commit(db):
    """A crash between the two would lose an outcome or repeat it (I4)."""
    db.worker()
    row = db.owned()
    db.write(row, ("entries", [entry(1)]), ("park", None, ["signal:go"], NOW))
    assert [found.seq for found in db.journal("a")] == [1]
    assert (db.row("a").status, db.row("a").owner) == ("waiting", None)


@pytest.mark.parametrize("epoch", [-1, 1], ids=["former", "coming"])
def test_a_stale_owner_writes_nothing_and_is_told(db, epoch):
    """A worker that was presumed dead and wakes would write into a run that another one drives (I1)."""
    db.worker()
    row = db.owned()
    before = db.row("a")
    calls = [
        [("entries", [entry(1)])],
        [("park", NOW, [], NOW)],
        [("release", NOW)],
        [("pause", "why")],
        [("renew", "2", 1, NOW)],
        [("finish", Status.COMPLETED, "1", None, NOW)],
        [("finish", Status.FAILED, None, "1", NOW), ("tell_parent", 99, "child:a", Status.FAILED, NOW)],
    ]
    for call in calls:
        assert db.write(row, *call, epoch=row.epoch + epoch) == [("stale",)]
    assert db.row("a") == before
    assert db.journal("a") == []


def test_nobody_writes_a_run_that_is_owned_by_nobody(db):
    """A driver that has parked its run could go on writing in the same epoch (I1)."""
    db.worker()
    row = db.owned()
    db.write(row, ("park", NOW + 5, [], NOW))
    parked = db.row("a")
    assert parked.epoch == row.epoch
    assert db.write(row, ("entries", [entry(1)]), ("finish", Status.COMPLETED, "1", None, NOW)) == [("stale",)]
    assert db.row("a") == parked
    assert db.journal("a") == []


def test_the_former_owner_is_stale_as_soon_as_another_claims_in_the_same_batch(db):
    """A take-over and the late write that it must keep out could both succeed (I1)."""
    worker = db.worker(lease_until=NOW)
    other = db.worker("other", lease_until=NOW + 1_000)
    row = db.owned(worker=worker)
    expire = line("expire_runs", now=NOW + 1, most_takeovers=3, reason="{}")
    record = db.record(row)
    record.entries([entry(1)])
    written, expired, claimed = db.batch(record, [expire], [claim(other, NOW + 1)])
    assert written == ([("stale",)], None)
    assert expired[0] == [("expired", row.number, "queued")]
    assert claimed[0][0][1] == row.number
    assert db.journal("a") == []


def test_who_follows_a_journal_is_handed_what_stands_there(db):
    """A reader of the writer's process would be told something else than one that reads the store."""
    db.worker()
    row = db.owned()
    follower = db.store.changes.follow(row.number)
    db.write(row, ("entries", [entry(1), Entry(2, Kind.STEP_EMITTED, "s", NOW, '"\u00e4"')]))
    record, other = db.record(row), db.record(db.owned("b"))
    record.entries([entry(3)])
    other.entries([entry(1)])
    db.batch(record, other)
    handed = db.run(follower.behind(0))
    assert handed == [Entry(*found) for found in db.rows("entries", row.number, 0, 100)]
    assert [found.seq for found in handed] == [1, 2, 3]


def test_who_follows_a_journal_looks_where_more_was_done_than_to_append(db):
    """A reader would be told what is not stored, or stay behind what is."""
    db.worker()
    row = db.owned()
    follower = db.store.changes.follow(row.number)
    assert db.write(row, ("entries", [entry(1)]), epoch=row.epoch + 1) == [("stale",)]
    assert db.run(follower.behind(0)) == []
    db.write(row, ("entries", [entry(1, data='"' + "x" * 200 + '"')]))
    assert db.run(follower.behind(0)) == [], "its payload stands elsewhere"
    record = db.record(row)
    record.entries([entry(2)])
    db.batch(record, Operation(changed=[row.number]))
    assert db.run(follower.behind(1)) == [], "somebody else has changed the run"
    db.write(row, ("entries", [entry(3)]), ("finish", Status.COMPLETED, "1", None, NOW))
    assert db.run(follower.behind(2)) == [], "it has ended"


def test_an_entry_is_never_written_twice(db):
    """A commit that is made again would put an outcome in the journal twice, or replace one."""
    db.worker()
    row = db.owned()
    db.write(row, ("entries", [entry(1, data='"first"')]))
    again = db.record(row)
    again.entries([entry(1, data='"second"')])
    again.park(None, [], NOW)
    ((rows, error),) = db.batch(again)
    assert rows == []
    assert error.code == "operation_refused"
    assert [found.data for found in db.journal("a")] == ['"first"']
    assert db.row("a").owner == 1


def test_runs_do_not_see_each_others_journals(db):
    """Two runs' entries would be mixed."""
    db.worker()
    first, second = db.owned("a"), db.owned("b")
    records = [db.record(row) for row in (first, second)]
    for row, record in zip((first, second), records, strict=True):
        record.entries([entry(seq, key=row.id) for seq in (1, 2, 3)])
    db.batch(*records)
    assert [found.key for found in db.journal("a")] == ["a"] * 3
    assert [found.key for found in db.journal("b")] == ["b"] * 3


def test_entries_are_read_from_a_cursor_in_pages(db):
    """Somebody who watches a run would miss entries or get them twice."""
    db.worker()
    row = db.owned()
    db.write(row, ("entries", [entry(seq) for seq in range(1, 8)]))
    seen, after = [], 0
    while page := db.rows("entries", row.number, after, 3):
        assert len(page) <= 3
        seen += [found[0] for found in page]
        after = page[-1][0]
    assert seen == [1, 2, 3, 4, 5, 6, 7]


def test_renew_forgets_the_history_and_begins_with_the_new_input(db):
    """An endless run would grow for ever, or lose the entry that says how it goes on."""
    db.worker()
    row = db.owned()
    db.write(row, ("entries", [entry(seq) for seq in (1, 2, 3)]))
    db.write(row, ("entries", [entry(4, "continued", "")]), ("renew", '"next"', 4, NOW + 9))
    assert [found.seq for found in db.journal("a")] == [4]
    renewed = db.row("a")
    assert (renewed.input, renewed.status, renewed.owner, renewed.due_at) == ('"next"', "queued", None, NOW + 9)
    assert renewed.epoch == row.epoch + 1


def test_renew_keeps_the_journals_of_others(db):
    """continue_as_new of one run would erase another's history."""
    db.worker()
    first, second = db.owned("a"), db.owned("b")
    for row in (first, second):
        db.write(row, ("entries", [entry(1), entry(2)]))
    db.write(first, ("renew", "2", 3, NOW))
    assert db.journal("a") == []
    assert len(db.journal("b")) == 2


def test_a_note_is_the_next_entry_of_a_run_that_nobody_owns(db):
    """What operators do would be missing in the journal, or be written between a driver's entries."""
    db.worker()
    row = db.owned()
    db.write(row, ("entries", [entry(1)]))
    note = {"kind": "paused", "data": "{}", "now": NOW}
    db.apply(line("note", id="a", epoch=row.epoch, **note))
    assert len(db.journal("a")) == 1
    db.write(row, ("park", None, [], NOW))
    db.apply(line("note", id="a", epoch=row.epoch + 1, **note))
    assert len(db.journal("a")) == 1
    db.apply(line("note", id="a", epoch=row.epoch, **note))
    assert db.journal("a")[1:] == [Entry(2, "paused", "", NOW, "{}")]


def test_two_notes_of_one_operation_follow_each_other(db):
    """A resume that also skips an entry would be refused, or lose one of its notes."""
    db.queued()
    db.apply(*[line("note", id="a", epoch=0, kind=kind, data=None, now=NOW) for kind in ("resumed", "skipped")])
    assert [(found.seq, found.kind) for found in db.journal("a")] == [(1, "resumed"), (2, "skipped")]


def test_what_steps_emit_is_not_read_for_a_replay(db):
    """A claim would load every token that a run has ever streamed, or the journal would go on at a number that is taken."""
    db.worker()
    row = db.owned()
    said = [entry(seq)._replace(kind="step_emitted") for seq in (2, 3, 5, 6)]
    db.write(row, ("entries", [entry(1), *said[:2], entry(4), *said[2:]]))
    assert [found.seq for found in db.journal("a")] == [1, 4, 6]
    assert [found[0] for found in db.rows("entries", row.number, 0, 10)] == [1, 2, 3, 4, 5, 6]
