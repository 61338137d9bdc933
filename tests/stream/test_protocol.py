"""The protocol over ASGI, on every database; the public suite says more of it (make conformance-streams)."""

import asyncio
import hashlib
import json
import random

import psutil
import pytest
from streamkit.web import JSON, TEXT, Web

from perdure import Limits
from perdure.stream.options import StreamOptions

S = "/v1/stream/u/s"


def test_a_stream_is_made_appended_to_closed_and_read(place):
    """What was written would not be what is read."""

    async def main(app, web):
        made = await web.make("s", "one ")
        assert (made.status, made.headers["location"]) == (201, "http://test/v1/stream/u/s")
        assert (await web.make("s")).status == 200
        added = await web.add("s", "two")
        assert (added.status, added.body) == (204, b"")
        whole = await web.read("s")
        assert (whole.text, whole.offset, whole.up_to_date, whole.closed) == ("one two", added.offset, True, False)
        assert (await web.read("s", made.offset)).text == "two"
        assert (await web.read("s", added.offset)).text == ""
        closed = await web("POST", S, {"Stream-Closed": "TRUE"})
        assert (closed.status, closed.closed, closed.offset) == (204, True, added.offset)
        assert (await web("POST", S, {"Stream-Closed": "true"})).status == 204
        refused = await web.add("s", "more")
        assert (refused.status, refused.closed, refused.offset) == (409, True, added.offset)
        assert refused.json["code"] == "stream_closed"
        assert (await web.read("s")).closed
        assert (await web("HEAD", S)).closed
        assert (await web("DELETE", S)).status == 204
        assert [
            (await web(method, S, TEXT, body)).status
            for method, body in (("GET", b""), ("HEAD", b""), ("POST", b"x"), ("DELETE", b""))
        ] == [404] * 4
        assert (await web.make("s", "new")).status == 201
        assert (await web.read("s")).text == "new"

    place.play(main)


def test_json_messages_keep_their_bounds_and_their_text(place):
    """A message would be split or joined, or come back in other words than it was sent."""

    async def main(app, web):
        await web("PUT", S, JSON, "[]")
        await web("POST", S, JSON, ' {"a": 1.10, "a":  2} ')
        await web("POST", S, JSON, '[1, [2, 3], "é\\u0000"]')
        assert (await web.read("s")).text == '[{"a": 1.10, "a":  2},1,[2, 3],"é\\u0000"]'
        for bad in ("[]", "{", "NaN", "1 2", "[1,]", "[1 2]", "\ufeff1", '["\\x"]', "[" * 100_000, b"\xff"):
            assert (await web("POST", S, JSON, bad)).status == 400, bad[:10]
        assert (await web.read("s")).json[1:] == [1, [2, 3], "é\0"]

    place.play(main)


def test_bytes_come_back_as_they_were(place):
    """Bytes that are no text, or no text that a database takes, would be lost or changed."""

    async def main(app, web):
        kind = {"Content-Type": "application/x-thing"}
        pieces = [bytes([n]) for n in range(256)] + ["é🎈\0".encode()[:3], b'"', b"\\", b"[", b"~x:"]
        await web("PUT", S, kind)
        for piece in pieces:
            assert (await web("POST", S, kind, piece)).status == 204
        assert (await web.read("s")).body == b"".join(pieces)

    place.play(main)


def test_a_reader_that_comes_back_anywhere_gets_the_same_bytes(place):
    """A reader that reconnects would miss bytes, or get some twice (1,000 times, at random offsets)."""

    async def main(app, web):
        chance = random.Random(11)
        web = Web(app.stream_server(options=StreamOptions(page_bytes=200)))
        await web.make("s")
        written, ends = b"", {"-1": 0}
        for _ in range(120):
            piece = chance.randbytes(chance.randrange(1, 80))
            written += piece
            ends[(await web.add("s", piece)).offset] = len(written)
        for _ in range(1_000):
            at = chance.choice(list(ends))
            got = hashlib.sha256(written[: ends[at]])
            for _ in range(chance.randrange(1, 4)):
                page = await web.read("s", at)
                got.update(page.body)
                at = page.offset
            assert got.hexdigest() == hashlib.sha256(written[: ends[at]]).hexdigest()

    place.play(main)


