"""
The net under a driver (I8).

A driver is called from plain callbacks, whose errors nobody looks at: what escaped there would leave its run owned,
idle and silent. So every way into a driver from outside ends in `Driver.crash`, which puts the run aside.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar, cast

from perdure.codec.failure import message_of
from perdure.codec.payload import Payloads
from perdure.errors import PerdureError

log = logging.getLogger("perdure.engine")
P = ParamSpec("P")
MESSAGE_CHARS = 4_000
INTERNAL = "internal_error"


class Guarded(Protocol):
    """What has a net under it."""

    def crash(self, error: BaseException) -> None:
        """Something escaped; the end of the process is raised again."""


G = TypeVar("G", bound=Guarded)


def guarded(method: Callable[Concatenate[G, P], None]) -> Callable[Concatenate[G, P], None]:
    """Mark a way into a driver: what escapes there goes to `crash`."""

    @wraps(method)
    def call(self: G, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - a mistake of ours, or an object of the user's, which raises anything
            self.crash(error)

    return cast("Callable[Concatenate[G, P], None]", call)


def call_each(run_id: str, *calls: Callable[[], None]) -> None:
    """Make each of these calls, which let go of a run: what fails in one must not keep the run from being let go."""
    for each in calls:
        try:
            each()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            log.exception("run %s: something failed while it was put aside", run_id)


def pause_reason(error: BaseException, at: int) -> str:
    """
    Why a run is paused, as JSON: what happened, where, and what to do.

    Args:
        error: What kept the run from going on.
        at: Microseconds since 1970.
    """
    name, text = type(error).__name__, message_of(error)[:MESSAGE_CHARS]
    code, message = INTERNAL, text
    if isinstance(error, PerdureError):
        code = error.code
    else:
        message = (
            f"perdure could not go on with this run: {name}: {text} ({place_of(error)}). The worker's log has the "
            "traceback. Resume the run when the cause is gone."
        )
    return json.dumps({"code": code, "message": message, "at": at, "seq": getattr(error, "seq", None)})


def seal_reason(payloads: Payloads, reason: str) -> str:
    """Seal a reason for the journal; it must be storable in any case, so it stays plain if the codec fails."""
    try:
        return payloads.seal(reason, "A reason", limited=False)
    except PerdureError:
        return reason


def place_of(error: BaseException) -> str:
    """Where an error was raised: file, line and function."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else "no place known"
