"""
What 10,000 readers who wait for events cost the server: memory, and how soon they hear of an append.

    python bench/tails.py [readers]
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

STREAMS = GROUP = 100
CROWD = 2_500
"""Readers in one process: it and the server may have so many files open only."""
HTTP = "HTTP/1.1"
Tails = list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]


def main(readers: int) -> None:
    """Serve, connect, measure."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/tails.db"
        perdure = str(Path(sys.executable).parent / "perdure")
        subprocess.run([perdure, "db", "migrate", "--url", url], check=True, stdout=subprocess.DEVNULL)
        port = 45_437
        command = [perdure, "serve", "--url", url, "--port", str(port), "--log-level", "warning"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            server.stdout.readline()
            asyncio.run(_measure(server.pid, port, readers))
        finally:
            server.terminate()
            begun = time.perf_counter()
            server.wait()
            print(f"stopped in {time.perf_counter() - begun:.2f} s")


async def _measure(pid: int, port: int, readers: int) -> None:
    process = psutil.Process(pid)
    for n in range(STREAMS):
        _ask(port, "PUT", f"s{n}", b"x")
    before = process.memory_info().rss
    tails = await _connect(port, STREAMS)
    crowds = [await _crowd(port, min(CROWD, readers - n)) for n in range(STREAMS, readers, CROWD)]
    after = process.memory_info().rss
    per = (after - before) / readers
    print(
        f"{readers} idle tails: {(after - before) / 1e6:.0f} MB, {per / 1e3:.1f} kB each, {after / 1e6:.0f} MB in all"
    )
    cpu = process.cpu_times()
    await asyncio.sleep(3)
    now = process.cpu_times()
    print(f"CPU of 3 idle seconds: {1e3 * (now.user + now.system - cpu.user - cpu.system):.0f} ms")
    took = []
    for n in range(20):
        begun = time.perf_counter()
        await asyncio.to_thread(_ask, port, "POST", f"s{n}", b"y")
        await tails[n][0].readuntil(b"event: data")
        took.append(time.perf_counter() - begun)
    print(f"append to event, {readers // STREAMS} readers each: median {1e3 * statistics.median(took):.1f} ms")
    for crowd in crowds:
        crowd.terminate()
        await crowd.wait()
    for _, writer in tails:
        writer.transport.abort()


async def _connect(port: int, readers: int) -> Tails:
    """Readers that wait, from the first stream to the last and around again."""
    tails: Tails = []
    for n in range(readers):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /v1/stream/u/s{n % STREAMS}?offset=now&live=sse {HTTP}\r\nHost: x\r\n\r\n".encode())
        tails.append((reader, writer))
        if len(tails) % GROUP == 0:
            for found, _ in tails[-GROUP:]:
                await found.readuntil(b"upToDate")
    return tails


async def _crowd(port: int, readers: int) -> asyncio.subprocess.Process:
    """More of them, in a process of their own, which is there when they wait."""
    command = (sys.executable, __file__, str(readers), str(port))
    crowd = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert crowd.stdout is not None
    assert await crowd.stdout.readline()
    return crowd


async def _wait(port: int, readers: int) -> None:
    """What such a process does."""
    tails = await _connect(port, readers)
    print(len(tails), flush=True)
    await asyncio.sleep(3600)


def _ask(port: int, method: str, name: str, body: bytes) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/stream/u/{name}", data=body, method=method, headers={"Content-Type": "text/plain"}
    )
    urllib.request.urlopen(request).close()  # noqa: S310 - as above


if __name__ == "__main__":
    if len(sys.argv) > 2:  # noqa: PLR2004 - a crowd
        asyncio.run(_wait(int(sys.argv[2]), int(sys.argv[1])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
