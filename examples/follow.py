"""
A run that is followed over HTTP, by a reader whose connection breaks in the middle.

    python examples/follow.py            # a reader that is cut off, and comes back where it was
    python examples/follow.py --page     # the same in a browser: open the address that is printed

The page has twenty lines: a browser's own EventSource reads a run's stream, and goes on by itself after a break.
It needs `pip install 'perdure[server]'`.
"""

import asyncio
import http.client
import json
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from perdure import App, Context, StreamServer, current_step

app = App("sqlite://")
PAGE = """<!doctype html><title>follow</title><h1>A run, as it happens</h1><pre id="out"></pre>
<script>
  const out = document.getElementById("out")
  const source = new EventSource("/v1/stream/runs/essay?offset=-1&live=sse")
  source.addEventListener("data", (event) => {
    for (const entry of JSON.parse(event.data)) {
      if (entry.kind === "step_emitted") out.textContent += entry.data.value + " "
      else out.textContent += `\\n[${entry.kind} ${entry.key}]\\n`
    }
  })
  source.addEventListener("control", (event) => {
    if (JSON.parse(event.data).streamClosed) source.close()
  })
</script>
"""


@app.step
async def write(line: str) -> int:
    step = current_step()
    for word in line.split():
        step.emit("word", word)
        await step.flush()
        await asyncio.sleep(0.02)
    return len(line)


@app.workflow
async def essay(ctx: Context) -> int:
    lines = ["Once upon a time", "there was a process", "that died and went on."]
    return sum([await ctx.step(write, line) for line in lines])


def with_page(streams: StreamServer) -> Callable[..., Awaitable[None]]:
    """Our page at /, and all else from the streams, as any framework's router would do it."""

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/":
            headers = [(b"content-type", b"text/html; charset=utf-8")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": PAGE.encode()})
        else:
            await streams(scope, receive, send)

    return asgi


def read(port: int, after: str, most: int) -> tuple[list[dict[str, Any]], str]:
    """Read events from a place on, up to so many entries or the end; then the connection is cut."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/v1/stream/runs/essay?offset=-1&live=sse", headers={"Last-Event-ID": after})
    answer = connection.getresponse()
    found: list[dict[str, Any]] = []
    while len(found) < most and (line := answer.readline().decode().rstrip("\n")):
        while line:
            name, _, value = line.partition(":")
            if name == "id":
                after = value.strip()
            elif name == "data" and value.startswith("["):
                found += json.loads(value)
            elif name == "data" and "streamClosed" in value:
                most = 0
            line = answer.readline().decode().rstrip("\n")
    connection.close()
    return found, after


async def main() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    async with app:
        streams = app.stream_server()
        config = uvicorn.Config(with_page(streams), log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        run = await app.start(essay, id="essay")
        if "--page" in sys.argv:
            print(f"open http://127.0.0.1:{port}/ (Ctrl-C ends)")
            await serving
            return
        first, after = await asyncio.to_thread(read, port, "-1", 5)
        print(f"cut off after {len(first)} entries")
        rest, _ = await asyncio.to_thread(read, port, after, 100)
        entries = first + rest
        print(" ".join(entry["data"]["value"] for entry in entries if entry["kind"] == "step_emitted"))
        print("each entry once, in order:", [entry["seq"] for entry in entries] == list(range(1, len(entries) + 1)))
        print("the last one:", entries[-1]["kind"], "| result:", await run.result())
        streams.stop()
        server.should_exit = True
        await serving


if __name__ == "__main__":
    asyncio.run(main())
