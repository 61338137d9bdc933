"""The Durable Streams protocol as an ASGI app: runs to read, streams to read and to write."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple, Protocol

from perdure.errors import InvalidOption, PerdureError
from perdure.model.check import check_texts
from perdure.model.entry import Kind
from perdure.stream import writing
from perdure.stream.http import (
    ALLOWED,
    Answer,
    Headers,
    Left,
    Message,
    Receive,
    Request,
    Scope,
    Send,
    plain_problem,
    problem,
    safe,
)
from perdure.stream.hub import Hub
from perdure.stream.options import StreamOptions
from perdure.stream.reading import Reading
from perdure.stream.source import Source

READS = frozenset({"GET", "HEAD"})
WRITES = frozenset({"PUT", "POST", "DELETE"})
log = logging.getLogger("perdure.stream")


class Access(NamedTuple):
    """
    What a request asks for, for whoever decides whether it may.

    Attributes:
        method: GET, HEAD, PUT, POST or DELETE. A fork asks twice: PUT for itself, and GET for its source.
        kind: "run" or "stream".
        name: The run's id, or the stream's name.
        headers: Of the request, by their names in lower case.
        scope: The request as ASGI has it: who the client is, and what middleware left there.
    """

    method: str
    kind: str
    name: str
    headers: Headers
    scope: Scope


Authorize = Callable[[Access], bool | Awaitable[bool]]


class Host(Protocol):
    """An app."""

    @property
    def hub(self) -> Hub:
        """Its streams, while it is open."""


class Place(NamedTuple):
    """What a path means."""

    kind: str
    name: str
    kinds: tuple[str, ...] = ()


class StreamServer:
    """
    An ASGI app: run it by itself, or mount it in one of FastAPI, Starlette or any other.

    Without `authorize`, EVERYBODY WHO CAN REACH IT READS EVERY RUN AND WRITES EVERY STREAM.

    Args:
        host: The app whose runs and streams these are; it has to be open when requests come.
        authorize: Asked before each request, may be a coroutine function; False is answered with 403.
        prefix: What paths of streams begin with.
        named: What follows it for streams that are written by name; "" for all that is not a run.
        runs: What paths of runs' events begin with, which can be filtered by ?types=.
        origins: Web pages from there may read and write; "*" for all.

    Raises:
        InvalidOption: An origin is no text.
    """

    def __init__(
        self,
        host: Host,
        *,
        authorize: Authorize | None = None,
        prefix: str = "/v1/stream/",
        named: str = "u/",
        runs: str = "/v1/runs/",
        origins: Collection[str] = (),
        options: StreamOptions | None = None,
    ) -> None:
        self._host = host
        self._authorize = authorize
        self._prefix = prefix
        self._named = prefix + named
        self._runs = runs
        self._origins = check_texts("origins", origins)
        self._options = options or StreamOptions()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._respond(Request(scope, receive), send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                self.stop()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    def stop(self) -> None:
        """End at once what waits, long-polls and event streams, as a server that goes down would wait for it."""
        self._host.hub.served.stop()

    async def _respond(self, request: Request, send: Send) -> None:
        common, begun = safe(request, self._origins), False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            place = self._place(request)
            if request.method == "GET" and place is not None:
                await self._check(request, place)
                source = await self._source(place)
                hub = self._host.hub
                reading = Reading(source, request, hub, self._options, common)
                await reading.answer(sending)
                return
            answer = await self._act(request, place)
        except Left:
            return
        except PerdureError as error:
            if begun:
                raise
            answer = problem(error)
            if error.http_status >= 500:  # noqa: PLR2004 - ours
                log.warning("%s %s: %s", request.method, request.path, error)
        except _Refused as error:
            answer = error.answer
        answer.headers = common | answer.headers
        await answer.send(send, head=request.method == "HEAD")

    # ------------------------------------------------------------------------------------- routing
    def _place(self, request: Request) -> Place | None:
        path = request.path
        if path.startswith(f"{self._prefix}runs/"):
            return Place("run", path[len(self._prefix) + 5 :])
        if path.startswith(self._named) and len(path) > len(self._named):
            return Place("stream", path[len(self._named) :])
        if path.startswith(self._runs) and path.endswith("/events"):
            wanted = tuple(filter(None, ",".join(request.query.get("types", ())).split(",")))
            if unknown := set(wanted) - {kind.value for kind in Kind}:
                option = "types"
                raise InvalidOption(option, f"{sorted(unknown)} are no kinds of entries; there are {', '.join(Kind)}")
            return Place("run", path[len(self._runs) : -len("/events")], wanted)
        return None

    async def _source(self, place: Place) -> Source:
        if place.kind == "run":
            return await self._host.hub.run(place.name, place.kinds)
        return await self._host.hub.named(place.name)

    async def _check(self, request: Request, place: Place, method: str | None = None) -> None:
        if self._authorize is None:
            return
        asked = Access(method or request.method, place.kind, place.name, request.headers, request.scope)
        allowed = self._authorize(asked)
        if not (await allowed if inspect.isawaitable(allowed) else allowed):
            raise _Refused(plain_problem(403, "forbidden", "This is not yours to read or write."))

    async def _act(self, request: Request, place: Place | None) -> Answer:
        """Whatever is not a GET."""
        method = request.method
        if place is None:
            return plain_problem(404, "not_found", f"Nothing is at {request.path}.")
        allowed = READS if place.kind == "run" else READS | WRITES
        if method == "OPTIONS":
            methods = ", ".join(sorted(allowed | {"OPTIONS"}))
            return Answer(204, {
                "Access-Control-Allow-Methods": methods, "Access-Control-Allow-Headers": ALLOWED,
                "Access-Control-Max-Age": "3600", "Allow": methods,
            })  # fmt: skip
        if method not in allowed:
            refused = plain_problem(405, "method_not_allowed", f"A {place.kind} takes no {method}.")
            refused.headers["Allow"] = ", ".join(sorted(allowed | {"OPTIONS"}))
            return refused
        await self._check(request, place)
        return (
            await self._write(request, place.name)
            if method in WRITES
            else await writing.head(await self._source(place))
        )

    async def _write(self, request: Request, name: str) -> Answer:
        hub = self._host.hub
        if request.method == "POST":
            return await writing.append(hub, request, name)
        if request.method == "DELETE":
            return await writing.delete(hub, name)
        source = writing.source_of(request.headers, self._named)
        if source is not None:
            await self._check(request, Place("stream", source), "GET")
        return await writing.create(hub, request, name, self._named)


class _Refused(Exception):
    """A request that is answered without an error of ours."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer
