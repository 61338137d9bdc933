"""What a worker does beside driving runs: reading, claiming, saying. Nobody waits for it, so it must not give up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from perdure.errors import StoreClosed, StoreError

log = logging.getLogger("perdure.worker")
STORE_RETRY_S = 0.5
LONGEST_RETRY_S = 30.0
"""What fails otherwise may fail each time: it is tried again less and less often."""


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
        """Run it beside everything else, again and again until it succeeds; nobody else would come back."""
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
        pause = STORE_RETRY_S
        while not self._stopped:
            try:
                await make(*args)
            except StoreClosed:
                raise
            except Exception as error:
                # Also a refusal, or a mistake of ours: a run that is to be given back would stay owned and idle (I8).
                if isinstance(error, StoreError) and error.retryable:
                    log.warning("worker %s: trying again in %g s: %s", self._worker, STORE_RETRY_S, error)
                    await asyncio.sleep(STORE_RETRY_S)
                else:
                    log.exception("worker %s: an internal task failed, trying again in %g s", self._worker, pause)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_RETRY_S)
            else:
                return

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("worker %s: an internal task failed: %s", self._worker, error, exc_info=error)
