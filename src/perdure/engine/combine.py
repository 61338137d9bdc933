"""Many durable operations at once: map with limits, and race. Plain asyncio, so plain replay."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from perdure.errors import InvalidOption, TooFewSucceeded
from perdure.model.check import check_number

R = TypeVar("R")
Reason = Literal["all_completed", "min_success_reached", "failure_tolerance_exceeded"]


@dataclass(frozen=True, slots=True)
class MapResult(Generic[R]):
    """
    What became of a map with limits.

    Attributes:
        total: Items that were begun.
        succeeded: Results, by the item's place.
        errors: Errors, by the item's place.
        reason: Why the map ended.
    """

    total: int
    succeeded: dict[int, R] = field(default_factory=dict)
    errors: dict[int, BaseException] = field(default_factory=dict)
    reason: Reason = "all_completed"
    min_success: int | None = None

    @property
    def results(self) -> list[R]:
        """The results there are, in the items' order."""
        return [self.succeeded[place] for place in sorted(self.succeeded)]

    @property
    def ok(self) -> bool:
        """Whether nothing failed, or as many succeeded as were asked for."""
        if self.min_success is not None:
            return len(self.succeeded) >= self.min_success
        return not self.errors

    def unwrap(self) -> list[R]:
        """
        The results, if the map went well.

        Raises:
            TooFewSucceeded: It did not; the first error is its cause.
        """
        if not self.ok:
            first = self.errors[min(self.errors)] if self.errors else None
            raise TooFewSucceeded(len(self.succeeded), len(self.errors), self.total) from first
        return self.results


class _Rules(NamedTuple):
    total: int
    min_success: int | None
    tolerate: float | None

    @property
    def strict(self) -> bool:
        """Without limits, the first failure is raised."""
        return self.min_success is None and self.tolerate is None

    @property
    def most_failures(self) -> float:
        if self.tolerate is None:
            return math.inf
        return self.tolerate * self.total if 0 < self.tolerate < 1 else self.tolerate


def _check(concurrency: int | None, rules: _Rules) -> None:
    for option, value in (("concurrency", concurrency), ("min_success", rules.min_success)):
        if value is not None:
            check_number(option, value, 1)
    if rules.tolerate is not None:
        check_number("tolerate", rules.tolerate, 0, whole=False)


async def map_items(
    run: Callable[[int, Any], Awaitable[Any]],
    items: Iterable[Any],
    *,
    concurrency: int | None,
    min_success: int | None,
    tolerate: float | None,
) -> Any:
    """
    See `Context.map`.

    Raises:
        InvalidOption: A limit is out of range, or nothing can go through the items; nothing was begun.
    """
    try:
        iter(items)
    except TypeError:
        option = "ctx.map(fn, items)"
        raise InvalidOption(option, f"{items!r} are no items that one can go through") from None
    items = list(items)
    rules = _Rules(len(items), min_success, tolerate)
    _check(concurrency, rules)
    succeeded: dict[int, Any] = {}
    errors: dict[int, BaseException] = {}
    places: dict[asyncio.Task[Any], int] = {}
    waiting = iter(range(len(items)))

    def begin(count: int) -> None:
        for place in itertools.islice(waiting, count):
            places[asyncio.ensure_future(run(place, items[place]))] = place

    begin(len(items) if concurrency is None else concurrency)
    begun = len(places)
    try:
        while places and (reason := _verdict(rules, succeeded, errors)) == "all_completed":
            done, _ = await asyncio.wait(places, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=places.__getitem__):
                place = places.pop(task)
                if (error := task.exception()) is None:
                    succeeded[place] = task.result()
                elif rules.strict:
                    raise error
                else:
                    errors[place] = error
            if _verdict(rules, succeeded, errors) == "all_completed":
                before = len(places)
                begin(len(done))
                begun += len(places) - before
        reason = _verdict(rules, succeeded, errors)
    finally:
        await _cancel(places)
    if rules.strict:
        return [succeeded[place] for place in range(len(items))]
    return MapResult(begun, succeeded, errors, reason, min_success)


def _verdict(rules: _Rules, succeeded: dict[int, Any], errors: dict[int, BaseException]) -> Reason:
    if len(errors) > rules.most_failures:
        return "failure_tolerance_exceeded"
    if rules.min_success is not None and len(succeeded) >= rules.min_success:
        return "min_success_reached"
    return "all_completed"


async def _cancel(tasks: Collection[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


async def race(awaitables: Sequence[Awaitable[R]]) -> tuple[int, R]:
    """See `Context.race`."""
    if not awaitables:
        option = "ctx.race"
        raise InvalidOption(option, "it needs at least one awaitable")
    places = {asyncio.ensure_future(awaitable): place for place, awaitable in enumerate(awaitables)}
    try:
        done, _ = await asyncio.wait(places, return_when=asyncio.FIRST_COMPLETED)
        winner = min(done, key=places.__getitem__)
        return places[winner], winner.result()
    finally:
        await _cancel([task for task in places if not task.done()])
