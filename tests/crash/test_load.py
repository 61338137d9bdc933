"""Several processes on one file, none of which dies."""

from collections import Counter

import pytest
from crashkit import roles
from crashkit.check import check_all_ended
from crashkit.harness import Place

pytestmark = pytest.mark.crash

PARENTS = 125
CHILDREN = 3


@pytest.mark.timeout(120)
def test_two_workers_and_a_client_hammer_one_database(any_place: Place):
    """Processes that share the database would get "database is locked", drive a run twice, or miss a signal."""
    place = any_place
    # So few at a time that both are needed.
    workers = [place.start(roles.worker, worker={"concurrency": 40}) for _ in range(2)]
    for worker in workers:
        worker.expect("ready")
    hammer = place.start(roles.hammer, parents=PARENTS, children=CHILDREN)
    ended = hammer.expect("ended", 100)
    assert ended == {f"parent-{i}": [sum(range(CHILDREN)), f"end {i}"] for i in range(PARENTS)}
    for worker in workers:
        worker.terminate()
    assert [child.join() for child in place.children] == [0, 0, 0]

    for child in place.children:
        assert "ERROR" not in child.logged(), str(child)
        assert "locked" not in child.logged(), str(child)
    assert place.rows("select count(*), max(takeovers) from perdure_runs") == [(PARENTS * (CHILDREN + 1), 0)]
    assert set(Counter(deed[1:] for deed in place.deeds()).values()) == {1}
    assert {deed.life for deed in place.deeds()} == {0, 1}, "both workers had a part in it"
    with place.read() as database:
        check_all_ended(database)


def test_processes_that_create_one_database_at_once(place: Place):
    """The first start of several processes, on no file yet, would fail in one of them."""
    url = f"sqlite:///{place.folder}/new.db"
    workers = [place.start(roles.worker, url=url) for _ in range(4)]
    numbers = {worker.expect("ready") for worker in workers}
    assert numbers == {1, 2, 3, 4}
    assert workers[0].ask("start", "many_steps", [5], "run") == "run"
    assert workers[1].ask("result", "run") == 10