def test_offsets_that_cannot_be_are_refused(place):
    """A reader with a broken offset would silently get something else."""

    async def main(app, web):
        await web.make("s", "x")
        for bad in (
            "",
            "abc",
            "1",
            "1,2",
            "0000000000000009",
            "0000000000000001_0000000000000001",
            "-2",
            "NOW",
            "0" * 17,
        ):
            assert (await web.read("s", bad)).status == 400, bad
        assert (await web.get(f"{S}?offset=-1&offset=-1")).status == 400
        assert (await web.get(f"{S}?live=sse")).status == 400
        assert (await web.get(f"{S}?live=long-poll")).status == 400
        assert (await web.get(f"{S}?offset=-1&live=maybe")).status == 400
        now = await web.read("s", "now")
        assert (now.body, now.up_to_date, now.headers["cache-control"], "etag" in now.headers) == (
            b"",
            True,
            "no-store",
            False,
        )

    place.play(main)


def test_a_long_poll_waits_and_no_longer_than_it_says(place):
    """A reader would poll in a loop, or hang."""

    async def main(app, web):
        web = Web(app.stream_server(options=StreamOptions(long_poll=30)))
        made = await web.make("s", "x")
        first = await web.get(f"{S}?offset=-1&live=long-poll")
        assert (first.status, first.text) == (200, "x")
        waiting = asyncio.ensure_future(
            web.get(f"{S}?offset={made.offset}&live=long-poll&cursor={first.headers['stream-cursor']}")
        )
        await web.waits(app)
        await web.add("s", "y")
        found = await waiting
        assert (found.status, found.text, found.up_to_date) == (200, "y", True)
        assert int(found.headers["stream-cursor"]) > int(first.headers["stream-cursor"])
        begun = app.client.store.clock.now()
        nothing = await web.get(f"{S}?offset={found.offset}&live=long-poll")
        assert (nothing.status, nothing.up_to_date, nothing.closed) == (204, True, False)
        assert app.client.store.clock.now() - begun >= 30_000_000
        await web("POST", S, {"Stream-Closed": "true"})
        over = await web.get(f"{S}?offset={found.offset}&live=long-poll")
        assert (over.status, over.closed, "stream-cursor" in over.headers) == (204, True, False)
        assert app.hub.served.count == 0

    place.play(main)


def test_events_come_as_they_are_appended_each_with_where_to_go_on(place):
    """A reader of events would miss some, or not know where it is."""

    async def main(app, web):
        await web("PUT", S, JSON, "[1]")
        async with web.events(f"{S}?offset=-1&live=sse") as events:
            status, headers = await events.start()
            assert (status, headers["content-type"], "content-length" in headers) == (200, "text/event-stream", False)
            first = await events.next()
            assert (first.name, first.data) == ("data", "[1]")
            told = await events.control()
            assert (told["streamNextOffset"], told["upToDate"], "streamClosed" in told) == (first.id, True, False)
            await web("POST", S, JSON, '{"a":\n2}')
            second = await events.next()
            assert json.loads(second.data) == [{"a": 2}]
            assert (await events.control())["streamNextOffset"] == second.id > first.id
            await web("POST", S, JSON | {"Stream-Closed": "true"}, "3")
            assert (await events.next()).data == "[3]"
            last = await events.control()
            assert (last["streamClosed"], "streamCursor" in last) == (True, False)
            assert await events.next() is None
        async with web.events(f"{S}?offset=-1&live=sse", Last_Event_ID=first.id) as events:
            await events.start()
            assert (await events.next()).data == '[{"a":\n2},3]'

    place.play(main)


def test_an_event_source_is_told_when_there_is_nothing_more(file_place):
    """A browser would come back to a closed stream for ever."""

    async def main(app, web):
        made = await web.make("s", "x", Stream_Closed="true")
        assert (await web.get(f"{S}?offset=-1&live=sse", Last_Event_ID=made.offset)).status == 204
        assert (await web.get(f"{S}?offset={made.offset}&live=sse")).status == 200

    file_place.play(main)


def test_an_event_stream_ends_after_its_time_and_goes_on_elsewhere(file_place):
    """A proxy would hold it for ever; or a reader would lose its place."""

    async def main(app, web):
        await web.make("s", "x")
        begun = app.client.store.clock.now()
        async with web.events(f"{S}?offset=-1&live=sse") as events:
            await events.start()
            assert [(await events.next()).name, (await events.next()).name] == ["data", "control"]
            assert await events.next() is None
        assert 50_000_000 <= app.client.store.clock.now() - begun <= 70_000_000
        assert app.hub.served.count == 0

    file_place.play(main)


