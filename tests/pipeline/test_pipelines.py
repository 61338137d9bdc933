"""Pipelines as they run, by the statements of the acceptance list."""

import asyncio
import time
from typing import Any

import pytest
from pydantic import BaseModel

from perdure import Batch, Pending, Pipeline, Retry, RunFilter, Stage, StageContext, Terminal, current_step
from perdure.errors import InvalidInput, MissingOutput, RunFailed


class Text(BaseModel):
    words: list[str]


class Cut(BaseModel):
    least: int = 1
    most: int = 9


class Count(BaseModel):
    words: list[str] = []
    count: int = 0


def split(stage: StageContext[str, None]) -> Text:
    return Text(words=stage.input.split())


def count(stage: StageContext[Text, Cut]) -> int:
    return sum(stage.config.least <= len(word) <= stage.config.most for word in stage.input.words)


def first(stage: StageContext[Text, None]) -> str:
    return stage.input.words[0]


class Both(BaseModel):
    count: int
    first: str


def join(stage: StageContext[Both, None]) -> str:
    return f"{stage.input.count} {stage.input.first}"


TEXT = Pipeline("text", input=str).stage("split", split).parallel({"count": count, "first": first}).stage("join", join)


def test_data_flows_from_group_to_group(lab):  # A007 A021 A041
    """A stage gets something else than the group before it gave."""
    ended = lab.finish(TEXT, "aa b cc")
    assert ended.value == "3 aa"
    assert sorted(ended.keys("step_completed")) == ["count", "first", "join", "split"]
    assert ended.data("step_completed")[0] == {"words": ["aa", "b", "cc"]}


def test_the_last_group_gives_the_result(lab):  # A042
    """A run's result is not what its last stages gave, or not of their types."""

    async def main():
        async with lab.worker(Pipeline("two", input=str).parallel({"a": split, "b": split})) as app:
            handle = await app.start("two", "x")
            return await handle.result()

    found = lab.play(main)
    assert found == {"a": Text(words=["x"]), "b": Text(words=["x"])}
    assert lab.finish(Pipeline("none"), 7).value is None


def test_config_of_a_run(lab):  # A032
    """A stage gets another stage's config, or loses its defaults to a partial one."""
    assert lab.finish(TEXT, "aa b cc", {"count": {"least": 2}}).value == "2 aa"
    seen = []

    def look(stage: StageContext[Any, Cut]) -> None:
        seen.append(stage.config)

    lab.finish(Pipeline("look").stage("look", look), 0, {"look": Cut(most=3)})
    assert seen[0] == Cut(least=1, most=3)


def test_config_that_no_longer_fits(lab):  # A024
    """A stage runs with a config that its code does not understand."""

    class Other(BaseModel):
        least: list[int]

    async def main():
        begun = Pipeline("p").stage("a", lambda: {"words": []})
        async with lab.app(begun.stage("b", count)).connected() as app:
            await app.start("p", None, {"b": {"least": 2}}, id="r")
        changed = begun.stage("b", Stage(count, config=Other))
        async with lab.worker(changed) as app:
            return await lab.ended(app, "r", "p")

    ended = lab.play(main)
    assert isinstance(ended.error, InvalidInput)
    assert "The config of stage 'b'" in str(ended.error)


def grown_group(lab, **options):
    """A run that waits behind its group, and then the code with one more stage in this group."""
    before = Pipeline("p").parallel({"a": lambda: 1, "b": lambda: 2})
    after = Pipeline("p").parallel({"a": lambda: 1, "b": lambda: 2, "new": lambda: 3})
    ready: list[int] = []

    def submit(stage: StageContext[dict[str, int], None]) -> int:
        return len(stage.input)

    def check(stage: StageContext[dict[str, int], None], _batch: int) -> int | Pending:
        return len(stage.input) if ready else Pending(60)

    old, new = (each.stage("ask", Batch(submit, check)) for each in (before, after))

    async def main():
        async with lab.worker(old) as app:
            await app.start("p", None, id="r")
            await lab.until(app, "r", "waiting")
        ready.append(1)
        registered = lab.app(old) if options else lab.app()
        registered.pipeline(new, **options)
        async with registered as app:
            info = await lab.until(app, "r", "paused", "completed")
            fresh = await (await app.start("p", None)).result()
            return info, await app.handle("r").result() if info.status == "completed" else info.reason["code"], fresh

    return lab.play(main)


