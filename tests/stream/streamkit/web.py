"""A client that speaks ASGI to streams."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple
from urllib.parse import quote, urlsplit

TEXT = {"Content-Type": "text/plain"}
JSON = {"Content-Type": "application/json"}


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def offset(self) -> str:
        return self.headers["stream-next-offset"]

    @property
    def up_to_date(self) -> bool:
        return self.headers.get("stream-up-to-date") == "true"

    @property
    def closed(self) -> bool:
        return self.headers.get("stream-closed") == "true"


class Event(NamedTuple):
    name: str
    data: str
    id: str


class Web:
    """Calls an ASGI app as a server does."""

    def __init__(self, asgi) -> None:
        self.asgi = asgi

    async def __call__(self, method, path, headers=None, body=b"") -> Reply:
        body = body.encode() if isinstance(body, str) else body
        sent = []

        async def receive():
            if not received:
                received.append(True)
                return {"type": "http.request", "body": body, "more_body": False}
            return await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        received: list[bool] = []
        await self.asgi(self.scope(method, path, headers), receive, send)
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Reply(sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:]))

    def scope(self, method, path, headers):
        parts = urlsplit(path)
        return {
            "type": "http", "method": method, "path": parts.path, "raw_path": quote(parts.path).encode(),
            "query_string": parts.query.encode(), "scheme": "http",
            "headers": [(b"host", b"test"), *((k.lower().encode(), v.encode()) for k, v in (headers or {}).items())],
        }  # fmt: skip

    async def get(self, path, **headers) -> Reply:
        return await self("GET", path, {name.replace("_", "-"): value for name, value in headers.items()})

    async def make(self, name, body=b"", **headers) -> Reply:
        given = TEXT | {key.replace("_", "-"): value for key, value in headers.items()}
        return await self("PUT", f"/v1/stream/u/{name}", given, body)

    async def add(self, name, body=b"", **headers) -> Reply:
        given = TEXT | {key.replace("_", "-"): value for key, value in headers.items()}
        return await self("POST", f"/v1/stream/u/{name}", given, body)

    async def read(self, name, after="-1", **headers) -> Reply:
        return await self.get(f"/v1/stream/u/{name}?offset={after}", **headers)

    async def waits(self, app, readers=1) -> None:
        """Until so many readers wait."""
        while app.hub.tails.count + app.hub.served.count < readers:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)

    @asynccontextmanager
    async def events(self, path, **headers):
        """The events of a stream; leaving the block is the client's departure."""
        messages: asyncio.Queue = asyncio.Queue()
        left = asyncio.Event()

        async def receive():
            await left.wait()
            return {"type": "http.disconnect"}

        given = {name.replace("_", "-"): value for name, value in headers.items()}
        task = asyncio.ensure_future(self.asgi(self.scope("GET", path, given), receive, messages.put))
        found = Events(messages, task)
        try:
            yield found
        finally:
            left.set()
            with suppress(asyncio.CancelledError):
                await task


class Events:
    """What an event stream has sent."""

    def __init__(self, messages, task) -> None:
        self.messages = messages
        self.task = task
        self._text = ""

    async def start(self):
        message = await self.messages.get()
        return message["status"], {name.decode(): value.decode() for name, value in message["headers"]}

    async def next(self) -> Event | None:
        """The next event; None at the end."""
        while "\n\n" not in self._text:
            message = await self.messages.get()
            self._text += message.get("body", b"").decode()
            if not message.get("more_body"):
                return None
        block, _, self._text = self._text.partition("\n\n")
        fields: dict[str, list[str]] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            fields.setdefault(name, []).append(value.removeprefix(" "))
        return Event(fields["event"][0], "\n".join(fields["data"]), fields["id"][0])

    async def control(self):
        event = await self.next()
        assert event is not None
        assert event.name == "control"
        return json.loads(event.data)
