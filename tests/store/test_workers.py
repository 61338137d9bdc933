"""Workers: leases, death, and what becomes of a dead worker's runs (I8)."""

import json

import pytest
from storekit.database import ALL, claim, entry, line
from storekit.kinds import NOW

from perdure.model.run import WorkerRow

REASON = json.dumps({"code": "poison"})


def register(worker_id="w", lease_until=NOW + 10):
    return line(
        "register_worker", id=worker_id, host="host", place="place", pid=7, workflows=ALL, now=NOW,
        lease_until=lease_until,
    )  # fmt: skip


def expire(now=NOW + 100, most=3):
    return line("expire_runs", now=now, most_takeovers=most, reason=REASON)


def beat(number, now=NOW, lease_until=NOW + 10):
    return line("heartbeat", worker=number, now=now, lease_until=lease_until)


def workers(db):
    return {WorkerRow(*row).id: WorkerRow(*row) for row in db.rows("workers")}


def test_a_worker_is_registered_with_what_others_must_know(db):
    """Others could not tell whether it lives, what it can run and what it owns."""
    ((label, number),) = db.apply(register())
    assert label == "registered"
    assert workers(db) == {
        "w": WorkerRow(number, "w", "host", "place", 7, ALL, "alive", NOW, NOW, NOW + 10, 0)
    }  # fmt: skip
    db.owned("a", number)
    db.owned("b", number)
    assert workers(db)["w"].owned == 2


def test_a_workers_id_is_used_once(db):
    """Two processes under one identity would keep each other's leases alive."""
    ((_, number),) = db.apply(register())
    assert db.apply(register(lease_until=NOW + 99)) == []
    assert workers(db)["w"].lease_until == NOW + 10
    for end in (line("leave", worker=number, now=NOW), line("declare_dead", worker=number, now=NOW)):
        db.apply(end)
        assert db.apply(register()) == [], "the row of one that has gone keeps its id"


def test_a_chosen_id_is_free_again_when_its_worker_has_gone(db):
    """A worker with a name of its own could never be started again, or two would have the same name at once."""
    first = db.worker()
    again = [line("free_id", id="worker"), register("worker")]
    assert db.apply(*again) == []
    db.apply(line("leave", worker=first, now=NOW))
    ((label, second),) = db.apply(*again)
    assert label == "registered"
    assert {row.number: row.id for row in workers(db).values()} == {first: f"worker#{first}", second: "worker"}


def test_a_heartbeat_extends_the_lease(db):
    """A live worker would lose its runs."""
    first, second = db.worker("one", lease_until=NOW + 1), db.worker("two", lease_until=NOW + 1)
    assert db.apply(beat(first, NOW + 1, NOW + 21)) == [("alive",)]
    found = workers(db)
    assert (found["one"].heartbeat_at, found["one"].lease_until) == (NOW + 1, NOW + 21)
    assert (found["two"].heartbeat_at, found["two"].lease_until) == (NOW, NOW + 1)
    assert second != first


@pytest.mark.parametrize("end", ["declare_dead", "leave", "bury"])
def test_the_heartbeat_of_one_that_is_gone_gives_no_row(db, end):
    """A worker that others took the runs of would believe that it still has them (I1)."""
    number = db.worker(lease_until=NOW + 1)
    db.apply(line("bury", now=NOW + 2) if end == "bury" else line(end, worker=number, now=NOW + 2))
    before = workers(db)
    assert db.apply(beat(number, NOW + 3, NOW + 30)) == []
    assert workers(db) == before


def test_only_those_whose_lease_is_over_are_buried(db):
    """A live worker would be declared dead, or a dead one would count as alive for ever."""
    for name, lease_until in (("over", NOW - 1), ("just", NOW), ("alive", NOW + 1)):
        db.worker(name, lease_until=lease_until)
    gone = db.worker("left", lease_until=NOW - 5)
    db.apply(line("leave", worker=gone, now=NOW - 9))
    db.apply(line("bury", now=NOW))
    assert {name: row.state for name, row in workers(db).items()} == {
        "over": "dead", "just": "alive", "alive": "alive", "left": "left",
    }  # fmt: skip


@pytest.mark.parametrize(("statement", "state"), [("leave", "left"), ("declare_dead", "dead")])
def test_an_end_is_said_once(db, statement, state):
    """A worker that left in good order would be reported as dead, or the other way round."""
    number, other = db.worker("w"), db.worker("other")
    db.apply(line(statement, worker=number, now=NOW + 5))
    for again in ("leave", "declare_dead"):
        db.apply(line(again, worker=number, now=NOW + 6))
    found = workers(db)
    assert (found["w"].state, found["w"].lease_until) == (state, NOW + 5)
    assert found["other"].state == "alive"
    assert other != number


