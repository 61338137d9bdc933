"""Supervised turns: work elsewhere that is attached to again, and the adapters that come with perdure."""

import asyncio
import json
import sys
from contextlib import asynccontextmanager

import httpx
import pytest
from tests.turn.conftest import kept

from perdure.errors import InvalidOption, SourceFailed, SourceGone
from perdure.store.operation import Operation
from perdure.testing import AdapterMismatch, check_adapter
from perdure.turn import (
    HttpEvents,
    SpooledProcess,
    Supplied,
    Turn,
    TurnResult,
    follow,
    interrupt,
    supervise,
)

COUNT = 12


class Works:
    """Works elsewhere: each goes on by itself once started, an event every virtual second."""

    def __init__(self, *, again=0, count=COUNT):
        self.started = []
        self.attached = []
        self.gone = False
        self.again = again
        self.count = count

    async def start(self, key):
        self.started.append(key)
        yield Supplied(handle={"work": len(self.started)})
        async for supplied in self._events(0):
            yield supplied

    async def attach(self, handle, after):
        self.attached.append((handle["work"], after))
        if self.gone:
            self.gone = False
            raise SourceGone("the work", "it was thrown away")
        async for supplied in self._events(max(0, int(after or 0) - self.again)):
            yield supplied

    async def _events(self, first):
        for n in range(first, self.count):
            await asyncio.sleep(1)
            yield Supplied(f"<{n + 1}>", str(n + 1))


WHOLE = [f"<{n + 1}>" for n in range(COUNT)]


def dying(stage, works, deaths):
    """A producer that follows a work, and whose process dies after some of its events."""

    async def producer(turn: Turn):
        async for event in supervise(turn, works):
            yield event
            if deaths and event.id == str(deaths[0]):
                deaths.pop(0)
                await asyncio.sleep(0.5)
                stage.die()
                await asyncio.sleep(100)

    return producer


def test_a_fresh_one_starts_the_work(stage):  # V2 V3 V8
    """Work would be attached to that is not there, or its events would be lost."""
    works = Works()
    told = [event for event, _ in stage.say(dying(stage, works, []), continues=True)]
    assert [event.value for event in told[:-1]] == WHOLE
    assert told[-1].value == TurnResult("".join(WHOLE), COUNT)
    assert (len(works.started), works.attached) == (1, [])


@pytest.mark.parametrize("again", [0, 1, 3], ids=["exact", "boundary again", "more again"])
def test_one_that_was_cut_off_is_attached_to(stage, again):  # V4 V5 V6
    """A second model would be started, an event lost or told twice."""
    works = Works(again=again)
    got, _ = stage.survive_turn(dying(stage, works, [3, 7, 12]), continues=True)
    assert [event.value for event in got[:-1]] == WHOLE
    assert (len(works.started), works.attached) == (1, [(1, "3"), (1, "7"), (1, "12")])


def test_one_that_is_over_asks_nobody(stage):  # V7
    """A reader of yesterday's answer would start the work again."""
    works = Works()

    async def main():
        async with stage.turning(dying(stage, works, []), continues=True) as (app, turn):
            run = await app.start(turn, id="t")
            await run.result()
            again = await app.start(turn, id="t")
            return [event.value async for event in follow(again)]

    assert stage.play(main)[:-1] == WHOLE
    assert len(works.started) == 1


def test_work_that_is_gone_is_started_again(stage):
    """A turn would wait for ever for a machine that was shut down."""
    works = Works()
    works.gone = True
    got, _ = stage.survive_turn(dying(stage, works, [3]), continues=True)
    assert [event.kind for event in got].count("void") == 1
    assert kept(got) == WHOLE
    assert len(works.started) == 2


def test_events_without_a_handle_are_void(stage):  # V14
    """The log would mix two executions, or a reader lose the beginning."""

    class Late(Works):
        async def start(self, key):
            self.started.append(key)
            first = len(self.started) == 1
            async for supplied in self._events(0):
                yield supplied._replace(value=f"{len(self.started)}{supplied.value}")
                if first and supplied.id == "2":
                    await asyncio.sleep(0.5)
                    stage.die()
                    await asyncio.sleep(100)

    works = Late()
    got, _ = stage.survive_turn(dying(stage, works, []), continues=True)
    assert kept(got) == [f"2{event}" for event in WHOLE]
    assert works.started == ["t/turn"] * 2


def test_an_orphan_is_finished_without_a_client(stage):  # H4 H5 H7 H8
    """Turns whose client and process are gone would stay half said."""
    works = [Works(), Works()]

    async def main():
        async def producer(turn: Turn, number: int):
            async for event in supervise(turn, works[number]):
                yield event

        async with stage.turning(producer, continues=True) as (app, turn):
            for number in (0, 1):
                await app.start(turn, number, id=f"t{number}")
            await asyncio.sleep(3.5)
            app.worker.kill()
        async with stage.turning(producer, continues=True) as (app, turn):
            await asyncio.sleep(300)
            return [(await app.handle(f"t{number}").info()).status for number in (0, 1)]

    assert stage.play(main) == ["completed"] * 2
    assert [(len(each.started), len(each.attached)) for each in works] == [(1, 1), (1, 1)]


