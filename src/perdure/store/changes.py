"""Tell those who wait in this process that something was committed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from perdure.model.run import End

Waiter = asyncio.Future[End | None]
log = logging.getLogger("perdure.store")


class Changes:
    """
    One hub per store.

    It is told after each commit of this process, and when another process has committed (then without
    details). Nobody is told before the commit, and being told is only a reason to look: what counts is
    what the database says. Whoever fails on being told keeps it neither from the others nor from who tells.
    """

    def __init__(self) -> None:
        self._due: list[Callable[[bool], None]] = []
        self._mail: list[Callable[[set[int] | None], None]] = []
        self._entries: list[Callable[[], None]] = []
        self._all: list[Callable[[set[int] | None], None]] = []
        self._waiters: dict[int, list[Waiter]] = {}
        self._enders: dict[int, list[Waiter]] = {}

    def on_due(self, callback: Callable[[bool], None]) -> None:
        """Call it whenever a run may have become due, with whether another process has committed that."""
        self._due.append(callback)

    def on_mail(self, callback: Callable[[set[int] | None], None]) -> None:
        """Call it with the numbers of runs that may have got messages; None for any."""
        self._mail.append(callback)

    def on_change(self, callback: Callable[[set[int] | None], None]) -> None:
        """Call it with the numbers of runs that have changed, and those of streams as negative ones; None for any."""
        self._all.append(callback)

    def on_entries(self, callback: Callable[[], None]) -> None:
        """Call it whenever runs may have begun, or have new entries in their journals."""
        self._entries.append(callback)

    def forget(self, callback: Callable[..., None]) -> None:
        """Stop calling it."""
        for listeners in (self._due, self._mail, self._entries, self._all):
            if callback in listeners:
                listeners.remove(callback)

    def committed(
        self, changed: set[int], ended: Mapping[int, End | None], mail: set[int], *, due: bool, elsewhere: bool = False
    ) -> None:
        """
        After a commit.

        Args:
            changed: Numbers of the runs whose journals or rows it changed; those of streams are negative.
            ended: Those of them that have ended by it, and how where that is known.
            mail: Runs that have got messages.
            due: Whether a run may have become due.
            elsewhere: Another process has made it, and told of it.
        """
        if due:
            _tell(self._due, elsewhere)
        if mail:
            _tell(self._mail, mail)
        if changed:
            _tell(self._all, changed)
        if self._entries and (due or any(number > 0 for number in changed)):
            _tell(self._entries)
        for number in self._waiters.keys() & changed if self._waiters else ():
            _release(self._waiters, number)
        for number in self._enders.keys() & ended.keys() if self._enders else ():
            _release(self._enders, number, ended[number])

    @property
    def awaited(self) -> list[int]:
        """The runs whose end somebody waits for."""
        return list(self._enders)

    def committed_elsewhere(self, ended: set[int] | None = None) -> None:
        """
        Another process has committed something.

        Args:
            ended: Those of the awaited runs that have ended; None when that is not known.
        """
        _tell(self._due, True)  # noqa: FBT003 - a listener's only argument
        _tell(self._mail, None)
        _tell(self._entries)
        _tell(self._all, None)
        for number in tuple(self._waiters):
            _release(self._waiters, number)
        for number in tuple(self._enders) if ended is None else ended:
            _release(self._enders, number)

    def watch(self, number: int, *, until_end: bool = False) -> Waiter:
        """
        A future that is done when this run has changed, or has ended; its result is how, where that is known.

        Take it before reading the run, so that no change falls between. Cancel it when not needed.
        """
        waiter = asyncio.get_running_loop().create_future()
        waiters = self._enders if until_end else self._waiters
        waiters.setdefault(number, []).append(waiter)
        waiter.add_done_callback(lambda done: _drop(waiters, number, done))
        return waiter

    @property
    def watched(self) -> bool:
        """Whether anybody waits for a change of a run, rather than for its end."""
        return bool(self._waiters or self._entries or self._all)

    @property
    def delivering(self) -> bool:
        """Whether somebody wants to hear of all new entries and runs."""
        return bool(self._entries)


def _tell(listeners: Iterable[Callable[..., None]], *news: Any) -> None:
    for listener in tuple(listeners):
        try:
            listener(*news)
        except Exception:
            # Behind it others wait to be told, and whoever tells goes on with the next commit, or looks for it.
            log.exception("an internal listener failed: %s", getattr(listener, "__qualname__", listener))


def _release(waiters: dict[int, list[Waiter]], number: int, end: End | None = None) -> None:
    for waiter in waiters.pop(number, ()):
        if not waiter.done():
            waiter.set_result(end)


def _drop(waiters: dict[int, list[Waiter]], number: int, waiter: Waiter) -> None:
    there = waiters.get(number)
    if there and waiter in there:
        there.remove(waiter)
        if not there:
            del waiters[number]