@pytest.mark.parametrize("death", ["lease over", "left", "declared dead"])
def test_the_runs_of_one_that_is_gone_are_due_again(db, death):
    """A dead worker's runs would be lost (I8), or its late writes would be taken (I1)."""
    number = db.worker("gone", lease_until=NOW + 50)
    alive = db.worker("alive", lease_until=NOW + 500)
    row = db.owned("a", number)
    kept = db.owned("b", alive)
    if death != "lease over":
        db.apply(line("leave" if death == "left" else "declare_dead", worker=number, now=NOW))
    assert db.apply(expire(NOW + 51)) == [("expired", row.number, "queued")]
    taken = db.row("a")
    assert (taken.status, taken.owner, taken.due_at, taken.epoch) == ("queued", None, NOW + 51, row.epoch + 1)
    assert taken.waiting_for is None
    assert db.row("b") == kept
    assert db.write(row, ("entries", [entry(1)])) == [("stale",)]


def test_nobody_is_robbed_before_the_lease_is_over(db):
    """A run would be driven by two workers (I1)."""
    number = db.worker(lease_until=NOW + 50)
    row = db.owned("a", number)
    assert db.apply(expire(NOW + 50)) == []
    assert db.row("a") == row


def test_a_heartbeat_in_the_batch_of_a_take_over_comes_first(db):
    """A worker that has just said that it lives would lose its runs."""
    number = db.worker(lease_until=NOW)
    row = db.owned("a", number)
    taken, alive = db.batch([line("bury", now=NOW + 5), expire(NOW + 5)], [beat(number, NOW + 5, NOW + 25)])
    assert (taken[0], alive[0]) == ([], [("alive",)])
    assert db.row("a") == row


@pytest.mark.parametrize("status", ["cancelling", "compensating"])
def test_a_run_that_is_ending_goes_on_ending_after_a_take_over(db, status):
    """A cancelled run would begin to work again because its worker died."""
    number = db.worker(lease_until=NOW)
    row = db.owned("a", number)
    db.sql("update perdure_runs set status = ? where id = 'a'", status)
    assert db.apply(expire()) == [("expired", row.number, status)]
    assert (db.row("a").status, db.row("a").due_at) == (status, NOW + 100)


def die(db, run_id="a", most=3, now=NOW + 100):
    """A worker claims the run and dies."""
    number = db.worker(f"victim {db.count('workers')}", lease_until=now)
    assert db.apply(claim(number, now))
    db.apply(line("declare_dead", worker=number, now=now))
    return db.apply(expire(now, most))


def test_deaths_without_progress_are_counted_until_the_run_is_paused(db):
    """A run that kills its workers would kill them for ever."""
    number = db.queued().number
    for count in (1, 2):
        assert die(db) == [("expired", number, "queued")]
        assert (db.row("a").takeovers, db.row("a").reason) == (count, None)
    assert die(db) == [("expired", number, "paused")]
    row = db.row("a")
    assert (row.status, row.due_at, row.owner, row.takeovers, row.reason) == ("paused", None, None, 3, REASON)
    assert db.apply(claim(db.worker(), NOW + 10**9)) == []


def test_what_a_step_emits_is_no_progress(db):
    """A step that kills its worker after its first word would do so for ever."""
    number = db.queued().number
    for count in (1, 2, 3):
        worker = db.worker(f"victim {count}", lease_until=NOW + 100)
        assert db.apply(claim(worker, NOW + 100))
        said = [entry(seq)._replace(kind="step_emitted") for seq in (2 * count - 1, 2 * count)]
        assert db.write(db.row("a"), ("entries", said)) == []
        db.apply(line("declare_dead", worker=worker, now=NOW + 100))
        assert db.apply(expire()) == [("expired", number, "paused" if count == 3 else "queued")]


def note(reason=REASON, now=NOW + 100):
    return line("note_poison", reason=reason, data="why", now=now)


def test_a_pause_of_poison_is_in_the_journal_once(db):
    """I4: those who follow the run would not hear of it, or of two workers that sweep at once both would write it."""
    db.queued()
    operator = db.queued("b")
    db.apply(line("pause_idle", id="b", epoch=operator.epoch, reason="an operator's"))
    for count in range(3):
        number = db.worker(f"victim {count}", lease_until=NOW + 100)
        db.apply(claim(number, NOW + 100))
        db.apply(line("declare_dead", worker=number, now=NOW + 100))
        db.batch([expire(), note()], [expire(), note()])
    db.apply(expire(), note())
    assert [found[:5] for found in db.journal("a")] == [(1, "paused", "", NOW + 100, "why")]
    assert db.journal("b") == []


