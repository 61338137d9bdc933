"""
Nobody is late: where nothing happens any more, nothing is left to be done by somebody who is well.

What is heard leads to what follows from it in hardly any virtual time: commits take none, an answer of the store at
most 30 ms, and the news of another process's commit is on its way for at most POLL_SLOW_S. So when no process has done
anything for LATE_S, what was to come by the beginning of that rest has come, as far as it is up to processes that are
well (`Process.well`):

| what | is late when |
|---|---|
| whatever is due: a start, a resume, a rerun, a fork, a parked run's time or message, what is taken over | a worker with room could claim it |
| a slot of a queue that is freed, the end of a rate's window | a claim of a worker with room would give somebody's run the slot |
| a claim, a step that is wanted | its owner has not begun to drive it, or the step's body |
| a signal, a child's end, a request to cancel or to pause | its run is driven, could take it, and has not |
| the end of a sleep, a receive, a retry, a deadline | its run is driven, and has not gone on |
| a step's outcome, an emitted entry | it is not stored |
| an entry, an append, the end of a run or stream | a reader, a follower or a waiter has not got it |
| an event for a sink | a worker with room for the sink could tell it |

Two bounds are longer. A dead worker is noticed by the next look of another one, every third of a lease. And who has
had a fault is well again FALLBACK_S after it: what has failed is tried again after a while, at most `RETRY_COMMIT_S`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tests.sim.mirror import Run, rows
from tests.sim.process import FALLBACK_S, MILLISECOND

from perdure.engine.drive import Driver
from perdure.engine.request import ChildRequest, ReceiveRequest, Request, StepRequest, TimerRequest
from perdure.store.queries import statements
from perdure.store.sqlite import POLL_SLOW_S
from perdure.worker.claims import claiming

if TYPE_CHECKING:
    from tests.sim.process import Process
    from tests.sim.world import World

LATE_S = POLL_SLOW_S + 0.01
WORKERS = "select number, state, workflows, lease_until from perdure_workers"
INBOX = "select topic from perdure_inbox where run = ? and taken_seq is null"
DELIVERIES = "select sink, run, due_at, owner from perdure_outbox where dead_at is null"


def judge(world: World, until: float) -> None:
    """
    Time is about to pass: see whether anybody should have done something before.

    Args:
        until: Loop time up to which nothing happens.
    """
    at = until - LATE_S
    if at < max(world.loop.acted, world.loop.answers_by) or world.violations:
        return
    known = {number: row for number, *row in rows(world.mirror.connection, WORKERS)}
    for process in world.processes:
        if not process.well(at):
            continue
        for owed in process.awaited.values():
            if what := owed():
                world.wrong(f"late: {what}, in {process.name}")
        if process.number in known:
            state, workflows, lease_until = known[process.number]
            now = process.now(at)
            if state == "alive" and lease_until >= now:
                _judge_worker(world, process, now, workflows)
                _judge_sweeps(world, process, at, known)


def _judge_worker(world: World, process: Process, now: int, workflows: str) -> None:
    number = process.number
    owned = [run for run in world.mirror.runs.values() if run.owner == number]
    for run in owned:
        for owed in _owed(world, process, run, now):
            world.wrong(f"late: {run.id}, driven by {process.name}: {owed}")
    due = tuple(run for run in world.mirror.runs.values() if _may_be_due(run, now))
    # The answer takes a while, so it is asked for when these runs have changed, and every half second.
    question = due, len(owned), now // (500 * MILLISECOND)
    if due and len(owned) < process.options.concurrency and question != process.asked:
        process.asked = question
        for run_id in _claimable(world, process, now, workflows, process.options.concurrency):
            run = world.mirror.run(run_id)
            world.wrong(f"late: {process.name} could claim {run}, and drives {len(owned)} runs")
    deliveries = _deliveries(world)
    for sink in world.outbox.sinks:
        told = sum(name == sink.name and owner == number for name, *_, owner in deliveries)
        for name, run_number, due_at, _ in deliveries:
            if name == sink.name and due_at is not None and due_at <= now and told < sink.options["concurrency"]:
                world.wrong(f"late: {process.name} could tell {name} of run {run_number}, due at {due_at}")


def _may_be_due(run: Run, now: int) -> bool:
    return run.owner is None and not run.ended and (run.rank is not None or (run.due_at or now + 1) <= now)


def _claimable(world: World, process: Process, now: int, workflows: str, top: int) -> list[str]:
    """What a worker would get if it claimed now; it is given back at once."""
    worker = process.app.worker
    assert worker is not None
    connection, found = world.mirror.connection, []
    # As the store does, ask what costs little first.
    queues = [name for name in (world.queue.name,) if _sql(connection, "queue_ready", name, now) not in ([], [(None,)])]
    if not (queues or worker.lone.ids() or _sql(connection, "any_due", now, workflows)):
        return []
    operation = claiming(
        worker.number, now, most=1, top=top, workflows=workflows, queues=tuple(queues), lone=worker.lone.ids()
    )  # fmt: skip
    connection.execute("begin immediate")
    try:
        for name, parameters in operation.lines:
            found += _sql(connection, name, *parameters)
    finally:
        connection.execute("rollback")
    return [row[3] for row in found if row[1] == "claimed"]


def _sql(connection: Any, name: str, *parameters: Any) -> list[Any]:
    statement = statements("sqlite")[name]
    return list(connection.execute(statement.sql, (0, *parameters) if statement.tagged else parameters))


def _judge_sweeps(world: World, process: Process, at: float, known: dict[int, Any]) -> None:
    """Whoever is dead is noticed by the next look of each other worker."""
    now, orphans = process.now(at), {}
    owned = [(run.id, run.epoch, run.owner) for run in world.mirror.runs.values()]
    owned += [(f"{sink} of {run}", 0, owner) for sink, run, _, owner in _deliveries(world)]
    for what in owned:
        if what[2] is not None:
            state, _, lease_until = known.get(what[2], ("gone", "", 0))
            if state != "alive" or lease_until < now:
                orphans[what] = process.orphans.get(what, at)
    process.orphans = orphans
    for what, since in orphans.items():
        if max(since, process.troubled_at + FALLBACK_S) + world.lease / 3 + LATE_S < at:
            world.wrong(f"late: {process.name} could take over {what} since {since:.6f}: {known}")


def _deliveries(world: World) -> list[tuple[Any, ...]]:
    return rows(world.mirror.connection, DELIVERIES) if world.outbox.sinks else []


# ------------------------------------------------------------------------------------------- one run
def _owed(world: World, process: Process, run: Run, now: int) -> Iterator[str]:
    """What a run should have done that a worker owns which is well."""
    worker = process.app.worker
    assert worker is not None
    driver = worker._drivers.get(run.number)
    if driver is None or driver.run.epoch != run.epoch:
        yield "it is not"
        return
    if driver.state != "driving":
        yield f"it is {driver.state}"
        return
    machine = driver.machine
    if machine.done or machine.divergence is not None or driver._writer.anything:
        yield f"this is not stored: {machine.buffer}, at its end: {machine.done}, {machine.divergence}"
    last = driver._last_time()
    if last is not None and last <= now:
        yield f"its time was over at {last}"
    inbox = [topic for (topic,) in rows(world.mirror.connection, INBOX, run.number)]
    if "control:cancel" in inbox or ("control:pause" in inbox and not (driver._pausing and driver.running)):
        yield f"it has not taken {inbox}"
    for request in machine.wanted.values():
        if _settled(world, driver, request, now, inbox):
            yield f"it waits for {request}, and has {inbox}"


def _settled(world: World, driver: Driver, request: Request, now: int, inbox: list[str]) -> bool:
    """Whether what a run waits for has come."""
    match request:
        case TimerRequest():
            return request.at <= now
        case ReceiveRequest():
            return request.topic in inbox or (request.until is not None and request.until <= now)
        case ChildRequest():
            child = world.mirror.run(request.child_id)
            return child is not None and child.ended
        case StepRequest():
            return not (driver._quiet or request.key in driver._steps.running) and (request.retry_at or 0) <= now
    return False