@pytest.mark.parametrize(
    "text", ["a\n\nevent: control\ndata: {}\n\nb", "a\r\revent: control\rdata: {}", "a\r\n\r\nid: 9\r\n"]
)
def test_text_cannot_forge_events(file_place, text):
    """Whoever writes could speak to readers with the server's voice."""

    async def main(app, web):
        await web.make("s", text, Stream_Closed="true")
        async with web.events(f"{S}?offset=-1&live=sse") as events:
            await events.start()
            data = await events.next()
            assert data.name == "data"
            assert data.data == text.replace("\r\n", "\n").replace("\r", "\n")
            assert (await events.control())["streamClosed"]
            assert await events.next() is None

    file_place.play(main)


def test_the_last_bytes_come_before_the_end(place):
    """A reader would take the end for the whole, without the last append (raced in both orders)."""

    async def main(app, web):
        for turn in range(20):
            name = f"race{turn}"
            made = await web.make(name, "x")
            poll = asyncio.ensure_future(web.get(f"/v1/stream/u/{name}?offset={made.offset}&live=long-poll"))
            for _ in range(turn % 5):
                await asyncio.sleep(0)
            await web.add(name, "last", Stream_Closed="true")
            found = await poll
            assert found.text == "last"
            assert found.closed or (await web.get(f"/v1/stream/u/{name}?offset={found.offset}&live=long-poll")).closed

    place.play(main)


def test_stopping_sends_everybody_home(file_place):
    """A server that is to stop would wait for its readers."""

    async def main(app, web):
        made = await web.make("s", "x")
        before = app.client.store.clock.now()
        async with web.events(f"{S}?offset={made.offset}&live=sse") as events:
            poll = asyncio.ensure_future(web.get(f"{S}?offset={made.offset}&live=long-poll"))
            await events.start()
            await events.control()
            await web.waits(app, 2)
            web.asgi.stop()
            assert (await poll).status == 204
            assert await events.next() is None
        assert app.client.store.clock.now() == before

    file_place.play(main)


def test_a_reader_that_has_left_is_forgotten(file_place):
    """Readers that went away would be kept until their time is over."""

    async def main(app, web):
        made = await web.make("s", "x")
        async with web.events(f"{S}?offset={made.offset}&live=sse") as events:
            await events.start()
            await events.control()
            assert app.hub.served.count == 1
        assert app.hub.served.count == 0

    file_place.play(main)


def test_too_many_readers_are_told_to_come_back(file_place):
    """The process would take readers until it dies (I10)."""

    async def main(app, web):
        web = Web(app.stream_server(options=StreamOptions(tails=1)))
        made = await web.make("s", "x")
        async with web.events(f"{S}?offset={made.offset}&live=sse") as events:
            await events.start()
            refused = await web.get(f"{S}?offset={made.offset}&live=long-poll")
            assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (503, "overloaded", "1")
            assert (await web.read("s")).status == 200

    file_place.play(main)


# ---------------------------------------------------------------------------------------- producers
def producer(name="p", epoch=0, seq=0):
    return {"Producer_Id": name, "Producer_Epoch": str(epoch), "Producer_Seq": str(seq)}


def test_a_producer_appends_once_in_order_and_until_somebody_takes_over(place):
    """A retry would be stored twice, a gap go unnoticed, or a zombie go on writing."""

    async def main(app, web):
        await web.make("s")
        assert (await web.add("s", "a", **producer(seq=0))).status == 200
        assert (await web.add("s", "b", **producer(seq=1))).status == 200
        again = await web.add("s", "a", **producer(seq=0))
        assert (again.status, again.headers["producer-seq"]) == (204, "1")
        gap = await web.add("s", "d", **producer(seq=3))
        assert (gap.status, gap.headers["producer-expected-seq"], gap.headers["producer-received-seq"]) == (
            409,
            "2",
            "3",
        )
        assert (await web.add("s", "x", **producer(epoch=1, seq=2))).status == 400
        assert (await web.add("s", "c", **producer(epoch=1, seq=0))).status == 200
        zombie = await web.add("s", "z", **producer(epoch=0, seq=2))
        assert (zombie.status, zombie.headers["producer-epoch"]) == (403, "1")
        assert (await web.add("s", "q", **producer("other", 7, 0))).status == 200
        assert (await web.read("s")).text == "abcq"
        for bad in ({"Producer_Id": "p"}, producer(epoch="01"), producer(seq=-1), producer(seq=2**53), producer("")):
            assert (await web.add("s", "x", **bad)).status == 400, bad

    place.play(main)


