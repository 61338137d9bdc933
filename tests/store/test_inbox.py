"""The inbox: what is said to a run is kept until the run has observed it, once (I9)."""

import json

import pytest
from storekit.database import claim, entry, line, start
from storekit.kinds import NOW

from perdure.model.run import Message
from perdure.model.status import TERMINAL, Status

FINISHED = sorted(TERMINAL)


def send(run_id, topic="signal:go", key=None, data="1", now=NOW):
    return line("send", run_id=run_id, topic=topic, key=key, data=data, now=now)


def test_send_leaves_a_message_whatever_the_run_is_doing(db):
    """A signal that comes before, during or after the wait would be lost (I9)."""
    for status in set(Status) - TERMINAL:
        number = db.in_status(status, str(status)).number
        assert db.apply(send(str(status), data=f'"{status}"', now=NOW + 7)) == [("sent", number)]
        (message,) = db.mail(str(status))
        assert message == Message(
            number, message.id, "signal:go", None, f'"{status}"', NOW + 7, None, None, None, None
        )  # fmt: skip


@pytest.mark.parametrize("status", FINISHED)
def test_send_to_a_finished_run_gives_no_row(db, status):
    """The sender would believe that the message can still be received."""
    db.in_status(status)
    assert db.apply(send("a")) == []
    assert db.count("inbox") == 0


def test_send_to_an_unknown_run_gives_no_row(db):
    """The sender would believe that somebody has got the message."""
    assert db.apply(send("nobody")) == []
    assert db.count("inbox") == 0


def test_messages_are_read_in_the_order_they_came(db):
    """Signals would be received in another order than they were sent."""
    first, second = db.queued("a").number, db.queued("b").number
    db.batch(*[[send(run_id, data=str(place))] for place in range(5) for run_id in ("a", "b")])
    assert [message.data for message in db.mail("a")] == list("01234")
    assert [row[:5:4] for row in db.rows("mail", json.dumps([second, first]))] == [
        (number, str(place)) for number in (first, second) for place in range(5)
    ]


def test_the_first_message_under_a_key_wins(db):
    """A sender that repeats itself would be heard twice (I9)."""
    number = db.queued().number
    assert db.apply(send("a", key="k", data="1")) == [("sent", number)]
    assert db.apply(send("a", key="k", data="2")) == []
    assert db.apply(send("a", topic="signal:other", key="k", data="3")) == [("sent", number)]
    db.queued("b")
    assert db.apply(send("b", key="k", data="4"))
    assert [message.data for message in db.mail("a")] == ["1", "3"]


def test_two_messages_under_one_key_in_one_batch_are_one(db):
    """Two senders under the same key at the same moment would both be heard."""
    db.queued()
    first, second = db.batch([send("a", key="k", data="1")], [send("a", key="k", data="2")])
    assert len(first[0]) == 1
    assert second == ([], None)
    assert [message.data for message in db.mail("a")] == ["1"]


def test_a_taken_message_is_gone(db):
    """A signal would be received twice (I9)."""
    db.worker()
    row = db.owned()
    db.apply(send("a", data="1"), send("a", data="2"))
    first, second = db.mail("a")
    db.write(row, ("take", first, 1), ("entries", [entry(1, "signal_received")]))
    assert db.mail("a") == [second]
    assert db.count("inbox") == 1


def test_a_taken_keyed_message_still_stops_its_duplicates(db):
    """A sender that repeats itself after the message was received would be heard twice (I9)."""
    db.worker()
    row = db.owned()
    db.apply(send("a", key="k", data="1"))
    (message,) = db.mail("a")
    db.write(row, ("take", message, 4), ("entries", [entry(4, "signal_received")]))
    assert db.mail("a") == []
    assert db.apply(send("a", key="k", data="2")) == []
    assert db.mail("a") == []
    assert db.rows("taken_keyed", row.number, 3) == [(4, "signal:go", "k", "1", NOW)]
    assert db.rows("taken_keyed", row.number, 4) == []


@pytest.mark.parametrize("key", [None, "k"])
def test_a_stale_owner_takes_nothing(db, key):
    """A worker that was presumed dead would eat a signal meant for the run's new owner (I1, I9)."""
    db.worker()
    row = db.owned()
    db.apply(send("a", key=key))
    (message,) = db.mail("a")
    assert db.write(row, ("take", message, 1), epoch=row.epoch - 1) == [("stale",)]
    db.write(row, ("park", None, [], NOW))
    assert db.write(row, ("take", message, 1)) == [("stale",)]
    assert db.mail("a") == [message]


