"""Chat turns over HTTP: lines, hooks, errors, clients that leave and come back."""

import asyncio
import json
import logging

import pytest
from tests.turn.test_turns import speak

from perdure import Context
from perdure.errors import InvalidOption
from perdure.turn import ChatIdentity, ChatOptions, Turn, handle_chat_turn

ME = ChatIdentity("acme", "s-1", 3)
STARTED = {"type": "session.run.started", "data": {"sessionId": "s-1", "tenantId": "acme", "turnIndex": 3}}
DONE = {"type": "session.run.completed", "data": {"sessionId": "s-1", "replayed": False}}


def delta(text):
    return {"type": "message.part.updated", "data": {"delta": text}}


POEM = [delta(word) for word in ("a ", "poem ", "about ", "cats")]


async def lines_of(answer):
    return [json.loads(line) for line in (await whole(answer)).decode().splitlines()]


async def whole(answer):
    return b"".join([chunk async for chunk in answer.body])


def ask(app, turn, subject="cats", identity=ME, start=None, **options):
    return handle_chat_turn(app, turn, identity, (subject,), start=start, options=ChatOptions(**options))


def chatting(stage, use, producer=speak, **options):
    async def main():
        async with stage.turning(producer, **options) as (app, turn):
            return await use(app, turn)

    return stage.play(main)


def test_a_turn_as_lines(stage):  # C1 C2 C3 C4
    """A client could not tell where a turn begins and ends."""

    async def vocabulary(turn: Turn, subject: str):
        yield {"type": "message.started", "data": {"messageId": "m"}}
        yield "text"
        yield {"type": "tool", "name": "kept as it is", "data": None}
        yield 42

    async def use(app, turn):
        answer = ask(app, turn)
        return answer.media_type, await whole(answer)

    media_type, body = chatting(stage, use, vocabulary)
    assert media_type == "application/x-ndjson"
    assert body.endswith(b"\n")
    assert [json.loads(line) for line in body.splitlines()] == [
        STARTED, {"type": "message.started", "data": {"messageId": "m"}}, delta("text"),
        {"type": "tool", "name": "kept as it is", "data": None}, {"type": "event", "data": {"value": 42}}, DONE,
    ]  # fmt: skip


def test_a_turn_as_server_sent_events(stage):
    """A browser could neither read the turn nor come back to where it was."""

    async def use(app, turn):
        return await whole(ask(app, turn, framing="sse", keep_alive=0.4))

    events = [block for block in chatting(stage, use).decode().split("\n\n") if block]
    assert events[0].startswith("id: 0\nevent: session.run.started\ndata: {")
    assert [block.splitlines()[0] for block in events if block.startswith("id: ")] == [
        f"id: {seq}" for seq in (0, 1, 2, 3, 4, 6)
    ]
    assert events.count(": ") >= 4


@pytest.mark.parametrize("framing", ["ndjson", "sse"])
def test_numbers_that_are_no_json_are_told_as_null(stage, framing):
    """One score that is not a number would end the page's reading of the turn."""

    async def scored(turn: Turn, subject: str):
        yield {"type": "score", "data": {"v": float("nan"), "w": [float("-inf")]}}

    async def use(app, turn):
        return await whole(ask(app, turn, framing=framing))

    body = chatting(stage, use, scored)
    assert b'{"type":"score","data":{"v":null,"w":[null]}}' in body
    assert b"NaN" not in body


def test_a_second_request_gets_the_text(stage):  # C6
    """Asking again for an answer would run the model again."""

    async def use(app, turn):
        await lines_of(ask(app, turn))
        return await lines_of(ask(app, turn))

    assert chatting(stage, use) == [
        STARTED, {"type": "result", "data": {"finalText": "a poem about cats"}},
        {"type": "session.run.completed", "data": {"sessionId": "s-1", "replayed": True}},
    ]  # fmt: skip


def test_two_requests_at_once_are_one_turn(stage):  # C17
    """The second of two windows would be refused, or pay for a second answer."""
    begun = []

    async def counted(turn: Turn, subject: str):
        begun.append(subject)
        async for word in speak(turn, subject):
            yield word

    async def use(app, turn):
        return await asyncio.gather(*(lines_of(ask(app, turn)) for _ in range(3)))

    assert chatting(stage, use, counted) == [[STARTED, *POEM, DONE]] * 3
    assert begun == ["cats"]


@pytest.mark.parametrize("place", range(5))
def test_a_client_that_comes_back_gets_the_rest(stage, place):
    """A reader would miss words, or get some twice, when its connection breaks."""

    async def use(app, turn):
        body = ask(app, turn, numbered=True).body
        got = [json.loads(await anext(body)) for _ in range(place + 1)]
        await body.aclose()
        rest = await lines_of(ask(app, turn, numbered=True, after=got[-1]["seq"]))
        return got[1:] + rest[1:-1]

    assert [{"type": line["type"], "data": line["data"]} for line in chatting(stage, use)] == POEM


