"""Whether an adapter of a supervised turn keeps to its protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, NamedTuple

from perdure.errors import SourceFailed, SourceGone
from perdure.turn.supervise import Adapter, Supplied

EARLY = 2
"""The handle must come with one of the first so many things that a source supplies."""
TRIES = 100
"""So often a connection may be cut before the work's end."""


class AdapterMismatch(AssertionError):
    """
    An adapter does not keep to its protocol.

    Attributes:
        problems: What is wrong, one line each.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("The adapter does not keep to its protocol:\n" + "\n".join(f"    {each}" for each in problems))
        self.problems = tuple(problems)


async def check_adapter(
    make: Callable[[], Adapter],
    *,
    key: str = "conformance",
    begun: Callable[[], int] | None = None,
    fails: Callable[[], Adapter] | None = None,
    cuts: Callable[[], Adapter] | None = None,
) -> list[Supplied]:
    """
    Start work, cut it off behind each of its events, attach again, and compare; say it again; see it fail.

    Args:
        make: Makes an adapter; each one may speak to a source of its own, which always supplies the same events, two
            or more, with the same ids.
        key: What the work is started under; each start has one of its own, made of this.
        begun: Tells how many works the sources of `make` have begun so far. With it is checked that each key begins
            one, as `regenerate` needs it, and that attaching begins none.
        fails: Makes an adapter to a source whose first work fails behind an event or more, and whose second one
            supplies what `make` does. With it is checked that a retry starts the work anew.
        cuts: Makes an adapter to a source that supplies what `make` does, and cuts the connection now and then. With
            it is checked that this is not taken for the end.

    Returns:
        The events of an undisturbed start.

    Raises:
        AdapterMismatch: Handles come late, events have no ids or not their own, what is supplied after a cut is not
            the rest, or one of the above.
    """
    check = _Check(key, make, begun)
    await check.finished(await check.undisturbed())
    for place in range(len(check.calm)):
        await check.cut_off(place)
    await check.said_again()
    if fails is not None:
        await check.failing(fails())
    if cuts is not None:
        await check.cutting(cuts())
    if check.problems:
        raise AdapterMismatch(check.problems)
    return check.calm


class _Heard(NamedTuple):
    """
    What a source has supplied until it ended.

    Attributes:
        events: Those with a value or an id, without their handles.
        handle: The last one.
        error: What it ended with.
    """

    events: list[Supplied]
    handle: Any
    error: SourceFailed | SourceGone | None = None

    @property
    def last(self) -> str | None:
        return self.events[-1].id if self.events else None

    def whole(self) -> list[Supplied]:
        """The events of undisturbed work."""
        if self.error is not None:
            raise self.error
        if len(self.events) < EARLY:
            raise AdapterMismatch([f"it supplied {len(self.events)} events; two are needed to cut between them"])
        if without := [event.value for event in self.events if not isinstance(event.id, str) or not event.id]:
            raise AdapterMismatch([f"events have no id that is a text, so nobody can go on behind them: {without}"])
        if self.handle is None:
            raise AdapterMismatch(["it told no handle, so nobody can attach again"])
        return self.events


class _Check:
    """
    What is wrong so far with an adapter.

    Attributes:
        calm: The events of work that was left in peace.
    """

    def __init__(self, key: str, make: Callable[[], Adapter], begun: Callable[[], int] | None) -> None:
        self.calm: list[Supplied] = []
        self.problems: list[str] = []
        self._key = key
        self._make = make
        self._begun = begun or (lambda: 0)
        self._counted = begun is not None
        self._works = self._begun()

    def _count(self, where: str, more: int) -> None:
        """See that this has begun so many works."""
        works, self._works = self._works, self._begun()
        if self._counted and self._works != works + more:
            self.problems.append(f"{where}: {self._works - works} works were begun, and {more} should have been")

    def _compare(self, where: str, heard: _Heard, wanted: list[Supplied]) -> None:
        got = heard.events
        if got != wanted:
            ids = [event.id for event in got], [event.id for event in wanted]
            self.problems.append(f"{where}: it supplied {ids[0]}, and should {ids[1]}")
        if heard.error is not None:
            self.problems.append(f"{where}: it ended with {type(heard.error).__name__}: {heard.error}")

    async def undisturbed(self) -> Any:
        """Let work be done; returns its handle."""
        heard = await _followed(self._make().start(f"{self._key}-calm"))
        self.calm = heard.whole()
        found = [event.id for event in self.calm]
        if len(set(found)) != len(found):
            self.problems.append(f"ids are not unique: {found}")
        self._count("started", 1)
        return heard.handle

    async def finished(self, handle: Any) -> None:
        """Attach to work that is done."""
        for place in range(len(self.calm) + 1):
            after = self.calm[place - 1].id if place else None
            where = f"attached to finished work behind {after!r}"
            again = await _followed(self._make().attach(handle, after))
            self._compare(where, again, self.calm[place:])
            self._count(where, 0)

    async def cut_off(self, place: int) -> None:
        """Lose the worker behind so many events."""
        got = await _followed(self._make().start(f"{self._key}-{place}"), most=place)
        where = f"cut off behind event {place} ({got.last!r})"
        if got.handle is None:
            self.problems.append(f"no handle had come before event {place + 1}")
            self._works = self._begun()
            return
        again = await _followed(self._make().attach(got.handle, got.last))
        self._compare(where, again._replace(events=[*got.events, *again.events]), self.calm)
        self._count(where, 1)

    async def said_again(self) -> None:
        """Say a turn again: the same adapter, under another key."""
        adapter = self._make()
        for generation in ("once", "again"):
            said = await _followed(adapter.start(f"{self._key}-said-{generation}"))
            self._compare(f"said {generation} under a key of its own", said, self.calm)
            self._count(f"said {generation} under a key of its own", 1)

    async def failing(self, adapter: Adapter) -> None:
        """Retry a turn whose work has failed."""
        failed = await _followed(adapter.start(f"{self._key}-fails"))
        self._must_fail("the work failed", failed.error)
        if failed.handle is not None:
            where = f"attached to failed work behind {failed.last!r}"
            self._must_fail(where, (await _followed(adapter.attach(failed.handle, failed.last))).error)
        anew = await _followed(adapter.start(f"{self._key}-fails~2"))
        self._compare("started anew after a failure, under another key", anew, self.calm)

    def _must_fail(self, where: str, error: SourceFailed | SourceGone | None) -> None:
        if error is None:
            self.problems.append(f"{where}: it ended as if the work was done")
        elif isinstance(error, SourceFailed) and not error.over:
            problem = "it raised SourceFailed without over=True, so a retry would attach to this work again"
            self.problems.append(f"{where}: {problem}")

    async def cutting(self, adapter: Adapter) -> None:
        """Follow work over connections that break; what the adapter does not bear, the turn's retry does."""
        key = f"{self._key}-cuts"
        heard = await _followed(adapter.start(key))
        events, handle = heard.events, heard.handle
        for _ in range(TRIES):
            if not isinstance(heard.error, SourceFailed) or heard.error.over:
                break
            again = adapter.start(key) if handle is None else adapter.attach(handle, events[-1].id if events else None)
            heard = await _followed(again)
            events, handle = [*events, *heard.events], handle if heard.handle is None else heard.handle
        self._compare("a connection was cut", heard._replace(events=events), self.calm)


async def _followed(source: AsyncGenerator[Supplied, None], most: int | None = None) -> _Heard:
    """Hear a source to its end; with `most`, it is cut off behind so many events and a handle."""
    events: list[Supplied] = []
    handle: Any = None
    try:
        async with aclosing(source):
            async for supplied in source:
                handle = handle if supplied.handle is None else supplied.handle
                if supplied.id is not None or supplied.value is not None:
                    if most is not None and len(events) == most:
                        break
                    events.append(supplied._replace(handle=None))
                if most is not None and len(events) == most and handle is not None:
                    break
    except (SourceFailed, SourceGone) as error:
        return _Heard(events, handle, error)
    return _Heard(events, handle)
