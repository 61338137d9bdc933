"""Several workers on one database at the same moment: the limits of a queue hold in between as well."""

import asyncio
import random

import pytest
from queuekit import make, put
from storekit.database import ALL, line
from storekit.kinds import NOW

from perdure.clock import SECOND
from perdure.model.queue import Queue, Rate
from perdure.store.operation import Operation

RUNS = 60
MINUTE = 60 * SECOND


@pytest.mark.parametrize("seed", range(3))
def test_limits_hold_while_workers_claim_and_end_runs_at_the_same_time(db, seed):
    """Two claims that count at the same moment would each give out the last slot."""
    if not db.kind.shared:
        pytest.skip("a database that only one store can use")
    make(db, Queue("q", concurrency=5, per_key=2, per_worker=2, rate=Rate(50, per=60, sliding=True)))
    for n in range(RUNS):
        put(db, f"run-{n}", key="abcd"[n % 4])
    stores = [db.another() for _ in range(4)]
    workers = [db.hire(number) for number in range(1, 5)]
    claimed: list[str] = []
    most = {"all": 0, "key": 0}

    async def work(worker, store):
        rng, now = random.Random(f"{seed}:{worker}"), NOW // MINUTE * MINUTE
        mine = []
        while len(claimed) < 50 or mine:
            common = {"worker": worker, "now": now, "most": 9, "top": 99, "workflows": ALL, "queue": "q"}
            rows = await store.apply(Operation([line("claim_held", **common), line("claim_line", **common)]))
            mine += [(row[1], row[6]) for row in rows]
            claimed.extend(row[2] for row in rows)
            assert len(mine) <= 2
            ((_, _, held, _, _),) = await store.rows("queue_counts", "q", "", now)
            keys = [(await store.rows("queue_counts", "q", key, now))[0][4] for key in "abcd"]
            most["all"], most["key"] = max(most["all"], held), max(most["key"], *keys)
            for number, epoch in [found for found in mine if rng.random() < 0.6]:
                mine.remove((number, epoch))
                end = line("finish", run=number, epoch=epoch, status="completed", output="1", error=None, now=now)
                await store.apply(Operation([end]))

    async def main():
        async with asyncio.timeout(40):
            await asyncio.gather(*(work(worker, store) for worker, store in zip(workers, stores, strict=True)))

    db.run(main())
    assert len(claimed) == len(set(claimed)) == 50, "the rate allows 50, and not one more"
    assert most["all"] <= 5
    assert most["key"] <= 2
