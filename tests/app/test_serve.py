"""`app.serve()`: a process that does nothing but drive runs, until it is told to stop."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading

import pytest

from perdure import App, Context
from perdure.errors import InvalidOption
from perdure.worker.stop import NOT_DRAINED

STUCK = """
import asyncio, sys
from perdure import App, Context

app = App("sqlite:///stuck.db")

@app.step
async def block() -> None:
    print("blocked", flush=True)
    sys.stdin.readline()  # a step that blocks the loop

@app.workflow
async def flow(ctx: Context) -> None:
    await ctx.step(block)

async def main() -> None:
    async with app.connected():
        await app.start(flow, id="r")
    await app.serve()

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_told_to_stop(number):
    """A service would not drive runs, would not end, or would leave its handlers to the rest of the program."""
    app = App("sqlite://")
    begun, finished = asyncio.Event(), asyncio.Event()

    @app.step
    async def slow() -> str:
        begun.set()
        await finished.wait()
        return "drained"

    @app.workflow
    async def flow(ctx: Context) -> str:
        return await ctx.step(slow)

    async def main() -> None:
        serving = asyncio.create_task(app.serve())
        await asyncio.sleep(0)
        assert app.worker is not None
        with pytest.raises(InvalidOption, match="it is open already"):
            await app.serve()
        run = await app.start(flow, id="r")
        await begun.wait()
        events = run.events()
        signal.raise_signal(number)
        asyncio.get_running_loop().call_later(0, finished.set)
        assert (await anext(events)).data == "drained"
        await events.aclose()
        await serving

    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    asyncio.run(main())
    assert {each: signal.getsignal(each) for each in before} == before


def test_a_second_signal_ends_it(tmp_path):
    """A service whose loop is blocked could only be killed, and nobody would know why it did not end."""
    program = tmp_path / "program.py"
    program.write_text(STUCK)
    with subprocess.Popen(
        [sys.executable, str(program)], cwd=tmp_path, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "blocked\n"
        while process.poll() is None:  # one that comes just before the loop is blocked is heard with the next
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        assert process.returncode == NOT_DRAINED
        assert "Stopped at once" in process.stderr.read()


def test_only_the_main_thread_hears_signals():
    """Elsewhere it would raise an error that does not say what to do."""
    told = []

    def elsewhere() -> None:
        try:
            asyncio.run(App("sqlite://").serve())
        except InvalidOption as error:
            told.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(told) == 1
    assert "async with app:" in told[0]
