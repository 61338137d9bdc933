"""Signed webhooks, and files of JSON lines."""

import asyncio
import json
import logging
import threading
from base64 import b64encode
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from perdure import App, Context, Event, JsonLines, Retry, Webhook
from perdure.errors import DeliveryFailed, InvalidOption, InvalidSignature, RetryAfter, Terminal
from perdure.outbox.signature import key_of, sign, verify

SECRET = "a secret of more than 16 bytes"  # noqa: S105 - of nobody
EVENT = Event("r:1:2", "emitted", "r", "ship", "", 2, "order", "order", datetime(2026, 1, 2, tzinfo=UTC), {"cents": 5})
NOW = 1_767_312_000


class Still:
    """A clock that stands still."""

    virtual = False

    def __init__(self, seconds: int = NOW) -> None:
        self.seconds = seconds

    def now(self) -> int:
        return self.seconds * 1_000_000


def post(answer, secret=SECRET, url="https://example.com/hook?token=hidden", **options):
    """Deliver one event to a receiver that answers so; returns the requests."""
    seen = []

    def receive(request):
        seen.append(request)
        return answer(request) if callable(answer) else answer

    webhook = Webhook(url, secret, clock=Still(), transport=httpx.MockTransport(receive), **options)

    async def main():
        try:
            await webhook(EVENT)
        finally:
            await webhook.aclose()

    asyncio.run(main())
    return seen


def test_what_is_sent_can_be_verified():
    """A receiver could not tell us from anybody else, or one delivery from its repetition."""
    (request,) = post(httpx.Response(204), headers={"authorization": "Bearer x"})
    assert request.method == "POST"
    assert request.headers["authorization"] == "Bearer x"
    assert verify(SECRET, request.headers, request.content, clock=Still(NOW + 299)) == "r:1:2"
    assert json.loads(request.content) == {
        "id": "r:1:2", "kind": "emitted", "run_id": "r", "workflow": "ship", "version": "", "seq": 2, "key": "order",
        "topic": "order", "at": "2026-01-02T00:00:00+00:00", "data": {"cents": 5},
    }  # fmt: skip


