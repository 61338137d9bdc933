"""Any workflow, run again or forked from any place, gives the same result: random programs, fixed seeds."""

import asyncio
from random import Random

import pytest

from perdure import Context
from perdure.model.entry import OUTCOMES

KINDS = ("step", "sleep", "receive", "call", "timeout")


def program(chance: Random, depth: int, names: list[str]) -> list:
    """A tree: ["seq" or "all", parts…], or a leaf [kind, number, seconds]."""
    if depth == 0 or chance.random() < 0.3:
        names.append(f"s{len(names)}")
        return [chance.choice(KINDS), names[-1], chance.randrange(1, 30)]
    return [chance.choice(("seq", "all")), *[program(chance, depth - 1, names) for _ in range(chance.randrange(2, 4))]]


async def child(ctx: Context, name: str, seconds: float) -> str:
    await ctx.sleep(seconds)
    return name


async def interpret(ctx: Context, part: list) -> list:
    """Do what the tree says. The result does not depend on who comes first."""
    kind, *rest = part
    if kind == "seq":
        return [await interpret(ctx, inner) for inner in rest]
    if kind == "all":
        return await asyncio.gather(*[interpret(ctx, inner) for inner in rest])
    name, seconds = rest
    if kind == "receive":
        return [await ctx.receive(name)]
    if kind == "sleep":
        return [await ctx.sleep(seconds)]
    if kind == "call":
        return [await ctx.call("child", name, seconds)]

    async def body() -> str:
        await asyncio.sleep(seconds)
        return name

    # Long enough for a body that is begun twice, and for a pause.
    async with asyncio.timeout(200 if kind == "timeout" else None):
        return [await ctx.step(name, body)]


async def flow(ctx: Context, tree: list) -> list:
    return await interpret(ctx, tree)


def receivers(part: list) -> list[str]:
    kind, *rest = part
    if kind in {"seq", "all"}:
        return [name for inner in rest for name in receivers(inner)]
    return [rest[0]] if kind == "receive" else []


# The last ones found a span that was put off twice, by a cut before an earlier cut.
@pytest.mark.parametrize("seed", [*range(8), 102, 384, 408])
def test_any_cut(desk, seed):
    """Somewhere a cut would lose a signal or a child, let a timeout run out, or diverge."""
    chance = Random(seed)
    tree = ["seq", *[program(chance, 2, names) for names in ([],) for _ in range(3)]]

    async def send(run, wanted):
        for name in chance.sample(wanted, len(wanted)):
            await asyncio.sleep(chance.randrange(3))
            await run.signal(name, name, key=chance.choice((None, "k")))

    async def pause_a_while(app, run):
        if not (await run.info()).finished:
            await app.client.pause(run.id)
            await asyncio.sleep(30)
            # It may have ended with the body that was running.
            if not (await run.info()).finished:
                await app.client.resume(run.id)

    async def main(app):
        run = await app.start("flow", tree, id="r")
        await send(run, receivers(tree))
        result = await run.result()
        for _ in range(8):
            await asyncio.sleep(chance.choice((1, 10_000)))
            keys = [event.key for event in await desk.events(app, "r") if event.kind in OUTCOMES]
            key = chance.choice(["", *dict.fromkeys(keys)]) if chance.random() < 0.9 else None
            await app.client.rerun("r", before=key)
            if chance.random() < 0.5:
                await asyncio.sleep(chance.randrange(40))
                await pause_a_while(app, run)
            async with asyncio.timeout(100_000):
                assert await run.result() == result, key
            mail = await app.client.store.rows("mail", f"[{(await run.info()).number}]")
            assert [message[2] for message in mail if message[2] != "control:pause"] == [], key
            fork = await app.client.fork("r", before=chance.choice(keys))
            kept = {event.key for event in await desk.events(app, fork.id) if event.kind == "signal_received"}
            await send(fork, [name for name in receivers(tree) if name not in {key.split("/")[-1] for key in kept}])
            async with asyncio.timeout(100_000):
                assert await fork.result() == result

    desk.play(main, flow, child, cached_runs=chance.choice((0, 100)))