def test_the_entry_of_a_pause_is_only_the_owners(db):
    """I1: a worker that has lost its run would write into the journal of its new owner."""
    row = db.owned("a", db.worker())

    def give_up(epoch):
        pause = line("pause_own", run=row.number, epoch=epoch, reason=REASON)
        db.apply(pause, line("note_pause", run=row.number, epoch=epoch + 1, data="why", now=NOW + 5))

    give_up(row.epoch - 1)
    assert (db.row("a"), db.journal("a")) == (row, [])
    db.write(row, ("entries", [entry(1)]))
    give_up(row.epoch)
    give_up(row.epoch)
    assert [(found.seq, found.kind, found.data) for found in db.journal("a")[1:]] == [(2, "paused", "why")]
    assert db.row("a").status == "paused"


def test_a_worker_learns_workflows_while_it_lives(db):
    """Others would think that nobody can run what was registered late."""
    number = db.worker("w")
    db.apply(line("learn", worker=number, workflows='["late"]'))
    assert workers(db)["w"].workflows == '["late"]'
    db.apply(line("leave", worker=number, now=NOW))
    db.apply(line("learn", worker=number, workflows='["later"]'))
    assert workers(db)["w"].workflows == '["late"]'


def test_a_run_that_makes_progress_is_never_paused_for_deaths(db):
    """A long run on unreliable machines would be given up though it gets on."""
    db.queued()
    for seq in range(1, 8):
        number = db.worker(f"victim {seq}", lease_until=NOW)
        db.apply(claim(number, NOW + 100))
        db.write(db.row("a"), ("entries", [entry(seq)]))
        ((_, _, status),) = db.apply(expire())
        assert (status, db.row("a").takeovers) == ("queued", 1)


def test_progress_begins_the_count_again(db):
    """Deaths long ago would count against a run that has got on since."""
    db.queued()
    die(db)
    die(db)
    assert db.row("a").takeovers == 2
    number = db.worker("alive", lease_until=NOW + 1)
    db.apply(claim(number, NOW + 100))
    db.write(db.row("a"), ("entries", [entry(1)]))
    db.apply(expire())
    assert db.row("a").takeovers == 1
    assert die(db)[0][2] == "queued"
    assert die(db)[0][2] == "paused"


@pytest.mark.parametrize("way", ["resume", "rerun", "renew"])
def test_the_count_begins_again_with_a_new_beginning(db, way):
    """A run that an operator has looked after would be paused at its next death."""
    db.queued()
    if way == "renew":
        die(db)
        die(db)
        number = db.worker("alive", lease_until=NOW + 10**6)
        db.apply(claim(number, NOW + 100))
        db.write(db.row("a"), ("renew", "2", 1, NOW + 100))
    else:
        while die(db)[0][2] != "paused":
            pass
        assert db.apply(line(way, id="a", epoch=db.row("a").epoch, now=NOW))
    assert db.row("a").takeovers == 0
    for _ in range(2):
        assert die(db)[0][2] == "queued"


def test_suspects_are_the_live_and_those_who_own_runs(db):
    """A sweep would miss a dead worker's runs, or look at every worker there ever was."""
    left = db.worker("left")
    db.worker("alive")
    owner = db.worker("owner")
    db.owned("a", owner)
    for number in (left, owner):
        db.apply(line("leave", worker=number, now=NOW))
    assert [row[0] for row in db.rows("suspects")] == [workers(db)["alive"].number, owner]


def test_the_runs_of_one_that_nobody_knows_are_due_again(db):
    """A process that wakes up long after it was forgotten would start runs here and lose them for ever (I8)."""
    number = db.worker("forgotten")
    db.apply(line("leave", worker=number, now=NOW), line("forget_workers", before=NOW + 1))
    row = db.queued("a", status="running", owner=number, epoch=1, due_at=None)
    assert [found[::3] for found in db.rows("suspects")] == [(number, "unknown")]
    assert db.apply(expire(NOW)) == [("expired", row.number, "queued")]
    assert db.rows("suspects") == []
    assert db.worker("new") != number, "it would pass for another worker"


def test_workers_that_left_long_ago_are_forgotten_unless_they_own_runs(db):
    """The table of workers would grow for ever (I10), or a run would be owned by one that nobody knows (I8)."""
    numbers = {name: db.worker(name, lease_until=NOW + 500) for name in ("old", "owner", "fresh", "alive")}
    db.owned("a", numbers["owner"])
    for name, at in (("old", NOW), ("owner", NOW), ("fresh", NOW + 9)):
        db.apply(line("leave", worker=numbers[name], now=at))
    db.apply(line("forget_workers", before=NOW + 9))
    assert set(workers(db)) == {"owner", "fresh", "alive"}
