"""Readers that wait: what they cost, and that none is forgotten."""

import asyncio

import pytest

from perdure import App
from perdure.errors import StoreUnavailable
from perdure.stream import tails as tails_module
from perdure.stream.content import Content
from perdure.stream.offset import cursor_after


class Counted:
    """Counts what a store is asked."""

    def __init__(self, store) -> None:
        self.asked: list[str] = []
        self._rows = store.rows
        store.rows = self.rows

    async def rows(self, name, *parameters):
        self.asked.append(name)
        return await self._rows(name, *parameters)


async def settled(app, tails):
    """Until all of them wait."""
    while app.hub.tails.count < tails:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)


def test_who_waits_costs_nothing_until_something_happens(file_place):
    """Idle readers would ask the database again and again."""

    async def main(app, web):
        names = [f"s{n}" for n in range(50)]
        for name in names:
            await app.stream(name, int).create()
        heard = {name: [] for name in names}

        async def follow(name):
            async for item in app.stream(name, int).tail():
                heard[name].append(item.value)

        tails = [asyncio.ensure_future(follow(name)) for name in names for _ in range(4)]
        await settled(app, 200)
        counted = Counted(app.client.store)
        await asyncio.sleep(600)
        assert counted.asked == []
        await app.stream("s7", int).append(1)
        await settled(app, 200)
        assert heard["s7"] == [1] * 4
        assert counted.asked.count("chunks") <= 2
        for tail in tails:
            tail.cancel()
        await asyncio.gather(*tails, return_exceptions=True)
        assert app.hub.tails.count == 0
        assert not app.client.store.changes.watched

    file_place.play(main)


def test_one_look_for_everybody_when_another_process_has_committed(file_place):
    """Each reader would ask for itself after every commit of every other process."""

    async def main(app, web):
        for n in range(50):
            await app.stream(f"s{n}", int).create()

        async def follow(n):
            async for item in app.stream(f"s{n}", int).tail():
                heard.append((n, item.value))

        heard = []
        tails = [asyncio.ensure_future(follow(n)) for n in range(50)]
        await settled(app, 50)
        app.client.store.changes.committed_elsewhere()
        await asyncio.sleep(1)
        counted = Counted(app.client.store)
        for _ in range(20):
            app.client.store.changes.committed_elsewhere()
            await asyncio.sleep(1)
        assert set(counted.asked) == {"stream_heads"}
        assert len(counted.asked) <= 20
        # What another process appends is noticed by that look.
        changes = app.client.store.changes
        told, changes.committed = changes.committed, lambda *_, **__: None
        await app.stream("s3", int).append(7)
        changes.committed = told
        changes.committed_elsewhere()
        await asyncio.sleep(1)
        assert heard == [(3, 7)]
        assert set(counted.asked) == {"stream_heads", "stream_by_number", "lineage", "chunks"}
        for tail in tails:
            tail.cancel()
        await asyncio.gather(*tails, return_exceptions=True)

    file_place.play(main)


@pytest.mark.parametrize(
    "error", [StoreUnavailable("away"), RuntimeError("a mistake of ours")], ids=["away", "mistake"]
)
def test_a_look_that_fails_wakes_everybody(file_place, monkeypatch, error):
    """What another process has appended would be seen after its next commit, or in an hour."""

    async def fail(_):
        raise error

    async def main(app, web):
        stream = app.stream("s", int)
        await stream.create()
        following = asyncio.ensure_future(anext(aiter(stream.tail())))
        await settled(app, 1)
        changes = app.client.store.changes
        told, changes.committed = changes.committed, lambda *_, **__: None
        await stream.append(7)
        changes.committed = told
        monkeypatch.setattr(tails_module.Tails, "_moved", fail)
        changes.committed_elsewhere()
        async with asyncio.timeout(1):
            assert (await following).value == 7

    file_place.play(main)


