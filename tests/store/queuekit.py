"""Queues as the tests of the store see them: made, filled, worked off, one call each."""

from itertools import count

from storekit.database import ALL, Database, line
from storekit.kinds import NOW

from perdure.model.queue import Queue
from perdure.model.run import Claimed

TOP = 1_000


MARKS = count()


def make(db: Database, queue: Queue) -> None:
    """Make a queue, or change it."""
    mark = str(next(MARKS))
    concurrency, per_worker, per_key, frees, ageing = queue.columns
    limits = {
        "concurrency": concurrency, "per_worker": per_worker, "per_key": per_key, "frees": frees, "ageing": ageing
    }  # fmt: skip
    lines = [
        line("declare_queue", name=queue.name, declared=None, mark=mark, **limits),
        line("set_queue", name=queue.name, mark=mark, **limits),
        line("clear_rates", queue=queue.name, mark=mark),
    ]
    for nth, rate in enumerate(queue.rates):
        counted = {"period": rate.period, "grain": rate.grain, "span": rate.span, "by_key": int(rate.per_key)}
        lines.append(line("add_rate", queue=queue.name, nth=nth, most=rate.limit, mark=mark, **counted))
    db.apply(*lines, line("clear_spent", queue=queue.name))


def starting(run_id: str, queue: str | None = "q", *, now: int = NOW, **parameters):
    """The line that starts a run through a queue."""
    usual = {
        "workflow": "w", "due_at": now, "input": "{}", "seed": 1, "deadline_at": None, "key": "", "priority": 0,
        "weight": 1, "scope": None, "name": None,
    }  # fmt: skip
    return line("enqueue", id=run_id, queue=queue, now=now, **usual | parameters)


def put(db: Database, *run_ids: str, **parameters) -> None:
    """Start runs through the queue."""
    for run_id in run_ids:
        assert db.apply(starting(run_id, **parameters)), run_id


def claim(db: Database, worker: int = 1, *, queue: str = "q", now: int = NOW, most: int = 100, top: int = TOP) -> list:
    """What a worker does for one queue: the runs that it gets, in the order of their tickets."""
    db.hire(worker)
    common = {"worker": worker, "now": now, "most": most, "top": top, "workflows": ALL, "queue": queue}
    rows = db.apply(
        line("forget_spent", queue=queue, now=now), line("line_up", now=now, queue=queue), line("claim_held", **common),
        line("claim_line", **common),
    )  # fmt: skip
    runs = [db.row(Claimed(*columns).id) for _, *columns in rows]
    assert all(run.owner == worker for run in runs)
    return sorted(runs, key=lambda run: run.ticket)


def names(runs: list) -> list[str]:
    return [run.id for run in runs]


def finish(db: Database, run_id: str, now: int = NOW) -> None:
    """Its owner ends the run."""
    row = db.row(run_id)
    db.apply(
        line("finish", run=row.number, epoch=row.epoch, status="completed", output="1", error=None, now=now)
    )  # fmt: skip


def held(db: Database, queue: str = "q", key: str = "", now: int = NOW) -> tuple[int, int]:
    """How many slots of a queue are held, and how many of them under a key."""
    ((_, _, holding, _, of_key),) = db.rows("queue_counts", queue, key, now)
    return holding, of_key
