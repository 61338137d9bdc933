"""Replay and changed code: divergence pauses with a readable reason, patches keep old runs on the old way."""

import asyncio

import pytest

from perdure import Context, Retry
from perdure.errors import Divergence


def named(name, fn):
    fn.__name__ = name
    return fn


def deploy(lab, *versions, args=(), after=30, expect="paused", signals=()):
    """
    Run one workflow under changing code: each version works for a while, then the next is deployed.

    The first version starts the run. Returns the infos at the end of each version, and how the run ended.
    """
    infos = []

    async def main():
        for number, version in enumerate(versions):
            async with lab.worker(named("flow", version)) as app:
                if number == 0:
                    await app.start("flow", *args, id="r")
                elif infos[-1].status == "paused":
                    await lab.resume(app, "r")
                if number < len(versions) - 1:
                    await asyncio.sleep(after)
                    infos.append(await app.handle("r").info())
                    continue
                info = await lab.until(app, "r", "paused", "completed", "failed")
                infos.append(info)
                ended = await lab.ended(app, "r") if info.status in {"completed", "failed"} else None
        return infos, ended

    return lab.play(main)


def steps(*names, last=60):
    """A workflow of steps in sequence, "zzz" being a sleep of a minute."""
    ran = []

    async def flow(ctx: Context) -> list[str]:
        out = []
        for name in names:
            if name == "zzz":
                await ctx.sleep(last)
            else:
                out.append(await ctx.step(name, lambda name=name: ran.append(name) or name))
        return out

    flow.ran = ran
    return flow


# ----------------------------------------------------------------------------------------- divergence
@pytest.mark.parametrize(
    ("changed", "recorded", "requested", "seq"),
    [
        (("a", "B", "zzz", "c"), "step completed 'b'", "step 'B'", 2),  # renamed
        (("a", "zzz", "c"), "step completed 'b'", "timer set 'sleep'", 2),  # removed
        (("b", "a", "zzz", "c"), "step completed 'a'", "step 'b'", 1),  # swapped
        (("a", "b", "new", "zzz", "c"), "timer set 'sleep'", "step 'new'", 3),  # inserted before the end
        (("a", "b"), "timer set 'sleep'", "the end of the workflow", 3),  # the tail is gone
        (("a",), "step completed 'b'", "the end of the workflow", 2),
        ((), "step completed 'a'", "the end of the workflow", 1),
    ],
)
def test_changed_code_pauses_the_run(lab, changed, recorded, requested, seq):
    """I12: a run whose code no longer fits its journal would fail, be retried for ever, or go on wrongly."""
    old, new, restored = (steps(*names) for names in (("a", "b", "zzz", "c"), changed, ("a", "b", "zzz", "c")))

    async def main():
        async with lab.worker(old) as app:
            await app.start("flow", id="r")
            await lab.until(app, "r", "waiting")
        async with lab.worker(new) as app:
            info = await lab.until(app, "r", "paused")
            journal = await lab.journal(app, "r")
            await asyncio.sleep(1000)
            assert len(await lab.journal(app, "r")) == len(journal)
        assert (info.reason["code"], info.reason["seq"]) == ("divergence", seq)
        message = info.reason["message"]
        assert f"disagree at journal entry {seq}" in message
        assert f"    - {recorded}" in message
        assert f"    + {requested}" in message
        assert new.ran == []
        async with lab.worker(restored) as app:
            await lab.resume(app, "r")
            ended = await lab.ended(app, "r", "flow")
            assert (ended.value, ended.status, restored.ran) == (["a", "b", "c"], "completed", ["c"])
            assert [event.seq for event in ended.events] == list(range(1, len(ended.events) + 1))
            assert [event.kind for event in ended.events].count("paused") == 1

    lab.play(main)


def test_an_extra_step_at_the_end_is_no_divergence(lab):
    """Code that only adds what no run has reached yet would stop every run."""
    new = steps("a", "zzz", "b", "more")
    infos, ended = deploy(lab, steps("a", "zzz", "b"), new)
    assert ([info.status for info in infos], ended.value, new.ran) == (
        ["waiting", "completed"],
        ["a", "b", "more"],
        ["b", "more"],
    )


