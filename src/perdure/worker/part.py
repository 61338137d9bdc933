"""What a worker does beside driving runs, and knows nothing of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from perdure.worker.worker import Worker


class Part(Protocol):
    """Something that lives as long as a worker does."""

    def start(self, worker: Worker) -> None:
        """The worker is registered and claims runs."""

    async def stop(self) -> None:
        """The worker has given its runs back, and is about to leave."""

    def kill(self) -> None:
        """Stop as a killed process would."""
