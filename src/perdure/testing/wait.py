"""Wait for runs in virtual time, and say what keeps them when they do not end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any

from perdure.app import App
from perdure.client.handle import RunHandle
from perdure.client.view import RunInfo
from perdure.model.entry import Kind
from perdure.model.run import RunFilter
from perdure.model.status import TERMINAL, Status

SHOWN = 5


class NotEnded(AssertionError):
    """
    Runs are not over, and a test waited for them.

    Attributes:
        runs: Some of them.
    """

    def __init__(self, problem: str, runs: list[RunInfo]) -> None:
        super().__init__("\n".join([problem, *(f"    {_standing(run)}" for run in runs)]))
        self.runs = runs


def _standing(run: RunInfo) -> str:
    facts = [f"run {run.id!r} of {run.workflow} is {run.status}"]
    if run.waiting_for:
        facts.append(f"it waits for {', '.join(run.waiting_for)}")
    if run.due_at:
        facts.append(f"it is due at {run.due_at}")
    if run.reason:
        facts.append(str(run.reason.get("message", run.reason)))
    return "; ".join(facts)


@asynccontextmanager
async def patience(app: App, seconds: float) -> AsyncIterator[None]:
    """
    Bound what happens inside to a span of virtual time.

    Raises:
        NotEnded: It took longer.
    """
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        open_states = tuple(status for status in Status if status not in TERMINAL)
        runs, _ = await app.client.runs(RunFilter(status=open_states, limit=SHOWN))
        problem = f"The test was not over after {seconds / 86_400:,.0f} days of virtual time. Unfinished runs:"
        raise NotEnded(problem, runs) from None


async def ended(run: RunHandle[Any]) -> None:
    """
    Wait for the end of a run, whatever it is.

    Raises:
        NotEnded: It was paused, and not by an operator, so nobody will resume it.
    """
    async with aclosing(run.events()) as events:
        async for event in events:
            if event.kind != Kind.PAUSED or event.data["code"] == "operator":
                continue
            info = await run.info()
            if info.status == Status.PAUSED:
                problem = "A run was paused:"
                raise NotEnded(problem, [info])


async def together(main: Awaitable[None], other: Coroutine[Any, Any, Any] | None) -> None:
    """Await both; the first error of either is raised at once."""
    tasks = [asyncio.ensure_future(main)]
    if other is not None:
        tasks.append(asyncio.ensure_future(other))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
