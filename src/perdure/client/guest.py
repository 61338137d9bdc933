"""Start runs and send signals in a transaction of the caller's own."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from datetime import timedelta
from typing import Any, TypeVar, overload

from perdure.client.starter import H, Starter
from perdure.codec.value import TypeCodec
from perdure.engine.child import Takes0, Takes1, Takes2, Takes3
from perdure.model.ledger import Remarks
from perdure.model.queue import Queue
from perdure.model.start import Debounce, Dedupe
from perdure.store.caller import ON_A_LOOP, OPTION
from perdure.store.operation import Operation, Row
from perdure.store.store import Database
from perdure.store.transaction import at_once

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
T = TypeVar("T")


class Guest(Starter[H]):
    """
    Takes part in a caller's transaction: what it does is there when that commits, and never was if it does not.

    Args:
        given: Makes of a run's id and the codec of its result what a start gives.
    """

    def __init__(self, store: Database, *, given: Callable[[str, TypeCodec], H], **parts: Any) -> None:
        super().__init__(store, **parts)
        self._given = given

    def _started(self, run_id: str, returns: TypeCodec, _number: int | None = None) -> H:
        return self._given(run_id, returns)

    async def _insert(self, operation: Operation, _run: tuple[Any, ...] | None, _trace: str | None) -> list[Row]:
        """No worker can be given the run before the commit."""
        return await self.store.apply(operation)


class Inside:
    """
    The same from code without an event loop, on a connection or session that needs none.

    Starts give the run's id; after the commit, `App.handle` makes a handle of it.
    """

    def __init__(self, guest: Guest[str]) -> None:
        self._guest = guest
        self._checked = False

    @overload
    def start(
        self, workflow: Takes0[Any], /, *, id: str | None = ..., tags: Iterable[str] = ...,
        timeout: float | timedelta | None = ..., delay: float | timedelta = ..., queue: Queue | str | None = ...,
        key: str = ..., priority: int = ..., weight: int = ..., dedupe: Dedupe | str | None = ...,
        debounce: Debounce | None = ..., version: str | None = ..., annotations: Remarks = ...,
    ) -> str: ...  # fmt: skip
    @overload
    def start(
        self, workflow: Takes1[A, Any], a: A, /, *, id: str | None = ..., tags: Iterable[str] = ...,
        timeout: float | timedelta | None = ..., delay: float | timedelta = ..., queue: Queue | str | None = ...,
        key: str = ..., priority: int = ..., weight: int = ..., dedupe: Dedupe | str | None = ...,
        debounce: Debounce | None = ..., version: str | None = ..., annotations: Remarks = ...,
    ) -> str: ...  # fmt: skip
    @overload
    def start(
        self, workflow: Takes2[A, B, Any], a: A, b: B, /, *, id: str | None = ..., tags: Iterable[str] = ...,
        timeout: float | timedelta | None = ..., delay: float | timedelta = ..., queue: Queue | str | None = ...,
        key: str = ..., priority: int = ..., weight: int = ..., dedupe: Dedupe | str | None = ...,
        debounce: Debounce | None = ..., version: str | None = ..., annotations: Remarks = ...,
    ) -> str: ...  # fmt: skip
    @overload
    def start(
        self, workflow: Takes3[A, B, C, Any], a: A, b: B, c: C, /, *, id: str | None = ..., tags: Iterable[str] = ...,
        timeout: float | timedelta | None = ..., delay: float | timedelta = ..., queue: Queue | str | None = ...,
        key: str = ..., priority: int = ..., weight: int = ..., dedupe: Dedupe | str | None = ...,
        debounce: Debounce | None = ..., version: str | None = ..., annotations: Remarks = ...,
    ) -> str: ...  # fmt: skip
    @overload
    def start(self, workflow: str, /, *args: Any, **options: Any) -> str: ...
    def start(self, workflow: Any, /, *args: Any, **options: Any) -> str:
        """See `Client.start`; the input follows the workflow. Gives the run's id."""
        return self._do(self._guest.start(workflow, args, **options))

    def batch(
        self, workflow: Takes1[list[A], Any], item: A, /, *, size: int, wait: float | timedelta, key: str = "",
        queue: Queue | str | None = None,
    ) -> str:  # fmt: skip
        """See `Client.batch`. Gives the id of the run that has the item."""
        given: Any = workflow
        return self._do(self._guest.batch(given, item, size=size, wait=wait, key=key, queue=queue))

    def signal(self, run_id: str, name: str, data: Any = None, *, key: str | None = None) -> bool:
        """See `Client.signal`."""
        return self._do(self._guest.signal(run_id, name, data, key=key))

    def _do(self, asked: Coroutine[Any, Any, T]) -> T:
        try:
            return at_once(self._with_the_right_time(asked), OPTION, ON_A_LOOP)
        finally:
            asked.close()

    async def _with_the_right_time(self, asked: Coroutine[Any, Any, T]) -> T:
        if not self._checked:
            self._checked = True
            await self._guest.store.check_clock()
        return await asked
