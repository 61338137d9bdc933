"""A process that stands still (SIGSTOP), is taken over, and wakes."""

import signal

import pytest
from crashkit import roles
from crashkit.harness import Child, Place

pytestmark = pytest.mark.crash

LEASE = {"lease": 0.5}
ROWS = "select status, epoch, seq, * from perdure_runs left join perdure_journal on run = number order by number, seq"


def test_stopped_worker_that_wakes_after_its_run_has_ended_writes_nothing(any_place: Place):
    """A worker that slept through the take-over and the end of its run would write behind the end (I1, I3)."""
    place = any_place
    zombie, number, client, heir = _one_falls_asleep_and_another_comes(place)
    (place.folder / "go").touch()
    assert client.ask("result", "run") == "1 go 2"
    lease_until = place.value("select lease_until from perdure_workers where number = ?", number)
    taken_at = place.value("select min(at) from perdure_journal join witness using (run, seq) where epoch > 1")
    assert taken_at > lease_until, "its process was there, so its lease was to be waited for"

    before = place.rows(ROWS)
    zombie.wake()
    _wait_for_rebirth(place, zombie, number)
    assert place.rows(ROWS) == before
    _works_on_new_runs(place, zombie, heir, client)


def test_stopped_worker_that_wakes_while_another_drives_its_run_writes_nothing(any_place: Place):
    """A worker about to record an outcome as it fell asleep would put it into the other's journal (I1)."""
    place = any_place
    zombie, number, client, heir = _one_falls_asleep_and_another_comes(place)
    place.until((place.folder / "go-begun-2").exists, "the same body in the other worker")
    before = place.rows(ROWS)
    assert [row[:3] for row in before] == [("running", 3, 1)], "where the zombie would write, the journal is empty"
    (place.folder / "go-0").touch()
    zombie.wake()
    _wait_for_rebirth(place, zombie, number)
    assert place.rows(ROWS) == before
    (place.folder / "go").touch()
    assert client.ask("result", "run") == "1 go 2"
    _works_on_new_runs(place, zombie, heir, client)


def test_worker_stopped_inside_a_transaction_holds_up_the_others_but_loses_nothing(place: Place):
    """Whoever waits for a stopped process's lock would get an untyped error, or lose what it could not store."""
    sleeper = place.start(roles.worker, worker=LEASE, kill=("before_commit", "finish", 1, signal.SIGSTOP))
    sleeper.expect("ready")
    client = place.start(roles.client, patience_ms=200)
    client.expect("ready")
    client.ask("start", "waits_for_file", ["go"], "run")
    place.until((place.folder / "go-begun-0").exists, "the body")
    other = place.start(roles.worker, worker=LEASE, patience_ms=200)
    other.expect("ready")
    (place.folder / "go").touch()
    sleeper.stopped()

    problem, message = client.ask("start", "many_steps", [3], "refused")
    assert problem == "StoreBusy", message
    place.until(lambda: "heartbeat could not be stored" in other.logged(), "the other worker's complaint")
    place.check()

    sleeper.wake()
    assert client.ask("result", "run") == "1 go 2"
    assert client.ask("start", "many_steps", [3], "accepted") == "accepted"
    assert client.ask("result", "accepted") == 3
    assert place.rows("select 1 from perdure_runs where id = 'refused'") == []
    place.check_all_ended()
    place.check_deeds(most=2)


def test_blocked_loop_is_reported_but_not_robbed(place: Place):
    """A long computation on the loop would cost a live worker its run, or go unnoticed."""
    worker = place.start(roles.worker, worker={"lease": 1.0, "blocked": 0.2})
    number = worker.expect("ready")
    client = place.start(roles.client)
    client.expect("ready")
    client.ask("start", "blocked", ["done"], "run")
    other = place.start(roles.worker, worker=LEASE)
    other.expect("ready")

    place.until(lambda: "spin_until" in worker.logged(), "the stack that blocks the loop")
    assert "the event loop has been blocked" in worker.logged()
    assert "run_until_complete" not in worker.logged()  # how every process comes to its loop
    begun = place.value("select heartbeat_at from perdure_workers where number = ?", number)
    still = "select heartbeat_at - ? >= 3 * 1000000 from perdure_workers where number = ?"
    place.until(lambda: place.value(still, begun, number), "three leases")
    assert place.rows("select owner, epoch, takeovers from perdure_runs") == [(number, 1, 0)]

    (place.folder / "done").touch()
    assert client.ask("result", "run") == "done"
    assert len(place.deeds()) == 1
    assert place.rows("select distinct state from perdure_workers") == [("alive",)]


def _one_falls_asleep_and_another_comes(place: Place) -> tuple[Child, int, Child, Child]:
    """A worker, its number, a client and another worker; the first one sleeps in the midst of a step's body."""
    zombie = place.start(roles.worker, worker=LEASE)
    number = zombie.expect("ready")
    client = place.start(roles.client)
    client.expect("ready")
    client.ask("start", "waits_for_file", ["go"], "run")
    place.until((place.folder / "go-begun-0").exists, "the body")
    _stop_between_beats(place, zombie, number)
    heir = place.start(roles.worker, worker=LEASE)
    heir.expect("ready")
    return zombie, number, client, heir


def _stop_between_beats(place: Place, child: Child, number: int) -> None:
    """Not in the middle of a write, whose lock would stay with the process; that has a test of its own."""
    beat = "select heartbeat_at from perdure_workers where number = ?"
    last = place.value(beat, number)
    place.until(lambda: place.value(beat, number) > last, "a heartbeat")
    child.stop()


def _wait_for_rebirth(place: Place, zombie: Child, number: int) -> None:
    again = "select 1 from perdure_workers where pid = ? and number > ? and state = 'alive'"
    place.until(lambda: place.rows(again, zombie.pid, number), "the woken worker's new identity")
    assert "was declared dead by others" in zombie.logged()


def _works_on_new_runs(place: Place, zombie: Child, heir: Child, client: Child) -> None:
    heir.terminate()
    assert heir.join() == 0, str(heir)
    client.ask("start", "many_steps", [3], "new")
    assert client.ask("result", "new") == 3
    assert {deed.life for deed in place.deeds() if deed.run == "new"} == {0}, str(zombie)
    place.check_all_ended()
    place.check_deeds(most=2)
