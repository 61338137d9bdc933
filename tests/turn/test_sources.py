"""`HttpEvents`: work behind server-sent events."""

import asyncio
import json
from contextlib import asynccontextmanager

import httpx
import pytest

from perdure.errors import InvalidOption, SourceFailed, SourceGone
from perdure.testing import check_adapter
from perdure.turn import HttpEvents

SILENCE = object()


async def drained(source):
    return [supplied async for supplied in source]


@asynccontextmanager
async def served(handler):
    """
    A little HTTP server; `handler(method, headers)` gives (status, headers, chunks), or cuts the line by raising.

    Where a chunk is SILENCE it says nothing more, and does not end.
    """

    async def serve(reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        if length := int(headers.get("content-length", 0)):
            await reader.readexactly(length)
        try:
            method, path, _ = head[0].split()
            headers["work"] = path.rpartition("/")[2] or "1"
            status, more, chunks = handler(method, headers)
            lines = "".join(f"{name}: {value}\r\n" for name, value in more.items())
            writer.write(
                f"HTTP/1.1 {status} X\r\n{lines}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            )
            for chunk in chunks:
                if chunk is SILENCE:
                    await reader.read()
                    raise ConnectionAbortedError
                data = chunk.encode()
                writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                await writer.drain()
            writer.write(b"0\r\n\r\n")
        except ConnectionAbortedError:
            pass  # the line is cut in the middle of the answer
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


class Service:
    """
    Six events.

    The connection ends after `most` of them each time, in good order if it is polite. The first works fail, if there
    are failures. Without a last event, 204 is the end.
    """

    def __init__(self, most=99, *, status=200, ids=True, polite=False, last="event: done\ndata: {}\n\n", failures=0):
        self.most = most
        self.status = status
        self.ids = ids
        self.polite = polite
        self.last = last
        self.failures = failures
        self.asked = []
        self.works = []

    def __call__(self, method, headers):
        key = headers.get("idempotency-key")
        self.asked.append((method, key, headers.get("last-event-id")))
        if key is not None and key not in self.works:
            self.works.append(key)
        after = int(headers.get("last-event-id", 0))
        if not self.last and after == 6:
            return 204, {}, []
        work = self.works.index(key) + 1 if method == "POST" else int(headers["work"])
        head = {"Content-Type": "text/event-stream", "Location": f"/again/{work}"}
        return self.status, head, self._chunks(after, work)

    def _chunks(self, after, work):
        yield ": hello\n\nretry: 1\n\n"
        for sent, n in enumerate(range(after + 1, 7)):
            if sent == self.most and self.polite:
                return
            if sent == self.most:
                raise ConnectionAbortedError
            if work <= self.failures and n > 3:
                yield f"event: failed\nid: {n}\ndata: {{}}\n\n"
            yield f"id: {n}\ndata: {json.dumps({'n': n})}\n\n: still here\n\n" if self.ids else f"data: {n}\n\n"
        if self.last:
            yield self.last


def number(event):
    if event.type == "failed":
        raise SourceFailed("the service", "it says so", over=True)
    return event.json()["n"]


@pytest.mark.parametrize("polite", [False, True], ids=["cut", "ended"])
@pytest.mark.parametrize("end", [{"last": ""}, {}], ids=["204", "done"])
def test_an_http_source_conforms(polite, end):
    """Events would be lost or repeated when a worker that follows a service dies, or failed work not begun again."""
    options = {"json": {"task": 1}, "parse": number} | ({} if end else {"done": "done"})

    async def main():
        service, fails, cuts = Service(**end), Service(failures=1, **end), Service(2, polite=polite, **end)
        async with served(service) as url, served(fails) as failing, served(cuts) as cutting:
            events = await check_adapter(
                lambda: HttpEvents(url, **options),
                begun=lambda: len(service.works),
                fails=lambda: HttpEvents(failing, **options),
                cuts=lambda: HttpEvents(cutting, **options),
            )
            return events, service.asked

    events, asked = asyncio.run(main())
    assert [event.value for event in events] == [1, 2, 3, 4, 5, 6]
    assert asked[0] == ("POST", "conformance-calm", None)
    assert ("GET", None, "3") in asked


def test_a_connection_that_breaks_is_made_again():
    """Every hiccup of the network would fail the turn, or lose an event."""

    async def main():
        service = Service(most=2)
        async with served(service) as url, httpx.AsyncClient() as client:
            events = await drained(HttpEvents(url, done="done", client=client).start("k"))
            return events, service.asked

    events, asked = asyncio.run(main())
    assert [event.id for event in events] == [None, "1", "2", "3", "4", "5", "6"]
    assert [(method, last) for method, _, last in asked] == [("POST", None), ("GET", "2"), ("GET", "4")]


def test_a_service_that_falls_silent_is_asked_again():
    """A service that is gone without a word would keep its turn waiting for ever."""

    async def main():
        service = Service()

        def silent(method, headers):
            status, more, chunks = service(method, headers)
            return status, more, [*list(chunks)[:2], SILENCE] if method == "POST" else chunks

        async with served(silent) as url:
            return await drained(HttpEvents(url, done="done", silence=0.2).start("k")), service.asked

    events, asked = asyncio.run(main())
    assert [event.id for event in events] == [None, "1", "2", "3", "4", "5", "6"]
    assert [method for method, *_ in asked] == ["POST", "GET"]


@pytest.mark.parametrize(("silence", "read"), [(300, 300), (5, 5), (None, None)])
def test_a_clients_own_timeouts_do_not_count(silence, read):
    """A client as httpx makes it would break each connection off after five quiet seconds."""
    asked = []

    def answer(request):
        asked.append(request.extensions["timeout"]["read"])
        return httpx.Response(204)

    async def main():
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), timeout=1) as client:
            await drained(HttpEvents("http://localhost", client=client, silence=silence).start("k"))

    asyncio.run(main())
    assert asked == [read]


