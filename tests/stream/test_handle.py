"""Streams in Python: the same guarantees without HTTP."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from perdure import App, Retry, current_step
from perdure.errors import (
    InvalidInput,
    InvalidName,
    InvalidOption,
    NotInWorkflow,
    NotSerializable,
    ProducerFenced,
    ProducerGap,
    StoreClosed,
    StreamClosed,
    StreamConflict,
    StreamGone,
    StreamNotFound,
)
from perdure.stream.handle import StreamItem


@dataclass
class Token:
    text: str
    n: int


async def drain(items):
    return [item async for item in items]


def test_messages_come_back_as_their_type(place):
    """A reader would get plain data, other data, or lists taken apart."""

    async def main(app, web):
        tokens = app.stream("tokens", Token)
        assert await tokens.create()
        assert not await tokens.create()
        ends = [await tokens.append(Token("a", n)) for n in range(3)]
        assert await tokens.read() == [StreamItem(end, Token("a", n)) for n, end in enumerate(ends)]
        assert await tokens.read(ends[1]) == [StreamItem(ends[2], Token("a", 2))]
        lists = app.stream("lists", list[int])
        await lists.create()
        await lists.append([1, 2])
        await lists.append([])
        assert [item.value for item in await lists.read()] == [[1, 2], []]
        with pytest.raises(InvalidInput):
            await app.stream("lists", dict[str, int]).read()
        raw = app.stream("raw", bytes)
        await raw.create()
        await raw.append(b"\xff\0")
        assert [item.value for item in await raw.read()] == [b"\xff\0"]
        text = app.stream("text", str, media_type="text/plain")
        await text.create()
        await text.append("é")
        assert [item.value for item in await text.read()] == ["é"]
        assert (await web.read("text")).text == "é"

    place.play(main)


def test_a_place_within_an_append_is_a_place_to_go_on(place):
    """Who has handled half of a batch would handle it again, or skip the rest."""

    async def main(app, web):
        numbers = app.stream("n", int)
        await numbers.create()
        await web("POST", "/v1/stream/u/n", {"Content-Type": "application/json"}, "[1, 2, 3]")
        await numbers.append(4)
        items = await numbers.read()
        assert [item.value for item in items] == [1, 2, 3, 4]
        assert [item.offset for item in items] == sorted(item.offset for item in items)
        for nth, item in enumerate(items, 1):
            assert await numbers.read(item.offset) == items[nth:]
        assert (await web.read("n", items[0].offset)).json == [2, 3, 4]

    place.play(main)


def test_a_tail_gets_everything_and_ends_with_the_stream(place):
    """A follower would miss a message, wait for ever, or end too early."""

    async def main(app, web):
        numbers = app.stream("n", int)
        await numbers.create()
        await numbers.append(0)
        tails = [asyncio.ensure_future(drain(numbers.tail())) for _ in range(5)]
        for n in range(1, 20):
            await numbers.append(n)
            await asyncio.sleep(n % 3)
        await numbers.append(20, close=True)
        for found in await asyncio.gather(*tails):
            assert [item.value for item in found] == list(range(21))
        assert app.hub.tails.count == 0
        with pytest.raises(StreamClosed) as refused:
            await numbers.append(1)
        assert refused.value.offset == (await numbers.info()).offset
        await numbers.close()

    place.play(main)


def test_a_tail_of_a_stream_that_is_removed_ends(place):
    """A follower would wait for what can never come."""

    async def main(app, web):
        numbers = app.stream("n", int)
        await numbers.create()
        tail = asyncio.ensure_future(drain(numbers.tail()))
        await web.waits(app)
        await numbers.delete()
        with pytest.raises(StreamNotFound):
            await tail

    place.play(main)


def test_steps_write_as_producers_whose_next_attempt_takes_over(place):
    """A step that is tried again would write twice under one name, or its first attempt go on beside it."""
    kept = []

    async def talks(name: str) -> str:
        stream = app_of[0].stream(name, str)
        await stream.create()
        producer = stream.producer()
        kept.append(producer)
        await producer.append(f"attempt {current_step().attempt}")
        if len(kept) == 1:
            raise ValueError("cut off")
        with pytest.raises(ProducerFenced) as fenced:
            await kept[0].append("from the grave")
        assert fenced.value.epoch == producer.epoch
        await producer.append("end", close=True)
        return producer.id

    app_of, steps = [], []

    async def chat(ctx) -> str:
        return await ctx.step(steps[0], "answer")

    async def main(app, web):
        app_of.append(app)
        steps.append(app.step(retry=Retry(max_attempts=2))(talks))
        app.workflow(chat)
        run = await app.start("chat", id="r")
        assert await run.result() == "r/talks"
        assert [item.value for item in await app.stream("answer", str).read()] == ["attempt 1", "attempt 2", "end"]

    place.play(main, working=True)


def test_a_closed_stream_is_there(place):
    """A step that had closed its stream, and died before that was known, could not be tried again."""

    async def main(app, web):
        words = app.stream("s", str)
        assert await words.create()
        await words.append("end", close=True)
        assert not await words.create()
        with pytest.raises(StreamConflict):
            await words.create(ttl=60)
        with pytest.raises(StreamClosed):
            await words.append("more")

    place.play(main)


def test_a_producer_sends_again_what_it_does_not_know_of(place):
    """An append whose answer was lost would be stored twice."""

    async def main(app, web):
        stream = app.stream("s", str)
        await stream.create()
        producer = stream.producer("p", 3)
        await producer.append("a")
        again = stream.producer("p", 3)
        await again.append("a")
        await again.append("b")
        again.seq = 5
        with pytest.raises(ProducerGap):
            await again.append("f")
        assert [item.value for item in await stream.read()] == ["a", "b"]
        with pytest.raises(InvalidOption):
            stream.producer("p", 4).seq = await stream.producer("p", -1).append("x")
        with pytest.raises(NotInWorkflow):
            stream.producer()
        closing = stream.producer("p", 4)
        await closing.close()
        await stream.producer("p", 4).close()
        assert (await stream.info()).closed

    place.play(main)


def test_forks_and_lifetimes(place):
    """What HTTP can do, Python could not."""

    async def main(app, web):
        stream = app.stream("s", int)
        await stream.create(ttl=timedelta(seconds=30))
        at = await stream.append(1)
        await stream.append(2)
        fork = app.stream("f", int)
        await fork.create(forked_from="s", at=at)
        await fork.append(9)
        assert [item.value for item in await fork.read()] == [1, 9]
        await stream.delete()
        with pytest.raises(StreamGone):
            await stream.append(3)
        await asyncio.sleep(20)
        await fork.read()
        await asyncio.sleep(20)
        assert (await fork.info()).ttl == 30
        await asyncio.sleep(40)
        with pytest.raises(StreamNotFound):
            await fork.info()

    place.play(main)


def test_bad_input_says_what_is_wrong(place):
    """A mistake would be stored, or end in an error of somebody else."""

    async def main(app, web):
        stream = app.stream("s", int)
        with pytest.raises(StreamNotFound):
            await stream.append(1)
        await stream.create()
        with pytest.raises(StreamConflict):
            await app.stream("s", bytes).create()
        with pytest.raises(StreamConflict):
            await app.stream("s", bytes).append(b"x")
        with pytest.raises(InvalidInput):
            await app.stream("s", bytes).read()
        with pytest.raises(NotSerializable):
            await app.stream("s").append(object())
        with pytest.raises(InvalidOption):
            await app.stream("s").append(float("nan"))
        with pytest.raises(InvalidInput):
            await app.stream("b", bytes).append(b"")
        with pytest.raises(InvalidOption):
            await stream.read("17")
        with pytest.raises(InvalidOption):
            await stream.read("now")
        with pytest.raises(InvalidName):
            app.stream("")
        with pytest.raises(InvalidOption):
            app.stream("x", media_type="json")
        assert await stream.read() == []

    place.play(main)


def test_stopping_a_server_leaves_python_alone(file_place):
    """A follower in the same process would end, or ask again and again without a pause."""

    async def main(app, web):
        stream = app.stream("s", int)
        await stream.create()
        tail = asyncio.ensure_future(drain(stream.tail()))
        await web.waits(app)
        web.asgi.stop()
        asked, rows = [], app.client.store.rows
        app.client.store.rows = lambda *given: asked.append(given) or rows(*given)
        await asyncio.sleep(60)
        assert asked == []
        await stream.append(1, close=True)
        assert [item.value for item in await tail] == [1]

    file_place.play(main)


def test_a_tail_ends_with_its_app(file_place):
    """A follower would keep the program from ending, or spin."""

    async def main(app, web):
        async with file_place.app().connected() as other:
            stream = other.stream("s", int)
            await stream.create()
            tail = asyncio.ensure_future(drain(stream.tail()))
            await web.waits(other)
        with pytest.raises(StoreClosed):
            await tail

    file_place.play(main)


def test_what_a_stream_cannot_be_made_as_is_told(place):
    """A fork would be an empty stream, a life of half a second over at once, a mistake an error of perdure's own."""

    async def main(app, _web):
        stream = app.stream("s")
        for options, told in (
            ({"ttl": 0}, "ttl, expires_at: the stream would be gone"),
            ({"expires_at": datetime(2001, 1, 1, tzinfo=UTC)}, "ttl, expires_at: the stream would be gone"),
            ({"expires_at": "tomorrow"}, "expires_at: 'tomorrow' is not a datetime"),
            ({"at": "-1"}, "at: it needs forked_from"),
            ({"at": 3, "forked_from": "other"}, "offset: 3 is none"),
        ):
            with pytest.raises(InvalidOption, match=told):
                await stream.create(**options)
        with pytest.raises(InvalidName, match="stream name"):
            await stream.create(forked_from=stream)
        with pytest.raises(InvalidOption, match="content type: 3 is no media type"):
            app.stream("s", media_type=3)
        assert await stream.create(ttl=0.5)
        assert (await stream.info()).ttl == 1
        with pytest.raises(InvalidOption, match="offset: 0 is none"):
            await stream.read(0)

    place.play(main)


def test_a_reader_that_follows_when_the_app_is_closed_is_told():
    """A program that closes its app would stand still for ever, at full speed."""

    async def main():
        async with App("sqlite://") as app:
            stream = app.stream("s", int)
            await stream.create()
            await stream.append(1)
            items = stream.tail()
            assert (await anext(items)).value == 1
            following = asyncio.ensure_future(anext(items))
        with pytest.raises(StoreClosed, match="while this stream was followed"):
            await following

    asyncio.run(main())
