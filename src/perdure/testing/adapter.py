"""Whether an adapter of a supervised turn keeps to its protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from perdure.turn.supervise import Adapter, Supplied

EARLY = 2
"""The handle must come with one of the first so many things that a source supplies."""


class AdapterMismatch(AssertionError):
    """
    An adapter does not keep to its protocol.

    Attributes:
        problems: What is wrong, one line each.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("The adapter does not keep to its protocol:\n" + "\n".join(f"    {each}" for each in problems))
        self.problems = tuple(problems)


async def check_adapter(make: Callable[[], Adapter], *, key: str = "conformance") -> list[Supplied]:
    """
    Start work, cut it off behind each of its events, attach again, and compare.

    Args:
        make: Makes an adapter; each one may speak to a source of its own, which always supplies the same events, two
            or more, with the same ids.
        key: What the work is started under; each start has one of its own, made of this.

    Returns:
        The events of an undisturbed start.

    Raises:
        AdapterMismatch: Handles come late, ids are not unique, or what is supplied after a cut is not the rest.
    """
    problems: list[str] = []
    calm, handle = await _supplied(make().start(f"{key}-calm"))
    found = [event.id for event in calm]
    if len(calm) < EARLY:
        raise AdapterMismatch([f"it supplied {len(calm)} events; two are needed to cut between them"])
    if len(set(found)) != len(found):
        problems.append(f"ids are not unique: {found}")
    if handle is None:
        raise AdapterMismatch([*problems, "it told no handle, so nobody can attach again"])
    for after, rest in [(None, calm), *((event.id, calm[place:]) for place, event in enumerate(calm, 1))]:
        again, _ = await _supplied(make().attach(handle, after))
        problems += _compare(f"attached to finished work behind {after!r}", again, rest)
    for cut in range(len(calm)):
        adapter = make()
        got, told = await _supplied(adapter.start(f"{key}-{cut}"), most=cut)
        if told is None:
            problems.append(f"no handle had come before event {cut + 1}")
            continue
        last = got[-1].id if got else None
        again, _ = await _supplied(make().attach(told, last))
        problems += _compare(f"cut off behind event {cut} ({last!r})", [*got, *again], calm)
    if problems:
        raise AdapterMismatch(problems)
    return calm


async def _supplied(source: AsyncGenerator[Supplied, None], most: int | None = None) -> tuple[list[Supplied], Any]:
    """The events, without handles, and the last handle; with `most`, cut off behind so many and a handle."""
    events: list[Supplied] = []
    handle: Any = None
    async with aclosing(source):
        async for supplied in source:
            handle = handle if supplied.handle is None else supplied.handle
            if supplied.id is not None:
                if most is not None and len(events) == most:
                    break
                events.append(supplied._replace(handle=None))
            if most is not None and len(events) == most and handle is not None:
                break
    return events, handle


def _compare(where: str, got: list[Supplied], wanted: list[Supplied]) -> list[str]:
    if got == wanted:
        return []
    return [f"{where}: it supplied {[event.id for event in got]}, and should {[event.id for event in wanted]}"]
