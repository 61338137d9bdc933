"""A chat turn as the body of an HTTP answer: lines of JSON, or server-sent events."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from perdure import ids
from perdure.client.client import Client
from perdure.client.handle import RunHandle
from perdure.codec.sse import MEDIA_TYPE, sse_comment, sse_event
from perdure.engine.definition import Workflow
from perdure.errors import InvalidOption, PerdureError, RunFinished, StoreClosed, StoreError
from perdure.model.check import check_number
from perdure.model.wire import wire_json
from perdure.store.load import find_run
from perdure.turn.follow import TurnEvent, code_of, end_of, follow, interrupt
from perdure.turn.producer import TurnResult
from perdure.turn.workflow import TurnWorkflow

log = logging.getLogger("perdure.turn")
NDJSON = "application/x-ndjson"
Line = dict[str, Any]
Framing = Literal["ndjson", "sse"]
_ending: set[asyncio.Task[None]] = set()
"""Ends of bodies whose readers have left; a loop alone would let go of its tasks."""


@dataclass(frozen=True, slots=True)
class ChatIdentity:
    """
    Which turn of which conversation.

    Attributes:
        tenant, session: Texts that are not empty: all who leave one out would share it.
        turn: Its number in the session, from 0.

    Raises:
        InvalidOption: One of them is something else.
    """

    tenant: str
    session: str
    turn: int

    def __post_init__(self) -> None:
        given: dict[str, object] = {"tenant": self.tenant, "session": self.session}  # whatever their types say
        for option, part in given.items():
            if not isinstance(part, str) or not part:
                raise InvalidOption(option, f"{part!r} is not a text of at least one character")
        check_number("turn", self.turn, 0)

    @property
    def run_id(self) -> str:
        """The id of the turn's run: no other tenant, session and turn have it."""
        return ids.joined_id("chat", self.tenant, self.session, self.turn)

    @property
    def session_key(self) -> str:
        """Of the session among those of all tenants: the key of a queue, for one turn of a session at a time."""
        return ids.joined_id(self.tenant, self.session)


class Connected(Protocol):
    """What is open on a database: an app."""

    @property
    def client(self) -> Client:
        """What callers ask of it."""


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """
    How a chat turn is told.

    Attributes:
        framing: "ndjson": a line of JSON for each event; "sse": server-sent events, whose ids are places to go on from.
        after: The place after which to go on, as a client that comes back says it in `Last-Event-ID`. None: from the
            beginning, and of a turn that is over already only its text.
        numbered: Whether each line has its place as "seq", for clients of lines that want to come back.
        on_line: Called with each line after the client has taken it, and awaited: it slows this client down, not the
            turn. Its errors are logged.
        flush: Called in the end, in every case, also when the task that reads the body is cancelled. Its errors are
            logged.
        wait_until: Given what is to be waited for of `flush`, instead of the client waiting for it.
        stop_when_left: Whether a client that leaves interrupts the turn. Otherwise it goes on, and a client that comes
            back finds it.
        keep_alive: Seconds of silence after which a comment keeps the connection of server-sent events open.
        stopping: Once it is set, bodies end with `session.run.disconnected`, so that clients come back to another
            process. Servers wait for connections to end before they tell their apps that they go down.
    """

    framing: Framing = "ndjson"
    after: int | None = None
    numbered: bool = False
    on_line: Callable[[Line], Any] | None = None
    flush: Callable[[], Any] | None = None
    wait_until: Callable[[Awaitable[Any]], Any] | None = None
    stop_when_left: bool = False
    keep_alive: float = 15.0
    stopping: asyncio.Event | None = None

    def __post_init__(self) -> None:
        if self.framing not in {"ndjson", "sse"}:
            option = "framing"
            raise InvalidOption(option, f"{self.framing!r} is neither 'ndjson' nor 'sse'")
        if self.after is not None:
            check_number("after", self.after, 0)
        check_number("keep_alive", self.keep_alive, 0.01, whole=False)


