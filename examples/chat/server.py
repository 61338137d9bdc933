"""
A chat page whose server may be killed in the middle of an answer.

    python examples/chat/server.py            # keeps a server alive, then open http://127.0.0.1:8070

The page follows an answer by server-sent events, and comes back with the place of the last one that it got. Its red
button kills the server's process; this program starts another one, whose worker goes on with the turn.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvicorn

from perdure import App, WorkerOptions
from perdure.turn import ChatIdentity, ChatOptions, Turn, handle_chat_turn

PAGE = Path(__file__).with_name("page.html")
WORDS = (
    "You said {0}. What lasts is not what was never cut off, but what goes on where it was: word by word, "
    "each of them on disk before you read it, whichever process happens to say the next one."
)
app = App(os.environ.get("CHAT_URL", "sqlite://"), worker=WorkerOptions(lease=2))


@app.turn(continues=True)
async def answer(turn: Turn, question: str) -> AsyncIterator[str]:
    """A model that says what its script says, and can be asked to go on."""
    words = WORDS.format(repr(question)).split(" ")
    for number in range(turn.events, len(words)):
        await asyncio.sleep(float(os.environ.get("CHAT_PAUSE", "0.2")))
        yield f"{words[number]} "


async def serve(scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """Three addresses, as an ASGI application."""
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    if scope["path"] == "/kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif scope["path"] == "/turn":
        asked = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        me = ChatIdentity("demo", asked["session"], int(asked["turn"]))
        after = headers.get("last-event-id") or asked.get("after")
        options = ChatOptions(framing="sse", after=int(after) if after else None)
        await handle_chat_turn(app, answer, me, (asked["question"],), options=options)(scope, receive, send)
    else:
        kind = [(b"content-type", b"text/html; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        await send({"type": "http.response.body", "body": PAGE.read_bytes()})


async def work(port: int) -> None:
    """One server process: HTTP and a worker."""
    async with app:
        config = uvicorn.Config(serve, port=port, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        await uvicorn.Server(config).serve()


def keep_alive(port: int) -> None:
    """Start the server again whenever it has died, on one database."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"CHAT_URL": f"sqlite:///{folder}/chat.db", **os.environ}
        while True:
            print(f"serving http://127.0.0.1:{port}", flush=True)
            command = [sys.executable, __file__, "--work", str(port)]
            code = subprocess.run(command, env=environment, check=False).returncode
            if code != -signal.SIGKILL:
                return
            print("the server was killed; here is another one", flush=True)


if __name__ == "__main__":
    number = int(sys.argv[-1]) if sys.argv[-1].isdigit() else 8070
    if "--work" in sys.argv:
        asyncio.run(work(number))
    else:
        keep_alive(number)
