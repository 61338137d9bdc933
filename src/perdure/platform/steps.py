"""What a workflow function may ask for if it is to run on any engine: a part of perdure's `Context`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from perdure.engine.definition import Step
from perdure.ids import Random

if TYPE_CHECKING:
    from uuid import UUID

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
D = TypeVar("D")


class Steps(Protocol):
    """
    ``async def order(ctx: Steps, …)`` runs on perdure, where it gets a `Context`, and through `run_on` elsewhere.

    Each method does what that of `Context` does.
    """

    @property
    def run_id(self) -> str:
        """The run's id."""

    @overload
    async def step(self, fn: Step[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def step(self, name: str, fn: Callable[[], Any], /, *, returns: type[R], **options: Any) -> R: ...
    @overload
    async def step(self, name: str, fn: Callable[[], Awaitable[R]], /, **options: Any) -> R: ...
    @overload
    async def step(self, name: str, fn: Callable[[], R], /, **options: Any) -> R: ...
    @overload
    async def step(self, fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def step(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...

    async def sleep(self, until: float | timedelta | datetime) -> None:
        """Sleep durably: for seconds or a timedelta, or until an aware datetime."""

    @overload
    async def receive(self, name: str, type: type[T], *, timeout: float | timedelta | None = None) -> T: ...
    @overload
    async def receive(
        self, name: str, type: type[T], *, timeout: float | timedelta | None = None, default: D
    ) -> T | D: ...  # fmt: skip
    @overload
    async def receive(self, name: str, *, timeout: float | timedelta | None = None, default: Any = ...) -> Any: ...

    def now(self) -> datetime:
        """The time, as of the last outcome; the same on every replay."""

    def uuid(self) -> UUID:
        """A UUID, the same on every replay."""

    def random(self) -> Random:
        """A source of chance, the same on every replay."""

    def scope(self, name: str) -> AbstractContextManager[None]:
        """Put a name before the keys of everything asked for inside."""
