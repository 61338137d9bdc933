"""
A webhook: runs tell a server what they do, and the server checks who is speaking.

The receiver is any web server; here it is one of the standard library's, in the same program. It refuses what is not
signed, tells repetitions by the event's id, and is out of order for the first request, which is made again.
"""

import asyncio
import json
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from perdure import App, Context, Retry, Webhook
from perdure.errors import InvalidSignature
from perdure.outbox.signature import verify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of nobody: a real one comes from the environment


class Receiver(BaseHTTPRequestHandler):
    seen: ClassVar[set[str]] = set()
    requests: ClassVar[int] = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(self.answer(body))
        self.send_header("content-length", "0")
        self.end_headers()

    def answer(self, body: bytes) -> int:
        try:
            event_id = verify(SECRET, dict(self.headers.items()), body)
        except InvalidSignature as error:
            print(f"refused: {error}")
            return 401
        Receiver.requests += 1
        if Receiver.requests == 1:
            print("out of order")
            return 503
        if event_id not in Receiver.seen:
            Receiver.seen.add(event_id)
            event = json.loads(body)
            print(f"event {event['seq']} of {event['run_id']}: {event['topic'] or event['kind']}")
        return 204

    def log_message(self, format: str, *args: object) -> None:
        """Quietly."""


async def main(folder: str, url: str) -> None:
    app = App(f"sqlite:///{folder}/webhook.db")

    @app.workflow
    async def checkout(ctx: Context, order: str) -> str:
        await ctx.emit("packed", order)
        return f"{order} shipped"

    app.sink("shop", Webhook(url, SECRET), retry=Retry(delay=0.1), events=["started", "emitted", "completed"])
    async with app:
        await (await app.start(checkout, "7 chairs", id="order-7")).result()
        while await app.client.store.select("select run from perdure_outbox"):  # noqa: ASYNC110 - to end when all is told
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        asyncio.run(main(folder, address))
        try:
            urlopen(Request(address, b'{"kind": "completed"}'), timeout=10)
        except HTTPError as error:
            print(f"a stranger gets {error.code}")
            error.close()
        server.shutdown()
        thread.join()
