"""After a death on the same machine: recovery without waiting, and an end to poison."""

import json

import pytest
from crashkit import roles
from crashkit.harness import Place

pytestmark = pytest.mark.crash

STEPS, DEATH = 1_000, 900
LONG_LEASE = {"lease": 300}


@pytest.mark.parametrize("heir", ["restarted", "standing by"])
def test_killed_at_step_900_goes_on_at_once_and_repeats_one_step_at_most(any_place: Place, heir: str, capsys):
    """A restart would wait for the dead worker's lease, or do finished steps again."""
    place = any_place
    victim = place.start(roles.worker, worker=LONG_LEASE, kill=("after_commit", "append", DEATH))
    number = victim.expect("ready")
    if heir == "standing by":
        victim.ask("start", "waits_for_file", ["go"], "own")
        place.start(roles.worker, worker=LONG_LEASE).expect("ready")
        (place.folder / "go").touch()
    victim.tell("start", "many_steps", [STEPS], "long")
    assert victim.join() == -9
    died_at = place.value("select max(at) from perdure_journal")
    if heir == "restarted":
        place.start(roles.worker, worker=LONG_LEASE).expect("ready")
    ended = "select finished_at from perdure_runs where id = 'long' and finished_at is not null"
    ((ended_at,),) = place.until(lambda: place.rows(ended), "the end")

    lease_until = place.value("select heartbeat_at + 300000000 from perdure_workers where number = ?", number)
    assert ended_at < lease_until, "its process is gone, so its lease need not be waited for"
    assert place.value("select output from perdure_runs where id = 'long'") == str(sum(range(STEPS)))
    again = len([deed for deed in place.deeds() if deed.run == "long"]) - STEPS
    assert 0 <= again <= 1
    with capsys.disabled():
        # For people: machines differ too much to assert it.
        print(f"\n{heir}: {(ended_at - died_at) / 1e6:.2f} s from death to end, {again} of {STEPS} repeated")  # noqa: T201
    place.check_deeds(most=2)


@pytest.mark.timeout(120)
def test_poison_is_paused_with_the_reason_while_innocent_runs_complete(place: Place):
    """A run that kills every worker would take all other runs down with it for ever."""
    options = {"most_takeovers": 3}
    client = place.start(roles.client)
    client.expect("ready")
    innocent = [f"innocent-{i}" for i in range(20)]
    for run in innocent[:10]:
        client.ask("start", "many_steps", [5], run)
    client.ask("start", "poison", [], "poison")
    for run in innocent[10:]:
        client.ask("start", "many_steps", [5], run)

    deaths = 0
    paused = "select reason from perdure_runs where id = 'poison' and status = 'paused'"
    while not place.rows(paused):
        worker = place.start(roles.worker, worker=options)
        worker.expect("ready")
        place.until(lambda worker=worker: not worker.alive or place.rows(paused), "a death, or the end of them")
        if place.rows(paused):
            break
        assert worker.join() == -9, str(worker)
        deaths += 1
        assert deaths <= 3, "it has killed more workers than it may"
        place.check()
    assert deaths == 3
    reason = json.loads(place.value("select reason from perdure_runs where id = 'poison'"))
    assert reason["code"] == "poison"
    assert "died 3 times in a row" in reason["message"]
    assert place.rows("select id from perdure_runs where status = 'paused'") == [("poison",)]
    for run in innocent:
        assert client.ask("result", run) == 10
    assert [deed.attempt for deed in place.deeds() if deed.key == "kills_its_process"] == [1, 1, 1]
    assert worker.alive
    place.check()