def test_the_signature_is_that_of_the_specification():
    """Receivers that use a library of the specification would refuse what we send."""
    # The example of the specification's reference libraries.
    key = key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    found = sign([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


FORGED = {
    "another body": lambda headers, body: (headers, body + b" "),
    "another id": lambda headers, body: (headers | {"webhook-id": "r:1:3"}, body),
    "another time": lambda headers, body: (headers | {"webhook-timestamp": str(NOW + 1)}, body),
    "no signature": lambda headers, body: ({k: v for k, v in headers.items() if k != "webhook-signature"}, body),
    "an empty signature": lambda headers, body: (headers | {"webhook-signature": ""}, body),
    "a time that is none": lambda headers, body: (headers | {"webhook-timestamp": "now"}, body),
    "a signature of another kind": lambda headers, body: (
        headers | {"webhook-signature": headers["webhook-signature"].replace("v1,", "v2,")}, body,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FORGED)
def test_what_was_changed_on_its_way_is_refused(case):
    """Anybody could tell a receiver that an order was paid."""
    (request,) = post(httpx.Response(204))
    headers, body = FORGED[case](dict(request.headers), request.content)
    with pytest.raises(InvalidSignature):
        verify(SECRET, headers, body, clock=Still())


@pytest.mark.parametrize("seconds", [-301, 301])
def test_an_old_request_is_refused(seconds):
    """A request that was overheard could be sent again for ever."""
    (request,) = post(httpx.Response(204))
    with pytest.raises(InvalidSignature, match="too long ago"):
        verify(SECRET, request.headers, request.content, clock=Still(NOW + seconds))


def test_secrets_can_be_changed_without_a_gap():
    """While sender and receiver change the secret, deliveries would fail."""
    new = "whsec_" + b64encode(b"the new secret, 16+").decode()
    (request,) = post(httpx.Response(204), secret=[new, SECRET])
    for known in (SECRET, new, ["another one, of 16 bytes", new]):
        assert verify(known, request.headers, request.content, clock=Still()) == EVENT.id
    with pytest.raises(InvalidSignature):
        verify("another one, of 16 bytes", request.headers, request.content, clock=Still())


@pytest.mark.parametrize("url", ["example.com/hook", "ftp://example.com", "https://"])
def test_what_is_no_address_is_refused(url):
    """Each event would fail, one after the other."""
    with pytest.raises(InvalidOption):
        Webhook(url, SECRET)


@pytest.mark.parametrize("secret", ["short", "whsec_c2hvcnQ=", "whsec_***", []])
def test_a_weak_secret_is_refused(secret):
    """A signature that can be guessed says nothing."""
    with pytest.raises(InvalidOption):
        Webhook("https://example.com", secret)


def refuse(request):
    raise httpx.ConnectError("cannot connect to https://example.com/hook?token=hidden")


ANSWERS = {
    "an error": (httpx.Response(500, text="stack trace"), DeliveryFailed),
    "a redirect": (httpx.Response(302, headers={"location": "https://evil.example"}), DeliveryFailed),
    "no such page": (httpx.Response(404), DeliveryFailed),
    "gone for good": (httpx.Response(410), Terminal),
    "too many": (httpx.Response(429, headers={"retry-after": "120"}), RetryAfter),
    "too many, without a time": (httpx.Response(429), DeliveryFailed),
    "no connection": (refuse, DeliveryFailed),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_what_is_no_success_is_told_without_what_is_private(case):
    """An event would count as delivered, or an address with a token would stand in a log."""
    answer, expected = ANSWERS[case]
    with pytest.raises(expected) as caught:
        post(answer)
    assert "hidden" not in f"{caught.value!r}{caught.value}"
    assert "stack trace" not in str(caught.value)
    assert caught.value.__cause__ is None


class Receiver(BaseHTTPRequestHandler):
    """Refuses the first request."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((verify(SECRET, dict(self.headers.items()), body), json.loads(body)["kind"]))
        self.send_response(500 if len(self.server.got) == 1 else 200)
        self.send_header("content-length", "0")
        self.end_headers()
        if len(self.server.got) == 3:
            self.server.told_all.set()

    def log_message(self, *_args):
        """Quietly."""


async def ship(ctx: Context) -> str:
    return "shipped"


def test_a_real_server_is_told_over_the_network(tmp_path, caplog):
    """What works with a mock would not work over a socket."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.got, server.told_all = [], threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        app = App(f"sqlite:///{tmp_path / 'hooks.db'}")
        app.workflow(ship)
        url = f"http://127.0.0.1:{server.server_address[1]}/?token=hidden"
        retry = Retry(delay=0.01)
        app.sink("hook", Webhook(url, SECRET), events=["started", "completed"], retry=retry)

        async def main():
            async with app:
                await (await app.start("ship", id="r")).result()
                assert await asyncio.to_thread(server.told_all.wait, 10)

        with caplog.at_level(logging.DEBUG, logger="perdure"):
            asyncio.run(main())
        server.shutdown()
    assert server.got == [("r:1:0", "started"), ("r:1:0", "started"), ("r:1:1", "completed")]
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("perdure")]
    assert "hidden" not in str(ours)


def test_lines_are_appended_and_torn_ones_stay_apart(tmp_path):
    """An event would be written into the middle of a line that a crash has cut off, and both lost."""
    file = tmp_path / "audit.jsonl"
    sink = JsonLines(file)
    sink(EVENT)
    with file.open("a") as torn:
        torn.write('{"id": "cut o')
    sink(EVENT)
    sink(EVENT)
    lines = file.read_text().split("\n")
    assert [json.loads(lines[place])["id"] for place in (0, 2, 3)] == ["r:1:2"] * 3
    assert lines[1] == '{"id": "cut o'
    assert lines[4:] == [""]


def test_a_file_gets_the_events_of_a_run(tmp_path):
    """An audit trail would lack what happened."""
    app = App(f"sqlite:///{tmp_path / 'audit.db'}")
    app.workflow(ship)
    app.sink("audit", JsonLines(tmp_path / "audit.jsonl"))

    async def main():
        async with app:
            await (await app.start("ship", id="r")).result()

    asyncio.run(main())
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert kinds == ["started", "completed"]
