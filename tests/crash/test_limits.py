"""What queues promise, held against real processes that are killed."""

import json
import random
from collections import Counter, defaultdict

import pytest
from crashkit import roles
from crashkit.harness import Child, Place

from perdure import Rate

pytestmark = [pytest.mark.crash, pytest.mark.timeout(150)]

JOBS = 90
KEYS = 5
ASKED = 45
DEATHS = 8
ROUNDS = 6
"""In each one worker dies, in every other one who starts runs as well."""


@pytest.mark.parametrize("seed", [1])
def test_limits_of_a_queue_hold_while_workers_are_killed(any_place: Place, seed: int):
    """A slot would be given out twice, or stay taken by the dead, when workers die."""
    place, chance = any_place, random.Random(seed)
    rates = (Rate(60, per=1), Rate(18, per=1, per_key=True))
    limits = {"concurrency": 12, "per_key": 4, "per_worker": 5, "rate": rates}
    driver = place.start(roles.queue_load, runs=JOBS, keys=KEYS, limits=limits)
    driver.expect("begun")
    workers = [place.start(roles.worker) for _ in range(4)]
    ended = "select count(*) from perdure_runs where finished_at is not null"
    for death in range(DEATHS):
        place.until(lambda death=death: place.value(ended) >= JOBS * death // DEATHS, "the end of some", 60)
        victim = chance.randrange(len(workers))
        workers[victim].kill()
        workers[victim] = place.start(roles.worker)
    assert driver.expect("ended", 100) == {f"job-{i}": i for i in range(JOBS)}
    held = place.most_held("narrow")
    assert (held.in_all <= 12, held.of_key <= 4, held.of_worker <= 5) == (True, True, True), held
    assert held.in_all > 5, "it was to be used by several workers"
    assert [place.most_spent("narrow", rate) <= rate.limit for rate in rates] == [True, True]
    place.all_leave(workers)
    place.check_all_ended()
    place.check_deeds(most=DEATHS + 1)


def test_starts_that_belong_together_stay_so_while_everybody_is_killed(any_place: Place):
    """A death would split what is one run, start it again, or lose what was confirmed to whoever asked for it."""
    place, chance, rate = any_place, random.Random(1), Rate(20, per=0.5)
    asked: list[list[tuple[int, str, str, str]]] = [[], []]
    over = set()

    def starter(who: int) -> Child:
        first = asked[who][-1][0] + 1 if asked[who] else 0
        return place.start(roles.joint_load, who=who, first=first, runs=ASKED, rate=rate)

    def hear() -> int:
        for who, child in enumerate(starters):
            while who not in over and child.says_something(0):
                said = child.expect("asked")
                over.add(who) if said is None else asked[who].append(said)
        return sum(map(len, asked))

    starters = [starter(who) for who in range(2)]
    workers = [place.start(roles.worker) for _ in range(4)]
    for death in range(ROUNDS):
        place.until(lambda death=death: hear() >= 2 * ASKED * (death + 0.5) / ROUNDS, "some starts", 60)
        who = chance.randrange(2)
        if death % 2 and who not in over:
            starters[who].stop()  # so that all that it has said is heard
            hear()
            starters[who].kill()
            starters[who] = starter(who)
        workers[victim := chance.randrange(4)].kill()
        workers[victim] = place.start(roles.worker)
    place.until(lambda: hear() and over == {0, 1}, "the last start", 60)
    unfinished = "select count(*) from perdure_runs where finished_at is null"
    place.until(lambda: place.value(unfinished) == 0, "the end of all", 60)

    assert place.most_held("alone").of_key == 1
    days = defaultdict(set)
    for _, day, run_id, _ in [*asked[0], *asked[1]]:
        days[day].add(run_id)
    assert set(map(len, days.values())) == {1}
    assert place.value("select count(*) from perdure_runs where queue = 'day'") == len(days)

    batches = [json.loads(items) for (items,) in place.rows("select output from perdure_runs where queue = 'together'")]
    items = Counter(item for batch in batches for item in batch)
    assert max(items.values()) == 1
    assert {item for said in asked for *_, item in said} <= set(items)
    assert max(map(len, batches)) == 5
    weights = place.rows("select weight from perdure_runs where queue = 'together'")
    assert sorted(weight for (weight,) in weights) == sorted(map(len, batches))
    assert place.most_spent("together", rate) <= rate.limit

    typed = "select output from perdure_runs where workflow = 'typed' order by number"
    inputs = [json.loads(output) for (output,) in place.rows(typed)]
    for who in range(2):
        of_one = [i for whose, i in inputs if whose == who]
        assert of_one == sorted(of_one)
        assert of_one[-1] == ASKED - 1, "the last one counts"
    place.all_leave(workers)
    place.check_all_ended()
    place.check_deeds(most=ROUNDS + 1)