@pytest.mark.parametrize("cancel", [False, True])
def test_a_turn_that_has_failed_is_told_alike_whenever_it_is_asked_for(stage, cancel):  # C5 C6
    """A client that comes back would be told of another error, under another code, than the one who waited."""

    async def failing(turn: Turn, subject: str):
        yield "half"
        if cancel:
            await turn.keep("here")
            await asyncio.sleep(10)
        raise OSError("the model is gone")

    async def use(app, turn):
        live = asyncio.ensure_future(lines_of(ask(app, turn)))
        await asyncio.sleep(1)
        if cancel:
            await app.cancel(ME.run_id, "never mind")
        return await live, await lines_of(ask(app, turn)), await lines_of(ask(app, turn, after=1))

    live, again, back = chatting(stage, use, failing)
    assert live[-1]["data"]["code"] == ("run_cancelled" if cancel else "OSError")
    assert (live[:2], again, back) == ([STARTED, delta("half")], [STARTED, *live[2:]], [STARTED, *live[2:]])


def test_what_is_no_turn_is_refused(stage):
    """The first request would start a workflow that says nothing, and the second one break off."""

    async def plain(ctx: Context, subject: str) -> str:
        return subject

    async def use(app, turn):
        with pytest.raises(InvalidOption, match=r"workflow plain.* is no turn: declare it by @app\.turn"):
            ask(app, app.workflow(plain))
        with pytest.raises(InvalidOption, match="'speak' is no turn"):
            ask(app, turn.name)

    chatting(stage, use)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((None, "s", 0), "tenant: None"), (("", "s", 0), "tenant: ''"), ((7, "s", 0), "tenant: 7"),
        (("t", None, 0), "session: None"), (("t", "", 0), "session: ''"),
        (("t", "s", None), "turn: None"), (("t", "s", "1"), "turn: '1'"), (("t", "s", -1), "turn: -1"),
    ],
)  # fmt: skip
def test_an_identity_that_was_forgotten_is_refused(parts, text):
    """All who forget their tenant would share one, and read each other's answers."""
    with pytest.raises(InvalidOption, match=f"^{text} is not a"):
        ChatIdentity(*parts)


def test_other_input_for_the_same_turn_is_told_with_its_code(stage):  # C5 C17
    """A client could not tell a mistake of its own from a broken model."""

    async def use(app, turn):
        await lines_of(ask(app, turn))
        return await lines_of(ask(app, turn, "dogs"))

    started, error, failed = chatting(stage, use)
    assert (started, error["type"], failed["type"]) == (STARTED, "error", "session.run.failed")
    assert error["data"]["code"] == failed["data"]["code"] == "start_conflict"
    assert "other input" in error["data"]["message"]
    assert failed["data"]["sessionId"] == "s-1"


def test_tenants_do_not_meet(stage):  # C18 I11
    """Two customers with the same session id would read each other's answers."""

    async def use(app, turn):
        mine = await lines_of(ask(app, turn, "cats"))
        other = await lines_of(ask(app, turn, "dogs", ChatIdentity("other", "s-1", 3)))
        return mine[-2], other[-2]

    assert chatting(stage, use) == (delta("cats"), delta("dogs"))
    assert len({ChatIdentity(*parts).run_id for parts in (("a:b", "c", 1), ("a", "b:c", 1), ("a", "b", 1))}) == 3


def test_a_broken_model_is_told_and_the_body_ends(stage):  # C5
    """A client would wait for the end of a body that has broken off."""

    async def broken(turn: Turn, subject: str):
        yield "half"
        raise OSError("the model is gone")

    async def use(app, turn):
        return await lines_of(ask(app, turn))

    started, half, error, failed = chatting(stage, use, broken)
    assert (started, half) == (STARTED, delta("half"))
    assert error == {"type": "error", "data": {"message": "the model is gone", "code": "OSError"}}
    assert failed["data"] == {"sessionId": "s-1", "message": "the model is gone", "code": "OSError"}


def test_a_process_that_goes_down_says_nothing_about_the_turn(stage):
    """A page would show an answer as failed that goes on elsewhere, and would not come back for it."""

    async def main():
        async with stage.turning(speak) as (other, _):
            async with stage.turning(speak) as (app, turn):
                body = ask(app, turn, numbered=True, stop_when_left=True).body
                got = [json.loads(await anext(body)) for _ in range(3)]
            got += [json.loads(chunk) async for chunk in body]
            rest = ask(other, other.registry.get("speak"), numbered=True, after=got[-1]["seq"])
            return got, await lines_of(rest)

    got, rest = stage.play(main)
    assert (got[-1]["type"], got[-1]["data"]) == ("session.run.disconnected", {"sessionId": "s-1"})
    assert rest[-1]["type"] == "session.run.completed"


def test_what_came_before_a_retry_is_superseded(stage):
    """A client would show the beginning of the answer twice."""
    from perdure import Retry  # noqa: PLC0415

    async def flaky(turn: Turn, subject: str):
        yield f"try {turn.attempt}"
        if turn.attempt == 1:
            raise OSError("cut")

    async def use(app, turn):
        return await lines_of(ask(app, turn))

    lines = chatting(stage, use, flaky, retry=Retry(max_attempts=2, delay=0))
    assert lines == [
        STARTED, delta("try 1"), {"type": "turn.superseded", "data": {"from": 1}}, delta("try 2"), DONE,
    ]  # fmt: skip


