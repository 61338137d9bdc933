"""
Wait for something that can only be asked: a loop without end, whose history does not grow.

    python examples/poll.py

A sleeping run is a row with a time: no process, no thread and no memory wait for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from perdure import App, Context

app = App("sqlite://")
EVERY = 0.15
POLLS_PER_HISTORY = 4
DONE_AFTER = 10
asked: Counter[str] = Counter()


@app.step
async def state_of(job: str) -> str:
    """Stands for a request to the service that works on the job."""
    asked[job] += 1
    return "done" if asked[job] >= DONE_AFTER else "working"


@app.workflow
async def watch(ctx: Context, job: str, polls: int) -> str:
    for _ in range(POLLS_PER_HISTORY):
        polls += 1
        if await ctx.step(state_of, job) == "done":
            return f"{job} was done at poll {polls}"
        await ctx.sleep(EVERY)
    return ctx.continue_as_new(job, polls)  # same run, same id; what it knows goes along as its new input


async def main() -> None:
    async with app:
        run = await app.start(watch, "job-7", 0, id="watch-job-7")
        print(await run.result())
        journal = [event async for event in run.events()]
        print(f"entries in the journal at the end: {len(journal)}, of {journal[-1].seq} that were made")


if __name__ == "__main__":
    asyncio.run(main())
