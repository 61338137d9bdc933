"""SIGTERM: finish or park, then leave."""

import pytest
from crashkit import roles
from crashkit.harness import Place

pytestmark = pytest.mark.crash


def test_sigterm_finishes_bodies_parks_sleepers_and_gives_the_rest_back(any_place: Place):
    """A deploy would cut bodies off, keep runs from other workers, or look like a crash."""
    place = any_place
    # It sits out all but the longest sleep, so that it has something to give back.
    leaving = place.start(roles.worker, worker={"hold": 2_000})
    number = leaving.expect("ready")
    client = place.start(roles.client)
    client.expect("ready")
    client.ask("start", "waits_for_file", ["go"], "working")
    client.ask("start", "sleeps", [1_000.0], "dozing")
    client.ask("start", "sleeps", [10_000.0], "sleeping")
    place.until((place.folder / "go-begun-0").exists, "the body")
    place.until(lambda: _status(place, "sleeping") == "waiting", "the park")
    owned = "select count(*) from perdure_runs where owner = ?"
    assert place.value(owned, number) == 2

    leaving.terminate()
    leaving.expect("leaving")
    place.until(lambda: place.value(owned, number) == 1, "the release of what need not be waited for")
    assert place.rows("select state from perdure_workers") == [("alive",)]
    (place.folder / "go").touch()
    leaving.expect("left")
    assert leaving.join() == 0, str(leaving)
    assert place.rows("select state from perdure_workers") == [("left",)]
    assert place.value(owned, number) == 0
    assert [deed.key for deed in place.deeds()] == ["numbered", "until_file"]
    done = "select count(*) from perdure_journal where kind = 'step_completed' and key = 'until_file'"
    assert place.value(done) == 1, "the body ended while the worker drained, so its outcome was to be recorded"
    place.check()

    heir = place.start(roles.worker)
    heir.expect("ready")
    assert client.ask("result", "working") == "1 go 2"
    place.until(lambda: _status(place, "dozing") == "waiting", "the heir's own park")
    assert _status(place, "sleeping") == "waiting"
    assert place.value("select max(takeovers) from perdure_runs") == 0
    assert "dead" not in heir.logged()
    place.check()


def test_sigterm_hands_over_at_once_while_both_work(any_place: Place):
    """Runs that a leaving worker gives back would wait for a poll, a lease or a restart."""
    place = any_place
    runs = 40
    leaving, staying = (place.start(roles.worker, worker={"concurrency": 25}) for _ in range(2))
    leaving.expect("ready")
    staying.expect("ready")
    client = place.start(roles.client)
    client.expect("ready")
    for i in range(runs):
        client.ask("start", "many_steps", [50], f"run-{i}")
    leaving.terminate()
    assert leaving.join() == 0, str(leaving)
    for i in range(runs):
        assert client.ask("result", f"run-{i}") == sum(range(50))
    assert len(place.deeds()) == runs * 50, "nobody died, so no body was to run twice"
    place.check_all_ended()


def _status(place: Place, run: str) -> str:
    return place.value("select status from perdure_runs where id = ?", run)
