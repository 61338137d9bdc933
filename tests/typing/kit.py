"""The testing kit as users write it; `make types` checks it. Never run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, assert_type

from perdure import App, Context, RunEvent, RunHandle, SyncContext
from perdure.testing import CrashReport, Kit, Replay, StepMock, VirtualClock, replay, run_virtual

app = App()


@app.step
async def charge(card: str, cents: int) -> str:
    return f"{card} {cents}"


@app.workflow
async def checkout(ctx: Context, order: str, cents: int) -> float:
    return len(order) / cents


@app.workflow
def plain(ctx: SyncContext) -> list[str]:
    return [ctx.run_id]


async def approve(run: RunHandle[Any]) -> None:
    await run.signal("approval", data=True)


def test_checkout(perdure_kit: Kit) -> None:
    with perdure_kit.mock(charge, returns="r-1") as mock:
        assert_type(mock, StepMock)
        assert_type(perdure_kit.run(checkout, "o-1", 5, id="o-1", meanwhile=approve), float)
    assert_type(perdure_kit.run(plain, within=timedelta(days=1)), list[str])
    assert_type(perdure_kit.events("o-1"), list[RunEvent])
    report = perdure_kit.crash_everywhere(checkout, "o-1", 5, meanwhile=approve, key=lambda result: result + 1)
    assert_type(report, CrashReport[float])
    assert_type(report.result, float | None)
    assert_type(perdure_kit.replay(perdure_kit.export("o-1")), Replay)
    perdure_kit.run(checkout, "o-1")  # type: ignore[arg-type]  # an input is missing
    perdure_kit.run(checkout, 1, 2)  # type: ignore[misc]  # of another type


def test_without_pytest() -> None:
    async def body(opened: App) -> float:
        run = await opened.start(checkout, "o-2", 5)
        return await run.result()

    async def main(clock: VirtualClock) -> int:
        return clock.now()

    with Kit(app, lease=30) as kit:
        assert_type(kit.main(body), float)
    assert_type(replay(app, "history.json", checkout), Replay)
    assert_type(run_virtual(main), int)
