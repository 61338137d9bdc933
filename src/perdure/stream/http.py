"""HTTP as ASGI has it: a request to read from, an answer to send, errors as problem+json."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qs, quote

from perdure.errors import InvalidOption, PayloadTooLarge, PerdureError, ProducerFenced, ProducerGap, StreamClosed

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = dict[str, str]
PROBLEM = "application/problem+json"
EXPOSED = (
    "Stream-Next-Offset, Stream-Up-To-Date, Stream-Closed, Stream-Cursor, Stream-TTL, Stream-Expires-At, "
    "Stream-SSE-Data-Encoding, Producer-Epoch, Producer-Seq, Producer-Expected-Seq, "
    "Producer-Received-Seq, ETag, Location"
)
ALLOWED = (
    "Content-Type, Authorization, If-None-Match, Last-Event-ID, Stream-Seq, Stream-TTL, Stream-Expires-At, "
    "Stream-Closed, Stream-Forked-From, Stream-Fork-Offset, Stream-Fork-Sub-Offset, Producer-Id, "
    "Producer-Epoch, Producer-Seq"
)


class Left(Exception):
    """The client has gone before its request was whole."""


class Request:
    """
    One request.

    Attributes:
        headers: By their names in lower case.
        path: Decoded, without what the app is mounted under.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.method: str = scope["method"]
        self.headers: Headers = {}
        for name, value in scope["headers"]:
            key = name.decode("latin-1").lower()
            there = self.headers.get(key)
            self.headers[key] = f"{there}, {value.decode('latin-1')}" if there else value.decode("latin-1")
        path, root = scope["path"], scope.get("root_path", "")
        self.path: str = path[len(root) :] if root and path.startswith(root) else path
        self.query: dict[str, list[str]] = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)

    def one(self, name: str) -> str | None:
        """
        A parameter of the query that may occur once.

        Raises:
            InvalidOption: It occurs twice, or is empty.
        """
        values = self.query.get(name)
        if values is None:
            return None
        if len(values) > 1 or not values[0]:
            raise InvalidOption(name, "it is empty" if len(values) == 1 else "it is given twice")
        return values[0]

    @property
    def url(self) -> str:
        """Its address, without the query."""
        host = self.headers.get("host") or "localhost"
        return f"{self.scope.get('scheme', 'http')}://{host}{quote(self.scope['path'])}"

    async def body(self, most: int) -> bytes:
        """
        All of its body.

        Raises:
            PayloadTooLarge: More bytes than that.
            Left: The client has gone.
        """
        pieces: list[bytes] = []
        size = int(length) if (length := self.headers.get("content-length", "")).isdigit() else 0
        more = size <= most
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Left
            pieces.append(message.get("body", b""))
            size = sum(map(len, pieces))
            more = message.get("more_body", False) and size <= most
        if size > most:
            what = "The body"
            raise PayloadTooLarge(what, size, most)
        return b"".join(pieces)


class Answer:
    """An answer that is sent at once."""

    def __init__(self, status: int, headers: Mapping[str, str | None], body: bytes = b"") -> None:
        self.status = status
        self.headers = {name: value for name, value in headers.items() if value is not None}
        self.body = body

    async def send(self, send: Send, *, head: bool = False) -> None:
        """Send it; without its body to a HEAD request."""
        headers = self.headers if self.status in {204, 304} else self.headers | {"Content-Length": str(len(self.body))}
        await start(send, self.status, headers)
        await send({"type": "http.response.body", "body": b"" if head else self.body})


async def start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    """Begin an answer."""
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


def safe(request: Request, origins: Iterable[str]) -> Headers:
    """
    Headers of every answer: for browsers, so that content is what it is called, and read by who may.

    Args:
        origins: Web pages from there may read; "*" for all.
    """
    found = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}
    origin = request.headers.get("origin")
    if "*" in origins:
        found |= {"Cross-Origin-Resource-Policy": "cross-origin", "Access-Control-Allow-Origin": "*"}
    elif origin is not None and origin in origins:
        found |= {
            "Cross-Origin-Resource-Policy": "cross-origin",
            "Access-Control-Allow-Origin": origin,
            "Vary": "Origin",
        }
    return found | {"Access-Control-Expose-Headers": EXPOSED}


def problem(error: PerdureError) -> Answer:
    """What an error is answered with."""
    headers = {"Content-Type": PROBLEM, "Cache-Control": "no-store"}
    match error:
        case StreamClosed():
            headers |= {"Stream-Closed": "true", "Stream-Next-Offset": error.offset}
        case ProducerFenced():
            headers |= {"Producer-Epoch": str(error.epoch)}
        case ProducerGap():
            headers |= {"Producer-Expected-Seq": str(error.expected), "Producer-Received-Seq": str(error.received)}
    if error.http_status == 503:  # noqa: PLR2004 - unavailable
        headers |= {"Retry-After": "1"}
    return plain_problem(error.http_status, error.code, str(error), headers)


def plain_problem(status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> Answer:
    """A problem that no error stands for."""
    body = {"type": "about:blank", "status": status, "code": code, "detail": detail}
    shown = headers or {"Content-Type": PROBLEM, "Cache-Control": "no-store"}
    return Answer(status, shown, json.dumps(body).encode())