@pytest.mark.parametrize("key", [None, "k"])
def test_an_owner_takes_only_from_its_own_inbox(db, key):
    """A run could eat another run's signal."""
    db.worker()
    row = db.owned("a")
    db.queued("b")
    db.apply(send("b", key=key))
    (message,) = db.mail("b")
    db.write(row, ("take", message, 1))
    assert db.mail("b") == [message]


def test_a_message_sent_with_the_runs_end_was_sent_before_it(db):
    """Of a send and an end that commit together, one would see the other half done."""
    db.worker()
    row = db.owned()
    record = db.record(row)
    record.finish(Status.COMPLETED, "1", None, NOW)
    ended, sent = db.batch(record, [send("a")])
    assert (ended, sent) == (([], None), ([("sent", row.number)], None))
    assert db.row("a").status == "completed"
    assert db.apply(send("a")) == []


def test_a_childs_end_is_told_to_its_parent_with_the_result(db):
    """A parent would not learn how its child ended (I4)."""
    db.worker()
    parent = db.owned("p")
    db.child("c", parent)
    db.apply(claim(1))
    child = db.row("c")
    rows = db.write(
        child, ("finish", Status.COMPLETED, '"out"', None, NOW),
        ("tell_parent", parent.number, "child:c", Status.COMPLETED, NOW),
    )  # fmt: skip
    assert rows == [("notified", parent.number)]
    (message,) = db.mail("p")
    assert message[2:] == ("child:c", None, None, NOW, "completed", '"out"', None, "c")


def test_a_childs_large_result_comes_with_the_message(db):
    """A parent would get the name of a blob instead of its child's result or error."""
    db.worker()
    parent = db.owned("p")
    big = {name: json.dumps(name * 200) for name in ("output", "error")}
    for name, end in (
        ("output", (Status.COMPLETED, big["output"], None)),
        ("error", (Status.FAILED, None, big["error"])),
    ):
        db.child(name, parent)
        db.apply(claim(1))
        child = db.row(name)
        db.write(child, ("finish", *end, NOW), ("tell_parent", parent.number, f"child:{name}", end[0], NOW))
        assert (child.output, db.row(name)[list(child._fields).index(name)][0]) == (None, "@")
    first, second = db.mail("p")
    assert (first.output, first.error) == (big["output"], None)
    assert (second.output, second.error) == (None, big["error"])


def test_a_large_message_comes_whole(db):
    """A run would receive the name of a blob instead of what was sent."""
    db.queued()
    db.apply(line("add_blob", hash="h1", size=4, data='"42"'), send("a", data="@h1"))
    assert [message.data for message in db.mail("a")] == ['"42"']


def test_a_stale_end_tells_the_parent_nothing(db):
    """A parent would hear of an end that was refused (I1)."""
    db.worker()
    parent = db.owned("p")
    db.child("c", parent)
    db.apply(claim(1))
    child = db.row("c")

    def ending(now):
        told = ("tell_parent", parent.number, "child:c", Status.COMPLETED, now)
        return ("finish", Status.COMPLETED, "1", None, now), told

    assert db.write(child, *ending(NOW), epoch=child.epoch - 1) == [("stale",)]
    assert db.mail("p") == []
    db.write(child, *ending(NOW))
    assert len(db.mail("p")) == 1
    assert db.write(child, *ending(NOW + 1)) == [("stale",)]
    assert len(db.mail("p")) == 1, "told twice"


def test_a_finished_parent_is_not_told(db):
    """The inboxes of finished runs would grow (I10)."""
    db.worker()
    parent = db.owned("p")
    db.child("c", parent, detached=True)
    db.apply(claim(1))
    db.write(parent, ("finish", Status.COMPLETED, "1", None, NOW))
    child = db.row("c")
    told = ("tell_parent", parent.number, "child:c", Status.COMPLETED, NOW)
    assert db.write(child, ("finish", Status.COMPLETED, "1", None, NOW), told) == []
    assert db.count("inbox") == 0


