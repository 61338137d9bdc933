"""How several workers share what there is to claim."""

import asyncio
import statistics

import pytest

from perdure import ids
from perdure.clock import SECOND, SystemClock
from perdure.testing.time import run_virtual
from perdure.worker import pace
from perdure.worker.pace import FIRST_SHARE, MOST_PER_CLAIM, STAGGER_S, Pace


def pace_of(others=0, clock=None):
    """A pace, and the times at which it has the worker look."""
    looks = []
    made = Pace(clock or SystemClock(), lambda: looks.append(asyncio.get_running_loop().time()))
    made.others = others
    return made, looks


def test_a_worker_alone_takes_all_it_can():
    """One worker would take a crowd of runs in dozens of claims."""
    made, _ = pace_of()
    assert made.most(1_000) == MOST_PER_CLAIM
    assert made.most(3) == 3


def test_several_workers_take_few_at_first_and_more_while_there_are_more():
    """The first worker to look would take the whole crowd, and the others stand idle."""
    made, _ = pace_of(others=3)
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
        made, looks = pace_of(others=100)
        made.heard(elsewhere=False)
        assert len(looks) == 1

    asyncio.run(main())


def test_all_that_others_commit_in_a_moment_is_one_reason_to_look():
    """All idle workers would claim once for each run that one of them gets."""

    async def main(_clock):
        made, looks = pace_of(others=4)
        for _ in range(5):
            made.heard(elsewhere=True)
        await asyncio.sleep(1)
        assert len(looks) == 1
        made.heard(elsewhere=True)
        await asyncio.sleep(1)
        assert len(looks) == 2, "a hint that came later is a reason to look again"
        made.heard(elsewhere=True)
        made.stop()
        await asyncio.sleep(1)
        assert len(looks) == 2

    run_virtual(main)


def test_a_later_time_does_not_put_off_an_earlier_one():
    """What was read first and answered last would have the worker asleep when a run is due."""

    async def main(clock):
        made, looks = pace_of(clock=clock)
        begun = clock.now()
        for seconds in (60, 10, 30):
            made.look_at(begun + seconds * SECOND)
        await asyncio.sleep(20)
        made.look_at(begun + 30 * SECOND)
        await asyncio.sleep(60)
        assert looks == pytest.approx([10, 30])
        made.look_at(begun)
        made.stop()
        made.look_at(begun)
        await asyncio.sleep(60)
        assert len(looks) == 2

    run_virtual(main)


@pytest.mark.parametrize("workers", [1, 4, 40])
def test_workers_look_one_after_the_other_however_many_they_are(workers, monkeypatch):
    """With each worker more, one more would claim the same run; or a run would wait ever longer for the first look."""
    chance = ids.stream("pace", workers)
    monkeypatch.setattr(pace.ids, "jitter", chance.random)
    firsts, crowds = [], []

    async def main(_clock):
        for _ in range(200):
            begun, crowd = asyncio.get_running_loop().time(), [pace_of(others=workers - 1) for _ in range(workers)]
            for made, _ in crowd:
                made.heard(elsewhere=True)
            await asyncio.sleep(10)
            times = sorted(looks[0] - begun for _, looks in crowd)
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
        made, looks = pace_of(others=9, clock=clock)
        made.heard(elsewhere=True)
        assert len(looks) == 1

    run_virtual(main)