def test_a_failed_one_goes_on_when_it_is_run_again(stage):  # V9 V13
    """An operator's retry would pay for all of it again."""
    works = Works()
    broken = [True]

    async def main():
        async def producer(turn: Turn):
            async for event in supervise(turn, works):
                yield event
                if event.id == "5" and broken:
                    raise OSError(broken.pop())

        async with stage.turning(producer, continues=True) as (app, turn):
            run = await app.start(turn, id="t")
            first = [event async for event in follow(run)]
            await app.client.rerun("t")
            return first, [event async for event in follow(run, after=first[-1].seq)]

    first, second = stage.play(main)
    assert first[-1].kind == "failed"
    assert [event.value for event in (*first[:-1], *second[:-1])] == WHOLE
    assert (len(works.started), works.attached) == (1, [(1, "5")])


def test_a_turn_that_does_not_continue_is_told(stage):
    """Every take-over would start the work once more, in silence."""
    told = [event for event, _ in stage.say(dying(stage, Works(), []))]
    assert isinstance(told[-1].value, InvalidOption)
    assert "continues=True" in str(told[-1].value)


# ------------------------------------------------------------------------------------- conformance
@pytest.fixture
def quick(stage):
    """Run it where a second takes none."""
    return stage.play


def test_a_good_adapter_conforms(quick):  # V1
    """The kit would refuse what is right."""
    works = Works()
    events = quick(lambda: check_adapter(lambda: works))
    assert [event.value for event in events] == WHOLE


class NoHandle(Works):
    async def start(self, key):
        async for supplied in self._events(0):
            yield supplied


class LateHandle(Works):
    async def start(self, key):
        async for supplied in self._events(0):
            yield supplied._replace(handle={"work": 1} if supplied.id == "4" else None)


class SameIds(Works):
    async def _events(self, first):
        async for supplied in super()._events(first):
            yield supplied._replace(id="7")


class Loses(Works):
    async def attach(self, handle, after):
        async for supplied in self._events(int(after or 0) + 1):
            yield supplied


class FromTheTop(Works):
    async def attach(self, handle, after):
        async for supplied in self._events(0):
            yield supplied


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (NoHandle, "told no handle"), (LateHandle, "no handle had come before event 1"), (SameIds, "not unique"),
        (Loses, "behind None"), (FromTheTop, "behind '1'"),
    ],
)  # fmt: skip
def test_a_bad_adapter_is_found(quick, wrong, problem):  # V1
    """An adapter that loses events, or repeats them, would be found in production."""
    with pytest.raises(AdapterMismatch, match=problem):
        quick(lambda: check_adapter(wrong))


# --------------------------------------------------------------------------------------- processes
TALK = """
import sys, time
for n in range(int(sys.argv[1])):
    print(f'{{"n": {n}}}', flush=True)
    time.sleep(float(sys.argv[2]))
print('last', end='')
sys.stderr.write('what went wrong')
sys.exit(int(sys.argv[3]))
"""


def talk(folder, count=5, pause=0.01, code=0, **options):
    return SpooledProcess([sys.executable, "-c", TALK, str(count), str(pause), str(code)], folder, **options)


def test_a_process_conforms(tmp_path):
    """Lines would be lost or repeated when a worker that follows a program dies."""
    events = asyncio.run(check_adapter(lambda: talk(tmp_path)))
    assert [event.value for event in events] == [*[f'{{"n": {n}}}' for n in range(5)], "last"]


def test_a_process_outlives_its_worker_and_is_followed_by_the_next(stage, tmp_path):  # V4
    """The program would be run twice, or end with the worker that began it."""
    begun = tmp_path / "begun"
    program = f"open({str(begun)!r}, 'a').write('x')\n{TALK}"
    deaths = [2]

    async def main():
        lost = asyncio.Event()

        async def producer(turn: Turn):
            adapter = SpooledProcess([sys.executable, "-c", program, "8", "0.1", "0"], tmp_path / "spool")
            async for event in supervise(turn, adapter):
                yield event
                if deaths and turn.events == deaths[0]:
                    deaths.pop()
                    dead = Operation([("declare_dead", (stage.working.worker.number, 0))])
                    await stage.working.client.store.apply(dead)
                    try:
                        await asyncio.sleep(100)
                    finally:
                        lost.set()

        got = []
        async with stage.turning(producer, continues=True) as (first, turn):
            stage.working = first
            await first.start(turn, id="t")
            async with stage.turning(producer, continues=True) as (second, turn):
                async for event in follow(second.handle("t", turn)):
                    got.append(event)
        assert lost.is_set()
        return got

    got = stage.play_on_real_clock(main)
    assert [event.value for event in got[:-1]] == [*[f'{{"n": {n}}}' for n in range(8)], "last"]
    assert begun.read_text() == "x"


