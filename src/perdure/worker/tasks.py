"""What a worker does beside driving runs: reading, claiming, saying. Nobody waits for it, so it must not give up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from perdure.errors import StoreError

log = logging.getLogger("perdure.worker")
STORE_RETRY_S = 0.5


class Tasks:
    """
    The tasks of one worker.

    Args:
        worker: Its id, for the log.
    """

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    def spawn(self, make: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Run it beside everything else, again and again until the store takes part; nobody else would come back."""
        task = asyncio.get_running_loop().create_task(self._insist(make, *args))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def stop(self) -> None:
        """Try nothing again from now on."""
        self._stopped = True

    def cancel(self) -> None:
        """Stop all of it now."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()

    async def _insist(self, make: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        while not self._stopped:
            try:
                await make(*args)
            except StoreError as error:
                if not error.retryable:
                    raise
                log.warning("worker %s: trying again in %g s: %s", self._worker, STORE_RETRY_S, error)
                await asyncio.sleep(STORE_RETRY_S)
            else:
                return

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("worker %s: an internal task failed: %s", self._worker, error, exc_info=error)
