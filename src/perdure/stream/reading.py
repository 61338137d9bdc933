"""GET on a stream: catch up, wait for what comes, or have it sent as events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from perdure import ids
from perdure.codec.sse import MEDIA_TYPE, sse_event
from perdure.errors import InvalidOption, Overloaded, PerdureError
from perdure.stream.http import Answer, Headers, Receive, Request, Send, start
from perdure.stream.hub import Hub
from perdure.stream.offset import NOW, Offset, cursor_after, offset_of
from perdure.stream.options import StreamOptions
from perdure.stream.source import Page, Source
from perdure.stream.tails import Tail

CACHED = "private, max-age=60, stale-while-revalidate=300"
"""Of a whole page, which stays what it is. Journals are data of users, so shared caches keep none of it."""
RETRY_MS = 1_000


class Reading:
    """
    One GET request on a stream.

    Args:
        common: Headers of every answer.
    """

    def __init__(self, source: Source, request: Request, hub: Hub, options: StreamOptions, common: Headers) -> None:
        self._source = source
        self._request = request
        self._clock = hub.clock
        self._tails = hub.served
        self._options = options
        self._common = common

    async def answer(self, send: Send) -> None:
        """
        Read, and send what there is.

        Raises:
            InvalidOption: Parameters that cannot be.
            Overloaded: Too many wait already.
        """
        live, given = self._request.one("live"), self._request.one("offset")
        if live not in {None, "long-poll", "sse"}:
            option = "live"
            raise InvalidOption(option, f"{live!r} is neither long-poll nor sse")
        if live == "sse":
            # What a browser's EventSource sends when it comes back to the same address.
            given = self._request.headers.get("last-event-id") or given
        if live is not None and given is None:
            option = "offset"
            raise InvalidOption(option, "live readers have to say where they begin; -1 is the beginning")
        if live is not None and self._tails.count >= self._options.tails:
            what = "The room for readers that wait"
            raise Overloaded(what, self._options.tails)
        after = None if given == NOW else offset_of(given or "-1")
        await self._source.touch()
        if live == "sse":
            await self._events(send, after)
        else:
            reply = await (self._catch_up(after) if live is None else self._long_poll(after))
            await reply.send(send)

    # ------------------------------------------------------------------------------------ catch-up
    async def _catch_up(self, after: Offset | None) -> Answer:
        if after is None:
            page = await self._source.end()
            return self._page(page, {"Cache-Control": "no-store"})
        page = await self._source.page(after, self._options.page_bytes)
        etag = f'"{self._source.watched}:{after}:{page.next}{":c" if page.closed else ""}"'
        headers = {"ETag": etag, "Cache-Control": "private, no-cache" if page.at_end else CACHED}
        known = self._request.headers.get("if-none-match", "")
        if etag in (part.strip().removeprefix("W/") for part in known.split(",")):
            return Answer(304, self._common | headers | self._place(page))
        return self._page(page, headers)

    def _page(self, page: Page, headers: Headers) -> Answer:
        kind = {"Content-Type": self._source.content.type}
        body = self._source.content.body(page.chunks)
        return Answer(200, self._common | kind | headers | self._place(page), body)

    def _place(self, page: Page) -> Headers:
        found = {"Stream-Next-Offset": str(page.next)}
        if page.at_end:
            found["Stream-Up-To-Date"] = "true"
        if page.closed:
            found["Stream-Closed"] = "true"
        return found

    # ------------------------------------------------------------------------------------- waiting
    async def _long_poll(self, after: Offset | None) -> Answer:
        until = asyncio.get_running_loop().time() + self._options.long_poll
        async with self._waiting(self._request.receive) as tail:
            page = await self._first(after)
            while not page.chunks and not page.closed and await tail.wait(until - asyncio.get_running_loop().time()):
                page = await self._tails.page(self._source, page.next, self._options.page_bytes)
        headers = {"Cache-Control": "no-store"}
        if not page.closed:
            headers["Stream-Cursor"] = cursor_after(self._clock.now(), self._request.one("cursor"))
        if page.chunks:
            return self._page(page, headers)
        return Answer(204, self._common | headers | self._place(page))

    async def _first(self, after: Offset | None) -> Page:
        if after is None:
            return await self._source.end()
        return await self._source.page(after, self._options.page_bytes)

    @asynccontextmanager
    async def _waiting(self, receive: Receive) -> AsyncGenerator[Tail, None]:
        """A place among those that wait, which is given up when the client goes."""
        tail = self._tails.enter(self._source.watched)
        gone = asyncio.ensure_future(_departure(receive))
        gone.add_done_callback(lambda _: tail.dismiss())
        try:
            yield tail
        finally:
            gone.cancel()
            tail.leave()

    # -------------------------------------------------------------------------------------- events
    async def _events(self, send: Send, after: Offset | None) -> None:
        # Those that came together need not go, and come back, together.
        until = asyncio.get_running_loop().time() + self._options.sse * (0.9 + 0.2 * ids.jitter())
        async with self._waiting(self._request.receive) as tail:
            page = await self._first(after)
            if page.closed and not page.chunks and "last-event-id" in self._request.headers:
                # The one answer after which an EventSource does not come back.
                await Answer(204, self._common | self._place(page)).send(send)
                return
            await start(send, 200, self._common | self._event_headers())
            await self._send(send, page, retry=RETRY_MS)
            while not page.closed and (not page.at_end or await tail.wait(until - asyncio.get_running_loop().time())):
                try:
                    page = await self._tails.page(self._source, page.next, self._options.page_bytes)
                except PerdureError:
                    break  # it was removed; whoever comes back is told
                if page.chunks or page.closed:
                    await self._send(send, page)
            await send({"type": "http.response.body", "body": b""})

    def _event_headers(self) -> Headers:
        found = {"Content-Type": MEDIA_TYPE, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        encoding = self._source.content.encoding
        return found if encoding is None else found | {"Stream-SSE-Data-Encoding": encoding}

    async def _send(self, send: Send, page: Page, retry: int | None = None) -> None:
        """A page, as its data and where that leads; both in one piece."""
        place = str(page.next)
        control: dict[str, str | bool] = {"streamNextOffset": place}
        if page.closed:
            control["streamClosed"] = True
        else:
            control["streamCursor"] = cursor_after(self._clock.now(), self._request.one("cursor"))
        if page.at_end:
            control["upToDate"] = True
        data = (
            sse_event(self._source.content.event(page.chunks), event="data", id=place, tight=True)
            if page.chunks
            else b""
        )
        told = sse_event(json.dumps(control, separators=(",", ":")), event="control", id=place, retry=retry, tight=True)
        await send({"type": "http.response.body", "body": data + told, "more_body": True})


async def _departure(receive: Receive) -> None:
    """Until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
