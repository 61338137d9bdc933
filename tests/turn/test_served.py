"""Chat turns behind a real server and a framework: clients that leave, servers that go down."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from perdure.turn import ChatIdentity, ChatOptions, Turn, handle_chat_turn

ME = ChatIdentity("acme", "s-1", 0)


def talk(stage, use):
    """Play on the real clock: an app, a turn that has said its first word, and what ends it."""

    async def main():
        enough = asyncio.Event()

        async def producer(turn: Turn):
            yield "first"
            await enough.wait()
            yield "last"

        async with stage.turning(producer) as (app, turn), asyncio.timeout(30):
            await use(app, turn, enough)

    stage.play_on_real_clock(main)


@asynccontextmanager
async def serving(respond):
    """A server in this process, and a client of it."""
    site = Starlette(routes=[Route("/", respond)])
    server = uvicorn.Server(uvicorn.Config(site, log_level="warning", lifespan="off"))
    listening = socket.create_server(("127.0.0.1", 0))  # whoever comes before the server waits for it
    served = asyncio.create_task(server.serve([listening]))
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}") as client:
            yield server, client
    finally:
        server.should_exit = True
        await served


@pytest.mark.parametrize("framing", ["ndjson", "sse"])
@pytest.mark.parametrize("stop", [True, False])
def test_the_end_of_a_body_survives_its_reader(stage, stop, framing):  # C14 C19
    """Starlette cancels a reader that has left at each await: the turn would not be stopped, telemetry never sent."""
    flushed = asyncio.Event()

    async def flush():
        for _ in range(5):
            await asyncio.sleep(0)
        flushed.set()

    async def use(app, turn, enough):
        async def respond(_request):
            options = ChatOptions(framing=framing, stop_when_left=stop, flush=flush)
            answer = handle_chat_turn(app, turn, ME, options=options)
            return StreamingResponse(answer.body, media_type=answer.media_type, headers=answer.headers)

        async with serving(respond) as (_, client):
            async with client.stream("GET", "/") as answer:
                async for line in answer.aiter_lines():
                    if "first" in line:
                        break
            await flushed.wait()
            if not stop:
                enough.set()
            assert (await app.handle(ME.run_id, turn).result()).text == ("first" if stop else "firstlast")

    talk(stage, use)


def test_readers_are_sent_to_another_process_when_the_server_stops(stage):
    """A deploy would wait for the longest answer, or cut it off and stop the turn as if its reader had left."""
    stopping = asyncio.Event()

    async def use(app, turn, enough):
        async def respond(_request):
            options = ChatOptions(stopping=stopping, stop_when_left=True)
            return handle_chat_turn(app, turn, ME, options=options)

        async with serving(respond) as (server, client), client.stream("GET", "/") as answer:
            lines = []
            async for line in answer.aiter_lines():
                lines.append(json.loads(line))
                if "first" in line:
                    server.should_exit = True
                    stopping.set()
        assert lines[-1] == {"type": "session.run.disconnected", "data": {"sessionId": "s-1"}}
        enough.set()
        assert (await app.handle(ME.run_id, turn).result()).text == "firstlast"

    talk(stage, use)
