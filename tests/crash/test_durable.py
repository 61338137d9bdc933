"""Durable calls in real processes: killed, stopped, at the same time."""

import pytest
from crashkit import durable, roles
from crashkit.harness import Child, Place

pytestmark = pytest.mark.crash

LEASE = {"lease": 2.0}  # not so short that a busy machine robs the living
LONG = {"lease": 300}
ROWS = "select status, epoch, seq, * from perdure_runs left join perdure_journal on run = number order by number, seq"


@pytest.mark.parametrize("moment", ["before_commit", "after_commit"])
def test_killed_between_steps_and_called_again(any_place: Place, moment: str):
    """R2 S4 S5: a script that is started again would do finished steps again, or wait for the dead one's lease."""
    place = any_place
    victim = place.start(durable.caller, worker=LONG, kill=(moment, "append", 40))
    victim.expect("ready")
    victim.tell("many", "r", {"manifest": {"n": 100}})
    assert victim.join() == -9
    heir = place.start(durable.by_url)
    heir.expect("ready")
    assert heir.ask("many", "r", {"manifest": {"n": 100}}) == sum(range(100))
    again = len(place.deeds()) - 100
    assert 0 <= again <= 1
    place.check_all_ended()
    place.check_deeds(most=2)


def test_one_that_waits_takes_over_from_one_that_is_killed(any_place: Place):
    """Whoever waits for another process would wait for ever when that one is gone."""
    place = any_place
    victim = place.start(durable.caller, worker=LONG)
    heir = place.start(durable.caller, worker=LONG)
    for child in (victim, heir):
        child.expect("ready")
    victim.tell("slow", "r", {})
    place.until((place.folder / "go-begun-0").exists, "the body")
    heir.tell("slow", "r", {"wait": None})
    victim.kill()
    place.until((place.folder / "go-begun-1").exists, "the same body in the other process")
    (place.folder / "go").touch()
    assert heir.expect("answer") == "1 go 2"
    assert [(deed.life, deed.key) for deed in place.deeds()] == [(0, "first"), (0, "slow"), (1, "slow"), (1, "last")]
    place.check_all_ended()


def taken_over(place: Place) -> tuple[Child, Child]:
    """A process that stands still in a body, and the one that runs the body since its lease is over."""
    zombie = place.start(durable.caller, worker=LEASE)
    zombie.expect("ready")
    zombie.tell("slow", "r", {})
    place.until((place.folder / "go-begun-0").exists, "the body")
    zombie.stop()
    heir = place.start(durable.caller, worker=LEASE)
    heir.expect("ready")
    heir.tell("slow", "r", {"wait": None})
    place.until((place.folder / "go-begun-1").exists, "the same body in the other process")
    return zombie, heir


def test_a_process_that_wakes_after_take_over_writes_nothing_and_is_told(any_place: Place):
    """S20 S23 R17 R18 E4: it would write into the other's run, or end it as failed, or go on in the dark."""
    place = any_place
    zombie, heir = taken_over(place)
    (place.folder / "go").touch()
    assert heir.expect("answer") == "1 go 2"
    before = place.rows(ROWS)
    zombie.wake()
    answer = zombie.expect("answer")
    assert answer == "1 go 2" or answer[0] == "LeaseLost"
    assert place.rows(ROWS) == before
    place.check_all_ended()


def test_a_process_that_wakes_while_another_drives_is_told_that_its_lease_is_lost(any_place: Place):
    """R16 R17: its body would run on, and its caller would wait for an outcome that nobody records."""
    place = any_place
    zombie, heir = taken_over(place)
    before = place.rows(ROWS)
    zombie.wake()
    assert zombie.expect("answer")[0] == "LeaseLost"
    assert place.rows(ROWS) == before
    (place.folder / "go").touch()
    assert heir.expect("answer") == "1 go 2"
    assert [deed.key for deed in place.deeds() if deed.life == 0] == ["first", "slow"]
    place.check_all_ended()


def test_of_two_at_once_one_executes_and_the_other_is_told_who(any_place: Place):
    """S3 D4: two processes that begin the same job at the same moment would both do it, or fail on a key."""
    place = any_place
    callers = [place.start(durable.caller, worker=LONG) for _ in range(2)]
    names = [caller.expect("ready") for caller in callers]
    for caller in callers:
        caller.tell("slow", "r", {})
    refused = place.until(lambda: next((c for c in callers if c.says_something(0)), None), "the refusal")
    kind, _, holder = refused.expect("answer")
    assert kind == "LeaseHeld"
    winner = callers[1 - callers.index(refused)]
    assert holder == names[callers.index(winner)]
    (place.folder / "go").touch()
    assert winner.expect("answer") == "1 go 2"
    assert {deed.life for deed in place.deeds()} == {callers.index(winner)}
    place.check_all_ended()


def test_the_first_event_wins_from_any_process(any_place: Place):
    """S24 S25 R15: two processes that tell different news would each believe that theirs was heard."""
    place = any_place
    waiting = place.start(durable.caller, worker=LONG)
    tellers = [place.start(durable.by_url) for _ in range(2)]
    for child in (waiting, *tellers):
        child.expect("ready")
    runs = [f"r{n}" for n in range(10)]
    for run in runs:
        waiting.ask("listener", run, {"suspend": True})
    for run in runs:
        for place_of, teller in enumerate(tellers):
            teller.tell("emit", run, "news", f"{run} by {place_of}")
    told = [sorted(teller.expect("answer") for _ in runs) for teller in tellers]
    assert told[0] == told[1]
    heard = sorted(waiting.ask("listener", run, {}) for run in runs)
    assert heard == told[0]
    place.check_all_ended()


def test_a_store_that_is_away_for_a_beat_costs_nothing(place: Place):
    """R16: one heartbeat that cannot be stored would end the call."""
    caller = place.start(durable.caller, worker={"lease": 6}, patience_ms=100)
    caller.expect("ready")
    caller.tell("slow", "r", {})
    place.until((place.folder / "go-begun-0").exists, "the body")
    with place.read() as database:
        database.execute("begin immediate")
        place.until(lambda: "heartbeat could not be stored" in caller.logged(), "a heartbeat that fails")
        database.execute("rollback")
    (place.folder / "go").touch()
    assert caller.expect("answer") == "1 go 2"
    assert [deed.key for deed in place.deeds()] == ["first", "slow", "last"]
    place.check_all_ended()


def test_an_ordinary_worker_beside_it_touches_nothing(any_place: Place):
    """A worker of the same database would pick up what is a script's own."""
    place = any_place
    worker = place.start(roles.worker, worker=LONG)
    worker.expect("ready")
    caller = place.start(durable.caller, worker=LONG)
    caller.expect("ready")
    caller.tell("slow", "r", {})
    place.until((place.folder / "go-begun-1").exists, "the body")
    caller.kill()
    taken = "select 1 from perdure_runs where owner is null and epoch > 1 and due_at is not null"
    place.until(lambda: place.rows(taken), "the worker's care for the dead process's run")
    worker.ask("start", "many_steps", [3], "own")
    assert worker.ask("result", "own") == 3
    assert place.value("select owner from perdure_runs where id = 'r'") is None
    heir = place.start(durable.by_url)
    heir.expect("ready")
    (place.folder / "go").touch()
    assert heir.ask("slow", "r", {}) == "1 go 2"
    place.check_all_ended()