def test_a_stage_added_to_a_group(lab):
    """A stage would get an output of its group that was made without one of its stages, and nobody would hear of it."""
    info, reason, fresh = grown_group(lab)
    assert (info.status, reason, fresh) == ("paused", "divergence", 3)


def test_a_stage_added_to_a_group_in_a_new_version(lab):
    """A deploy that changes a group could not leave the runs under way alone."""
    info, value, fresh = grown_group(lab, version="2")
    assert (info.status, value, fresh) == ("completed", 2, 3)


def test_earlier_outputs(lab):  # A005 A006
    """A stage cannot see what came before the group before it, or takes 0 for nothing."""

    def falsy(value):
        return Stage(lambda: value, input=None)

    def look(stage: StageContext[None, None]) -> list[Any]:
        assert stage.input is None
        values = [stage.require(name) for name in ("zero", "empty", "no")]
        return [*values, stage.optional("nobody"), stage.optional("zero"), stage.require("text", list[str])]

    stages = {"zero": falsy(0), "empty": falsy(""), "no": falsy(False), "text": falsy(("a",))}
    ended = lab.finish(Pipeline("p").parallel(stages).stage("gap", lambda: None).stage("look", look))
    assert ended.value == [0, "", False, None, 0, ["a"]]


def test_require_what_is_not_there(lab):  # A006 A028
    """A stage goes on without what it cannot do without, or is tried again for it."""

    def needs(stage: StageContext[Any, None]) -> None:
        stage.require("later")

    ended = lab.finish(Pipeline("p").stage("a", lambda: 1).parallel({"b": needs, "later": lambda: 1}))
    assert isinstance(ended.error, MissingOutput)
    assert (ended.error.wanted, ended.error.there) == ("later", ["a"])
    assert ended.keys("attempt_failed") == []


def test_input_that_does_not_fit(lab):  # A023
    """A stage works on data that are not what it declares, or is tried again with them."""
    ended = lab.finish(Pipeline("p").stage("a", lambda: {"word": 1}).stage("b", count))
    assert isinstance(ended.error, InvalidInput)
    assert "The input of stage 'b'" in str(ended.error)
    assert ended.keys("step_failed") == ["b"]
    assert ended.keys("attempt_failed") == []


def test_output_that_does_not_fit(lab):  # A031 W13
    """What a stage gives is not what it declares, and its successors find out."""
    ended = lab.finish(Pipeline("p").stage("a", Stage(lambda: "text", output=int)).stage("b", lambda: 1))
    assert isinstance(ended.error, InvalidInput)
    assert ended.keys("step_failed") == ["a"]
    assert ended.keys("attempt_failed") == []


def test_a_type_of_another_shape(lab):
    """A stage cannot take a part of what the stage before it gave."""

    def longer(stage: StageContext[Count, None]) -> int:
        return len(stage.input.words) + stage.input.count

    assert lab.finish(Pipeline("p", input=str).stage("a", split).stage("b", longer), "x y").value == 2


def test_failure(lab):  # A022 A043
    """A run fails with something else than its stage's error, or loses what was done before."""

    def fail(stage: StageContext[Any, None]) -> None:
        raise Terminal("the disk is full")

    ended = lab.finish(Pipeline("p").stage("a", lambda: 1).stage("b", fail).stage("c", lambda: 1))
    assert (type(ended.error), str(ended.error)) == (Terminal, "the disk is full")
    assert ended.keys("step_completed") == ["a"]
    assert ended.seconds < 1


def test_attempts(lab):  # A044 W14 W24
    """A sibling that is done first ends the run of one that would be tried again."""
    tries = []

    def flaky(stage: StageContext[Any, None]) -> int:
        tries.append(stage.attempt)
        if stage.attempt < 3:
            raise ConnectionError("no")
        return stage.attempt

    stages = {"quick": lambda: 0, "flaky": Stage(flaky, retry=Retry(max_attempts=3, delay=2, jitter=0))}
    ended = lab.finish(Pipeline("p").parallel(stages))
    assert (ended.value, tries) == ({"quick": 0, "flaky": 3}, [1, 2, 3])
    assert ended.times("attempt_failed") == [pytest.approx(0, abs=0.1), pytest.approx(2, abs=0.1)]
    assert [event.attempt for event in ended.events if event.key == "flaky" and event.kind == "step_completed"] == [3]


