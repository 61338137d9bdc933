"""What outcomes mean for those who wait for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from perdure.codec.failure import decode_error, message_of
from perdure.codec.payload import Payloads
from perdure.engine.loop import RunTask
from perdure.engine.request import Request, StepRequest
from perdure.errors import ChildFailed, PerdureError, RunCancelled, StartConflict
from perdure.model.entry import Entry, Kind
from perdure.model.status import Status

if TYPE_CHECKING:
    from perdure.model.run import Message


class Failure:
    """A decoded error, told apart from a decoded value."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def end_of(main: RunTask) -> str:
    """How a workflow function ended before its history did."""
    error = None if main.cancelled() else main.exception()
    why = "" if error is None else f", by {type(error).__name__}: {message_of(error)}"
    return f"the end of the workflow{why}"


def child_failure(child_id: str, error: BaseException) -> BaseException:
    """What the parent sees of a child's end: a refused start as such, anything else inside `ChildFailed`."""
    if isinstance(error, StartConflict):
        return error
    status = "cancelled" if isinstance(error, RunCancelled) else "failed"
    return ChildFailed(child_id, status, error)


def child_end(message: Message, child_id: str, payloads: Payloads) -> tuple[Kind, str, Any]:
    """
    What a child's end means for its parent: the kind of its entry, its data, and what the workflow gets.

    Raises:
        StoreCorrupt: It cannot be read here.
    """
    if message.status == Status.COMPLETED:
        data = message.output or "null"
        return Kind.CHILD_COMPLETED, data, payloads.open(data)
    data = message.error or message.data or "null"  # of its own when its start was refused, see `look_at_taken`
    return Kind.CHILD_FAILED, data, child_failure(child_id, decode_error(payloads.open(data)))


def same_arguments(request: Request, entry: Entry) -> bool:
    """Whether a step was asked for with the arguments that are recorded."""
    if not isinstance(request, StepRequest) or entry.fingerprint is None or request.fingerprint is None:
        return True
    return entry.fingerprint == request.fingerprint


def described(request: Request) -> str:
    """A request as a divergence shows it."""
    if isinstance(request, StepRequest) and request.fingerprint:
        return f"{request} with arguments {request.fingerprint}"
    return str(request)


def cancel_request(reason: str, *, compensate: bool) -> str:
    """A request to cancel a run, as JSON; with `compensate`, what the run did is to be undone."""
    return json.dumps({"reason": reason, "compensate": True} if compensate else reason)


def read_cancel_request(payloads: Payloads, data: str | None) -> tuple[str, bool]:
    """The reason of a cancellation, and whether what the run did is to be undone."""
    try:
        found = json.loads(payloads.open(data or '""'))
    except (PerdureError, ValueError):
        return "the reason that was given cannot be read", False  # which is none to let the run go on
    return (str(found["reason"]), bool(found.get("compensate"))) if isinstance(found, dict) else (str(found), False)
