"""What the ceiling's engine needs of a database: rows, and a future for each that its commit fulfils."""

import asyncio
from typing import Any, NamedTuple, Protocol

START, STEP, END = "start", "step", "end"


class Write(NamedTuple):
    """One row on its way to the disk, and who waits for it."""

    run: int
    kind: str
    values: tuple[Any, ...]
    landed: asyncio.Future[None]


class Writer(Protocol):
    """
    Commits rows.

    Attributes:
        batches: The runs whose rows were in each commit.
    """

    batches: list[list[int]]

    def write(self, run: int, kind: str, *values: Any) -> asyncio.Future[None]:
        """A future that is done once the row is on disk."""

    async def close(self) -> None:
        """Close the database, after checking that no two rows of one run shared a commit."""


def check(batches: list[list[int]]) -> None:
    """No two rows of one run shared a commit."""
    assert all(len(set(batch)) == len(batch) for batch in batches), "not a legal engine"


def settle(batch: list[Write]) -> None:
    """Wake everyone whose row is on disk."""
    for write in batch:
        if not write.landed.done():
            write.landed.set_result(None)