@pytest.mark.parametrize("silence", [0, -1, "soon"])
def test_a_silence_that_is_none(silence):
    """Each connection would count as broken at once."""
    with pytest.raises(InvalidOption, match="silence"):
        HttpEvents("http://localhost", silence=silence)


@pytest.mark.parametrize(
    ("service", "attached", "error", "text"),
    [
        (Service(status=404), True, SourceGone, "404"),
        (Service(status=410), True, SourceGone, "410"),
        (Service(status=404), False, SourceFailed, "404"),
        (Service(status=400), True, SourceFailed, "400"),
        (Service(status=503), True, SourceFailed, "3 times in a row"),
        (Service(most=0), True, SourceFailed, "3 times in a row"),
        (Service(ids=False), False, SourceFailed, "no id of its own"),
    ],
)
def test_what_a_service_refuses_is_told(service, attached, error, text):
    """A turn would be tried for ever, or started anew though the service is only busy."""

    async def main():
        async with served(service) as url:
            adapter = HttpEvents(url, done="done", tries=3, delay=0.001)
            await drained(adapter.attach({"url": url}, None) if attached else adapter.start("k"))

    with pytest.raises(error, match=text):
        asyncio.run(main())


def answered(*chunks):
    return lambda *_: (200, {"Content-Type": "text/event-stream"}, chunks)


def test_an_event_without_an_id_of_its_own_is_told():
    """It would be taken for the one before it, and dropped as known."""

    async def main():
        got = []
        async with served(answered("id: 1\ndata: one\n\n", "data: two\n\n", "id: 3\ndata: three\n\n")) as url:
            with pytest.raises(SourceFailed, match=r"'message' has no id of its own.*skip="):
                async for supplied in HttpEvents(url, done="done").start("k"):
                    got.append(supplied.value)
        return got

    assert asyncio.run(main()) == [None, "one"]


def test_events_that_do_not_count_are_skipped():
    """A service that says now and then that it lives could not be followed."""

    async def main():
        ping = "event: ping\ndata: {}\n\n"
        async with served(answered(ping, "id: 1\ndata: one\n\n", ping, "data: done\n\n")) as url:
            return await drained(HttpEvents(url, done="done", skip="ping").start("k"))

    assert [event.value for event in asyncio.run(main())] == [None, "one"]


def test_an_end_that_nothing_announces_is_told():
    """Half an answer would be taken for all of it."""

    async def main():
        async with served(answered()) as url:
            await drained(HttpEvents(url, tries=2, delay=0.001).start("k"))

    with pytest.raises(SourceFailed, match=r"done=, or answer 204 .*2 times in a row"):
        asyncio.run(main())


def test_an_event_has_a_limit():
    """A service that sends no line ends would take all memory."""

    async def main():
        async with served(answered("id: 1\ndata: ", *["x" * 100] * 20)) as url:
            await drained(HttpEvents(url, event_bytes=1000).start("k"))

    with pytest.raises(SourceFailed, match=r"more than 1,000 bytes; .*event_bytes="):
        asyncio.run(main())


def test_a_key_may_be_any_text():
    """A turn whose id is not English could not be supervised."""

    async def main():
        service = Service()
        async with served(service) as url:
            await drained(HttpEvents(url, done="done").start("chät:1/turn"))
        return service.works

    assert asyncio.run(main()) == ["chät:1/turn"]


def test_an_answer_that_is_no_stream_is_told():
    """An error page would be taken for the end of the work."""

    async def main():
        async with served(lambda *_: (200, {"Content-Type": "text/html"}, ["<html>"])) as url:
            await drained(HttpEvents(url).start("k"))

    with pytest.raises(SourceFailed, match="text/event-stream"):
        asyncio.run(main())


def test_an_answer_without_content_says_that_all_was_said():
    """A reader that comes back after the end would try again for ever."""

    async def main():
        async with served(lambda *_: (204, {}, [])) as url:
            return await drained(HttpEvents(url, done="done").attach({"url": url}, "6"))

    assert asyncio.run(main()) == []