def test_a_producer_closes_once(place):
    """A retried closure would be refused, or a late append be taken for it."""

    async def main(app, web):
        await web.make("s", "x")
        assert (await web.add("s", **producer(), Stream_Closed="true")).status == 204
        again = await web.add("s", **producer(), Stream_Closed="true")
        assert (again.status, again.closed, again.headers["producer-seq"]) == (204, True, "0")
        assert (await web.add("s", "y", **producer(seq=1))).status == 409
        await web.make("t", "x")
        assert (await web.add("t", "end", **producer(epoch=1), Stream_Closed="true")).status == 200
        assert (await web.add("t", "end", **producer(epoch=1), Stream_Closed="true")).status == 204
        assert (await web.add("t", "end", **producer(epoch=0), Stream_Closed="true")).status == 403
        assert (await web.read("t")).text == "xend"

    place.play(main)


def test_a_writers_sequence_must_rise(place):
    """A writer that went back would write the same again."""

    async def main(app, web):
        await web.make("s")
        assert [(await web.add("s", "x", Stream_Seq=seq)).status for seq in ("09", "10", "10", "1", "a", "B")] == [
            204,
            204,
            409,
            409,
            204,
            409,
        ]
        assert (await web.add("s", "y")).status == 204
        assert (await web.add("s", "x", Stream_Seq="a")).status == 409

    place.play(main)


def test_what_is_wrong_is_told_in_the_protocols_order(place):
    """A writer would be told of its type when the stream is closed, or of its sequence when the type is wrong."""

    async def main(app, web):
        await web.make("s")
        await web.add("s", "x", Stream_Seq="5")
        wrong = JSON | {"Stream-Seq": "4"}
        assert "text/plain" in (await web("POST", S, wrong, "{}")).json["detail"]
        assert (await web("POST", S, {}, "x")).status == 400
        assert (await web.add("s", "")).status == 400
        await web("POST", S, JSON | {"Stream-Closed": "true"})
        assert (await web("POST", S, wrong, "{}")).closed
        assert (await web.add("none", "x")).status == 404

    place.play(main)


# ---------------------------------------------------------------------------------------- lifetimes
def test_a_stream_lives_by_reading_and_writing(place):
    """A stream in use would vanish, or one that nobody uses stay for ever."""

    async def main(app, web):
        await web.make("s", "x", Stream_TTL="10")
        assert (await web("HEAD", S)).headers["stream-ttl"] == "10"
        for touch in (
            lambda: web.read("s"), lambda: web.add("s", "y"), lambda: web.read("s", "now"),
            lambda: web.add("s", "z", **producer()), lambda: web("POST", S, {"Stream-Closed": "true"}),
        ):  # fmt: skip
            await asyncio.sleep(9)
            assert (await touch()).status < 300
        await asyncio.sleep(6)
        assert (await web("HEAD", S)).status == 200
        await asyncio.sleep(6)
        assert (await web("HEAD", S)).status == 404, "HEAD is no reading"
        assert (await web.read("s")).status == 404
        assert (await web.add("s", "x")).status == 404
        assert (await web.make("s", "new")).status == 201
        assert (await web.read("s")).text == "new"

    place.play(main)


def test_most_readings_of_a_stream_with_a_ttl_write_nothing(file_place):
    """Each reading would cost a commit."""

    async def main(app, web):
        await web.make("s", "x", Stream_TTL="1000")
        before = app.client.store.commits
        for _ in range(20):
            await web.read("s")
            await asyncio.sleep(1)
        assert app.client.store.commits == before
        await asyncio.sleep(100)
        await web.read("s")
        assert app.client.store.commits == before + 1

    file_place.play(main)


