"""A run's journal as a stream: what `perdure run tail --json` prints, closed when the run has ended."""

import asyncio
import json
import random

import pytest
from streamkit.web import Web

from perdure import Compressed, current_step
from perdure.cli.output import plain
from perdure.stream.options import StreamOptions

R = "/v1/stream/runs"


async def entries_of(app, run_id):
    """The journal as the command line prints it."""
    return [plain(event) async for event in app.handle(run_id).events(follow=False)]


async def write(n: int) -> str:
    current_step().emit("token", n)
    return "x" * n


async def story(ctx, lines: int, size: int = 3) -> int:
    for _ in range(lines):
        await ctx.step(write, size)
    await ctx.emit("done", {"é": [1, None]})
    return lines


async def scores(ctx) -> float:
    await ctx.emit("score", {"v": float("nan")})
    return float("inf")


async def waits(ctx) -> str:
    await ctx.sleep(5)
    return await ctx.receive("go", str)


def known(app, *workflows):
    app.step(write)
    for workflow in workflows or (story, waits):
        app.workflow(workflow)
    return app


@pytest.mark.parametrize("query", ["", "?offset=-1&live=sse"])
def test_numbers_that_are_no_json_are_told_as_null(place, query):
    """One score that is not a number would keep a browser from reading the whole page."""

    async def main(app, web):
        run = await known(app, scores).start("scores", id="r")
        assert await run.result() == float("inf")
        text = (await web.get(f"{R}/r{query}")).text
        assert '{"v":null}' in text
        assert "NaN" not in text
        assert "Infinity" not in text

    place.play(main, working=True)


def test_a_run_is_read_as_it_is_printed(place):
    """A client would see other entries than the command line, or in another form."""

    async def main(app, web):
        known(app)
        await (await app.start("story", 3, id="r")).result()
        wanted = await entries_of(app, "r")
        whole = await web.get(f"{R}/r")
        assert whole.json == wanted
        assert (whole.headers["content-type"], whole.closed, whole.up_to_date) == ("application/json", True, True)
        assert whole.offset == f"{wanted[-1]['seq']:016d}"
        assert "private" in whole.headers["cache-control"]
        for entry in wanted:
            rest = await web.get(f"{R}/r?offset={entry['seq']:016d}")
            assert rest.json == [later for later in wanted if later["seq"] > entry["seq"]]
        assert (await web.get(f"{R}/r", If_None_Match=whole.headers["etag"])).status == 304
        head = await web("HEAD", f"{R}/r")
        assert (head.status, head.offset, head.closed) == (200, whole.offset, True)
        now = await web.get(f"{R}/r?offset=now")
        assert (now.json, now.closed) == ([], True)

    place.play(main, working=True)


def test_a_run_is_only_read(place):
    """Somebody would write into a journal from outside (I1)."""

    async def main(app, web):
        known(app)
        await (await app.start("story", 1, id="r")).result()
        before = await entries_of(app, "r")
        for method in ("PUT", "POST", "DELETE", "PATCH"):
            refused = await web(method, f"{R}/r", {"Content-Type": "application/json"}, "[1]")
            assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        assert await entries_of(app, "r") == before
        assert (await web.get(f"{R}/none")).json["code"] == "run_not_found"
        for bad in ("x", "0000000000000099", "0000000000000000_0000000000000001"):
            assert (await web.get(f"{R}/r?offset={bad}")).status == 400, bad

    place.play(main, working=True)


def test_a_run_is_followed_to_its_end(place):
    """A reader would miss an entry, get one twice, or not learn that the run has ended."""

    async def main(app, web):
        known(app)
        await app.start("waits", id="r")
        seen, at = [], "-1"
        async with web.events(f"{R}/r?offset=-1&live=sse") as events:
            await events.start()
            sent = False
            while (event := await events.next()) is not None:
                if event.name == "data":
                    seen += json.loads(event.data)
                    assert event.id == f"{seen[-1]['seq']:016d}"
                told = json.loads(event.data) if event.name == "control" else {}
                if not sent and any(entry["kind"] == "timer_fired" for entry in seen):
                    sent = await app.signal("r", "go", "gone")
                if told.get("streamClosed"):
                    break
        polled = []
        while True:
            page = await web.get(f"{R}/r?offset={at}&live=long-poll")
            polled += page.json if page.status == 200 else []
            at = page.offset
            if page.closed:
                break
        assert seen == polled == await entries_of(app, "r")
        assert seen[-1]["kind"] == "completed"

    place.play(main, working=True)


def test_a_reader_of_a_turn_that_comes_back_anywhere_gets_the_same(place):
    """A reader that reconnects while an answer streams would miss words, or get some twice (1,000 times)."""

    async def main(app, web):
        async def talk(turn):
            for n in range(200):
                yield f"word {n}"
                await asyncio.sleep(0.01)

        app.turn(talk)
        run, chance = await app.start("talk", id="t"), random.Random(7)
        got, ends = [], ["-1"]
        for _ in range(1_000):
            at, way = chance.choice((chance.choice(ends), ends[-1])), chance.choice(("", "&live=long-poll", "sse"))
            if way == "sse":
                async with web.events(f"{R}/t?offset={at}&live=sse") as events:
                    await events.start()
                    event = await events.next()
                items = json.loads(event.data) if event.name == "data" else []
                end = event.id
            else:
                page = await web.get(f"{R}/t?offset={at}{way}")
                items, end = page.json if page.body else [], page.offset
            got.append((at, items, end))
            ends += [end] if end > ends[-1] or ends == ["-1"] else []
            await asyncio.sleep(chance.uniform(0, 0.004))
        assert (await run.result()).events == 200
        whole = await entries_of(app, "t")
        assert ends[-1] == f"{len(whole):016d}"
        assert len(ends) > 100
        for at, items, end in got:
            assert items == whole[max(0, int(at)) : int(end)]

    place.play(main, working=True)


