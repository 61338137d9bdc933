"""The chat page in a real browser: its server is killed in the middle of an answer, and the reader gets all of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from httpx_sse import connect_sse

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "examples" / "chat" / "server.py"
WANTED = "PERDURE_BROWSER"  # `make browser` sets it: then a missing browser is a failure
ANSWER = (
    "You said 'hello'. What lasts is not what was never cut off, but what goes on where it was: word by word, "
    "each of them on disk before you read it, whichever process happens to say the next one."
)


@pytest.fixture
def chat(tmp_path):
    """The example, kept alive; its address and what it prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output = (tmp_path / "output").open("w+")
    environment = {**os.environ, "CHAT_PAUSE": "0.05", "TMPDIR": str(tmp_path)}
    server = subprocess.Popen(
        [sys.executable, str(SERVER), str(port)], stdout=output, stderr=output, env=environment, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                httpx.get(url)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url, (tmp_path / "output").read_text
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        output.close()


@pytest.mark.timeout(120)
def test_killed_in_the_middle_of_an_answer(chat):
    """A reader over HTTP would get half an answer, or parts of it twice."""
    url, output = chat
    words, last, kills = [], None, 0
    while True:
        headers = {"Last-Event-ID": last} if last else {}
        params = {"session": "s", "turn": 0, "question": "hello"}
        try:
            with (
                httpx.Client(timeout=30) as client,
                connect_sse(client, "GET", f"{url}/turn", params=params, headers=headers) as source,
            ):
                for event in source.iter_sse():
                    last = event.id
                    if event.event == "message.part.updated":
                        words.append(event.json()["data"]["delta"])
                        if len(words) in {5, 15, 25} and kills < len(words) // 5:
                            kills += 2
                            httpx.post(f"{url}/kill", timeout=1)
                    if event.event == "session.run.completed":
                        assert "".join(words).strip() == ANSWER
                        assert output().count("the server was killed") == 3
                        return
        except httpx.TransportError:
            time.sleep(0.1)


def browser() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.timeout(120)
def test_the_page_in_a_browser(chat):
    """The page would stand still when its server dies, or show words twice."""
    if not os.environ.get(WANTED):
        pytest.skip("`make browser` runs it")
    from playwright.async_api import async_playwright  # noqa: PLC0415 - an extra

    found = browser()
    assert found, "There is no Chromium: apt-get install chromium, or put one on the PATH."
    url, output = chat

    async def play():
        async with async_playwright() as playwright:
            window = await playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
            page = await window.new_page()
            await page.goto(url)
            await page.fill("#question", "hello")
            await page.click("text=Send")
            answer = page.locator(".answer")
            await page.wait_for_function("document.querySelector('.answer').textContent.split(' ').length > 6")
            await page.click("#kill")
            await page.wait_for_function("document.getElementById('state').textContent.includes('gone')")
            said = await answer.text_content()
            await page.wait_for_selector(".answer[data-done=yes]", timeout=60_000)
            whole = await answer.text_content()
            await window.close()
            return said, whole

    said, whole = asyncio.run(play())
    assert 5 < len(said.split()) < len(ANSWER.split())
    assert whole.strip() == ANSWER
    assert "the server was killed" in output()
