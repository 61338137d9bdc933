"""How several workers share what there is to claim."""

import asyncio
import statistics

import pytest

from perdure import ids
from perdure.clock import SystemClock
from perdure.testing.time import run_virtual
from perdure.worker import pace
from perdure.worker.pace import FIRST_SHARE, MOST_PER_CLAIM, STAGGER_S, Pace


class Answers:
    """Answers whether anything is due."""

    def __init__(self, *, due: bool) -> None:
        self.due = due
        self.asked = []

    async def __call__(self, _now):
        self.asked.append(asyncio.get_running_loop().time())
        return self.due


def pace_of(due, others=0, clock=None):
    """A pace, and what it has the worker do."""
    did = []

    async def plan(_now):
        did.append("plan")

    made = Pace(
        clock or SystemClock(), due=due, look=lambda: did.append("look"), plan=plan,
        spawn=lambda make: asyncio.get_running_loop().create_task(make()),
    )  # fmt: skip
    made.others = others
    return made, did


def test_a_worker_alone_takes_all_it_can():
    """One worker would take a crowd of runs in dozens of claims."""
    made, _ = pace_of(Answers(due=True))
    assert made.most(1_000) == MOST_PER_CLAIM
    assert made.most(3) == 3


def test_several_workers_take_few_at_first_and_more_while_there_are_more():
    """The first worker to look would take the whole crowd, and the others stand idle."""
    made, _ = pace_of(Answers(due=True), others=3)
    shares = []
    for _ in range(9):
        shares.append(made.most(10_000))
        made.claimed(shares[-1], shares[-1])
    assert shares == [8, 16, 32, 64, 128, 256, 500, 500, 500]
    assert made.most(5) == 5
    made.claimed(499, 500)
    assert made.most(10_000) == FIRST_SHARE


def test_what_this_process_commits_is_claimed_at_once():
    """A run would wait for others that do not know of it yet."""

    async def main():
        store = Answers(due=True)
        made, did = pace_of(store, others=100)
        made.heard(elsewhere=False)
        assert (did, store.asked) == (["look"], [])

    asyncio.run(main())


@pytest.mark.parametrize(("due", "expected"), [(True, ["look"]), (False, ["plan"])])
def test_what_others_commit_is_looked_at_before_it_is_claimed(due, expected):
    """All idle workers would write a transaction for each run that one of them gets."""

    async def main(_clock):
        store = Answers(due=due)
        made, did = pace_of(store, others=4)
        for _ in range(5):
            made.heard(elsewhere=True)
        await asyncio.sleep(1)
        assert did == expected
        assert len(store.asked) == 1
        made.heard(elsewhere=True)
        await asyncio.sleep(1)
        assert len(store.asked) == 2, "a hint that came later is a reason to look again"
        made.heard(elsewhere=True)
        made.stop()
        await asyncio.sleep(1)
        assert len(store.asked) == 2

    run_virtual(main)


@pytest.mark.parametrize("workers", [1, 4, 40])
def test_workers_look_one_after_the_other_however_many_they_are(workers, monkeypatch):
    """With each worker more, one more would claim the same run; or a run would wait ever longer for the first look."""
    chance = ids.stream("pace", workers)
    monkeypatch.setattr(pace.ids, "jitter", chance.random)
    firsts, crowds = [], []

    async def main(_clock):
        for _ in range(200):
            stores = [Answers(due=False) for _ in range(workers)]
            begun = asyncio.get_running_loop().time()
            for store in stores:
                pace_of(store, others=workers - 1)[0].heard(elsewhere=True)
            await asyncio.sleep(10)
            times = sorted(store.asked[0] - begun for store in stores)
            firsts.append(times[0])
            crowds.append(sum(at - times[0] < STAGGER_S for at in times))

    run_virtual(main)
    assert statistics.mean(firsts) <= STAGGER_S * 1.1
    assert statistics.mean(crowds) <= 2.5
    if workers == 1:
        assert max(firsts) == 0


def test_simulated_processes_do_not_wait():
    """A simulation would depend on chance that is not its seed's."""

    async def main(clock):
        made, did = pace_of(Answers(due=True), others=9, clock=clock)
        made.heard(elsewhere=True)
        assert did == ["look"]

    run_virtual(main)