def test_an_absolute_end_is_not_moved(place):
    """A stream would outlive the time that it was given."""

    async def main(app, web):
        await web.make("s", "x", Stream_Expires_At="2025-06-15T17:07:00+02:00")
        assert (await web("HEAD", S)).headers["stream-expires-at"] == "2025-06-15T15:07:00Z"
        await asyncio.sleep(15)
        assert (await web.add("s", "y")).status == 204
        assert (await web.read("s")).status == 200
        await asyncio.sleep(10)
        assert (await web.read("s")).status == 404
        for bad in ({"Stream_TTL": "1", "Stream_Expires_At": "2025-06-15T15:07:00Z"}, {"Stream_TTL": "01"}, {"Stream_TTL": "+1"},
                    {"Stream_TTL": "1.5"}, {"Stream_TTL": "1e3"}, {"Stream_Expires_At": "tomorrow"},
                    {"Stream_Expires_At": "2025-06-15T15:07:00"}, {"Stream_Expires_At": "2025-13-15T15:07:00Z"}):  # fmt: skip
            assert (await web.make("t", **bad)).status in {400, 422}, bad

    place.play(main)


def test_a_stream_that_would_be_gone_at_once_is_not_made(place):
    """Whoever makes it would be told that it is not there, and its row would stay."""

    async def main(app, web):
        assert (await web.make("s", "x", Stream_TTL="0")).status == 400
        assert (await web.make("s", "x", Stream_Expires_At="2001-06-15T17:07:00Z")).status == 400
        assert await app.hub.streams.row("s") is None

    place.play(main)


# --------------------------------------------------------------------------------------------- forks
def fork(source="s", at=None, part=None):
    found = {"Stream_Forked_From": f"/v1/stream/u/{source}"}
    return found | ({"Stream_Fork_Offset": at} if at else {}) | ({"Stream_Fork_Sub_Offset": part} if part else {})


def test_a_fork_begins_as_its_source_was_and_goes_its_own_way(place):
    """A fork would show what its source got later, or lose what it had."""

    async def main(app, web):
        at = (await web.make("s", "one")).offset
        await web.add("s", "two")
        assert (await web.make("f", **fork(at=at))).status == 201
        assert (await web.make("g", "!", **fork(at=at, part="2"))).status == 201
        await web.add("s", "three")
        await web.add("f", "FOUR")
        assert (await web.make("h", **fork("f"))).status == 201
        await web.add("h", "five")
        texts = [(await web.read(name)).text for name in "sfgh"]
        assert texts == ["onetwothree", "oneFOUR", "onetw!", "oneFOURfive"]
        assert (await web.read("h", at)).text == "FOURfive"
        assert (await web.make("f", **fork(at=at))).status == 200
        assert (await web.make("f", **fork())).status == 200
        assert (await web.make("f", **fork(at="0000000000000000"))).status == 409
        assert (await web.make("x", **fork("none"))).status == 404
        assert (await web.make("x", **fork(at="0000000000000009"))).status == 400
        assert (await web.make("x", **fork(at=at, part="4"))).status == 400
        assert (await web("PUT", "/v1/stream/u/x", JSON | {"Stream-Forked-From": S})).status == 409

    place.play(main)


def test_a_source_stays_as_long_as_its_forks_and_no_longer(place):
    """A fork would lose its beginning; or what nobody can reach would stay for ever."""

    async def main(app, web):
        await web.make("s", "one")
        await web.make("f", **fork())
        await web.make("g", **fork("f"))
        assert (await web("DELETE", S)).status == 204
        assert (await web("DELETE", "/v1/stream/u/f")).status == 204
        for method, body in (("GET", ""), ("HEAD", ""), ("POST", "x"), ("DELETE", "")):
            assert (await web(method, S, TEXT, body)).status == 410
        assert (await web.make("s")).status == 409
        assert (await web.make("x", **fork())).status == 409
        assert (await web.read("g")).text == "one"
        assert (await web("DELETE", "/v1/stream/u/g")).status == 204
        assert [(await web("HEAD", f"/v1/stream/u/{name}")).status for name in "sfg"] == [404] * 3
        for table in ("streams", "chunks"):
            assert await app.client.store.select(f"select count(*) from perdure_{table}") == [(0,)]

    place.play(main)


def test_a_fork_inherits_how_long_it_lives(place):
    """A fork of a stream that is to vanish would stay for ever."""

    async def main(app, web):
        await web.make("s", "x", Stream_TTL="10")
        await web.make("f", **fork())
        await web.make("g", **fork(), Stream_TTL="100")
        assert [(await web("HEAD", f"/v1/stream/u/{name}")).headers["stream-ttl"] for name in "fg"] == ["10", "100"]
        await asyncio.sleep(20)
        assert [(await web("HEAD", f"/v1/stream/u/{name}")).status for name in "sfg"] == [410, 404, 200]
        assert (await web.read("g")).text == "x"

    place.play(main)


