"""Run commands: most of them in this process, some as processes of their own."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
from typer.testing import CliRunner

from clikit import shop
from perdure import App
from perdure.cli.main import app as command_line

KIT = Path(__file__).parents[1]
_runner = CliRunner()


class Answer:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def problem(self) -> Any:
        return json.loads(self.err)

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}--- stderr\n{self.err}"


class Terminal:
    """A folder with a database of the shop, and commands given in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder / 'shop.db'}"
        self.processes: list[Process] = []

    def run(self, *words: object, stdin: str = "", **env: str) -> Answer:
        """A command in this process."""
        result = _runner.invoke(command_line, [str(word) for word in words], input=stdin, env=env)
        return Answer(result.exit_code, result.stdout, result.stderr)

    def done(self, *words: object, **options: str) -> Answer:
        """A command that succeeds."""
        answer = self.run(*words, **options)
        assert answer.code == 0, answer
        return answer

    def play(self, main, app: App = shop.app) -> Any:
        """Run a coroutine function with an app that works on the shop's database."""

        async def body():
            async with app.variant(url=self.url) as opened:
                return await main(opened)

        return asyncio.run(body())

    def bought(self, *ids: str, **options: Any) -> None:
        """Runs of `buy` that have completed."""

        async def main(app):
            for run_id in ids:
                await (await app.start("buy", "tea", id=run_id, **options)).result()

        self.play(main)

    def parked(self, *ids: str) -> None:
        """Runs of `order` that wait for a signal, and no worker."""

        async def main(app):
            for run_id in ids:
                handle = await app.start("order", id=run_id)
                async for event in handle.events():
                    if event.kind == "receive_started":
                        break

        self.play(main)

    def damage(self, sql: str) -> None:
        """Change the database as perdure never does."""
        connection = apsw.Connection(str(self.folder / "shop.db"))
        connection.execute(sql)
        connection.close()

    def start(self, *words: object, **env: str) -> "Process":
        """A command in a process of its own."""
        process = Process([str(word) for word in words], self.folder, env)
        self.processes.append(process)
        return process

    def worker(self, *words: object, **env: str) -> "Process":
        """A worker of the shop that is ready."""
        given = ("--url", self.url, "--json", "--log-format", "json")
        process = self.start("worker", "clikit.shop:app", *given, *words, **env)
        assert process.line()["event"] == "ready"
        return process


class Process:
    """A command that runs; the test's own time limit bounds all waiting."""

    def __init__(self, words: list[str], folder: Path, env: dict[str, str]) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PERDURE_")}
        path = os.pathsep.join([str(KIT), *filter(None, [environment.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "perdure.cli", *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment | {"PYTHONPATH": path} | env,
            preexec_fn=_heed_interrupts,  # noqa: PLW1509 - it sets one signal, before exec
        )  # fmt: skip

    def text(self) -> str:
        """The next line of its output."""
        line = self._process.stdout.readline().decode()
        assert line, f"no more output\n{self.errors}"
        return line

    def line(self) -> Any:
        """The next line of its output, which is JSON."""
        return json.loads(self.text())

    def lines(self) -> list[Any]:
        """All lines until it ends."""
        return [json.loads(line) for line in self._process.stdout]

    def logged(self, message: str) -> Any:
        """Wait until it logs this."""
        for line in self._process.stderr:
            record = json.loads(line)
            if record["message"] == message:
                return record
        raise AssertionError(f"it has ended without logging {message!r}")

    @property
    def errors(self) -> str:
        """What it has logged, and was not read yet, until it ended."""
        return self._process.stderr.read().decode()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def insist(self, number: signal.Signals) -> int:
        """
        Send a signal until it has ended; its exit code.

        Python hears a signal at its next instruction, so one that comes just before a call that blocks is heard
        with the next.
        """
        while True:
            self.send(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(0.2)

    def close_output(self) -> None:
        """Read no more of what it prints."""
        self._process.stdout.close()

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        return self._process.wait()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """Let go of what it has printed."""
        self.kill()
        self._process.stdout.close()
        self._process.stderr.close()


def _heed_interrupts() -> None:
    """A shell that starts the tests in the background has them, and their children, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