def test_only_a_driven_run_is_asked_to_pause(db):
    """A request to pause would wait for ever in an inbox that nobody reads, or stop a run that is ending."""
    db.worker()
    ask = line("ask_pause", id="a", data='"why"', now=NOW)
    db.queued()
    assert db.apply(ask) == []
    db.apply(claim(1))
    row = db.row("a")
    assert db.apply(ask) == [("asked", row.number)]
    assert [(message.topic, message.data) for message in db.mail("a")] == [("control:pause", '"why"')]
    db.apply(line("cancel", id="a", now=NOW))
    assert db.apply(ask) == []


def test_messages_of_a_rerun_come_back_before_all_others_in_their_order(db):
    """Signals that a rerun receives again would come in another order than the first time (I7)."""
    db.queued()
    db.apply(send("a", data="4"))
    again = [(3, None, "1"), (2, "k", "2"), (1, None, "3")]
    db.apply(
        *[
            line("restore", id="a", nth=place, topic="signal:go", key=key, data=data, sent_at=NOW)
            for place, key, data in reversed(again)
        ]
    )
    db.queued("b")
    db.apply(line("restore", id="b", nth=1, topic="signal:go", key=None, data="5", sent_at=NOW))
    db.apply(line("restore", id="a", nth=1, topic="signal:go", key=None, data="0", sent_at=NOW))
    assert [(message.data, message.key) for message in db.mail("a")] == [
        ("0", None), ("1", None), ("2", "k"), ("3", None), ("4", None),
    ]  # fmt: skip


def test_a_keyed_message_is_restored_in_place_of_the_taken_one(db):
    """A rerun could not receive a keyed signal again, or would lose one that it keeps."""
    db.worker()
    row = db.owned()
    db.apply(send("a", key="k", data="1"), send("a", key="l", data="2"))
    first, second = db.mail("a")
    db.write(row, ("take", first, 3), ("take", second, 5))
    db.apply(
        line("drop_taken", id="a", seq=5),
        line("restore", id="a", nth=1, topic="signal:go", key="l", data="2", sent_at=NOW),
    )
    assert [(message.key, message.data) for message in db.mail("a")] == [("l", "2")]
    assert [taken[:3] for taken in db.rows("taken_keyed", row.number, 0)] == [(3, "signal:go", "k")]


def test_old_requests_are_dropped_and_nothing_else(db):
    """A resumed run would be stopped by the request that stopped it, or lose its signals."""
    db.worker()
    db.owned("a")
    db.owned("b")
    for run_id in ("a", "b"):
        db.apply(line("ask_pause", id=run_id, data='"why"', now=NOW), send(run_id), send(run_id, "control:cancel"))
    db.apply(line("drop_control", id="a", topic="control:pause"))
    assert [message.topic for message in db.mail("a")] == ["signal:go", "control:cancel"]
    assert len(db.mail("b")) == 3


def test_a_child_that_runs_again_has_not_ended_for_its_parent(db):
    """A parent would go on with the result of a child that is being done again, and then be told a second time."""
    db.worker()
    parent = db.owned("p")
    for run_id in ("c", "d"):
        db.child(run_id, parent)
        db.apply(claim(1))
        ended = ("tell_parent", parent.number, f"child:{run_id}", Status.COMPLETED, NOW)
        db.write(db.row(run_id), ("finish", Status.COMPLETED, "1", None, NOW), ended)
    db.apply(line("recall", id="c"))
    assert [message.topic for message in db.mail("p")] == ["child:d"]


def test_a_run_is_told_once_of_a_child_that_ended_before(db):
    """A rerun or a fork would wait for ever for a child that has ended, or be told twice (I8, I9)."""
    db.worker()
    parent = db.owned("p")
    db.child("c", parent)
    tell = line("tell_end", id="p", child="c", topic="child:c", now=NOW)
    db.apply(tell)
    assert db.mail("p") == [], "it has not ended"
    db.apply(claim(1))
    db.write(db.row("c"), ("finish", Status.FAILED, None, '"no"', NOW))
    db.apply(tell)
    db.apply(tell)
    assert [message[5:] for message in db.mail("p")] == [(NOW, "failed", None, '"no"', "c")]


def test_inboxes_are_read_for_the_asked_runs_only(db):
    """A worker would be given messages of runs that it does not drive."""
    db.apply(start("a"), start("b"))
    db.apply(send("a"), send("b"))
    assert db.rows("mail", "[]") == []
    assert [row[0] for row in db.rows("mail", json.dumps([db.row("b").number, 999]))] == [db.row("b").number]