def test_changed_code_that_waits_for_another_signal(lab):
    """A run that waits for one signal would silently wait for another after a change."""

    async def old(ctx: Context) -> str:
        return await ctx.receive("yes", str, timeout=60)

    async def new(ctx: Context) -> str:
        return await ctx.receive("ok", str, timeout=60)

    infos, _ = deploy(lab, old, new)
    assert "- receive started 'yes'\n    + receive started 'ok'" in infos[-1].reason["message"]


def test_a_changed_argument(lab):
    """A step whose arguments differ from the recorded ones would get the result of another call."""

    async def old(ctx: Context) -> int:
        value = await ctx.step(double, 1, by=2)
        await ctx.sleep(60)
        return value

    async def new(ctx: Context) -> int:
        value = await ctx.step(double, 1, by=3)
        await ctx.sleep(60)
        return value

    def double(n: int, by: int) -> int:
        return n * by

    infos, _ = deploy(lab, old, new)
    message = infos[-1].reason["message"]
    assert infos[-1].status == "paused"
    assert "- step completed 'double'" in message
    assert "+ step 'double' with arguments " in message
    assert message.count(" with arguments ") == 2, "both fingerprints are shown, to be compared"


def test_arguments_that_may_change(lab):
    """Equal data, data without a form, or a step that opts out would be taken for a changed argument."""
    ran = []

    def body(*args, **kwargs) -> int:
        ran.append(1)
        return len(ran)

    def version(clock, keys, thing):
        async def flow(ctx: Context) -> list[int]:
            got = [
                await ctx.step(lab.app().step(fingerprint=False)(body), clock),
                await ctx.step(body, dict(keys), **dict(reversed(keys))),
                await ctx.step(body, thing, {1, 2, 3}),
            ]
            await ctx.sleep(60)
            return got

        return flow

    keys = [("a", 1), ("b", [2])]
    _, ended = deploy(lab, version(1, keys, object()), version(2, keys[::-1], object()))
    assert (ended.value, len(ran)) == ([1, 2, 3], 3)


def test_a_stored_result_that_no_longer_fits_its_type(lab):
    """A changed result type would fail the run for good, or hand on what the code does not expect."""

    def old_body() -> str:
        return "seven"

    def new_body() -> int:
        return 7

    async def old(ctx: Context) -> str:
        value = await ctx.step(named("body", old_body))
        await ctx.sleep(60)
        return value

    async def new(ctx: Context) -> int:
        value = await ctx.step(named("body", new_body))
        await ctx.sleep(60)
        return value

    infos, _ = deploy(lab, old, new)
    assert (infos[-1].status, infos[-1].reason["code"]) == ("paused", "divergence")
    assert "cannot be read" in infos[-1].reason["message"]


def test_code_that_swallows_everything_cannot_hide_a_divergence(lab):
    """`except Exception` around the context would eat the divergence, and the run go on with made-up results."""
    after = []

    async def old(ctx: Context) -> str:
        await ctx.sleep(1)
        await ctx.sleep(60)
        return "old"

    async def new(ctx: Context) -> str:
        for name in ("first", "second"):
            try:
                await ctx.receive(name, timeout=1)
            except Exception:  # noqa: BLE001 - this is what is tested
                after.append(name)
        return await ctx.step("never", lambda: after.append("step"))

    infos, _ = deploy(lab, old, new)
    assert (infos[-1].status, after) == ("paused", [])


def test_a_divergence_while_retrying(lab):
    """A step that waits for its next attempt could be renamed unnoticed, with its attempts lost."""

    def broken() -> None:
        raise ValueError

    def version(name):
        async def flow(ctx: Context) -> None:
            await ctx.step(name, broken, retry=Retry(delay=1000, max_attempts=2, jitter=0))

        return flow

    infos, _ = deploy(lab, version("a"), version("b"))
    assert "- attempt failed 'a'" in infos[-1].reason["message"]
    assert "+ step 'b'" in infos[-1].reason["message"]


def test_code_that_fails_before_its_history_ends(lab):
    """A mistake in new code would show as a divergence without the error that explains it."""

    async def mistaken(ctx: Context) -> None:
        raise NameError("name 'prize' is not defined")

    infos, _ = deploy(lab, steps("a", "zzz"), mistaken)
    assert "+ the end of the workflow, by NameError: name 'prize' is not defined" in infos[-1].reason["message"]


