"""Work behind HTTP: server-sent events, gone on with by `Last-Event-ID`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from httpx_sse import EventSource, ServerSentEvent, SSEError

from perdure.errors import SourceFailed, SourceGone
from perdure.turn.supervise import Supplied

_GONE = frozenset({httpx.codes.NOT_FOUND, httpx.codes.GONE})
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_MOST_WAIT_S = 30.0


class _Cut(Exception):
    """The connection has broken; it may be made again."""


class HttpEvents:
    """
    An adapter: the events of a `text/event-stream`.

    The work is started by a request with the header `Idempotency-Key`. Where its events can be had again is what the
    answer's `Location` or `Content-Location` says, or else the same address; a GET there with `Last-Event-ID` goes on.
    A connection that breaks is made again by itself. 404 and 410 say that there is nothing any more.

    Args:
        url: Where to start the work.
        method, json, headers: Of the request that starts it; the headers are sent each time.
        parse: Makes an event's value of it; its data as text when left out.
        done: Data, or a type, of the event that says that all is done, and is none itself. Without one the end of the
            answer is the end.
        tries: How often in a row a connection may fail.
        delay: Seconds before the second try, doubled each time, unless the stream says how long to wait.
        client: For all requests; one of its own for each when left out.
    """

    def __init__(
        self,
        url: str,
        *,
        method: str = "POST",
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        parse: Callable[[ServerSentEvent], Any] | None = None,
        done: str | None = None,
        tries: int = 5,
        delay: float = 0.5,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        self._url = url
        self._method = method
        self._json = json
        self._headers = dict(headers or {})
        self._parse = parse or (lambda event: event.data)
        self._done = done
        self._tries = tries
        self._delay = delay
        self._client = client

    async def start(self, key: str) -> AsyncGenerator[Supplied, None]:
        """See `Adapter.start`."""
        async for supplied in self._events(None, None, {"Idempotency-Key": key}):
            yield supplied

    async def attach(self, handle: Any, after: str | None) -> AsyncGenerator[Supplied, None]:
        """See `Adapter.attach`."""
        async for supplied in self._events(handle["url"], after, {}):
            yield supplied

    async def _events(
        self, url: str | None, after: str | None, headers: dict[str, str]
    ) -> AsyncGenerator[Supplied, None]:
        failures, wait = 0, self._delay
        while True:
            try:
                async with self._connected(url, after, headers) as response:
                    if response.status_code == httpx.codes.NO_CONTENT:
                        return
                    if url is None:
                        url = _address(response)
                        yield Supplied(handle={"url": url})
                    async for event in EventSource(response).aiter_sse():
                        if self._is_done(event):
                            return
                        yield Supplied(self._parse(event), event.id)
                        after, failures = event.id, 0
                        wait = self._delay if event.retry is None else event.retry / 1000
                    if self._done is None:
                        return
                    problem = f"its answer ended without {self._done!r}"
            except (httpx.TransportError, _Cut) as error:
                problem = f"{type(error).__name__}: {error}"
            except SSEError as error:
                raise SourceFailed(self._url, str(error)) from error
            failures += 1
            if failures >= self._tries:
                raise SourceFailed(self._url, f"{problem} ({failures} times in a row)")
            await asyncio.sleep(min(_MOST_WAIT_S, wait * 2 ** (failures - 1)))

    def _is_done(self, event: ServerSentEvent) -> bool:
        if self._done is not None and self._done in {event.data, event.event}:
            return True
        if not event.id:
            raise SourceFailed(self._url, "its events have no ids, so nobody can go on behind one")
        return False

    @asynccontextmanager
    async def _connected(
        self, url: str | None, after: str | None, more: dict[str, str]
    ) -> AsyncGenerator[httpx.Response, None]:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store", **self._headers, **more}
        if after is not None:
            headers["Last-Event-ID"] = after
        method, json = (self._method, self._json) if url is None else ("GET", None)
        client = self._client or httpx.AsyncClient(timeout=httpx.Timeout(30, read=None))
        try:
            async with client.stream(method, url or self._url, json=json, headers=headers) as response:
                self._check(response, attached=url is not None)
                yield response
        finally:
            if client is not self._client:
                await client.aclose()

    def _check(self, response: httpx.Response, *, attached: bool) -> None:
        status = response.status_code
        if response.is_success:
            return
        if attached and status in _GONE:
            raise SourceGone(self._url, f"it answered {status}")
        if status in _AGAIN:
            problem = f"it answered {status}"
            raise _Cut(problem)
        raise SourceFailed(self._url, f"it answered {status}")


def _address(response: httpx.Response) -> str:
    found = response.headers.get("Location") or response.headers.get("Content-Location") or str(response.url)
    return str(response.url.join(found))
