"""`perdure serve`: a process of its own that follows what other processes do."""

import asyncio
import itertools
import signal
import socket
import sys
import threading
import urllib.request
from contextlib import contextmanager

import httpx
from durable_streams import DurableStream, stream

from perdure.cli.output import plain


@contextmanager
def serving(terminal, *words):
    """A server, and its address."""
    process = terminal.start("serve", "--url", terminal.url, "--port", "0", "--json", *words)
    yield process, process.line()["url"]
    process.send(signal.SIGTERM)
    assert process.wait() == 0


def test_without_its_extra_it_does_not_say_that_it_serves(terminal, monkeypatch):
    """A script would take the address that it prints before it fails."""
    terminal.done("db", "migrate", "--url", terminal.url)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    answer = terminal.run("serve", "--url", terminal.url, "--port", "0")
    assert (answer.code, answer.out) == (2, "")
    assert "pip install 'perdure[server]'" in answer.err


def test_a_published_client_follows_a_run_that_another_process_drives(terminal):
    """Whoever uses a client of the protocol, as it comes from PyPI, could not watch a run."""
    terminal.done("db", "migrate", "--url", terminal.url)
    seen, begun = [], threading.Event()

    def follow(address):
        with stream(f"{address}/v1/stream/runs/r", offset="-1", live="sse") as response:
            for entry in response.iter_json():
                seen.append(entry)
                begun.set()

    with serving(terminal) as (_, address):

        async def main(app):
            await app.start("order", id="r")
            tail = threading.Thread(target=follow, args=(address,))
            tail.start()
            await asyncio.to_thread(begun.wait)
            await app.signal("r", "approval", "yes")
            await app.handle("r").result()
            await asyncio.to_thread(tail.join)
            return [plain(event) async for event in app.handle("r").events(follow=False)]

        assert seen == terminal.play(main)
        assert seen[-1]["kind"] == "completed"


def test_a_published_client_writes_and_reads_across_processes(terminal):
    """A stream would be one process's own."""
    terminal.done("db", "migrate", "--url", terminal.url)
    with serving(terminal) as (_, first), serving(terminal) as (_, second):
        written = DurableStream.create(f"{first}/v1/stream/u/s", content_type="application/json")
        heard = []

        def follow():
            with stream(f"{second}/v1/stream/u/s", offset="-1", live="sse") as response:
                heard.extend(itertools.islice(response.iter_json(), 20))

        tail = threading.Thread(target=follow)
        tail.start()
        for n in range(20):
            written.append({"n": n})
        written.close()
        tail.join(20)
        assert heard == [{"n": n} for n in range(20)]


def test_a_server_that_is_told_to_stop_does_not_wait_for_its_readers(terminal):
    """A deploy would hang for as long as somebody watches."""
    terminal.done("db", "migrate", "--url", terminal.url)
    with serving(terminal) as (process, address):
        httpx.put(f"{address}/v1/stream/u/s", content="x", headers={"Content-Type": "text/plain"}).raise_for_status()
        with (
            urllib.request.urlopen(f"{address}/v1/stream/u/s?offset=-1&live=sse") as events,  # noqa: S310 - our own
            urllib.request.urlopen(f"{address}/v1/stream/u/s?offset=-1&live=sse") as more,  # noqa: S310 - our own
        ):
            assert b"data" in events.readline() + events.readline()
            process.send(signal.SIGTERM)
            assert process.wait() == 0
            assert events.read().endswith(b"\n\n")
            assert more.read().endswith(b"\n\n")


def test_a_port_that_is_taken_and_a_function_that_is_not_there(terminal):
    """Somebody would look for the mistake in a traceback."""
    terminal.done("db", "migrate", "--url", terminal.url)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = terminal.run("serve", "--url", terminal.url, "--port", taken.getsockname()[1])
        assert refused.code == 2
        assert "cannot be had" in refused.err
    for name in ("nothing:here", "json:nothing", "json:__name__"):
        assert terminal.run("serve", "--url", terminal.url, "--authorize", name).code == 2


def test_who_may_is_asked_of_a_function_of_the_users(terminal):
    """Everybody would read everything."""
    terminal.done("db", "migrate", "--url", terminal.url)
    (terminal.folder / "gate.py").write_text(
        "def allow(access):\n    return access.headers.get('authorization') == 'me'\n"
    )
    with serving(terminal, "--authorize", "gate:allow") as (_, address):
        assert httpx.put(f"{address}/v1/stream/u/s").status_code == 403
        assert httpx.put(f"{address}/v1/stream/u/s", headers={"Authorization": "me"}).status_code == 201