# ------------------------------------------------------------------------------- bounds and browsers
def test_streams_have_bounds(place):
    """One writer would fill the disk, or the memory (I10)."""

    async def main(app, web):
        assert (await web.make("s", "x" * 600)).status == 201
        assert (await web.add("s", "x" * 1_001)).status == 413
        assert (await web.add("s", "x" * 900)).status == 204
        full = await web.add("s", "x" * 600)
        assert (full.status, full.json["code"]) == (413, "stream_full")
        assert (await web.add("s", "x" * 500)).status == 204
        assert (await web.make("n" * 201)).status == 400
        assert (await web.make("a\x01b")).status == 400

    place.play(main, limits=Limits(payload_bytes=1_000, stream_bytes=2_000))


def test_a_page_has_as_much_as_it_may_and_one_chunk_at_least(place):
    """A reader would get gigabytes at once; or nothing, again and again."""

    async def main(app, web):
        web = Web(app.stream_server(options=StreamOptions(page_bytes=100)))
        await web.make("s")
        pieces = ["a" * 30, "b" * 30, "c" * 30, "d" * 30, "e" * 500, "f", "g"]
        for piece in pieces:
            await web.add("s", piece)
        await web.make("t", **fork())
        for name in "st":
            found, at, done = [], "-1", False
            while not done:
                page = await web.read(name, at)
                at, done = page.offset, page.up_to_date
                found.append(page.text)
            assert "".join(found) == "".join(pieces)
            assert len(found[0]) == 120
            assert len(found) == 3

    place.play(main)


def test_answers_are_kept_by_browsers_as_long_as_they_are_right(place):
    """A reader would be shown an old end of the stream; or would load again what it has."""

    async def main(app, web):
        web = Web(app.stream_server(options=StreamOptions(page_bytes=1)))
        await web.make("s", "x")
        await web.add("s", "y")
        first = await web.read("s")
        assert "max-age=60" in first.headers["cache-control"]
        second = await web.read("s", first.offset)
        assert second.headers["cache-control"] == "private, no-cache"
        unchanged = await web.read("s", first.offset, If_None_Match=f'W/"z", {second.headers["etag"]}')
        assert (unchanged.status, unchanged.body) == (304, b"")
        await web("POST", S, {"Stream-Closed": "true"})
        closed = await web.read("s", first.offset, If_None_Match=second.headers["etag"])
        assert (closed.status, closed.closed) == (200, True)

    place.play(main)


def test_browsers_are_told_who_may_read(file_place):
    """A page from anywhere would read what runs on its visitor's machine."""

    async def main(app, web):
        await web.make("s", "x")
        refused = await web.read("s", Origin="https://evil.example")
        assert "access-control-allow-origin" not in refused.headers
        assert refused.headers["cross-origin-resource-policy"] == "same-origin"
        assert refused.headers["x-content-type-options"] == "nosniff"
        web = Web(app.stream_server(origins=["https://shop.example"]))
        found = await web.read("s", Origin="https://shop.example")
        assert found.headers["access-control-allow-origin"] == "https://shop.example"
        assert "Stream-Next-Offset" in found.headers["access-control-expose-headers"]
        assert "access-control-allow-origin" not in (await web.read("s", Origin="https://evil.example")).headers
        asked = await web("OPTIONS", S, {"Origin": "https://shop.example", "Access-Control-Request-Method": "PUT"})
        assert asked.status == 204
        assert "If-None-Match" in asked.headers["access-control-allow-headers"]
        assert "PUT" in asked.headers["access-control-allow-methods"]
        # One origin by itself is that one, and not all that it contains.
        web = Web(app.stream_server(origins="https://shop.example"))
        for origin, allowed in (("https://shop.example", True), ("https://shop.exam", False)):
            headers = (await web.read("s", Origin=origin)).headers
            assert ("access-control-allow-origin" in headers) == allowed
        web = Web(app.stream_server(origins="https://*.example"))
        assert "access-control-allow-origin" not in (await web.read("s", Origin="https://evil.example")).headers
        lost = await web.get("/v1/nothing")
        assert (lost.status, lost.headers["x-content-type-options"]) == (404, "nosniff")

    file_place.play(main)


