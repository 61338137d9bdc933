"""What a driver needs from the worker that it runs in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from perdure.clock import Clock
from perdure.codec.payload import Payloads
from perdure.engine.definition import Registry
from perdure.model.limits import Limits
from perdure.model.run import Claimed
from perdure.store.store import Store

if TYPE_CHECKING:
    from perdure.engine.cadence import Cadence
    from perdure.engine.drive import Driver
    from perdure.engine.observer import Observer
    from perdure.engine.request import ChildStart


class Host(Protocol):
    """
    The worker, as a driver sees it.

    Attributes:
        hold: Microseconds: shorter waits are sat out instead of parking the run.
        observer: Told of what happens; mostly there is none.
        store: Where its runs are.
        cadence: When what steps have emitted is stored.
    """

    loop: asyncio.AbstractEventLoop
    clock: Clock
    store: Store
    payloads: Payloads
    registry: Registry
    limits: Limits
    threads: ThreadPoolExecutor
    hold: int
    observer: Observer | None
    cadence: Cadence

    @property
    def alone(self) -> bool:
        """Whether one driver has this worker for itself, so that nobody could share its commit."""

    def now(self, callback: Callable[..., None], *args: Any) -> None:
        """Call it, outside the context of the body that has just ended, and commit what comes of it."""

    def soon(self, callback: Callable[..., None], *args: Any) -> None:
        """Call it on the loop's next turn, and commit what comes of all such calls together."""

    def left(self, driver: Driver) -> None:
        """The driver no longer owns its run: it ended, was paused, parked, released or lost."""

    def give_up(self, run: Claimed, error: BaseException) -> None:
        """A run cannot go on here, and nothing of it runs any more: pause it, so that it is nobody's in silence."""

    def check_child(self, driver: Driver, child: ChildStart) -> None:
        """The child's id may be taken: find out by whom, and tell `driver.child_taken`."""
