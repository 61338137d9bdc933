"""The parts of a declared workflow: their names, and the journal keys that begin with these."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from perdure.engine.context import Context
from perdure.engine.history import first_name
from perdure.engine.loop import Branch, RunTask
from perdure.errors import InvalidName
from perdure.ids import check_name
from perdure.model.retry import Retry

DEFAULT_RETRY = Retry(max_attempts=3, delay=2.0, backoff=2.0, jitter=0.5)
"""How a function of a declared workflow is tried that has no policy of its own."""


class Part(Protocol):
    """A part of a declared workflow that is done when all before it are."""

    @property
    def name(self) -> str:
        """What its keys begin with, if those of its `names` do not."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it gives results under."""


P = TypeVar("P", bound=Part)


def check_part_name(what: str, name: Any) -> str:
    """
    Return the name of a part.

    Raises:
        InvalidName: It cannot be the beginning of a journal key.
    """
    check_name(what, name)
    if "#" in name:
        raise InvalidName(what, name, "perdure marks the parts of a node with '#' in the journal")
    return str(name)


def left_to_do(parts: Sequence[P], ctx: Context) -> Sequence[P]:
    """
    The parts without those that this run has passed before they were put in.

    What the journal knows nothing of, although it knows later parts, was not there when the run came by.
    """
    recorded = ctx.recorded()
    if not recorded:
        return parts
    known = {first_name(key) for key in recorded}
    done = [part.name in known or not known.isdisjoint(part.names) for part in parts]
    last = max((place for place, there in enumerate(done) if there), default=-1)
    return [part for place, part in enumerate(parts) if place >= last or done[place]]


def _task_here() -> RunTask:
    task = asyncio.current_task()
    assert isinstance(task, RunTask)  # noqa: S101 - declared workflows run in a workflow's tasks only
    return task


def prefix_here() -> str:
    """What the keys of the current task begin with."""
    return _task_here().branch.prefix


def enter(prefix: str) -> None:
    """
    Let the keys of the current task begin with this, and not with the task's number.

    Names are unique in a declared workflow, so its parallel parts need no numbers: their keys are "pack#left".
    """
    _task_here().branch = Branch(prefix)
