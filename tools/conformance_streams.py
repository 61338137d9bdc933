"""
Run the public conformance suite of the Durable Streams protocol against a real server process.

It needs Node 18 or newer and npm, and keeps what it installs in .bench/conformance. Subscriptions, which perdure does
not have, are the only tests left out.

    python tools/conformance_streams.py [URL of a database]
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

SUITE = "@durable-streams/server-conformance-tests@0.3.6"
FOLDER = Path(__file__).resolve().parents[1] / ".bench" / "conformance"
LONG_POLL_MS = 2_000
TESTS = f"""
import {{ runConformanceTests }} from "@durable-streams/server-conformance-tests"
runConformanceTests({{ baseUrl: process.env.CONFORMANCE_TEST_URL, longPollTimeoutMs: {LONG_POLL_MS} }})
"""
EXCLUDED: dict[str, str] = {}
"""Tests that may fail, by their full names, and why."""


def main(words: list[str]) -> int:
    """Install what is missing, serve, test, and tell; returns the exit code."""
    if words[:1] == ["serve"]:
        asyncio.run(_serve(words[1], int(words[2])))
        return 0
    if shutil.which("npm") is None:
        print("This needs Node 18 or newer with npm.")
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not (FOLDER / "node_modules" / "@durable-streams").is_dir():
        (FOLDER / "package.json").write_text('{"private": true}')
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", SUITE], cwd=FOLDER, check=True)  # noqa: S603, S607 - as documented
    (FOLDER / "conformance.test.mjs").write_text(TESTS)
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        url = words[0] if words else f"sqlite:///{folder}/streams.db"
        server = subprocess.Popen([sys.executable, __file__, "serve", url, str(port)])  # noqa: S603 - ourselves
        try:
            report = _run(port)
        finally:
            server.terminate()
            server.wait()
    return _tell(report)


def _run(port: int) -> dict[str, object]:
    report = FOLDER / "report.json"
    report.unlink(missing_ok=True)
    command = [
        "npx", "vitest", "run", "conformance.test.mjs", "--testTimeout=30000", "--reporter=dot", "--reporter=json",
        f"--outputFile={report}",
    ]  # fmt: skip
    base = {"CONFORMANCE_TEST_URL": f"http://127.0.0.1:{port}"}
    subprocess.run(command, cwd=FOLDER, env=os.environ | base, check=False, stdout=subprocess.DEVNULL)  # noqa: S603 - fixed
    found: dict[str, object] = json.loads(report.read_text())
    return found


def _tell(report: dict[str, object]) -> int:
    results = [test for file in report["testResults"] for test in file["assertionResults"]]  # type: ignore[attr-defined]  # JSON
    counts = Counter(test["status"] for test in results)
    failed = [test["fullName"] for test in results if test["status"] == "failed"]
    wrong = [name for name in failed if name not in EXCLUDED]
    for name in failed:
        print(f"failed: {name}{f' (excluded: {EXCLUDED[name]})' if name in EXCLUDED else ''}")
    left = len(results) - counts["passed"] - counts["failed"]
    print(f"{counts['passed']} passed, {counts['failed']} failed, {left} left out")
    return 1 if wrong else 0


async def _serve(url: str, port: int) -> None:
    import uvicorn  # noqa: PLC0415 - only here

    from perdure import App  # noqa: PLC0415 - only here
    from perdure.stream.options import StreamOptions  # noqa: PLC0415 - only here

    app = App(url)
    # The suite has its streams right below the prefix.
    server = app.stream_server(named="", origins=["*"], options=StreamOptions(long_poll=LONG_POLL_MS / 1000))
    async with app.connected():
        config = uvicorn.Config(server, host="127.0.0.1", port=port, log_level="warning", timeout_keep_alive=60)
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
