"""Postgres goes away under load: restarted, crashed, unreachable, or cut off in the middle of a commit."""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crashkit import roles
from crashkit.harness import Child, Place
from crashkit.network import Network
from crashkit.pgplace import PostgresPlace
from postgreskit.server import new_server

from perdure import Rate

pytestmark = [pytest.mark.crash, pytest.mark.timeout(150)]

RUNS = int(os.environ.get("PERDURE_CRASH_RUNS", "90"))
"""How many runs each load has; more for a longer torture."""
JOBS = RUNS // 2
"""How many of a queue go with them, in a few seconds as its rate has it."""
RATE = Rate(16, per=0.5)
LIMITS = {"concurrency": 4, "per_key": 2, "per_worker": 3, "rate": RATE}
ALIVE = "select 1 from perdure_workers where pid = ? and state = 'alive'"
SHORT_LEASE = {"lease": 1.0}
OUTAGE_S = 4.0


@pytest.fixture
def own_place(tmp_path: Path) -> Iterator[PostgresPlace]:
    """A place with a server of its own, which keeps its promises in a crash."""
    own = new_server()
    try:
        with PostgresPlace(tmp_path, own) as made:
            yield made
    finally:
        own.stop("immediate")


@pytest.fixture
def shared_place(tmp_path: Path) -> Iterator[PostgresPlace]:
    """A place on the server of this process's tests."""
    with PostgresPlace(tmp_path) as made:
        yield made


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_postgres_restarted_under_load_loses_nothing_and_repeats_nothing(own_place: PostgresPlace, mode: str):
    """A restart of the database would cost a run, do a body twice, or end a worker."""
    place = own_place

    def disturb(_workers: list[Child]) -> None:
        for turn in range(3):
            _wait_for_share(place, (turn + 0.5) / 3)
            place.server.restart(mode)

    _under_load(place, disturb, most=1)


def test_connections_cut_around_commits_lose_nothing_and_repeat_nothing(shared_place: PostgresPlace):
    """A commit whose answer got lost would be done twice, or taken for undone; so would one that never arrived."""
    place, chance, cuts = shared_place, random.Random(1), 45
    with Network(place) as network:

        def disturb(_workers: list[Child]) -> None:
            for turn in range(cuts):
                _wait_for_share(place, turn / cuts)
                network.cut_next(chance.choice(("request", "answer")))
                place.until(lambda turn=turn: network.cuts > turn, "a cut")
                if turn % 10 == 9:
                    network.cut_all()

        _under_load(place, disturb, most=1, url=network.url)
        assert network.cuts == cuts


def test_an_outage_longer_than_the_leases_loses_nothing(own_place: PostgresPlace):
    """Workers whose leases end while nobody can see it would lose runs, drive them twice, or give up."""
    place = own_place

    def disturb(_workers: list[Child]) -> None:
        _wait_for_share(place, 0.3)
        place.server.stop("immediate")
        with pytest.raises(AssertionError, match="the end of the outage"):
            place.until(lambda: False, "the end of the outage", OUTAGE_S)
        place.server.start()

    _under_load(place, disturb, most=5, worker=SHORT_LEASE)


def test_stopped_workers_under_load_wake_after_their_take_over_and_lose_nothing(shared_place: PostgresPlace):
    """A worker that wakes in the midst of its work would write behind its successor (I1)."""
    place, chance, stops = shared_place, random.Random(1), 4

    def disturb(workers: list[Child]) -> None:
        for turn in range(stops):
            _wait_for_share(place, (turn + 0.5) / stops)
            victim = chance.choice(workers)
            place.until(lambda victim=victim: place.rows(ALIVE, victim.pid), "its new identity")
            victim.stop()
            place.until(lambda victim=victim: not place.rows(ALIVE, victim.pid), "the take-over")
            victim.wake()

    _under_load(place, disturb, most=stops + 1, worker=SHORT_LEASE)


def _under_load(
    place: PostgresPlace, disturb: Callable[[list[Child]], None], *, most: int, worker: dict[str, float] | None = None,
    url: str = "",
) -> None:  # fmt: skip
    """
    Disturb two workers and two clients that have much to do; then all must be as if nothing had happened.

    One of the clients starts runs of a queue, whose limits hold all the time.

    Args:
        most: How often one attempt of a body may have been begun.
        worker: Options of the workers.
        url: Where the processes find the database, if not directly.
    """
    config = {"url": url or place.url}
    driver = place.start(roles.mixed_load, runs=RUNS, seed=1, **config)
    driver.expect("begun")
    queued = place.start(roles.queue_load, runs=JOBS, keys=3, limits=LIMITS, **config)
    queued.expect("begun")
    workers = [place.start(roles.worker, worker=worker or {}, **config) for _ in range(2)]
    for child in workers:
        place.until(lambda pid=child.pid: place.rows(ALIVE, pid), "its registration")
    disturb(workers)
    place.check()
    assert driver.expect("ended", 100) == {f"mixed-{i}": roles.mixed_result(i) for i in range(RUNS)}
    assert queued.expect("ended", 100) == {f"job-{i}": i for i in range(JOBS)}
    held = place.most_held("narrow")
    assert (held.in_all <= 4, held.of_key <= 2, held.of_worker <= 3) == (True, True, True), held
    assert place.most_spent("narrow", RATE) <= RATE.limit
    for child in workers:
        assert child.alive, str(child)
    place.all_leave(workers)
    place.check_all_ended()
    # A function inside a transaction runs again when its rows were undone.
    again = Counter(deed[1:] for deed in place.deeds() if deed.key != "book")
    assert max(again.values()) <= most, again.most_common(3)
    place.check_deeds(most=RUNS)


def _wait_for_share(place: Place, share: float) -> None:
    """Wait until so much of the load is done."""
    ended = "select count(*) from perdure_runs where finished_at is not null and workflow = 'mixed'"
    place.until(lambda: place.value(ended) >= int(share * RUNS), f"the end of {share:.0%} of the runs", 60)
