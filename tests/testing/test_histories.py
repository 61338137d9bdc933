"""
Recorded histories, kept for ever: new code must replay what old code wrote.

`python tests/testing/test_histories.py` records those that are missing from `histories/`. A file there is never
changed, nor is the workflow that it was recorded from: a new feature gets a new workflow and a new file.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from perdure import App, Context, Retry, SyncContext, Transaction, current_step
from perdure.client.handle import RunHandle
from perdure.codec.failure import decode_error
from perdure.errors import ChildFailed, Divergence, RunCancelled
from perdure.testing.kit import Kit
from perdure.testing.replay import replay

FOLDER = Path(__file__).parent / "histories"
app = App("sqlite:////nowhere/histories.db")
others: dict[str, Callable[[RunHandle[object]], Awaitable[object]]] = {}
"""What others do to a run while its history is recorded, by workflow."""


@app.step(retry=Retry(max_attempts=3, delay=10, jitter=0))
async def unreliable(name: str) -> str:
    if current_step().attempt < 2:
        raise ConnectionError(name)
    return name.upper()


@app.workflow
async def item(ctx: Context, number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is negative")
    return await ctx.step("square", lambda: number * number)


@app.workflow
async def purchase(ctx: Context, name: str) -> dict[str, object]:
    """Retries, gather with a child, timers, a signal, events, chance, a patch."""
    done, squared = await asyncio.gather(ctx.step(unreliable, name), ctx.call(item, 7))
    await ctx.emit("gathered", {"done": done})
    await ctx.sleep(timedelta(days=1))
    approved = await ctx.receive("approval", bool, timeout=timedelta(days=7))
    version = 2 if ctx.patched("second version") else 1
    with ctx.scope("invoice"):
        number = await ctx.step("number", lambda: 1001)
    return {
        "done": done, "squared": squared, "approved": approved, "version": version, "number": number,
        "uuid": str(ctx.uuid()), "chance": ctx.random().random(), "at": str(ctx.now()), "run": ctx.run_id,
    }  # fmt: skip


async def approve(run: RunHandle[object]) -> None:
    await asyncio.sleep(3 * 86_400)
    await run.signal("approval", data=True)


others["purchase"] = approve


def count_rows(transaction: Transaction, name: str) -> int:
    transaction.execute("create table if not exists seen (name text)")
    transaction.execute("insert into seen values (?)", (name,))
    return transaction.execute("select count(*) from seen")[0][0]


@app.workflow
def report(ctx: SyncContext, names: list[str]) -> list[object]:
    """A plain function: map, a transaction, a child with a chosen id, a receive that runs out."""
    upper = ctx.map(unreliable, names, concurrency=2)
    rows = ctx.transaction(count_rows, names[0])
    started = ctx.start(item, 3, id="report-item")
    nothing = ctx.receive("never", timeout=60, default="nothing came")
    ctx.annotate("rows", rows)
    return [upper, rows, started.result(), nothing]


async def hang() -> None:
    await asyncio.sleep(1e9)


@app.workflow
async def interrupted(ctx: Context) -> None:
    """A race, a TaskGroup that fails, asyncio's timeout, a failing child; then cancelled, with a clean-up."""
    winner, _ = await ctx.race(ctx.step("quick", lambda: "quick"), ctx.receive("slow"))
    await ctx.emit("winner", winner)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step("hangs", hang))
            group.create_task(ctx.call(item, -1))
    except* ChildFailed as failures:
        await ctx.emit("failed", str(failures.exceptions[0].__cause__))
    try:
        async with asyncio.timeout(30):
            await ctx.receive("never")
    except TimeoutError:
        await ctx.emit("timed out")
    try:
        await asyncio.sleep(1e8)
    finally:
        await ctx.step("clean up", lambda: "clean")


async def cancel(run: RunHandle[object]) -> None:
    await asyncio.sleep(1000)
    await run.cancel("enough")


others["interrupted"] = cancel

INPUTS: dict[str, tuple[object, ...]] = {"purchase": ("lamp",), "report": (["a", "b", "c"],), "interrupted": ()}


def record(folder: Path, names: list[str]) -> None:
    """Run these workflows and export their runs."""
    for name in names:
        with Kit(app) as kit:
            with suppress(RunCancelled):
                kit.run(name, *INPUTS[name], id=f"{name}-1", meanwhile=others.get(name))
            text = json.dumps(kit.export(f"{name}-1"), indent=1, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def load(path: Path) -> dict[str, object]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_todays_engine_replays_what_was_recorded_once(path):
    """An upgrade of perdure would pause the runs that were under way."""
    history = load(path)
    replayed = replay(app, path)
    assert replayed.status == history["run"]["status"]
    assert replayed.result == history["run"]["output"]
    if history["run"]["error"] is not None:
        assert str(replayed.error) == str(decode_error(json.dumps(history["run"]["error"])))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_every_prefix_of_a_history_replays(path):
    """A run that was at that point when perdure was upgraded would be paused."""
    history = load(path)
    journal = history["journal"]
    for length in range(len(journal)):
        history["journal"] = journal[:length]
        replay(app, history)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_history_that_was_tampered_with_does_not_replay(path):
    """The two tests above could not fail."""
    history = load(path)
    outcome = next(entry for entry in history["journal"] if entry["kind"] in {"step_completed", "child_completed"})
    outcome["key"] += "-other"
    with pytest.raises(Divergence):
        replay(app, history)


def test_there_are_histories(tmp_path):
    """With the folder lost, nothing would be checked; with other names, nothing would be recorded."""
    assert {path.stem for path in FOLDER.glob("*.json")} == set(INPUTS)
    record(tmp_path, ["report"])
    assert load(tmp_path / "report.json")["run"]["output"] == load(FOLDER / "report.json")["run"]["output"]


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    record(FOLDER, [name for name in INPUTS if not (FOLDER / f"{name}.json").exists()])
