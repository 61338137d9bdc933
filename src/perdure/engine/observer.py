"""
What metrics and tracing hang on: an observer is told what happens to runs, as it happens, and only then.

Replays are silent: nothing is told twice because a run was taken up again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from perdure.clock import Clock
from perdure.errors import InvalidOption

if TYPE_CHECKING:
    import asyncio

    from perdure.engine.request import StepRequest
    from perdure.model.run import Claimed
    from perdure.store.store import Store

T = TypeVar("T")
log = logging.getLogger("perdure.engine")


class Observed(Protocol):
    """A worker, as an observer sees it."""

    id: str
    store: Store
    loop: asyncio.AbstractEventLoop
    clock: Clock

    @property
    def statistics(self) -> Mapping[str, int]:
        """Runs "driven" and "parked" in memory."""


class Observer:
    """
    Hears of what happens; a subclass overrides what it wants to hear.

    All methods are called on the app's event loop and must return at once. An error in one is logged, and changes
    nothing for the runs. A stretch is the time from a claim of a run until its worker gives it up; steps and attempts
    are told within it. Times are microseconds since 1970.

    Attributes:
        keeps: Whether something is to be kept with the runs. It costs a query per claim.
    """

    keeps = False

    def starting(self, workflow: str, run_id: str) -> str | None:
        """Code in this context starts a run; returns what to keep with it."""

    def starting_child(self, parent: Claimed, workflow: str, run_id: str) -> str | None:
        """A run starts another one; returns what to keep with the new one."""

    def driving(self, run: Claimed, at: int) -> str | None:
        """
        A stretch begins.

        Args:
            run: With what was kept with it in `trace`. Its epoch is 1 the first time, unless it was paused before.

        Returns:
            What to keep with the run from now on; None for what there was. It is durable with the run's next commit.
        """

    def left(self, run: Claimed, how: str, error: BaseException | None, at: int) -> None:
        """
        A stretch has ended, and that is durable.

        Args:
            how: "parked", "completed", "failed", "cancelled", "paused"; "continued": it begins anew with other input;
                "released": by a worker that leaves; "lost": to another worker.
        """

    def attempt_begins(self, run: Claimed, step: StepRequest, at: int) -> None:
        """An attempt begins; called in the context in which its body will run, for context variables."""

    def attempt_ended(self, run: Claimed, step: StepRequest, error: BaseException | None, begun: int, at: int) -> None:
        """It has ended; `CancelledError` means that nobody wants it any more."""

    def step_ended(self, run: Claimed, step: StepRequest, error: BaseException | None, at: int) -> None:
        """There will be no other attempt."""

    def working(self, worker: Observed) -> None:
        """A worker has begun to work."""

    def stopped(self, worker: Observed) -> None:
        """It has stopped."""

    def claimed(self, runs: Sequence[Claimed], due: Mapping[int, int], at: int) -> None:
        """
        A worker has claimed runs.

        Args:
            due: When they were due, by number; not for those that came through a queue.
        """

    def lined_up(self, waits: Sequence[tuple[str, int]]) -> None:
        """Runs have got their first slots: of which queue, and after how many microseconds."""

    def took_over(self, count: int) -> None:
        """So many runs of dead workers have become due."""

    def committed(self, operations: int, seconds: float, errors: Sequence[Exception]) -> None:
        """A batch was committed, except for the operations that failed so."""


class Observers(Observer):
    """
    Several as one, none of which can do harm.

    Args:
        observers: In the order in which they are told.
    """

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = tuple(observers)
        self.keeps = any(observer.keeps for observer in self._observers)
        for name in TOLD:
            setattr(self, name, self._teller([getattr(each, name) for each in self._observers if _hears(each, name)]))

    @staticmethod
    def _teller(methods: list[Callable[..., Any]]) -> Callable[..., Any]:
        def tell(*args: Any) -> Any:
            answer = None
            for method in methods:
                try:
                    found = method(*args)
                except Exception:
                    log.exception("an observer failed: %s", getattr(method, "__qualname__", method))
                else:
                    answer = found if answer is None else answer
            return answer

        return tell


def _hears(observer: Observer, name: str) -> bool:
    return getattr(type(observer), name) is not getattr(Observer, name)


TOLD = tuple(name for name, member in vars(Observer).items() if callable(member) and not name.startswith("_"))


def listed(observers: object) -> tuple[Observer, ...]:
    """
    Those that an app was given.

    Raises:
        InvalidOption: They are not observers.
    """
    option = "observers"
    if not isinstance(observers, Iterable):
        raise InvalidOption(option, f"{observers!r} is no list of Observers")
    found = tuple(observers)
    for each in found:
        if not isinstance(each, Observer):
            raise InvalidOption(option, f"{each!r} is no Observer")
    return found


def joined(observers: tuple[Observer, ...]) -> Observer | None:
    """One observer that stands for these; None for none, so that nobody needs to be asked."""
    return Observers(observers) if observers else None
