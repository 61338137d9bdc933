"""Scopes: names before the keys of what happens inside; the code in them is replayed, its steps are not."""

import asyncio
import logging

import pytest

from perdure import Context, Retry, current_step
from perdure.errors import InvalidName


class Broken(Exception):
    pass


def test_steps_in_a_scope(lab):
    """3-1, 3-2, 3-3: steps inside would not carry the scope's name, or not be able to use each other's results."""

    async def flow(ctx: Context) -> str:
        with ctx.scope("invoice"):
            number = await ctx.step("number", lambda: 7)
            text = await ctx.step("text", lambda: f"No. {number}")
        return await ctx.step("print", lambda: text)

    ended = lab.finish(flow)
    assert ended.value == "No. 7"
    assert ended.keys("step_completed") == ["invoice/number", "invoice/text", "print"]


def test_an_error_leaves_the_scope_as_it_is(lab):
    """3-4, 3-8, 3-15: a failure inside, with or without a step, would be hidden behind an error of the scope."""

    async def flow(ctx: Context, stepless: bool) -> None:
        with ctx.scope("outer"):
            if stepless:
                raise Broken("no step at all")

            def body() -> None:
                raise Broken(f"attempt {current_step().attempt}")

            await ctx.step("fails", body, retry=Retry(max_attempts=3, delay=60))

    failed = lab.finish(flow, False, id="a")
    assert (failed.status, type(failed.error), str(failed.error)) == ("failed", Broken, "attempt 3")
    assert failed.keys("step_failed") == ["outer/fails"]
    failed = lab.finish(flow, True, id="b")
    assert (failed.status, str(failed.error), len(failed.events)) == ("failed", "no step at all", 1)


def test_a_scopes_failure_may_be_caught(lab):
    """3-5: what follows a failed scope would still get its prefix, or not run."""

    async def flow(ctx: Context) -> str:
        try:
            with ctx.scope("try"):
                raise Broken
        except Broken:
            return await ctx.step("recover", lambda: "recovered")

    ended = lab.finish(flow)
    assert (ended.value, ended.keys("step_completed")) == ("recovered", ["recover"])


def test_scopes_nest_and_repeat(lab):
    """3-6: keys of nested or repeated scopes would collide."""

    async def flow(ctx: Context) -> None:
        for _ in range(2):
            with ctx.scope("outer"):
                await ctx.step("s", lambda: 1)
                with ctx.scope("inner"):
                    await ctx.step("s", lambda: 1)
                    await ctx.step("s", lambda: 1)

    keys = lab.finish(flow).keys("step_completed")
    assert keys == [f"{outer}/{key}" for outer in ("outer", "outer#2") for key in ("s", "inner/s", "inner/s#2")]


def test_tasks_made_in_a_scope_belong_to_it(lab):
    """A task started inside would make keys outside, so that moving code into a scope would change nothing."""

    async def part(ctx: Context, n: int) -> int:
        return await ctx.step("part", lambda: n)

    async def flow(ctx: Context) -> list[int]:
        with ctx.scope("all"):
            return await asyncio.gather(part(ctx, 1), part(ctx, 2))

    ended = lab.finish(flow)
    assert ended.value == [1, 2]
    assert sorted(ended.keys("step_completed")) == ["all/~1/part", "all/~2/part"]


def test_retry_in_a_scope(lab):
    """3-7: an attempt made again after a park would lose its scope."""
    attempts = []

    def body() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise Broken
        return "ok"

    async def flow(ctx: Context) -> str:
        with ctx.scope("s"):
            return await ctx.step("flaky", body, retry=Retry(delay=60, jitter=0))

    ended = lab.finish(flow)
    assert (ended.value, ended.seconds, ended.keys("attempt_failed")) == ("ok", 60, ["s/flaky"])


def test_a_finished_scope_is_not_done_again(lab):
    """3-9, 3-10, 3-13, 3-18: waits inside and behind a scope would make its finished steps run again."""
    ran = []

    async def flow(ctx: Context) -> int:
        with ctx.scope("first"):
            a = await ctx.step("a", lambda: ran.append("a") or 1)
            await ctx.sleep(60)
            b = await ctx.step("b", lambda: ran.append("b") or 2)
        with ctx.scope("wait only"):
            await ctx.sleep(60)
        c = await ctx.step("c", lambda: ran.append("c") or 4)
        await ctx.sleep(60)
        return a + b + c

    ended = lab.finish(flow)
    assert (ended.value, ran, ended.seconds) == (7, ["a", "b", "c"], 180)


def test_a_large_result_built_in_a_scope(lab):
    """3-11: what a scope builds from its steps would have to be stored, and so have a limit."""

    async def flow(ctx: Context) -> int:
        with ctx.scope("big"):
            parts = [await ctx.step("part", lambda i=i: str(i) * 100_000) for i in range(4)]
            whole = "".join(parts)
        await ctx.sleep(60)
        return len(whole)

    assert lab.finish(flow).value == 400_000


def test_a_worker_dies_in_a_scope(lab):
    """3-12: after a crash inside a scope its step would be lost, recorded twice, or recorded elsewhere."""
    ran = []

    async def body() -> str:
        ran.append(1)
        if len(ran) == 1:
            lab.die()
        return "x"

    async def flow(ctx: Context) -> str:
        with ctx.scope("s"):
            return await ctx.step("body", body)

    ended = lab.survive(flow)
    assert (ended.value, len(ran)) == ("x", 2)
    assert [(event.kind, event.key) for event in ended.events] == [("step_completed", "s/body"), ("completed", "")]


def test_code_without_steps_leaves_no_trace(lab):
    """3-16: a scope without an operation would need entries of its own."""

    async def flow(ctx: Context) -> None:
        with ctx.scope("empty"):
            return

    ended = lab.finish(flow)
    assert (ended.value, [event.kind for event in ended.events]) == (None, ["completed"])


def test_log_lines_appear_once(lab, caplog):
    """1-7, 3-17: what a workflow logs would be repeated on every replay, or be lost."""
    caplog.set_level(logging.INFO, "perdure.run")

    async def flow(ctx: Context) -> None:
        ctx.log.info("begin")
        with ctx.scope("s"):
            ctx.log.info("inside %s", ctx.run_id)
        await ctx.sleep(60)
        ctx.log.info("after the sleep", extra={"order": 7})
        await ctx.step("x", lambda: None)
        ctx.log.info("end")
        await ctx.sleep(60)

    lab.finish(flow, id="r")
    lines = [record for record in caplog.records if record.name == "perdure.run"]
    assert [record.getMessage() for record in lines] == ["begin", "inside r", "after the sleep", "end"]
    assert {(record.run_id, record.workflow) for record in lines} == {("r", "flow")}
    assert lines[2].order == 7


@pytest.mark.parametrize("name", ["", "a/b", "~1", "x#2", "x" * 201, None, "\x00"])
def test_names_that_would_make_keys_ambiguous(lab, name):
    """A scope or step could be named so that its keys equal those of others."""

    async def flow(ctx: Context) -> list[str]:
        caught = []
        try:
            with ctx.scope(name):
                pass
        except InvalidName as error:
            caught.append(error.what)
        try:
            await ctx.emit(name)
        except InvalidName as error:
            caught.append(error.what)
        return caught

    assert lab.finish(flow).value == ["scope", "event name"]
