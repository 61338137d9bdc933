"""Workers of which nothing is known but their leases, as on other machines: killed, and taken over in time."""

import pytest
from crashkit import roles
from crashkit.harness import Place

pytestmark = pytest.mark.crash

LEASE_S = 2.0
RUNS = 20
STEPS = 100
HELD = 5


def test_a_killed_worker_of_another_machine_is_taken_over_when_its_lease_ends(any_place: Place):
    """Its runs would lie there for longer than promised, or be taken from it while it may still work."""
    place = any_place
    options = {"lease": LEASE_S}
    victim = place.start(roles.worker, worker=options, machine="one")
    number = victim.expect("ready")
    client = place.start(roles.client, machine="three")
    client.expect("ready")
    for i in range(HELD):
        client.ask("start", "waits_for_file", ["go"], f"held-{i}")
    for i in range(RUNS):
        client.ask("start", "many_steps", [STEPS], f"run-{i}")
    place.until((place.folder / "go-begun-0").exists, "the bodies")
    heir = place.start(roles.worker, worker=options, machine="two")
    heir.expect("ready")
    victim.kill()
    killed_at, lease_until = place.rows(
        "select heartbeat_at, lease_until from perdure_workers where number = ?", number
    )[0]
    lost = place.value("select count(*) from perdure_runs where owner = ?", number)
    assert lost >= HELD

    (place.folder / "go").touch()
    for i in range(HELD):
        assert client.ask("result", f"held-{i}") == "1 go 2"
    for i in range(RUNS):
        assert client.ask("result", f"run-{i}") == sum(range(STEPS))
    taken_at = place.value("select min(at) from perdure_journal join witness using (run, seq) where epoch > 2")
    # In between there is its last heartbeat: what is left of the lease is between two thirds and all of it.
    assert lease_until <= taken_at
    assert taken_at - lease_until < 1_000_000, (taken_at - lease_until) / 1e6
    assert lease_until - killed_at == LEASE_S * 1_000_000
    assert place.value("select state from perdure_workers where number = ?", number) == "dead"
    assert place.value("select max(takeovers) from perdure_runs") <= 1
    place.check_all_ended()
    place.check_deeds(most=2)
    repeated = [deed for deed in place.deeds() if deed.run.startswith("run-")][RUNS * STEPS :]
    assert len(repeated) <= lost, f"{len(repeated)} steps again, of {lost} runs that were taken over"


def test_a_worker_that_starts_waits_for_a_lease_of_another_machine(any_place: Place):
    """A restart elsewhere would take runs from a worker that may be alive, as it does on the same machine."""
    place = any_place
    victim = place.start(roles.worker, worker={"lease": LEASE_S}, machine="one")
    number = victim.expect("ready")
    victim.ask("start", "waits_for_file", ["go"], "run")
    place.until((place.folder / "go-begun-0").exists, "the body")
    victim.kill()
    heir = place.start(roles.worker, worker={"lease": LEASE_S}, machine="two")
    heir.expect("ready")
    assert place.rows("select owner, takeovers from perdure_runs") == [(number, 0)]
    (place.folder / "go").touch()
    assert heir.ask("result", "run") == "1 go 2"
    lease_until = place.value("select lease_until from perdure_workers where number = ?", number)
    # The first body's outcome was never recorded, so the first entry is the heir's.
    assert (
        place.value("select min(at) from perdure_journal join witness using (run, seq) where epoch > 1") >= lease_until
    )
    place.check_all_ended()
