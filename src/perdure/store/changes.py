"""Tell those who wait in this process that something was committed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, KeysView, Mapping
from typing import Any

from perdure.model.entry import Entry
from perdure.model.run import End
from perdure.store.follower import Follower

Waiter = asyncio.Future[End | None]
log = logging.getLogger("perdure.store")
NOTHING: Mapping[int, list[Entry] | None] = {}


class Changes:
    """
    One hub per store.

    It is told after each commit of this process, and when another process has committed (then without
    details). Nobody is told before the commit, and being told is a reason to look: what counts is what the database
    says. Only who follows a journal is handed what has been committed to it. Whoever fails on being told keeps it
    neither from the others nor from who tells.
    """

    def __init__(self) -> None:
        self._due: list[Callable[[bool], None]] = []
        self._mail: list[Callable[[set[int] | None], None]] = []
        self._entries: list[Callable[[], None]] = []
        self._all: list[Callable[[set[int] | None], None]] = []
        self._followers: dict[int, list[Follower]] = {}
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
        self,
        changed: set[int],
        ended: Mapping[int, End | None],
        mail: set[int],
        *,
        due: bool,
        elsewhere: bool = False,
        handed: Mapping[int, list[Entry] | None] = NOTHING,
    ) -> None:
        """
        After a commit.

        Args:
            changed: Numbers of the runs whose journals or rows it changed; those of streams are negative.
            ended: Those of them that have ended by it, and how where that is known.
            mail: Runs that have got messages.
            due: Whether a run may have become due.
            elsewhere: Another process has made it, and told of it.
            handed: Of runs that somebody follows what was appended to their journals, if nothing else was done to them.
        """
        if due:
            _tell(self._due, elsewhere)
        if mail:
            _tell(self._mail, mail)
        if changed:
            _tell(self._all, changed)
        if self._entries and (due or any(number > 0 for number in changed)):
            _tell(self._entries)
        if self._followers:
            self._hand(changed, handed)
        for number in self._enders.keys() & ended.keys() if self._enders else ():
            self._release(number, ended[number])

    def _hand(self, changed: set[int], handed: Mapping[int, list[Entry] | None]) -> None:
        for number in self._followers.keys() & changed:
            for follower in self._followers[number]:
                follower.tell(handed.get(number))

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
        for followers in self._followers.values():
            for follower in followers:
                follower.tell(None)
        for number in tuple(self._enders) if ended is None else ended:
            self._release(number)

    def watch(self, number: int) -> Waiter:
        """
        A future that is done when this run has ended; its result is how, where that is known.

        Take it before reading the run, so that no end falls between. Cancel it when not needed.
        """
        waiter = asyncio.get_running_loop().create_future()
        self._enders.setdefault(number, []).append(waiter)
        waiter.add_done_callback(lambda done: self._drop(number, done))
        return waiter

    def _release(self, number: int, end: End | None = None) -> None:
        for waiter in self._enders.pop(number, ()):
            if not waiter.done():
                waiter.set_result(end)

    def _drop(self, number: int, waiter: Waiter) -> None:
        there = self._enders.get(number)
        if there and waiter in there:
            there.remove(waiter)
            if not there:
                del self._enders[number]

    def follow(self, number: int) -> Follower:
        """
        Be told of each commit that changes this run, and handed what it appends to the journal.

        Begin before reading the journal, so that no change falls between. Close it when not needed.
        """
        follower = Follower(lambda gone: self._leave(number, gone))
        self._followers.setdefault(number, []).append(follower)
        return follower

    def _leave(self, number: int, follower: Follower) -> None:
        self._followers[number].remove(follower)
        if not self._followers[number]:
            del self._followers[number]

    @property
    def following(self) -> KeysView[int]:
        """The runs that somebody follows."""
        return self._followers.keys()

    @property
    def watched(self) -> bool:
        """Whether anybody waits for a change of a run, rather than for its end."""
        return bool(self._followers or self._entries or self._all)

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
