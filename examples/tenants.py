"""
One tenant floods a queue, and the others do not notice: keys take turns.

The queue bears two exports at a time and one per tenant. Tenant "big" asks for ten, the others for one each, later.
Run it: python examples/tenants.py
"""

import asyncio

from perdure import App, Context

app = App("sqlite://")
app.queue("exports", concurrency=2, per_key=1)
done: list[str] = []


@app.step
async def export(name: str) -> str:
    await asyncio.sleep(0.01)
    done.append(name)
    return name


@app.workflow(queue="exports")
async def exporting(ctx: Context, name: str) -> str:
    return await ctx.step(export, name)


async def main() -> None:
    async with app:
        runs = [await app.start(exporting, f"big-{n}", key="big") for n in range(10)]
        print(await app.client.why(runs[-1].id))
        runs += [await app.start(exporting, f"small-{n}", key=f"tenant-{n}") for n in range(3)]
        await asyncio.gather(*(run.result() for run in runs))
    late = max(done.index(f"small-{n}") for n in range(3))
    print("the small tenants did not wait for the flood to end:", late < len(done) - 3)


asyncio.run(main())
