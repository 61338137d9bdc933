"""A handle on one run: wait for its result, follow its journal."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack

from perdure.client.view import Annotation, ArtifactInfo, RunEvent, RunInfo, run_event
from perdure.codec.failure import decode_error
from perdure.codec.value import TypeCodec
from perdure.errors import RunCancelled, RunFailed
from perdure.model.check import check_number
from perdure.model.run import End
from perdure.model.status import Status
from perdure.store.load import load_run, resolve

if TYPE_CHECKING:
    from perdure.client.client import Client
    from perdure.client.ledger import Where

R = TypeVar("R")


class RunHandle(Generic[R]):
    """
    A run, by its id. Handles hold nothing open; make as many as you like.

    Attributes:
        id: The run's id.
    """

    def __init__(self, client: Client, run_id: str, returns: TypeCodec, number: int | None = None) -> None:
        self.id = run_id
        self._number = number
        self._client = client
        self._returns = returns

    def __repr__(self) -> str:
        return f"<run {self.id}>"

    async def info(self) -> RunInfo:
        """
        How the run stands now.

        Raises:
            RunNotFound: There is no run with this id.
        """
        return await self._client.info(self.id)

    async def result(self) -> R:
        """
        Wait for the run to end.

        Returns:
            What its workflow returned, as its declared type.

        Raises:
            RunFailed: It failed; its error is in ``cause``.
            RunCancelled: It was cancelled.
            RunNotFound: There is no run with this id.
            StoreClosed: The app was closed meanwhile; the run goes on wherever there is a worker.
        """
        return await self.value_of(await self._end())

    async def value_of(self, end: End) -> R:
        """As `result`, of a run that has ended so."""
        if end.status == Status.COMPLETED:
            text = await self._text(end.output or "null")
            value: R = self._returns.decode(text, f"The result of run {self.id!r}")
            return value
        error = decode_error(await self._text(end.error or "null"))
        if end.status == Status.CANCELLED:
            raise error if isinstance(error, RunCancelled) else RunCancelled(self.id)
        raise RunFailed(self.id, error)

    async def events(self, *, after: int = 0, follow: bool = True) -> AsyncGenerator[RunEvent, None]:
        """
        The run's journal, entry by entry.

        Args:
            after: Begin behind the entry with this seq.
            follow: Go on with new entries until the run has ended; otherwise stop at the last one there is.

        Raises:
            RunNotFound: There is no run with this id.
            StoreClosed: The app was closed meanwhile.
            InvalidOption: `after` is no number; a text, as of a header, is one only after ``int(…)``.
        """
        check_number("after", after, 0)
        store, pages, payloads = self._client.store, self._client.pages, self._client.payloads
        number = (await load_run(store, self.id)).number
        with closing(store.changes.follow(number)) as follower:
            while True:
                page = await pages.after(self.id, number, after)
                for entry in page.entries:
                    yield run_event(entry, payloads)
                after = page.last
                if page.full:
                    continue
                if page.finished or not follow:
                    return
                store.start_polling()
                while handed := await follower.behind(after):
                    for entry in handed:
                        yield run_event(entry, payloads)
                    after = handed[-1].seq

    async def _end(self) -> End:
        """How the run has ended; where it is driven here, its end comes without a look at the store."""
        client, number = self._client, self._number
        if number is None or not client.drives(number):
            row = await load_run(client.store, self.id)
            if row.end is not None:
                return row.end
            number = row.number
        while True:
            waiter = client.store.changes.watch(number)
            try:
                end = None
                if not client.drives(number):
                    end = (await load_run(client.store, self.id)).end
                    client.store.start_polling()
                end = end or await waiter
            finally:
                waiter.cancel()
            if end is not None:
                return end

    async def _text(self, stored: str) -> str:
        return self._client.payloads.open(await resolve(self._client.store, stored))

    async def artifacts(self) -> list[ArtifactInfo]:
        """See `Client.artifacts`."""
        return await self._client.artifacts(self.id)

    async def artifact(self, name: str, type: Any = Any) -> Any:
        """See `Client.artifact`."""
        return await self._client.artifact(self.id, name, type)

    async def annotate(self, key: str | Mapping[str, Any], value: Any = None, **options: Unpack[Where]) -> int:
        """See `Client.annotate`."""
        return await self._client.annotate(self.id, key, value, **options)

    async def annotations(self, **wanted: Any) -> list[Annotation]:
        """See `Client.annotations`."""
        return await self._client.annotations(self.id, **wanted)

    async def signal(self, name: str, data: Any = None, *, key: str | None = None) -> bool:
        """See `Client.signal`."""
        return await self._client.signal(self.id, name, data, key=key)

    async def answer(self, name: str, data: Any = None) -> bool:
        """See `Client.answer`."""
        return await self._client.answer(self.id, name, data)

    async def cancel(self, reason: str = "", *, compensate: bool = False) -> None:
        """See `Client.cancel`."""
        await self._client.cancel(self.id, reason, compensate=compensate)
