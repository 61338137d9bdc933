"""Pipelines that are done again from a stage, by the statements of the acceptance list."""

import asyncio
from typing import Any

import pytest

from perdure import Batch, Flow, Pipeline, RunFilter, StageContext, Terminal
from perdure.errors import IllegalMove, InvalidOption, StepNotFound


class Log(list):
    def stage(self, name, value=None, fails=()):
        def body(stage: StageContext[Any, None]) -> Any:
            self.append(name)
            if self.count(name) in fails:
                raise Terminal(f"{name} failed")
            return f"{name}{self.count(name)}" if value is None else value

        return body


@pytest.fixture
def log():
    return Log()


def generations(lab, pipeline, *stages, cancel_at=None, **options):
    """Run it, and again from each of these stages; gives how each generation ended."""

    async def main():
        async with lab.worker(pipeline) as app:
            handle = await app.start(pipeline.name, "input", id="r")
            if cancel_at is not None:
                await asyncio.sleep(cancel_at)
                await handle.cancel()
            found = [await lab.ended(app, "r")]
            for stage in stages:
                await app.client.rerun("r", stage=stage, **options)
                found.append(await lab.ended(app, "r"))
            return found

    return lab.play(main)


def test_from_a_stage(lab, log):  # A061 W21
    """What came before the stage is done again, or what came after is not; or the history is lost."""
    pipeline = Pipeline("p").stage("a", log.stage("a")).stage("b", log.stage("b")).stage("c", log.stage("c"))
    first, again = generations(lab, pipeline, "b")
    assert log == ["a", "b", "c", "b", "c"]
    assert (first.value, again.value) == ("c1", "c2")
    assert (again.info.generation, again.info.status) == (2, "completed")
    assert again.keys("step_completed") == ["a", "b", "c", "b", "c"]
    mark = again.data("rerun")[0]
    assert (mark["keep"], mark["previous"]["status"]) == (1, "completed")


def test_the_whole_group(lab, log):  # A061
    """Of a group only those that were done last are done again, whichever stage was named."""
    stages = {"b": log.stage("b"), "c": log.stage("c")}
    pipeline = Pipeline("p").stage("a", log.stage("a")).parallel(stages).stage("d", log.stage("d"))
    generations(lab, pipeline, "c", "b")
    assert sorted(log) == ["a", "b", "b", "b", "c", "c", "c", "d", "d", "d"]


def test_from_the_first(lab):  # A064
    """The run's input is lost, or a stage gets another one."""
    seen = []

    def look(stage: StageContext[Any, None]) -> str:
        seen.append(stage.input)
        return "other"

    generations(lab, Pipeline("p").stage("a", look).stage("b", look), "a")
    assert seen == ["input", "other", "input", "other"]


def test_refused(lab, log):  # A062
    """A run is done again from a stage that there is not, or that it never came to, or while it goes on."""
    pipeline = Pipeline("p").stage("a", log.stage("a", fails={1})).stage("b", log.stage("b"))

    async def main():
        async with lab.worker(pipeline, lambda ctx: None) as app:
            handle = await app.start("p", id="r")
            await lab.ended(app, "r")
            with pytest.raises(InvalidOption, match=r"'p' has no 'nobody' \(it has a, b\)"):
                await app.client.rerun("r", stage="nobody")
            with pytest.raises(StepNotFound):
                await app.client.rerun("r", stage="b")
            with pytest.raises(InvalidOption, match="use one of them"):
                await app.client.rerun("r", stage="a", before="a")
            assert (await handle.info()).generation == 1
            await app.client.rerun("r", stage="a")
            await lab.ended(app, "r")
        async with lab.app(pipeline).connected() as app:
            await app.start("p", id="q")
            with pytest.raises(IllegalMove):
                await app.client.rerun("q", stage="a")

    lab.play(main)


def test_of_a_failed_run(lab, log):  # A061 A063
    """A repaired run begins at the beginning, or its attempts are used up."""
    pipeline = Pipeline("p").stage("a", log.stage("a")).parallel({"b": log.stage("b", fails={1}), "c": log.stage("c")})
    first, again = generations(lab, pipeline, "b")
    assert (str(first.error), again.value["b"]) == ("b failed", "b2")
    assert log.count("a") == 1
    assert {event.attempt for event in again.events if event.kind == "step_completed"} == {1}


def test_of_a_cancelled_run(lab):  # W21
    """A run that was cancelled by mistake is lost."""
    begun = []

    async def slow(stage: StageContext[Any, None]) -> str:
        begun.append(stage.id)
        if len(begun) == 1:
            await asyncio.sleep(3600)
        return "done"

    first, again = generations(lab, Pipeline("p").stage("a", lambda: 1).stage("b", slow), "b", cancel_at=5)
    assert (first.status, again.status, again.value) == ("cancelled", "completed", "done")
    assert begun == ["b", "b"]


def test_of_a_batch(lab):  # A061 A063
    """The batch of the generation before is taken for that of this one; or its service thinks so."""
    keys = []

    def submit(stage: StageContext[Any, None]) -> int:
        keys.append(stage.idempotency_key)
        return len(keys)

    def check(stage: StageContext[Any, None], batch: int) -> int:
        return batch

    pipeline = Pipeline("p").stage("a", lambda: 1).stage("b", Batch(submit, check))
    found = generations(lab, pipeline, "b", "a")
    assert [ended.value for ended in found] == [1, 2, 3]
    assert keys == ["r/b#submit", "r/b#submit@2", "r/b#submit@3"]


def test_with_children(lab, log):
    """Distributed stages that are done again take the results of the children before."""
    stages = {"b": log.stage("b"), "c": log.stage("c")}
    pipeline = Pipeline("p").stage("a", log.stage("a")).parallel(stages, distribute=True)

    async def main():
        async with lab.worker(pipeline) as app:
            await app.start("p", id="r")
            await lab.ended(app, "r")
            await app.client.rerun("r", stage="c")
            ended = await lab.ended(app, "r")
            children, _ = await app.client.runs(RunFilter(parent="r"))
            return ended, len(children)

    ended, children = lab.play(main)
    assert (ended.value, children) == ({"b": "b2", "c": "c2"}, 4)
    assert log.count("a") == 1


def test_fork_from_a_stage(lab, log):
    """A fork begins at another stage than it was asked for."""
    pipeline = Pipeline("p").stage("a", log.stage("a")).stage("b", log.stage("b"))

    async def main():
        async with lab.worker(pipeline) as app:
            await app.start("p", id="r")
            await lab.ended(app, "r")
            await app.client.fork("r", stage="b", id="f")
            return await lab.ended(app, "f")

    ended = lab.play(main)
    assert (ended.value, list(log)) == ("b2", ["a", "b", "b"])


def test_flows_too(lab):
    """A flow's node cannot be named where a stage can."""
    done = []
    flow = (
        Flow("f")
        .step("a", lambda: done.append("a"))
        .parallel("p", {"x": lambda: done.append("x")})
        .loop("l", lambda: done.append("l"), max_iterations=2)
    )
    generations(lab, flow, "x", "l")
    assert done == ["a", "x", "l", "l", "x", "l", "l", "l", "l"]
