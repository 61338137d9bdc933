"""`perdure worker` as an operator sets it up for monitoring and upkeep."""

import json
import signal
import socket
import urllib.request

import pytest

APP = ("--app", "clikit.shop:app")


def test_a_worker_exposes_what_it_counts(shop):
    """A scraper would find nothing where the operator said that it would be."""
    worker = shop.worker("--metrics-port", "0", "--retention", "7d")
    port = worker.logged("metrics are exposed")["port"]
    shop.done("run", "start", "buy", "-i", '{"item": "tea"}', "--wait")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'perdure_runs_ended_total{status="completed",workflow="buy"} 1.0' in text
    assert 'perdure_runs_due{database="' in text
    worker.send(signal.SIGTERM)
    assert [line["event"] for line in worker.lines()] == ["draining", "stopped"]
    assert worker.wait() == 0


@pytest.mark.parametrize("words", [("--retention", "a while"), ("--metrics-port", "99999"), ("--log-format", "xml")])
def test_what_cannot_be(shop, words):
    """A mistyped option would be found when it is too late."""
    worker = shop.start("worker", "clikit.shop:app", "--url", shop.url, *words)
    assert worker.wait() == 2
    assert words[0] in worker.errors


def test_a_port_that_is_taken(shop):
    """A second worker on the machine would work without being watched, and nobody would know."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        worker = shop.start("worker", "clikit.shop:app", "--url", shop.url, "--json", "--metrics-port", port)
        assert worker.wait() == 2
    assert json.loads(worker.errors)["code"] == "invalid_option"
