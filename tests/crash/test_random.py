"""kill -9 at random moments under load."""

import os
import random

import pytest
from crashkit import roles
from crashkit.check import NOTHING, check, check_all_ended, check_deeds, recorded
from crashkit.harness import Place

pytestmark = pytest.mark.crash

RUNS = 700
DEATHS = 52
"""A minute of dying on Postgres."""
SEEDS = int(os.environ.get("PERDURE_CRASH_SEEDS", "1"))
"""How many loads on each store; more for a longer torture."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_random_deaths_under_load_lose_nothing(any_place: Place, seed: int):
    """Some moment to die, between the named ones, would lose or repeat something."""
    place = any_place
    chance = random.Random(seed)
    driver = place.start(roles.mixed_load, runs=RUNS, seed=seed)
    driver.expect("begun")
    begun, known = 0, NOTHING
    workers = [place.start(roles.worker) for _ in range(2)]
    for death in range(DEATHS):
        # Spread over the whole load, whatever the speed of the machine.
        share = int(RUNS * (death + chance.random()) / (DEATHS + 1))
        place.until(lambda share=share: _ended(place) >= share, f"the end of {share} runs", 60)
        place.until(_a_while(chance), "a random moment")
        victim = chance.randrange(2)
        workers[victim].kill()
        known.check_not_again(place.deeds()[begun:])
        with place.read() as database:
            check(database)
            # In this order: what is known now cannot be begun later.
            known = recorded(database)
            begun = len(place.deeds())
        workers[victim] = place.start(roles.worker)
        workers[victim].expect("ready")
    expected = {f"mixed-{i}": roles.mixed_result(i) for i in range(RUNS)}
    assert driver.expect("ended", 200) == expected
    for worker in workers:
        worker.terminate()
        assert worker.join() == 0, str(worker)
    with place.read() as database:
        check_all_ended(database)
        check_deeds(database, place.deeds(), most=DEATHS + 1)


def _ended(place: Place) -> int:
    return place.value("select count(*) from perdure_runs where finished_at is not null and parent is null")


def _a_while(chance: random.Random):
    """A condition that comes true after 0 to 30 looks."""
    looks = iter(range(chance.randrange(30)))
    return lambda: next(looks, None) is None
