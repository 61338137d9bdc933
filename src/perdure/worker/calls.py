"""What drivers want called: at once, or with all that comes in the same turn of the loop, sharing a commit."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
from collections.abc import Callable
from typing import Any

from perdure.store.store import Store
from perdure.worker.collector import Collector

log = logging.getLogger("perdure.worker")
NESTING = sys.version_info < (3, 14)
"""Whether a private loop may be stepped from inside a task of this loop; later Pythons know one task per thread."""
CROWD = 32
"""So many calls in one turn of the loop are a crowd, see `Collector`."""

Call = tuple[Callable[..., None], tuple[Any, ...]]


class Calls:
    """
    Makes drivers' calls in the worker's own context, and commits what comes of them.

    Attributes:
        pending: Those that are to be made on the loop's next turn.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, store: Store, collector: Collector) -> None:
        self._loop = loop
        self._store = store
        self._collector = collector
        self._context = contextvars.copy_context()
        self.pending: list[Call] = []

    def now(self, callback: Callable[..., None], *args: Any) -> None:
        """Call it, outside the context of the body that has just ended, and commit what comes of it."""
        self._context.run(self._make, [(callback, args)])

    def soon(self, callback: Callable[..., None], *args: Any) -> None:
        """Call it on the loop's next turn, and commit what comes of all such calls together."""
        self.pending.append((callback, args))
        if len(self.pending) == 1:
            self._loop.call_soon(self._make_all, context=self._context)

    def _make_all(self) -> None:
        calls, self.pending = self.pending, []
        if len(calls) >= CROWD:
            self._collector.crowd()
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
