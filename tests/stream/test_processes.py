"""Streams that several processes write and read, and that survive them."""

import asyncio
import json
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from perdure import App

pytestmark = pytest.mark.crash
WRITER = Path(__file__).parent / "streamkit" / "writer.py"


class Writer:
    """Another process."""

    def __init__(self, url) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(WRITER), url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def tell(self, *words) -> None:
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self):
        line = self._process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def ask(self, *words):
        self.tell(*words)
        return self.answer()

    def kill(self) -> list:
        """SIGKILL; what it had still said."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        rest = [json.loads(line) for line in self._process.stdout if line.endswith(b"\n")]
        self._process.stdin.close()
        self._process.stdout.close()
        return rest


@contextmanager
def writing(place, count=1):
    writers = [Writer(place.url) for _ in range(count)]
    try:
        yield writers
    finally:
        for writer in writers:
            if writer._process.poll() is None:
                writer.kill()


@asynccontextmanager
async def reading(place):
    async with App(place.url, synchronous="NORMAL").connected() as app:
        yield app


def test_a_writer_killed_between_append_and_close(place):
    """The last append would be lost, or the stream be closed by nobody; its reader would wait for ever."""

    async def main():
        async with reading(place) as app:
            stream = app.stream("s", int)
            await stream.create()
            heard = []

            async def follow():
                async for item in stream.tail():
                    heard.append(item.value)

            tail = asyncio.ensure_future(follow())
            with writing(place) as (one,):
                one.ask("as", "s", "p", 1)
                for n in range(3):
                    assert await asyncio.to_thread(one.ask, "append", "s", n)
                one.kill()
            assert not (await stream.info()).closed
            with writing(place) as (heir,):
                heir.ask("as", "s", "p", 2)
                assert await asyncio.to_thread(heir.ask, "append", "s", 3)
                await asyncio.to_thread(heir.ask, "close", "s")
                await tail
            assert heard == [0, 1, 2, 3]

    asyncio.run(main())


def test_of_two_processes_under_one_name_the_newer_one_writes(place):
    """Two attempts of one step would write into each other's answer."""

    async def main():
        async with reading(place) as app:
            await app.stream("s", int).create()
            with writing(place, 2) as (old, new):
                old.ask("as", "s", "p", 1)
                new.ask("as", "s", "p", 2)
                assert isinstance(old.ask("append", "s", 1), str)
                assert isinstance(new.ask("append", "s", 2), str)
                assert old.ask("append", "s", 3) == {"error": "producer_fenced"}
                assert old.ask("close", "s") == {"error": "producer_fenced"}
                assert isinstance(new.ask("append", "s", 4), str)
            assert [item.value for item in await app.stream("s", int).read()] == [1, 2, 4]

    asyncio.run(main())


def test_what_was_answered_is_there_after_five_kills(place):
    """An append that was confirmed would be lost, doubled or torn when its process dies."""

    async def main():
        async with reading(place) as app:
            stream = app.stream("s", int)
            await stream.create()
            confirmed, first = {}, 0
            for turn in range(5):
                with writing(place) as (writer,):
                    writer.tell("flood", "s", first, first + 100_000)
                    told = [writer.answer() for _ in range(3 + 5 * turn)] + writer.kill()
                confirmed |= dict(told)
                there = [item async for item in all_of(stream)]
                assert [item.value for item in there] == list(range(len(there)))
                assert {item.value: item.offset for item in there}.items() >= confirmed.items()
                assert len(there) - len(confirmed) <= 5, "at most one append for each kill was stored without an answer"
                first = len(there)

    asyncio.run(main())


async def all_of(stream):
    after = "-1"
    while items := await stream.read(after):
        for item in items:
            yield item
        after = items[-1].offset


def test_processes_that_append_at_once_share_one_order(place):
    """Two appends would get one number, or readers would see different orders."""

    async def main():
        async with reading(place) as app:
            stream = app.stream("s", int)
            await stream.create()
            with writing(place, 3) as writers:
                for nth, writer in enumerate(writers):
                    writer.tell("flood", "s", nth * 1_000, nth * 1_000 + 60)
                told = {}
                for writer in writers:
                    while (answer := await asyncio.to_thread(writer.answer)) is not None:
                        told[answer[0]] = answer[1]
            there = [item async for item in all_of(stream)]
            assert {item.value: item.offset for item in there} == told
            assert len({item.offset for item in there}) == len(there) == 180
            for nth in range(3):
                mine = [item.value for item in there if item.value // 1_000 == nth]
                assert mine == sorted(mine)

    asyncio.run(main())
