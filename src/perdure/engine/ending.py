"""How a run begins and how it ended: the workflow function as a coroutine, and the verdict on it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, NamedTuple

from perdure.codec.failure import seal_error
from perdure.codec.payload import Payloads
from perdure.engine.context import Context
from perdure.engine.definition import Registry, Workflow
from perdure.engine.machine import Machine
from perdure.engine.outcome import cancel_request
from perdure.engine.request import child_topic
from perdure.engine.saga import Saga, outermost
from perdure.engine.threaded import in_thread
from perdure.errors import ContinueAsNew, PerdureError, RunCancelled, RunTimedOut
from perdure.model.run import Claimed
from perdure.model.status import Status
from perdure.store.record import Record


class Ending(NamedTuple):
    """
    What the end of a workflow function means for its run.

    Attributes:
        status: The run's last one; None when it begins again with other input.
        output: Sealed result of a completed run.
        error: Why it failed or was cancelled.
        renewal: Sealed input to begin again with.
    """

    status: Status | None
    output: str | None = None
    error: BaseException | None = None
    renewal: str | None = None


def ending_of(machine: Machine, workflow: Workflow[..., Any]) -> Ending:
    """The verdict on a workflow function that has ended."""
    main = machine.main
    if main is None or main.cancelled():
        return cancelled(machine)
    error = outermost(main.exception())
    if isinstance(error, ContinueAsNew):
        return Ending(None, renewal=error.payload)
    if error is not None:
        return Ending(Status.FAILED, error=error)
    what = f"The result of {workflow.name}"
    try:
        text = workflow.call.returns.encode(main.result(), what)
        return Ending(Status.COMPLETED, output=machine.payloads.seal(text, what))
    except PerdureError as problem:
        return Ending(Status.FAILED, error=problem)


def cancelled(machine: Machine) -> Ending:
    """The verdict on a run that was cancelled, by request, by its deadline or by itself."""
    if machine.timed_out:
        return Ending(Status.FAILED, error=RunTimedOut(machine.run.id))
    why = "the workflow cancelled itself"
    if machine.cancelled_at is not None:
        why = machine.cancel_reason or ""
    return Ending(Status.CANCELLED, error=RunCancelled(machine.run.id, why))


def write_end(record: Record, run: Claimed, ending: Ending, payloads: Payloads, now: int, *, undone: bool) -> None:
    """
    Write how a run ends, for good, and tell its parent.

    Args:
        undone: It was compensated, and so must its children be that have not ended.
    """
    status = ending.status or Status.FAILED
    error = None
    if ending.error is not None:
        _, error = seal_error(ending.error, payloads, "The error of the run")
    record.finish(
        status, ending.output, error, now, children=cancel_request("the parent run has ended", compensate=undone)
    )
    if run.parent is not None:
        record.tell_parent(run.parent, child_topic(run.id), status, now)


def beginning(
    machine: Machine, workflow: Workflow[..., Any], registry: Registry, payloads: Payloads
) -> Coroutine[Any, Any, Any]:
    """The workflow function, about to begin; an input that does not fit fails the run from inside."""
    try:
        args, kwargs = workflow.call.decode(payloads.open(machine.run.input))
    except PerdureError as error:
        return _refuse(error)
    saga = Saga(machine, registry, workflow.settings)
    context = Context(machine, registry, saga)
    machine.when_done = saga.main_ended
    if not workflow.is_async:
        return in_thread(workflow.fn, context, args, kwargs)
    made: Coroutine[Any, Any, Any] = workflow.fn(context, *args, **kwargs)
    return made


async def _refuse(problem: PerdureError) -> None:
    raise problem