def test_divergence_is_an_error_with_fields():
    """What the operator reads would not be there for programs."""
    error = Divergence("r", 4, "step completed 'a'", ["step 'b'", "timer 'sleep'"])
    assert (error.seq, error.recorded, error.requested) == (4, "step completed 'a'", ["step 'b'", "timer 'sleep'"])
    assert "    + step 'b'\n    + timer 'sleep'" in str(error)


def test_non_deterministic_code_is_found(lab):
    """Code that takes another branch on each replay would slip through."""
    toss = iter(range(100))

    async def flow(ctx: Context) -> None:
        for _ in range(3):
            await ctx.step("even" if next(toss) % 2 == 0 else "odd", lambda: None)
            await ctx.sleep(60)

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", id="r")
            info = await lab.until(app, "r", "paused", "completed")
            assert (info.status, info.reason["seq"]) == ("paused", 1)

    lab.play(main)


# ---------------------------------------------------------------------------------------------- patched
def patched(*, then=None):
    async def flow(ctx: Context) -> list:
        out = []
        if ctx.patched("better"):
            out.append(await ctx.step("new way", lambda: "new"))
        else:
            out.append(await ctx.step("old way", lambda: "old"))
        await ctx.sleep(60)
        out.append(ctx.patched("better"))
        return out

    return flow


async def unpatched(ctx: Context) -> list:
    out = [await ctx.step("old way", lambda: "old")]
    await ctx.sleep(60)
    return out


def test_old_runs_keep_the_old_way(lab):
    """A patched place would send runs that have passed it on the new way, and so make them diverge."""
    infos, ended = deploy(lab, unpatched, patched())
    assert ended.value == ["old", False]
    assert [info.status for info in infos] == ["waiting", "completed"]


def test_new_runs_take_the_new_way(lab):
    """New runs would stay on the old way, or forget on replay that they took the new one."""
    ended = lab.finish(named("flow", patched()))
    assert (ended.value, ended.keys("patched")) == (["new", True], ["better"])


def test_a_patch_that_is_reached_after_the_change(lab):
    """A run that was still before the patched place at the change would not get the new way."""

    def version(new):
        async def flow(ctx: Context) -> str:
            await ctx.step("first", lambda: 1)
            await ctx.sleep(60)
            if new and ctx.patched("p"):
                return await ctx.step("new way", lambda: "new")
            return await ctx.step("old way", lambda: "old")

        return flow

    _, ended = deploy(lab, version(False), version(True))
    assert ended.value == "new"


def test_two_patches(lab):
    """Several patches in one place, each of its own time, would be confused."""

    def version(level):
        async def flow(ctx: Context) -> list[str]:
            out = []
            for n in (1, 2):
                if n <= level and ctx.patched(f"p{n}"):
                    out.append(await ctx.step(f"new {n}", lambda n=n: f"new {n}"))
                else:
                    out.append(await ctx.step(f"old {n}", lambda n=n: f"old {n}"))
            await ctx.sleep(100)
            return out

        return flow

    for level, expected in ((0, ["old 1", "old 2"]), (1, ["new 1", "old 2"]), (2, ["new 1", "new 2"])):
        lab.path = lab.path.with_suffix(f".{level}")
        _, ended = deploy(lab, version(level), version(2), after=20)
        assert ended.value == expected


def test_a_removed_patch_is_a_divergence(lab):
    """A patch removed while runs still depend on it would let them fall back silently."""
    infos, _ = deploy(lab, patched(), unpatched)
    assert (infos[-1].status, infos[-1].reason["code"]) == ("paused", "divergence")
    assert "- patched 'better'" in infos[-1].reason["message"]


def test_patched_in_tasks(lab):
    """Asked again in another branch, a patch would answer differently within one run."""

    def version(new):
        async def branch(ctx: Context, n: int) -> str:
            await ctx.sleep(n)
            if new and ctx.patched("p"):
                return await ctx.step("new", lambda: "new")
            return await ctx.step("old", lambda: "old")

        async def flow(ctx: Context) -> list[str]:
            out = await asyncio.gather(*[branch(ctx, n) for n in (10, 60)])
            await ctx.sleep(10)
            return out

        return flow

    _, ended = deploy(lab, version(False), version(True))
    assert len(set(ended.value)) == 1, ended.value