def test_hooks_see_what_the_client_sees_in_their_order(stage, caplog):  # C8 C11 C12 C14
    """A log would differ from what was sent, or a failing hook would end the answer."""
    seen, order = [], []

    async def on_line(line):
        seen.append(line)
        raise OSError("no log today")

    def named(name):
        async def hook(*args):
            order.append(name)
            return args[0].text if name == "transform" else None

        return hook

    async def use(app, turn):
        lines = []
        answer = ask(app, turn, on_line=on_line, flush=lambda: order.append("flush"))
        async for chunk in answer.body:
            lines.append(json.loads(chunk))
            if lines[-1] == DONE:
                order.append("completed")
        return lines

    hooks = {name: named(name) for name in ("transform", "persist", "complete")}
    with caplog.at_level(logging.CRITICAL):
        lines = chatting(stage, use, **hooks)
    assert seen == lines == [STARTED, *POEM, DONE]
    assert order == ["transform", "persist", "complete", "completed", "flush"]


@pytest.mark.parametrize("waited", [True, False])
def test_the_flush_is_waited_for_by_whoever_offers_to(stage, waited):  # C14
    """A client would wait for telemetry, or it would be lost with the process."""
    flushed, waiting = [], []

    async def flush():
        await asyncio.sleep(5)
        flushed.append(stage.seconds())

    async def use(app, turn):
        await lines_of(ask(app, turn, flush=flush, wait_until=waiting.append if waited else None))
        ended = stage.seconds()
        for each in waiting:
            await each
        return ended

    ended = chatting(stage, use)
    assert flushed[0] - ended == (5 if waited else 0)


@pytest.mark.parametrize("stop", [True, False])
def test_a_client_that_leaves(stage, stop):  # C19
    """An answer would be lost with its browser window, or go on though it was to stop."""

    async def use(app, turn):
        body = ask(app, turn, stop_when_left=stop).body
        for _ in range(3):
            await anext(body)
        await body.aclose()
        await asyncio.sleep(60)
        return (await lines_of(ask(app, turn)))[1]["data"]["finalText"]

    assert chatting(stage, use) == ("a poem " if stop else "a poem about cats")


def test_as_an_asgi_application(stage):  # H1 H2 H3 H6
    """A framework could not send it, or would not notice that its client has left."""

    async def use(app, turn):
        sent = []
        gone = asyncio.Event()

        async def receive():
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)
            if len(sent) == 4:
                gone.set()

        await ask(app, turn, stop_when_left=True)({"type": "http"}, receive, send)
        left = len(sent)
        gone.clear()
        other = ChatIdentity("acme", "s-1", 4)
        await ask(app, turn, identity=other)({"type": "http"}, receive, send)
        return sent[:left], sent[left:], (await app.handle(ME.run_id, turn).result()).interrupted

    first, second, interrupted = chatting(stage, use)
    assert (first[0]["status"], dict(first[0]["headers"])[b"content-type"]) == (200, b"application/x-ndjson")
    assert all(message["more_body"] for message in first[1:])
    assert interrupted
    assert second[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert json.loads(second[-2]["body"])["type"] == "session.run.completed"


def test_one_turn_of_a_session_at_a_time(stage):
    """Two answers of one conversation would be written at once."""

    async def use(app, turn):
        app.queue("chat", per_key=1)
        await app.client.declare_queues(app.registry.queues.values(), app.registry.queue_names())
        ends = {}

        async def asked(name, session, number):
            await lines_of(ask(app, turn, identity=ChatIdentity("acme", session, number), start={"queue": "chat"}))
            ends[name] = round(stage.seconds())

        await asyncio.gather(asked("a1", "a", 1), asked("a2", "a", 2), asked("b1", "b", 1))
        return ends

    ends = chatting(stage, use)
    assert ends["b1"] == 4
    assert sorted((ends["a1"], ends["a2"])) == [4, 8]


def test_a_thousand_readers_of_one_turn(stage):
    """A popular answer would be read from the database for each reader by itself, and stall the loop."""
    asked = []

    async def use(app, turn):
        rows = app.client.store.rows

        async def counted(name, *parameters):
            asked.append(name)
            return await rows(name, *parameters)

        app.client.store.rows = counted
        return await asyncio.gather(*(lines_of(ask(app, turn)) for _ in range(1000)))

    bodies = chatting(stage, use)
    assert bodies == [[STARTED, *POEM, DONE]] * 1000
    assert asked.count("entries") < 1_000  # of 6,000 if each read by itself


def test_a_framing_that_there_is_not(stage):
    """A typing mistake would send lines to whoever wants events."""
    with pytest.raises(InvalidOption, match="ndjson"):
        ChatOptions(framing="xml")
