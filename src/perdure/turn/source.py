"""Work behind HTTP: server-sent events, gone on with by `Last-Event-ID`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx

from perdure.clock import SECOND, some_micros
from perdure.errors import SourceFailed, SourceGone
from perdure.model.check import check_number, check_texts
from perdure.turn.sse import EventReader, ServerSentEvent, TooLong
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
    A connection that ends before the work is done is made again by itself. 204 says that there is no more, 404 and 410
    that there is nothing any more.

    Each event needs an `id` of its own: with the last one's, nobody could tell it from that one, or go on behind it.

    Args:
        url: Where to start the work.
        method, json, headers: Of the request that starts it; the headers are sent each time.
        parse: Makes an event's value of it; its data as text when left out. If it raises SourceFailed with ``over``,
            the work has failed and a retry of the turn starts it anew.
        done: Data, or a type, of the event that says that all is done, and is none itself. Without one only 204 does.
        skip: Types of events that do not count and need no id, such as "ping".
        tries: How often in a row a connection may fail, or end without an event.
        delay: Seconds before the second try, doubled each time, unless the stream says how long to wait.
        event_bytes: The longest event; a longer one is SourceFailed.
        silence: Seconds without a byte, be it of a comment, after which the connection counts as broken; None waits
            for ever, also for a service that is gone and could not say so.
        client: For all requests, whose own timeouts do not count; one of its own for each when left out.
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
        skip: str | Iterable[str] = (),
        tries: int = 5,
        delay: float = 0.5,
        event_bytes: int = 1024 * 1024,
        silence: float | None = 300,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        check_number("HttpEvents(event_bytes)", event_bytes, 1)
        self._limits = httpx.Timeout(30, read=None if silence is None else some_micros(silence, "silence") / SECOND)
        self._url = url
        self._method = method
        self._json = json
        self._headers = dict(headers or {})
        self._parse = parse or (lambda event: event.data)
        self._done = done
        self._skip = check_texts("HttpEvents(skip)", skip)
        self._tries = tries
        self._delay = delay
        self._event_bytes = event_bytes
        self._client = client
        end = repr(done) if done is not None else "a sign of the end: name it in done=, or answer 204 when all is done"
        self._unfinished = f"its answer ended without {end}"

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
            reader = EventReader(self._event_bytes)
            try:
                async with self._connected(url, after, headers) as response:
                    if response.status_code == httpx.codes.NO_CONTENT:
                        return
                    if url is None:
                        url = _address(response)
                        yield Supplied(handle={"url": url})
                    async with aclosing(self._told(reader, response)) as told:
                        async for event in told:
                            if self._is_last(event):
                                return
                            yield Supplied(self._parse(event), self._id(event))
                            after, failures = event.id, 0
                    problem = self._unfinished
            except (httpx.TransportError, _Cut) as error:
                problem = f"{type(error).__name__}: {error}"
            wait = wait if reader.retry is None else reader.retry
            failures += 1
            if failures >= self._tries:
                raise SourceFailed(self._url, f"{problem} ({failures} times in a row)")
            await asyncio.sleep(min(_MOST_WAIT_S, wait * 2 ** (failures - 1)))

    def _is_last(self, event: ServerSentEvent) -> bool:
        return self._done is not None and self._done in {event.data, event.type}

    async def _told(self, reader: EventReader, response: httpx.Response) -> AsyncGenerator[ServerSentEvent, None]:
        kind = response.headers.get("Content-Type", "")
        if kind.partition(";")[0].strip().lower() != "text/event-stream":
            raise SourceFailed(self._url, f"its answer is {kind!r} and no text/event-stream")
        try:
            async for chunk in response.aiter_bytes():
                for event in reader.read(chunk):
                    if event.type not in self._skip:
                        yield event
        except TooLong as error:
            raise SourceFailed(self._url, f"{error}; send shorter ones, or set event_bytes=") from error

    def _id(self, event: ServerSentEvent) -> str:
        if event.id is None:
            problem = (
                f"an event of type {event.type!r} has no id of its own, so nobody can go on behind it: send an `id:` "
                "with each event, or name its type in skip= if it does not count"
            )
            raise SourceFailed(self._url, problem)
        return event.id

    @asynccontextmanager
    async def _connected(
        self, url: str | None, after: str | None, more: dict[str, str]
    ) -> AsyncGenerator[httpx.Response, None]:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store", **self._headers, **more}
        if after is not None:
            headers["Last-Event-ID"] = after
        method, json = (self._method, self._json) if url is None else ("GET", None)
        client = self._client or httpx.AsyncClient()
        try:
            sent = httpx.Headers(headers, encoding="utf-8")  # a run's id may be any text
            stream = client.stream(method, url or self._url, json=json, headers=sent, timeout=self._limits)
            async with stream as response:
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
