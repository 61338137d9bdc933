"""What an app is asked for its runs: start, signal, cancel, once per key."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack, overload

if TYPE_CHECKING:
    from perdure.client.client import Client
    from perdure.client.command import Command, CommandOptions
    from perdure.client.handle import RunHandle
    from perdure.client.starter import Starter
    from perdure.engine.child import Takes0, Takes1, Takes2, Takes3
    from perdure.engine.definition import Workflow
    from perdure.model.ledger import Remarks
    from perdure.model.queue import Queue
    from perdure.model.start import Debounce, Dedupe

R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
Ts = TypeVarTuple("Ts")


class Face(ABC):
    """The part of an app that callers use; each call is the client's, with types."""

    @property
    @abstractmethod
    def client(self) -> Client:
        """What callers ask of the open database."""

    @overload
    async def start(
        self, workflow: Takes0[R], /, *, id: str | None = ..., tags: Iterable[str] = ...,
        timeout: float | timedelta | None = ..., delay: float | timedelta = ..., queue: Queue | str | None = ...,
        key: str = ..., priority: int = ..., weight: int = ..., dedupe: Dedupe | str | None = ...,
        debounce: Debounce | None = ..., version: str | None = ..., annotations: Remarks = ...,
        transaction: object = ...,
    ) -> RunHandle[R]: ...  # fmt: skip
    @overload
    async def start(
        self, workflow: Takes1[A, R], a: A, /, *, id: str | None = ..., tags: Iterable[str] = ...,
        timeout: float | timedelta | None = ..., delay: float | timedelta = ..., queue: Queue | str | None = ...,
        key: str = ..., priority: int = ..., weight: int = ..., dedupe: Dedupe | str | None = ...,
        debounce: Debounce | None = ..., version: str | None = ..., annotations: Remarks = ...,
        transaction: object = ...,
    ) -> RunHandle[R]: ...  # fmt: skip
    @overload
    async def start(
        self, workflow: Takes2[A, B, R], a: A, b: B, /, *, id: str | None = ..., tags: Iterable[str] = ...,
        timeout: float | timedelta | None = ..., delay: float | timedelta = ..., queue: Queue | str | None = ...,
        key: str = ..., priority: int = ..., weight: int = ..., dedupe: Dedupe | str | None = ...,
        debounce: Debounce | None = ..., version: str | None = ..., annotations: Remarks = ...,
        transaction: object = ...,
    ) -> RunHandle[R]: ...  # fmt: skip
    @overload
    async def start(
        self, workflow: Takes3[A, B, C, R], a: A, b: B, c: C, /, *, id: str | None = ..., tags: Iterable[str] = ...,
        timeout: float | timedelta | None = ..., delay: float | timedelta = ..., queue: Queue | str | None = ...,
        key: str = ..., priority: int = ..., weight: int = ..., dedupe: Dedupe | str | None = ...,
        debounce: Debounce | None = ..., version: str | None = ..., annotations: Remarks = ...,
        transaction: object = ...,
    ) -> RunHandle[R]: ...  # fmt: skip
    @overload
    async def start(self, workflow: str, /, *args: Any, **options: Any) -> RunHandle[Any]: ...
    async def start(
        self, workflow: Any, /, *args: Any, transaction: object = None, **options: Any
    ) -> RunHandle[Any]:  # fmt: skip
        """
        See `Client.start`; the input follows the workflow.

        Args:
            transaction: A connection of yours to the same database, or a session of SQLAlchemy. The run is there when
                the transaction that it has open commits, and never was if it does not; nothing is durable before.
        """
        return await self._starter(transaction).start(workflow, args, **options)

    def _starter(self, transaction: object) -> Starter[RunHandle[Any]]:
        return self.client if transaction is None else self.client.joining(transaction)

    async def batch(
        self, workflow: Takes1[list[A], R], item: A, /, *, size: int, wait: float | timedelta, key: str = "",
        queue: Queue | str | None = None, transaction: object = None,
    ) -> RunHandle[R]:  # fmt: skip
        """See `Client.batch`; for `transaction`, `start`."""
        given: Any = workflow
        return await self._starter(transaction).batch(given, item, size=size, wait=wait, key=key, queue=queue)

    @overload
    def handle(self, run_id: str, workflow: Workflow[..., R]) -> RunHandle[R]: ...
    @overload
    def handle(self, run_id: str, workflow: str | None = None) -> RunHandle[Any]: ...
    def handle(self, run_id: str, workflow: Any = None) -> RunHandle[Any]:
        """See `Client.handle`."""
        return self.client.handle(run_id, workflow)

    async def signal(
        self, run_id: str, name: str, data: Any = None, *, key: str | None = None, transaction: object = None
    ) -> bool:
        """See `Client.signal`; for `transaction`, `start`."""
        return await self._starter(transaction).signal(run_id, name, data, key=key)

    async def cancel(self, run_id: str, reason: str = "", *, compensate: bool = False) -> None:
        """See `Client.cancel`."""
        await self.client.cancel(run_id, reason, compensate=compensate)

    async def command(
        self,
        key: str,
        fn: Callable[[Command, Unpack[Ts]], Awaitable[R]],
        /,
        *args: *Ts,
        **options: Unpack[CommandOptions],
    ) -> R:
        """See `Client.command`: do something once, however often it is asked for under this key."""
        return await self.client.command(key, fn, *args, **options)

    async def move_version(self, run_id: str, version: str) -> None:
        """See `Steering.move_version`: let a run go on with another version of its workflow."""
        await self.client.move_version(run_id, version)