async def drained(source):
    return [supplied async for supplied in source]


def test_a_process_that_fails_says_why(tmp_path):
    """A turn would complete with half an answer."""
    with pytest.raises(SourceFailed, match="exit code 3: what went wrong"):
        asyncio.run(drained(talk(tmp_path, 2, code=3).start("k")))


def test_a_process_that_was_killed_is_gone(tmp_path):
    """A reader would wait for ever for a program that a reboot ended."""

    async def main():
        adapter = talk(tmp_path, 1000, 0.05)
        source = adapter.start("k")
        handle = (await anext(source)).handle
        assert (await anext(source)).value == '{"n": 0}'
        await source.aclose()
        await adapter.stop(handle)
        with pytest.raises(SourceGone, match="was killed"):
            await drained(adapter.attach(handle, None))
        again = adapter.start("k")
        assert [(await anext(again)).value for _ in range(2)] == [None, '{"n": 0}']
        await adapter.stop(handle)
        await again.aclose()
        with pytest.raises(SourceGone, match="not there"):
            await drained(adapter.attach({"spool": str(tmp_path / "nothing")}, None))

    asyncio.run(main())


def test_started_twice_under_one_key_it_runs_once(tmp_path):  # V14
    """A crash before the handle was kept would start a second program."""

    async def main():
        adapter = talk(tmp_path, 5, 0.05)
        first = adapter.start("k")
        await anext(first)
        both = await asyncio.gather(drained(first), drained(talk(tmp_path, 5, 0.05).start("k")))
        later = await drained(talk(tmp_path, 5, 0.05).start("k"))
        return both[0], both[1][1:], later[1:]

    first, second, later = asyncio.run(main())
    assert first == second == later
    assert len(first) == 6


# -------------------------------------------------------------------------------------------- HTTP
@asynccontextmanager
async def served(handler):
    """A little HTTP server; `handler(method, headers)` gives (status, headers, chunks), or cuts the line by raising."""

    async def serve(reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        if length := int(headers.get("content-length", 0)):
            await reader.readexactly(length)
        try:
            status, more, chunks = handler(head[0].split()[0], headers)
            lines = "".join(f"{name}: {value}\r\n" for name, value in more.items())
            writer.write(
                f"HTTP/1.1 {status} X\r\n{lines}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            )
            for chunk in chunks:
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
    """Six events; the connection is cut after `most` of them each time."""

    def __init__(self, most=99, status=200, ids=True):
        self.most = most
        self.status = status
        self.ids = ids
        self.asked = []

    def __call__(self, method, headers):
        self.asked.append((method, headers.get("idempotency-key"), headers.get("last-event-id")))
        after = int(headers.get("last-event-id", 0))
        return self.status, {"Content-Type": "text/event-stream", "Location": "/again"}, self._chunks(after)

    def _chunks(self, after):
        for sent, n in enumerate(range(after + 1, 7)):
            if sent == self.most:
                raise ConnectionAbortedError
            yield f"id: {n}\nretry: 1\ndata: {json.dumps({'n': n})}\n\n" if self.ids else f"data: {n}\n\n"
        yield "event: done\nid: 7\ndata: {}\n\n"


def test_an_http_source_conforms():
    """Events would be lost or repeated when a worker that follows a service dies."""

    async def main():
        service = Service()
        async with served(service) as url:
            options = {"done": "done", "json": {"task": 1}, "parse": lambda event: event.json()["n"]}
            events = await check_adapter(lambda: HttpEvents(url, **options))
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


@pytest.mark.parametrize(
    ("service", "attached", "error", "text"),
    [
        (Service(status=404), True, SourceGone, "404"),
        (Service(status=410), True, SourceGone, "410"),
        (Service(status=404), False, SourceFailed, "404"),
        (Service(status=400), True, SourceFailed, "400"),
        (Service(status=503), True, SourceFailed, "3 times in a row"),
        (Service(most=0), True, SourceFailed, "3 times in a row"),
        (Service(ids=False), False, SourceFailed, "no ids"),
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


def test_interrupting_a_turn_stops_its_program(stage, tmp_path):
    """A program would go on, and cost, after its answer was stopped."""
    handles = []

    async def main():
        adapter = talk(tmp_path, 1000, 0.05)

        async def producer(turn: Turn):
            async for event in supervise(turn, adapter):
                yield event

        async def stop(result, handle):
            handles.append(handle)
            await adapter.stop(handle)

        async with stage.turning(producer, continues=True, stop=stop) as (app, turn):
            run = await app.start(turn, id="t")
            async for event in follow(run):
                if event.kind == "event":
                    await interrupt(run)
                    break
            result = await run.result()
            with pytest.raises(SourceGone):
                await drained(adapter.attach(handles[0], None))
            return result

    assert stage.play_on_real_clock(main).interrupted