def test_siblings_of_a_failed_stage_are_stopped(lab):  # A044 W29
    """What nobody needs any more goes on and is paid for, and the run waits for it."""
    stopped = []

    async def slow(stage: StageContext[Any, None]) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            stopped.append(stage.id)
            assert stage.cancelled
            raise

    def fail() -> None:
        raise Terminal("no")

    ended = lab.finish(Pipeline("p").parallel({"slow": slow, "fail": fail}))
    assert (str(ended.error), stopped) == ("no", ["slow"])
    assert ended.keys("step_cancelled") == ["slow"]
    assert ended.seconds < 60


def test_cancelled_in_a_body(lab):  # A027 A060 W16
    """A cancelled run goes on, or what its body gave afterwards counts."""
    seen = []

    async def body(stage: StageContext[Any, None]) -> int:
        try:
            await asyncio.sleep(3600)
        finally:
            seen.append(stage.cancelled)
        return 1

    async def main():
        async with lab.worker(Pipeline("p").parallel({"a": body, "b": lambda: 1}).stage("c", lambda: 1)) as app:
            handle = await app.start("p", id="r")
            await asyncio.sleep(5)
            await handle.cancel("enough")
            return await lab.ended(app, "r")

    ended = lab.play(main)
    assert (ended.status, seen) == ("cancelled", [True])
    assert ended.keys("step_completed") == ["b"]
    assert ended.seconds < 60


def test_cancellation_reaches_threads(lab):  # W16
    """A body in a thread cannot find out that nobody needs it any more."""
    seen = []

    def body(stage: StageContext[Any, None]) -> None:
        begun.set()
        until = time.monotonic() + 10
        while not stage.cancelled and time.monotonic() < until:
            time.sleep(0.001)
        seen.append(stage.cancelled)
        over.set()

    async def main():
        nonlocal begun, over
        import threading  # noqa: PLC0415 - of this test only

        begun, over = threading.Event(), threading.Event()
        async with lab.worker(Pipeline("p").stage("a", body)) as app:
            handle = await app.start("p", id="r")
            await asyncio.to_thread(begun.wait, 10)
            await handle.cancel()
            ended = await lab.ended(app, "r")
            await asyncio.to_thread(over.wait, 10)
            return ended

    begun = over = None
    assert lab.play_on_real_clock(main).status == "cancelled"
    assert seen == [True]


def test_running_is_visible(lab):  # A020 A010
    """Nobody can see that a stage is being done."""

    async def main():
        release = asyncio.Event()

        async def body() -> None:
            await release.wait()

        async with lab.worker(Pipeline("p").stage("a", body)) as app:
            handle = await app.start("p", id="r")
            first = (await handle.info()).status
            await asyncio.sleep(1)
            info = await handle.info()
            release.set()
            await handle.result()
            return first, info

    first, info = lab.play(main)
    assert first in {"queued", "running"}
    assert (info.status, info.priority) == ("running", 0)
    assert info.owner is not None
    assert info.started_at is not None


def test_a_long_stage_is_left_alone(lab):  # W01 A066
    """A stage that takes hours is taken for dead."""

    async def body() -> int:
        await asyncio.sleep(7 * 3600)
        return 1

    assert lab.finish(Pipeline("p").stage("a", Stage(body, input=None, output=int))).value == 1


def test_a_stage_is_done_once_across_workers(lab):  # A025 W03 W07
    """A stage that is done is done again when its worker dies, or the run stays where it was."""
    calls = []

    async def body(stage: StageContext[Any, None]) -> int:
        calls.append(stage.id)
        if calls.count(stage.id) == 1 and stage.id in {"b", "d"}:
            lab.die()
            await asyncio.sleep(3600)
        return len(calls)

    pipeline = Pipeline("p").stage("a", body).parallel({"b": body, "c": Stage(lambda: 0)}).stage("d", body)
    ended = lab.survive(pipeline)
    assert ended.status == "completed"
    assert calls == ["a", "b", "b", "d", "d"]


