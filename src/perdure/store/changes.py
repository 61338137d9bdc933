"""Tell those who wait in this process that something was committed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Changes:
    """
    One hub per store.

    It is told after each commit of this process, and when another process has committed (then without
    details). Nobody is told before the commit, and being told is only a reason to look: what counts is
    what the database says.
    """

    def __init__(self) -> None:
        self._due: list[Callable[[], None]] = []
        self._mail: list[Callable[[set[int] | None], None]] = []
        self._waiters: dict[int, list[asyncio.Future[None]]] = {}

    def on_due(self, callback: Callable[[], None]) -> None:
        """Call it whenever a run may have become due."""
        self._due.append(callback)

    def on_mail(self, callback: Callable[[set[int] | None], None]) -> None:
        """Call it with the numbers of runs that may have got messages; None for any."""
        self._mail.append(callback)

    def forget(self, callback: Callable[..., None]) -> None:
        """Stop calling it."""
        for listeners in (self._due, self._mail):
            if callback in listeners:
                listeners.remove(callback)

    def committed(self, changed: set[int], mail: set[int], *, due: bool) -> None:
        """After a commit of this process."""
        if due:
            for notify_due in tuple(self._due):
                notify_due()
        if mail:
            for notify_mail in tuple(self._mail):
                notify_mail(mail)
        if self._waiters:
            for number in self._waiters.keys() & changed:
                self._release(number)

    def committed_elsewhere(self) -> None:
        """Another process has committed something."""
        for notify_due in tuple(self._due):
            notify_due()
        for notify_mail in tuple(self._mail):
            notify_mail(None)
        for number in tuple(self._waiters):
            self._release(number)

    def watch(self, number: int) -> asyncio.Future[None]:
        """
        A future that is done when this run has changed.

        Take it before reading the run, so that no change falls between. Cancel it when not needed.
        """
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(number, []).append(waiter)
        waiter.add_done_callback(lambda done: self._drop(number, done))
        return waiter

    @property
    def watched(self) -> bool:
        """Whether anybody waits for a run."""
        return bool(self._waiters)

    def _release(self, number: int) -> None:
        for waiter in self._waiters.pop(number, ()):
            if not waiter.done():
                waiter.set_result(None)

    def _drop(self, number: int, waiter: asyncio.Future[None]) -> None:
        waiters = self._waiters.get(number)
        if waiters and waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[number]