@pytest.mark.parametrize("turns", range(6))
def test_a_commit_in_whatever_turn_of_the_loop_a_look_ends(file_place, monkeypatch, turns):
    """What another process commits when a look has just ended would be seen after its next commit, or in an hour."""
    monkeypatch.setattr(tails_module, "elapsed", lambda: 0.0)  # no pause behind a look

    async def main(app, web):
        stream, store = app.stream("s", int), app.client.store
        await stream.create()
        heard, rows, unseen = [], store.rows, [1]

        async def follow():
            async for item in stream.tail():
                heard.append(item.value)

        async def committed_behind(name, *parameters):
            found = await rows(name, *parameters)
            if name == "stream_heads" and unseen:
                await other.stream("s", int).append(unseen.pop())
                tell(turns)
            return found

        def tell(turns):
            if turns:
                asyncio.get_running_loop().call_soon(tell, turns - 1)
            else:
                store.changes.committed_elsewhere()

        following = asyncio.ensure_future(follow())
        await settled(app, 1)
        store.changes.committed_elsewhere()
        await asyncio.sleep(1)
        async with file_place.app().connected() as other:
            store.rows = committed_behind
            store.changes.committed_elsewhere()
            await asyncio.sleep(1)
        assert heard == [1]
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    file_place.play(main)


def test_a_crowd_reads_together(place):
    """A thousand readers of one answer would ask the database a thousand times for each word."""

    async def main(app, web):
        words = app.stream("s", str)
        await words.create()
        readers = 1_000

        async def follow():
            return [item.value async for item in words.tail()]

        tails = [asyncio.ensure_future(follow()) for _ in range(readers)]
        await web.waits(app, readers)
        counted = Counted(app.client.store)
        for n in range(10):
            await words.append(str(n))
            await asyncio.sleep(1)
        await words.close()
        assert await asyncio.gather(*tails) == [[str(n) for n in range(10)]] * readers
        # Each for itself when it begins, then once for everybody.
        assert counted.asked.count("chunks") <= readers + 20

    place.play(main)


def test_an_append_costs_one_commit_and_no_query(file_place):
    """Writing a token would cost several round trips."""

    async def main(app, web):
        stream = app.stream("s", int)
        await stream.create()
        await stream.append(0)
        counted, before = Counted(app.client.store), app.client.store.commits
        for n in range(10):
            await stream.append(n)
        assert (counted.asked, app.client.store.commits - before) == ([], 10)
        before = app.client.store.commits
        await asyncio.gather(*(stream.append(n) for n in range(100)))
        assert (counted.asked, app.client.store.commits - before) == ([], 1)
        items = await stream.read()
        assert [item.offset for item in items] == sorted({item.offset for item in items})
        assert len(items) == 111

    file_place.play(main)


def test_whoever_has_no_streams_pays_nothing(file_place):
    """Runs would ask for streams, or publish for readers that nobody has."""

    async def echo(ctx, n: int) -> int:
        return n

    async def main(app: App, web):
        app.workflow(echo)
        counted = Counted(app.client.store)
        await (await app.start("echo", 1)).result()
        assert not any("stream" in name or "chunk" in name for name in counted.asked)
        assert not app.client.store.changes.watched

    file_place.play(main, working=True)


def test_a_cursor_moves_on(file_place):
    """Shared caches would answer a live reader with its own last answer, for ever."""
    now = 1_750_000_000_000_000
    current = int(cursor_after(now, None))
    assert int(cursor_after(now + 20_000_000, None)) == current + 1
    assert int(cursor_after(now, str(current - 1))) == current
    for given in (current, current + 10):
        assert given < int(cursor_after(now, str(given))) <= given + 200
    for odd in ("", "x", "-1", "9" * 40, "²"):
        assert int(cursor_after(now, odd)) == current


def test_text_is_text_and_all_else_is_encoded():
    """Binary content would be broken by the form of events."""
    assert Content("text/plain; charset=utf-8").encoding is None
    assert Content("Application/JSON").json
    assert Content("image/png").encoding == "base64"
