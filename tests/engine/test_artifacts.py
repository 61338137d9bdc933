"""What steps keep beside the journal."""

import asyncio

import pytest

from perdure import Context, Retry, Terminal, current_step
from perdure.errors import ArtifactNotFound, InvalidInput, InvalidName, InvalidOption, NotInWorkflow, PayloadTooLarge
from perdure.model.limits import Limits

NESTED = {"a": [1, {"b": None}], "ü": "ß"}


async def keep(name, value, **options):
    await current_step().artifacts.save(name, value, **options)


async def read(name):
    return await current_step().artifacts.load(name)


def test_kept_and_read_by_other_steps(lab):
    """What one step keeps is not what another reads, or is read as something else."""

    async def workflow(ctx: Context) -> list:
        await ctx.step(keep, "nested", NESTED)
        await ctx.step("bytes", lambda: keep("b/x.bin", b"\x00\xff"))
        await ctx.step("text", lambda: keep("t", "straße", media_type="text/markdown"))

        async def look():
            artifacts = current_step().artifacts
            assert await artifacts.names() == ["b/x.bin", "nested", "t"]
            assert await artifacts.exists("t")
            assert not await artifacts.exists("u")
            assert await artifacts.load("nested", dict[str, object]) == NESTED
            with pytest.raises(ArtifactNotFound, match="no artifact 'u'"):
                await artifacts.load("u")
            with pytest.raises(InvalidInput):
                await artifacts.load("t", int)
            found = [await artifacts.load(name) for name in ("nested", "t")]
            assert await artifacts.load("b/x.bin") == b"\x00\xff"
            await artifacts.delete("t")
            await artifacts.delete("t")
            return found

        return await ctx.step("look", look)

    async def main():
        async with lab.worker(workflow) as app:
            handle = await app.start("workflow", id="r")
            value = await handle.result()
            with pytest.raises(ArtifactNotFound):
                await handle.artifact("t")
            return value, await handle.artifacts(), await handle.artifact("b/x.bin"), await handle.artifact("nested")

    value, infos, data, nested = lab.play(main)
    assert value == [NESTED, "straße"]
    assert [(info.name, info.step, info.media_type, info.size) for info in infos] == [
        ("b/x.bin", "bytes", "application/octet-stream", 2), ("nested", "keep", "application/json", 30),
    ]  # fmt: skip
    assert (data, nested) == (b"\x00\xff", NESTED)


def test_in_a_thread(lab):
    """A plain function cannot keep anything, or blocks for ever."""

    def body() -> list[int]:
        step = current_step()
        step.wait(step.artifacts.save("x", [1]))
        step.emit("half", 1)
        step.wait(step.flush())
        return step.wait(step.artifacts.load("x"))

    async def workflow(ctx: Context) -> list[int]:
        return await ctx.step(body)

    async def main():
        async with lab.worker(workflow) as app:
            return await (await app.start("workflow")).result()

    assert lab.play_on_real_clock(main) == [1]


def test_the_last_one_counts(lab):
    """An attempt that is made again leaves two, or the first one."""

    async def body():
        await keep("x", current_step().attempt)
        if current_step().attempt == 1:
            raise ConnectionError

    async def workflow(ctx: Context) -> None:
        await ctx.step("s", body, retry=Retry(delay=1))

    async def main():
        async with lab.worker(workflow) as app:
            handle = await app.start("workflow")
            await handle.result()
            return await handle.artifact("x")

    assert lab.play(main) == 2


def test_durable_when_it_returns(lab):
    """What was kept is lost with the worker, or a dead one's word counts after the next one's."""
    late = []

    async def body():
        step = current_step()
        await step.artifacts.save("x", step.attempt)
        if not late:
            late.append(step.artifacts)
            lab.die()
            await asyncio.sleep(3600)
        return await step.artifacts.load("x")

    async def workflow(ctx: Context) -> int:
        return await ctx.step(body)

    assert lab.survive(workflow).value == 1


def test_a_stale_worker_keeps_nothing(lab):
    """A worker that has lost the run overwrites what the next one has kept."""

    async def workflow(ctx: Context) -> None:
        await ctx.step(keep, "x", 1)
        await ctx.receive("go")

    async def main():
        async with lab.worker(workflow) as app:
            await app.start("workflow", id="r")
            await lab.waits_for(app, "r", "signal:go")
            number = (await app.client.row("r")).number
            line = (number, 1, "x", "keep", "json", "t", 1, "2", 0)
            operation = app.client.store.apply
            from perdure.store.operation import Operation  # noqa: PLC0415 - of this test

            assert await operation(Operation([("save_artifact", line)])) == []
            await operation(Operation([("remove_artifact", (number, 1, "x"))]))
            return await app.handle("r").artifact("x")

    assert lab.play(main) == 1


def test_what_cannot_be_kept(lab):
    """Something is kept under a name that nobody can give, or that is larger than the limit."""
    refused = []

    async def body():
        for name, value in (("", 1), ("x", "long" * 100)):
            try:
                await keep(name, value)
            except (InvalidName, PayloadTooLarge) as error:
                refused.append(type(error))
        flush = current_step().flush()
        with pytest.raises(InvalidOption, match="writes `await`"):
            current_step().wait(flush)
        await flush

    def transaction(tx):
        for use in (lambda: current_step().artifacts, lambda: current_step().wait(None)):
            with pytest.raises(NotInWorkflow):
                use()

    async def workflow(ctx: Context) -> None:
        await ctx.step(body)
        await ctx.transaction(transaction)

    async def main():
        async with lab.worker(workflow, limits=Limits(payload_bytes=300)) as app:
            handle = await app.start("workflow")
            await handle.result()
            return await handle.artifacts()

    assert lab.play(main) == []
    assert refused == [InvalidName, PayloadTooLarge]


def test_fork_rerun_and_removal(lab):
    """A fork lacks what its history has kept, a rerun loses it, or it outlives its run."""
    fails = [True]

    async def last() -> object:
        if fails:
            raise Terminal("no")
        return await read("x")

    async def workflow(ctx: Context) -> object:
        await ctx.step(keep, "x", "kept")
        return await ctx.step(last)

    async def main():
        async with lab.worker(workflow) as app:
            await app.start("workflow", id="r")
            await lab.ended(app, "r")
            fails.clear()
            await app.client.fork("r", before="last", id="f")
            await app.client.rerun("r", before="last")
            found = [(await lab.ended(app, run)).value for run in ("r", "f")]
            await asyncio.sleep(1)
            removed = await app.client.prune(older_than=0)
            return found, removed, await lab.sql(app, "select count(*) from perdure_artifacts")

    assert lab.play(main) == (["kept", "kept"], 2, [(0,)])