class ChatAnswer:
    """
    The answer to a request: an ASGI application, or a body for a framework's streaming response.

    Attributes:
        body: Its bytes, to be iterated once. It raises nothing but what its reader throws into it.
    """

    def __init__(self, body: AsyncGenerator[bytes, None], media_type: str) -> None:
        self.body = body
        self.media_type = media_type
        self.headers = {"content-type": media_type, "cache-control": "no-cache", "x-accel-buffering": "no"}

    async def __call__(self, _scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        """Answer as an ASGI application, until the body ends or the client has left."""
        headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            sending.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            await self.body.aclose()

    async def _send(self, send: Callable[[Any], Any]) -> None:
        async with aclosing(self.body):
            async for chunk in self.body:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Callable[[], Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def handle_chat_turn(
    app: Connected,
    turn: Workflow[..., TurnResult],
    identity: ChatIdentity,
    args: tuple[Any, ...] = (),
    *,
    start: Mapping[str, Any] | None = None,
    options: ChatOptions | None = None,
) -> ChatAnswer:
    """
    Answer a request for a turn: start it if nobody has, and tell what it says. Nothing happens before the first pull.

    A second request for the same turn follows it, or gets its text if it is over; one with another input is told so
    in its lines. Lines are {"type": …, "data": …}: `session.run.started`, then the producer's events as they are (text
    becomes `message.part.updated` with a delta), `turn.superseded` where what came before is void, and in the end
    `session.run.completed`, or `error` and `session.run.failed`, both with a "code". `session.run.disconnected` says
    nothing about the turn, but that this process cannot tell the rest: come back behind the last place.

    Args:
        turn: What ``@app.turn`` returned. What becomes of its text belongs to its options.
        args: The turn's input.
        start: Options of `Client.start`, such as ``queue`` and ``dedupe``; with a queue, its key is the session.

    Raises:
        InvalidOption: The workflow is no turn.
    """
    if not isinstance(turn, TurnWorkflow):
        option = "turn"
        raise InvalidOption(option, f"{turn!r} is no turn: declare it by @app.turn")
    chosen = options or ChatOptions()
    begin = dict(start or {})
    if begin.get("queue") or turn.settings.queue:
        begin.setdefault("key", identity.session_key)

    def begun() -> Awaitable[RunHandle[Any]]:
        return app.client.start(turn, args, id=identity.run_id, **begin)

    telling = _Telling(lambda: app.client, begun, identity, chosen)
    return ChatAnswer(telling.body(), MEDIA_TYPE if chosen.framing == "sse" else NDJSON)


class _Telling:
    """
    One answer.

    Args:
        start: Starts the turn, or finds it.
    """

    def __init__(
        self, client: Callable[[], Client], start: Callable[[], Awaitable[RunHandle[Any]]], identity: ChatIdentity,
        options: ChatOptions,
    ) -> None:  # fmt: skip
        self._client = client
        self._start = start
        self._identity = identity
        self._options = options
        self._seq = options.after or 0
        self._run: RunHandle[Any] | None = None

    async def body(self) -> AsyncGenerator[bytes, None]:
        """The lines as bytes; hooks are called when a line has been taken."""
        over = False
        try:
            async with aclosing(self._lines()) as lines:
                async for line in lines:
                    if line is None:
                        yield sse_comment()
                        continue
                    yield self._framed(line)
                    await self._hook(self._options.on_line, line)
            over = True
        finally:
            # Frameworks cancel a reader that has left again at each await, so the end is no part of its task.
            ending = asyncio.ensure_future(self._end(left=not over))
            _ending.add(ending)
            ending.add_done_callback(_ending.discard)
            await asyncio.shield(ending)

    async def _end(self, *, left: bool) -> None:
        if left and self._options.stop_when_left and self._run is not None:
            await _interrupt(self._run)
        await self._flush()

    async def _lines(self) -> AsyncGenerator[Line | None, None]:
        session = self._identity.session
        data = {"sessionId": session, "tenantId": self._identity.tenant, "turnIndex": self._identity.turn}
        yield {"type": "session.run.started", "data": data}
        try:
            async with aclosing(self._told()) as told:
                async for line in told:
                    yield line
        except Exception as error:  # noqa: BLE001 - the HTTP layer has sent its status already
            for line in [self._disconnected(error)] if _says_nothing(error) else self._failed(error):
                yield line

    async def _told(self) -> AsyncGenerator[Line | None, None]:
        """Start or find the turn, and follow it."""
        before = await find_run(self._client().store, self._identity.run_id)
        replayed = before is not None and bool(before.finished)
        self._run = await self._start()
        if replayed and self._options.after is None:
            end = await end_of(self._run, self._seq)
            if end.kind == "completed":
                yield {"type": "result", "data": {"finalText": end.value.text}}
            for line in self._said(end, replayed=True):
                yield line
            return
        async with aclosing(self._events(self._run)) as events:
            async for event in events:
                if event is None:
                    yield None
                    continue
                self._seq = event.seq
                for line in self._said(event, replayed=replayed):
                    yield line

    async def _events(self, run: RunHandle[Any]) -> AsyncGenerator[TurnEvent | None, None]:
        """The turn's events; None after each long silence."""
        wait = self._options.keep_alive if self._options.framing == "sse" else None
        async with aclosing(follow(run, after=self._options.after or 0)) as events:
            stopping = asyncio.ensure_future((self._options.stopping or asyncio.Event()).wait())
            coming = asyncio.ensure_future(anext(events))
            try:
                while True:
                    done, _ = await asyncio.wait({coming, stopping}, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                    if coming in done:
                        event = coming.result()
                        coming = asyncio.ensure_future(anext(events))
                        yield event
                    elif done:
                        raise _Stopping
                    else:
                        yield None
            except StopAsyncIteration:
                return
            finally:
                stopping.cancel()
                coming.cancel()
                await asyncio.gather(coming, stopping, return_exceptions=True)

    def _said(self, event: TurnEvent, *, replayed: bool) -> list[Line]:
        if event.kind == "event":
            return [as_line(event.value)]
        if event.kind == "void":
            return [{"type": "turn.superseded", "data": {"from": event.value}}]
        if event.kind == "paused":
            return [{"type": "session.run.paused", "data": {"sessionId": self._identity.session, **event.value}}]
        return [self._completed(replayed=replayed)] if event.kind == "completed" else self._failed(event.value)

    def _completed(self, *, replayed: bool) -> Line:
        return {"type": "session.run.completed", "data": {"sessionId": self._identity.session, "replayed": replayed}}

    def _disconnected(self, error: Exception) -> Line:
        log.info("chat turn %s: a reader is told to come back: %s", self._identity.run_id, error)
        return {"type": "session.run.disconnected", "data": {"sessionId": self._identity.session}}

    def _failed(self, error: BaseException) -> list[Line]:
        told = {"message": str(error), "code": code_of(error)}
        if not isinstance(error, PerdureError):
            log.warning("chat turn %s failed: %r", self._identity.run_id, error)
        return [
            {"type": "error", "data": told},
            {"type": "session.run.failed", "data": {"sessionId": self._identity.session, **told}},
        ]

    def _framed(self, line: Line) -> bytes:
        if self._options.numbered:
            line = {**line, "seq": self._seq}
        text = wire_json(line, ensure_ascii=False, separators=(",", ":"))
        if self._options.framing == "sse":
            return sse_event(text, event=str(line["type"]), id=str(self._seq))
        return f"{text}\n".encode("utf-8", "replace")

    async def _hook(self, hook: Callable[..., Any] | None, *args: Any) -> None:
        if hook is None:
            return
        try:
            called = hook(*args)
            if inspect.isawaitable(called):
                await called
        except Exception:
            log.exception("chat turn %s: a hook has failed", self._identity.run_id)

    async def _flush(self) -> None:
        if self._options.flush is None or self._options.wait_until is None:
            await self._hook(self._options.flush)
        else:
            await self._hook(self._options.wait_until, self._hook(self._options.flush))


class _Stopping(Exception):
    """The server is going down."""


def _says_nothing(error: Exception) -> bool:
    """Whether it is about this process and its database, and not about the turn."""
    return isinstance(error, _Stopping | StoreClosed) or (isinstance(error, StoreError) and error.retryable)


def as_line(value: Any) -> Line:
    """A producer's event as a line: one that is a line already as it is, text as a delta."""
    if isinstance(value, dict) and isinstance(value.get("type"), str):
        return value
    if isinstance(value, str):
        return {"type": "message.part.updated", "data": {"delta": value}}
    return {"type": "event", "data": {"value": value}}


async def _interrupt(run: RunHandle[Any]) -> None:
    try:
        await interrupt(run)
    except RunFinished:
        pass
    except Exception:
        log.exception("turn %s cannot be interrupted, though its client has left", run.id)