def test_the_last_entry_and_the_end_are_one_commit(place):
    """A reader would see a closed stream that still grows, or an ended run that never closes."""

    async def main(app, web):
        known(app)
        for turn in range(10):
            run = await app.start("story", 2, id=f"r{turn}")
            at, seen, closed = "-1", [], False
            while not closed:
                page = await web.get(f"{R}/r{turn}?offset={at}")
                seen += page.json
                at, closed = page.offset, page.closed
                assert closed == (bool(seen) and seen[-1]["kind"] == "completed")
                await asyncio.sleep(turn / 2_000)
            await run.result()
            assert seen == await entries_of(app, f"r{turn}")

    place.play(main, working=True)


def test_live_entries_come_while_the_step_runs(place):
    """Who watches a run would see tokens only when all of them are there."""

    async def talks(_n: int) -> str:
        step = current_step()
        for n in range(3):
            step.emit("token", n)
            await step.flush()
            await asyncio.sleep(10)
        return "said"

    async def chat(ctx) -> str:
        return await ctx.step(talks, 1)

    async def main(app, web):
        app.step(talks)
        app.workflow(chat)
        await app.start("chat", id="r")
        begun = app.client.store.clock.now()
        seen = []
        async with web.events(f"{R}/r?offset=-1&live=sse") as events:
            await events.start()
            while len(seen) < 3:
                event = await events.next()
                if event.name == "data":
                    seen += [
                        entry["data"]["value"] for entry in json.loads(event.data) if entry["kind"] == "step_emitted"
                    ]
        assert seen == [0, 1, 2]
        assert app.client.store.clock.now() - begun < 25_000_000

    place.play(main, working=True)


def test_large_and_sealed_payloads_are_opened(place):
    """A reader would get the name of a blob, or what the codec made of it."""

    async def main(app, web):
        known(app)
        await (await app.start("story", 3, 60_000, id="r")).result()
        wanted = await entries_of(app, "r")
        assert any(entry["data"] == "x" * 60_000 for entry in wanted)
        found, at, pages = [], "-1", 0
        web = Web(app.stream_server(options=StreamOptions(page_bytes=100_000)))
        while True:
            page = await web.get(f"{R}/r?offset={at}")
            found, at, pages = found + page.json, page.offset, pages + 1
            if page.up_to_date:
                break
        assert found == wanted
        assert pages > 1

    place.play(main, working=True, codec=Compressed())


def test_long_journals_come_in_pieces(file_place):
    """A reader of a long run would make the server hold all of it."""

    async def many(ctx) -> None:
        for n in range(1_200):
            await ctx.emit("n", n)

    async def main(app, web):
        app.workflow(many)
        await (await app.start("many", id="r")).result()
        sizes, at = [], "-1"
        while True:
            page = await web.get(f"{R}/r?offset={at}")
            sizes.append(len(page.json))
            at = page.offset
            if page.up_to_date:
                break
        assert sizes == [500, 500, 201]

    file_place.play(main, working=True)


def test_only_some_kinds_outside_of_the_stream(place):
    """A filter on the stream itself would give one offset several meanings; without one, readers would filter."""

    async def main(app, web):
        known(app)
        await (await app.start("story", 3, id="r")).result()
        wanted = await entries_of(app, "r")
        for types in ("step_completed", "emitted,completed", "failed"):
            page = await web.get(f"/v1/runs/r/events?types={types}")
            assert page.json == [entry for entry in wanted if entry["kind"] in types.split(",")]
            assert page.offset == f"{wanted[-1]['seq']:016d}"
            assert page.closed
        assert (await web.get("/v1/runs/r/events")).json == wanted
        assert (await web.get("/v1/runs/r/events?types=what")).status == 400
        assert (await web.get(f"{R}/r?types=failed")).json == wanted

    place.play(main, working=True)


def test_a_journal_that_began_anew_says_so(place):
    """A reader would take what is left for all there was."""

    async def count(ctx, n: int) -> int:
        await ctx.emit("n", n)
        if n:
            ctx.continue_as_new(n - 1)
        return n

    async def main(app, web):
        app.workflow(count)
        await (await app.start("count", 3, id="r")).result()
        left = (await web.get(f"{R}/r")).json
        assert left[0]["seq"] > 2
        gone = await web.get(f"{R}/r?offset={1:016d}")
        assert (gone.status, gone.json["code"]) == (410, "stream_gone")
        assert (await web.get(f"{R}/r?offset={left[0]['seq'] - 1:016d}")).json == left

    place.play(main, working=True)


def test_a_rerun_goes_on_where_its_run_was_closed(place):
    """Who reads a run that was done again would see the end of its first generation only."""

    async def main(app, web):
        known(app)
        await (await app.start("story", 1, id="r")).result()
        first = await web.get(f"{R}/r")
        await app.client.rerun("r")
        await app.handle("r").result()
        more = await web.get(f"{R}/r?offset={first.offset}")
        assert more.json[0]["kind"] == "rerun"
        assert more.closed
        assert more.headers["etag"] != first.headers["etag"]

    place.play(main, working=True)


@pytest.mark.parametrize("run_id", ["a/b c", "é", "100%", "x?y", "events"])
def test_ids_of_any_form_have_an_address(file_place, run_id):
    """A run could not be read because of its name."""

    async def main(app, web):
        known(app)
        await (await app.start("story", 1, id=run_id)).result()
        scope = web.scope("GET", "/", {}) | {"path": f"{R}/{run_id}"}
        web.scope = lambda *_: scope
        assert (await web.get("")).json == await entries_of(app, run_id)

    file_place.play(main, working=True)