def test_a_group_that_was_put_in(lab):
    """A changed pipeline stops runs that are under way."""

    async def main():
        before = Pipeline("p").stage("a", lambda: 1).stage("b", Stage(lambda: 2, retry=Retry(delay=1)))
        waits = asyncio.Event()

        async def wait(stage: StageContext[Any, None]) -> int:
            await waits.wait()
            return stage.input + 1

        async with lab.worker(before.stage("c", wait)) as app:
            await app.start("p", id="r")
            await asyncio.sleep(1)
        waits.set()
        after = Pipeline("p").stage("a", lambda: 1).stage("new", lambda: 7).stage("b", lambda: 2).stage("c", wait)
        async with lab.worker(after.stage("late", lambda stage: stage.input * 10)) as app:
            return await lab.ended(app, "r")

    ended = lab.play(main)
    assert ended.value == 30
    assert ended.keys("step_completed") == ["a", "b", "c", "late"]


# ------------------------------------------------------------------------------------- distribution
def where(stage: StageContext[Any, Cut]) -> list[Any]:
    return [current_step().run_id, stage.input, stage.config.least, stage.require("zero"), stage.optional("a")]


def test_distributed_stages(lab):  # A035
    """Stages that any worker may do run in their parent, or without what they need."""
    pipeline = (
        Pipeline("p")
        .stage("zero", lambda: [0])
        .stage("a", lambda: {"x": 1})
        .parallel({"b": Stage(where, dependencies=["zero"]), "c": lambda: None}, distribute=True)
        .stage("d", lambda stage: stage.input["b"])
    )

    async def main():
        async with lab.worker(pipeline) as app:
            await app.start("p", None, {"b": {"least": 4}}, id="r")
            ended = await lab.ended(app, "r", "p")
            await lab.check_replay(app, ended, "p")
            children, _ = await app.client.runs(RunFilter(parent="r"))
            return ended, children

    ended, children = lab.play(main)
    assert ended.value == ["r/b/p.stage", {"x": 1}, 4, [0], {"x": 1}]
    assert {child.workflow for child in children} == {"p.stage"}
    assert ended.keys("child_completed") in (["b/p.stage", "c/p.stage"], ["c/p.stage", "b/p.stage"])


def test_distributed_over_two_workers(lab):  # A035
    """Child runs of stages stay on the worker of their parent."""
    busy, both = [], None

    async def body(stage: StageContext[Any, None]) -> int:
        busy.append(stage.id)
        if len(busy) == 2:
            both.set()
        await both.wait()
        return 1

    pipeline = Pipeline("p").parallel({"b": body, "c": body}, distribute=True)

    async def main():
        nonlocal both
        both, one = asyncio.Event(), {"options": {"concurrency": 2}}
        async with lab.worker(pipeline, **one) as app, lab.worker(pipeline, **one):
            await app.start("p", id="r")
            return await lab.ended(app, "r")

    assert lab.play(main).value == {"b": 1, "c": 1}


def test_distributed_failure(lab):  # A043
    """The failure of a child run hides its stage's error, or leaves the siblings running."""

    def fail() -> None:
        raise Terminal("no")

    async def slow() -> None:
        await asyncio.sleep(3600)

    async def main():
        async with lab.worker(Pipeline("p").parallel({"b": fail, "c": slow}, distribute=True)) as app:
            handle = await app.start("p", id="r")
            with pytest.raises(RunFailed) as failed:
                await handle.result()
            await asyncio.sleep(60)
            children, _ = await app.client.runs(RunFilter(parent="r"))
            return failed.value, {child.id: str(child.status) for child in children}

    error, children = lab.play(main)
    assert str(error.cause) == "no"
    assert children == {"r/b/p.stage": "failed", "r/c/p.stage": "cancelled"}


def test_compensation(lab):
    """What a stage did stays when the run fails, or what undoes it does not know what to undo."""
    undone = []

    def undo(output: int, stage: StageContext[Text, Cut]) -> None:
        undone.append((stage.id, output, stage.input.words, stage.config.least, stage.attempt))

    def undo_first(output: str) -> None:
        undone.append(output)

    def fail() -> None:
        raise Terminal("no")

    pipeline = (
        Pipeline("p", input=str)
        .stage("split", split)
        .parallel({"count": Stage(count, compensate=undo), "first": Stage(first, compensate=undo_first)})
        .stage("fail", fail)
    )
    ended = lab.finish(pipeline, "a bb", {"count": {"least": 2}})
    assert str(ended.error) == "no"
    assert sorted(undone, key=str) == [("count", 1, ["a", "bb"], 2, 1), "a"]
    assert {key for key in ended.keys("step_completed") if "#" in key} == {"count#compensate", "first#compensate"}