def test_whoever_may_not_is_refused_everywhere(file_place):
    """Somebody would read, write, or fork what is not theirs."""
    asked = []

    async def authorize(access):
        asked.append((access.method, access.kind, access.name))
        return access.headers.get("authorization") == "yes" and access.name != "secret"

    async def main(app, open_web):
        await open_web.make("secret", "x")
        web = Web(app.stream_server(authorize=authorize))
        for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
            assert (await web(method, S, TEXT, "x")).status == 403
            assert asked.pop() == (method, "stream", "s")
        assert (await web.get("/v1/stream/runs/r")).status == 403
        assert (await web.get("/v1/runs/r/events")).status == 403
        assert (await web.get(f"{S}?offset=-1&live=sse")).status == 403
        assert (await web.make("f", Authorization="yes", **fork("secret"))).status == 403
        assert asked[-1] == ("GET", "stream", "secret")
        assert (await web.make("f", Authorization="yes")).status == 201

    file_place.play(main)


async def rows_of(app, table):
    ((count,),) = await app.client.store.select(f"select count(*) from perdure_{table}")
    return count


def test_what_has_expired_is_removed_by_who_makes_more(place):
    """The content of streams that nobody can read would fill the disk where no worker runs."""

    async def main(app, web):
        for n in range(5):
            await web.make(f"s{n}", "x", Stream_TTL="10")
        await asyncio.sleep(4_000)
        assert await rows_of(app, "streams") == 5
        await web.make("t", "x", Stream_TTL="10")
        assert (await rows_of(app, "streams"), await rows_of(app, "chunks")) == (1, 1)

    place.play(main)


def test_workers_remove_what_has_expired(place):
    """The content of streams that nobody can read would stay until somebody makes more."""

    async def main(app, web):
        await web.make("s", "x", Stream_TTL="10")
        await web.make("t", "x")
        await asyncio.sleep(2 * 86_400)
        assert (await rows_of(app, "streams"), await rows_of(app, "chunks")) == (1, 1)

    place.play(main, working=True)


def test_a_reader_sees_all_of_an_append_or_nothing(place):
    """A large append would be seen half written."""

    async def main(app, web):
        await web.make("s")
        whole = bytes(range(256)) * 4_000
        writing = asyncio.ensure_future(web.add("s", whole))
        sizes = set()
        while not writing.done():
            sizes.add(len((await web.read("s")).body))
            await asyncio.sleep(0)
        sizes.add(len((await web.read("s")).body))
        assert sizes <= {0, len(whole)}
        assert len(whole) in sizes

    place.play(main)


def test_a_reader_of_what_is_being_removed_is_told(place):
    """A reader in the middle of a stream would take its removal for its end, or go on in another of the same name."""

    async def main(app, web):
        web = Web(app.stream_server(options=StreamOptions(page_bytes=1)))
        await web.make("s", "one")
        await web.add("s", "two")
        first = await web.read("s")
        async with web.events(f"{S}?offset={first.offset}&live=sse") as events:
            await events.start()
            assert (await events.next()).data == "two"
            await events.control()
            await web("DELETE", S)
            assert await events.next() is None
        assert (await web.read("s", first.offset)).status == 404
        await web.make("s", "new")
        assert (await web.read("s", "0000000000000002")).status == 400

    place.play(main)


def test_reading_leaves_nothing_open(file_place):
    """Each reader would leave a file or a task behind."""

    async def main(app, web):
        await web.make("s", "x")
        open_files = psutil.Process().num_fds()
        for _ in range(50):
            await web.read("s")
            await web.get(f"{S}?offset=now&live=long-poll")
            async with web.events(f"{S}?offset=-1&live=sse") as events:
                await events.start()
        assert psutil.Process().num_fds() == open_files
        assert len(asyncio.all_tasks()) == 1
        assert app.hub.served.count == 0
        assert not app.client.store.changes.watched

    file_place.play(main)


def test_one_name_is_made_once(place):
    """Two that make a stream at once would both be told that it is new, or one lose its first content."""

    async def main(app, web):
        made = await asyncio.gather(*(web.make("s", str(n)) for n in range(10)))
        assert sorted(reply.status for reply in made) == [200] * 9 + [201]
        assert (await web.read("s")).text == str([reply.status for reply in made].index(201))

    place.play(main)
