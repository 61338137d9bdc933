"""When runs began to wait, as told from inside their workflows."""

import asyncio
import time

from meter import settle_memory

POLL_S = 0.01
COMMIT_S = 0.5


class Parked:
    """Notes the moment in which each run began to wait; a replay does not count again."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}

    def note(self, run_id: str) -> None:
        """Say that this run is about to wait."""
        self._at.setdefault(run_id, time.perf_counter())

    def last(self) -> float:
        """When the last run began to wait, on the clock of `time.perf_counter`."""
        return max(self._at.values())

    async def count(self, runs: int) -> None:
        """Wait until so many runs wait and what that took is committed; then forget them and tidy up."""
        while len(self._at) < runs:  # noqa: ASYNC110 - noted from other loops, maybe other threads
            await asyncio.sleep(POLL_S)
        await asyncio.sleep(COMMIT_S)
        self._at.clear()
        settle_memory()
