"""How a worker gets its identity among the workers of a database."""

from __future__ import annotations

from perdure import ids
from perdure.errors import DuplicateName
from perdure.model.run import WorkerRow
from perdure.store.operation import Operation
from perdure.store.store import Store


async def register(
    store: Store, worker_id: str, place: str, workflows: str, *, now: int, lease: int, chosen: bool, virtual: bool
) -> int:
    """
    Insert a worker that counts as alive until its lease ends.

    Args:
        place: What `ids.process_place` says of this process.
        workflows: JSON array of the names that it may claim.
        lease: Microseconds.
        chosen: The id was given by a user, so a worker before this one may have had it.
        virtual: Processes are simulated, and their ids mean nothing.

    Returns:
        The worker's number in the database.

    Raises:
        DuplicateName: A worker with this id is alive.
    """
    host, pid = ids.process()
    operation = Operation()
    if chosen:
        for row in await store.rows("workers"):
            other = WorkerRow(*row)
            if other.id != worker_id or other.state != "alive":
                continue
            if other.lease_until < now or (not virtual and gone(other.place, other.pid, place)):
                operation.add("declare_dead", other.number, now)
        operation.add("free_id", worker_id)
    operation.add("register_worker", worker_id, host, place, pid, workflows, now, now + lease)
    rows = await store.apply(operation)
    if not rows:
        what = "worker"
        raise DuplicateName(what, worker_id)
    return int(rows[0][1])


def gone(place: str, pid: int, here: str) -> bool:
    """
    Whether a worker's process is known to be gone.

    Args:
        place, pid: The worker's.
        here: This process's place; elsewhere, a process id tells nothing.
    """
    return place == here and ids.process_gone(pid)
