"""What drivers want called: at once, or with all that comes in the same turn of the loop, sharing a commit."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from perdure.store.store import Store

log = logging.getLogger("perdure.worker")
NESTING = sys.version_info < (3, 14)
"""Whether a private loop may be stepped from inside a task of this loop; later Pythons know one task per thread."""
CROWD = 32
"""From so many calls on, the garbage collector waits until they are made."""

Call = tuple[Callable[..., None], tuple[Any, ...]]


class Calls:
    """
    Makes drivers' calls in the worker's own context, and commits what comes of them.

    Attributes:
        pending: Whether some are to be made on the loop's next turn.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, store: Store) -> None:
        self._loop = loop
        self._store = store
        self._context = contextvars.copy_context()
        self._soon: list[Call] = []

    @property
    def pending(self) -> bool:
        """Whether some are to be made on the loop's next turn."""
        return bool(self._soon)

    def now(self, callback: Callable[..., None], *args: Any) -> None:
        """Call it, outside the context of the body that has just ended, and commit what comes of it."""
        self._context.run(self._make, [(callback, args)])

    def soon(self, callback: Callable[..., None], *args: Any) -> None:
        """Call it on the loop's next turn, and commit what comes of all such calls together."""
        self._soon.append((callback, args))
        if len(self._soon) == 1:
            self._loop.call_soon(self._make_all, context=self._context)

    def _make_all(self) -> None:
        calls, self._soon = self._soon, []
        if len(calls) < CROWD:
            self._make(calls)
        else:
            with collector_waiting():
                self._make(calls)

    def _make(self, calls: list[Call]) -> None:
        self._store.hold()
        try:
            for callback, args in calls:
                try:
                    callback(*args)
                except Exception:
                    log.exception("an internal call failed")
        finally:
            self._store.flush()


@contextmanager
def collector_waiting() -> Iterator[None]:
    """
    Let Python's cyclic garbage collector wait while a crowd is served.

    What is made for a crowd is alive until all of it has been served: a collector that looks through it again and
    again meanwhile finds nothing, and took a quarter of the time (docs/adr/0019-no-circles.md).
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
