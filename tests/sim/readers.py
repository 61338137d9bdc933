"""Readers of the simulation's answers: they come and go, and remember what they were told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.sim.mirror import rows

from perdure.errors import PerdureError
from perdure.model.entry import ENDINGS, Kind
from perdure.stream.options import StreamOptions
from perdure.stream.server import StreamServer
from perdure.turn import TurnResult, follow

if TYPE_CHECKING:
    from tests.sim.mirror import Fact, Run
    from tests.sim.process import Process
    from tests.sim.talks import Talk
    from tests.sim.world import World

CHUNKS = "select count(*) from perdure_chunks c join perdure_streams s on s.number = c.stream where s.name = ?"
WAYS = ("python", "sse", "sse", "long-poll", "catch-up")


class Line:
    """
    One connection to one process.

    Attributes:
        left: Set when the reader has gone; what is sent then is lost.
        ended: Set then, and when the process has ended it.
    """

    def __init__(self, pieces: int | None) -> None:
        self.left = asyncio.Event()
        self.ended = asyncio.Event()
        self._pieces = pieces

    def gets(self) -> bool:
        """Whether another piece still arrives."""
        if self._pieces is not None:
            self._pieces -= 1
            if self._pieces < 0:
                self.leave()
        return not self.left.is_set()

    def leave(self) -> None:
        """The reader goes."""
        self.left.set()
        self.ended.set()


class Reader:
    """
    One who reads an answer to its end.

    Attributes:
        told: Place and content of everything, in the order in which it came.
        place: Where to go on: an offset, or for Python code of a turn the seq.
        done: How the answer ended, as it was told; None before.
    """

    def __init__(self, world: World, name: str, form: str, rng: Random) -> None:
        self.world = world
        self.name = name
        self.rng = rng
        self.turn = form != "written"
        self.path = f"/v1/stream/{'runs' if self.turn else 'u'}/{quote(name)}"
        self.python = rng.random() < 0.4
        self.patient = rng.random() < 0.5
        self.options = StreamOptions(page_bytes=rng.choice((40, 300, 1_000_000)), long_poll=rng.choice((0.05, 2.0)))
        self.told: list[tuple[Any, Any]] = []
        self.place: Any = 0 if self.turn and self.python else "-1"
        self.done: Any = None

    # ---------------------------------------------------------------------------------- coming and going
    async def read(self, at: float) -> None:
        """Connect to one process after the other until the end was told."""
        await asyncio.sleep(at + self.rng.choice((0, 0, self.rng.uniform(0, 10))))
        while self.done is None:
            ready = [process for process in self.world.processes if process.alive and process.ready]
            if ready:
                await self._stay(self.rng.choice(ready))
            await asyncio.sleep(self.rng.choice((0.05, 0.3, 2.0)))

    async def _stay(self, process: Process) -> None:
        rng = self.rng
        line = Line(None if self.patient else rng.choice((None, 0, 1, 4)))
        serve = self._by_python if self.python else self._by_http
        process.spawn(self._serve(serve, process, line))
        loop = asyncio.get_running_loop()
        # Who is patient finds out whether it is woken: coming back would do without.
        until = float("inf") if self.patient else loop.time() + rng.choice((0.0, 0.01, 0.5, 6.0))
        while process.alive and loop.time() < until and not line.ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(0.1, until - loop.time())):
                    await line.ended.wait()
        line.leave()

    async def _serve(self, serve: Callable[..., Any], process: Process, line: Line) -> None:
        try:
            with process.awaits(lambda: self._owed(line)):
                await serve(process, line)
        except (PerdureError, asyncio.CancelledError):
            pass
        finally:
            line.ended.set()

    # ------------------------------------------------------------------------------------- as Python code
    async def _by_python(self, process: Process, line: Line) -> None:
        source = self._turn(process) if self.turn else process.app.stream(self.name, str).tail(self.place)
        reading = asyncio.ensure_future(self._take(source, line))
        leaving = asyncio.ensure_future(line.left.wait())
        await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for task in (reading, leaving):
            task.cancel()
        await asyncio.gather(reading, leaving, return_exceptions=True)

    def _turn(self, process: Process) -> AsyncIterator[Any]:
        return follow(process.app.handle(self.name), after=self.place)

    async def _take(self, source: Any, line: Line) -> None:
        async with contextlib.aclosing(source) as items:
            async for item in items:
                if not line.gets():
                    return
                if not self.turn:
                    self._hear(item.offset, item.value)
                elif item.kind in {"event", "void"}:
                    self._hear(item.seq, (item.kind, item.value))
                elif item.kind != "paused":
                    value = TurnResult(**item.value) if item.kind == "completed" else item.value
                    self.done = item.kind, value
                self.place = item.seq if self.turn else item.offset
        if not self.turn and not line.left.is_set():
            self.done = "closed", None

    # ------------------------------------------------------------------------------------------ over HTTP
    async def _by_http(self, process: Process, line: Line) -> None:
        way = self.rng.choice(("sse",) if self.patient else WAYS[1:])
        live = "" if way == "catch-up" else f"&live={way}"
        query = f"offset={self.place}{live}".encode()
        server = StreamServer(process.app, options=self.options)
        scope = {"type": "http", "method": "GET", "path": self.path, "raw_path": self.path.encode(), "scheme": "http",
                 "query_string": query, "headers": []}  # fmt: skip
        answer: dict[str, str] = {}

        async def receive() -> dict[str, Any]:
            await line.left.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer.update((name.decode().lower(), value.decode()) for name, value in message["headers"])
                answer["status"] = str(message["status"])
            elif answer["status"] in {"200", "204"} and (message.get("body") or way != "sse") and line.gets():
                self._events(message["body"]) if way == "sse" and answer["status"] == "200" else self._page(
                    answer, message.get("body", b"")
                )

        await server(scope, receive, send)

    def _events(self, body: bytes) -> None:
        """A piece of an event stream; of the last one perhaps only the beginning arrives."""
        blocks = body.decode().split("\n\n")[:-1]
        for block in blocks[: 1 if self.rng.random() < 0.1 else None]:
            lines = [line.partition(":")[::2] for line in block.split("\n")]
            fields = {name: value.strip() for name, value in lines}
            told = json.loads(fields["data"])
            if fields["event"] == "data":
                self._take_all(told, fields["id"])
            else:
                self._look_at_end(closed=bool(told.get("streamClosed")), at_end=bool(told.get("upToDate")))

    def _page(self, answer: dict[str, str], body: bytes) -> None:
        self._take_all(json.loads(body or b"[]"), answer["stream-next-offset"])
        self._look_at_end(
            closed=answer.get("stream-closed") == "true", at_end=answer.get("stream-up-to-date") == "true"
        )

    def _take_all(self, items: list[Any], place: str) -> None:
        for item in items:
            self._hear(item["seq"], item) if self.turn else self._hear(len(self.told), item)
        self.place = place

    def _look_at_end(self, *, closed: bool, at_end: bool) -> None:
        """A journal is closed with its last entry, not before and not behind it."""
        ended = bool(self.told) and self.turn and self.told[-1][1]["kind"] in ENDINGS
        if self.turn and at_end and closed != ended:
            self.world.wrong(f"a reader of {self.name} is told closed={closed} behind {self.told[-1:]}")
        if closed:
            self.done = "closed", None

    def _owed(self, line: Line) -> str:
        """What is durable, and not told on this line; empty when nothing is."""
        mirror = self.world.mirror
        if line.ended.is_set() or self.done is not None:
            return ""
        if not self.turn:
            durable = rows(mirror.connection, CHUNKS, self.name)[0][0]
            return (
                f"{self.name} has {durable} chunks, and a reader {len(self.told)}" if durable > len(self.told) else ""
            )
        facts = mirror.facts[mirror.numbers[self.name]] if self.name in mirror.numbers else []
        news = [fact for fact in facts if fact.seq > (self.told[-1][0] if self.told else 0)]
        if self.python:
            news = [fact for fact in news if fact.kind in ENDINGS or _shown(fact)]
        return f"a reader of {self.name} has {self.told[-1:]}, and there are {news}" if news else ""

    # ------------------------------------------------------------------------------------- what was told
    def _hear(self, place: Any, what: Any) -> None:
        if self.done is not None or (self.told and place <= self.told[-1][0]):
            self.world.wrong(f"a reader of {self.name} got {what} at {place} after {self.told[-1:]}, {self.done}")
        if self.turn:
            durable = self.world.mirror.last(self.name)
            if place > durable:
                self.world.wrong(f"I2: a reader of {self.name} got {what} at {place}, and durable is {durable}")
        self.told.append((place, what))

    def kept(self) -> list[str]:
        """What there is for who forgets what is void."""
        if not self.turn:
            return [word for _, word in self.told if word != "taken over"]
        words: list[tuple[int, str]] = []
        for seq, (kind, value) in self._events_told():
            if kind == "void":
                words = [word for word in words if word[0] < value]
            else:
                words.append((seq, value))
        return [word for _, word in words]

    def _events_told(self) -> list[tuple[int, tuple[str, Any]]]:
        if self.python:
            return self.told
        found: list[tuple[int, tuple[str, Any]]] = []
        for seq, entry in self.told:
            if entry["kind"] == Kind.STEP_EMITTED and entry["data"]["topic"] in {"event", "void"}:
                topic, value = entry["data"]["topic"], entry["data"]["value"]
                found.append((seq, (topic, value["event" if topic == "event" else "from"])))
        return found

    def result(self, run: Run) -> TurnResult:
        """How the turn ended, as the run has it."""
        return TurnResult(**json.loads(self.world.mirror.text(run.output) or "{}"))

    def problem(self, talk: Talk, run: Run) -> str:
        """What is wrong about what was told; empty when nothing is."""
        if self.done is None:
            return "it never came to the end"
        words, kept = [str(word) for word in range(talk.words)], self.kept()
        if not self.turn:
            return "" if kept == words else f"it has {kept} of {talk.words}"
        if run.status != "completed":
            return self._ending(run)
        result = self.result(run)
        said = TurnResult("".join(f"{word}," for word in kept), len(kept), result.interrupted)
        if said != result or (kept != words and not result.interrupted):
            return f"it has {said} of {talk.words}, and the turn is {result}"
        return self._ending(run)

    def _ending(self, run: Run) -> str:
        """Over HTTP it has every entry; Python code is told how the run has ended."""
        if not self.python:
            seqs, facts = [seq for seq, _ in self.told], [fact.seq for fact in self.world.mirror.facts[run.number]]
            return "" if seqs == facts else f"it has the entries {seqs} of {facts}"
        kind, value = self.done
        right = kind == run.status and (kind != "completed" or value == self.result(run))
        return "" if right else f"it was told {self.done} of {run.status} with {run.output}"


def _shown(fact: Fact) -> bool:
    """Whether who follows a turn in Python is told of an entry."""
    return fact.kind == Kind.STEP_EMITTED and json.loads(fact.data or "{}")["topic"] in {"event", "void"}
