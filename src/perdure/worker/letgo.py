"""Let go of a claimed run that this worker does not drive."""

from __future__ import annotations

from perdure.clock import SECOND, Clock
from perdure.codec.payload import Payloads
from perdure.engine.guard import pause_reason, seal_reason
from perdure.model.run import Claimed
from perdure.model.status import Status
from perdure.store.operation import Operation
from perdure.store.store import Store


async def give_back(store: Store, clock: Clock, run: Claimed) -> None:
    """Let others have it, or this worker when it looks again in a second."""
    await store.apply(Operation([("release", (run.number, run.epoch, clock.now() + SECOND))], makes_due=True))


async def pause(store: Store, clock: Clock, payloads: Payloads, run: Claimed, error: BaseException) -> None:
    """Put it aside, with the error as the reason, until an operator resumes it."""
    now = clock.now()
    reason = pause_reason(error, now)
    # Others may have waited for its place in this worker, or for its slot of a queue.
    operation = Operation([("pause_own", (run.number, run.epoch, reason))], changed=(run.number,), makes_due=True)
    operation.add("note_pause", run.number, run.epoch + 1, seal_reason(payloads, reason), now)
    if run.status not in {Status.CANCELLING, Status.COMPENSATING}:
        # Somebody may have asked it to end since; whoever claims it then knows, and puts it aside for good.
        operation.add("cancel_paused", run.number, run.epoch + 1, now)
    await store.apply(operation)
