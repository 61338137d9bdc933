"""Find out what became of a child whose id was taken when its parent wanted to insert it."""

from __future__ import annotations

import asyncio

from perdure.codec.canonical import input_fingerprint
from perdure.codec.failure import encode_error
from perdure.codec.payload import Payloads
from perdure.engine.drive import Driver
from perdure.engine.request import ChildStart, child_topic
from perdure.errors import StartConflict, StoreError
from perdure.model.run import Message, RunRow
from perdure.model.status import Status
from perdure.model.version import unpin
from perdure.store.load import find_run, load_first_input
from perdure.store.operation import Operation
from perdure.store.store import Store


async def look_at_taken(store: Store, driver: Driver, child: ChildStart) -> None:
    """
    Look who has the child's id, and tell `driver.child_taken`; or leave its run a message, if nobody waits there now.

    Raises:
        StoreError: The store cannot say now, and may be asked again.
    """
    loop = asyncio.get_running_loop()
    try:
        message = await end_of_taken(store, driver.run.number, child, driver.machine.payloads)
        # Who replays the run looks again at ids that it has chosen, see `doubtful`; its own are hardly ever taken.
        waits = driver.state == "driving" and child.key in driver.machine.wanted
        if message is not None and message.child_id is None and not child.chosen and not waits:
            await store.apply(_letter(driver.run.id, message, store.clock.now()))
            message = None
    except Exception as error:
        if isinstance(error, StoreError) and error.retryable:
            raise
        loop.call_soon(driver.crash, error)
    else:
        loop.call_soon(driver.child_taken, child, message)


def _letter(run_id: str, message: Message, now: int) -> Operation:
    """The refusal of a child's start, for the inbox of its parent."""
    operation = Operation(makes_due=True)
    operation.add("send", run_id, message.topic, message.key, message.error, now)
    operation.add("wake_id", run_id, message.topic, now)
    return operation


async def end_of_taken(store: Store, parent: int, child: ChildStart, payloads: Payloads) -> Message | None:
    """
    What the parent is to be told of the run that has the child's id.

    Args:
        parent: Number of the parent's run.

    Returns:
        The end of the child when it is the parent's own after all, None while it has not ended; a failure when it is
        somebody else's, or was started with other input. None of them is in the inbox; their key is that of the call,
        which alone they are for.
    """
    row = await find_run(store, child.child_id)
    topic = child_topic(child.child_id)
    problem = "another run, which was just removed"
    if row is not None:
        same = unpin(row.workflow)[0] == unpin(child.workflow)[0]
        own = row.parent == parent and same
        if own and await _has_input(store, row, child.fingerprint, payloads):
            end = Message(parent, 0, topic, child.key, None, 0, row.status, row.output, row.error, row.id)
            return end if row.finished else None
        problem = "other input" if own else "another parent" if same else f"the workflow {row.workflow!r}"
    error = encode_error(StartConflict(child.child_id, problem))
    return Message(parent, 0, topic, child.key, None, 0, Status.FAILED, None, error, None)


async def _has_input(store: Store, row: RunRow, fingerprint: str | None, payloads: Payloads) -> bool:
    return fingerprint is None or fingerprint == input_fingerprint(payloads.open(await load_first_input(store, row)))
