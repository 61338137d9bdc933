"""What stages tell while they run, and what they keep, by the statements of the acceptance list."""

import asyncio
import logging
from typing import Any

import pytest

from perdure import Pipeline, RunFilter, Stage, StageContext, Terminal
from perdure.errors import ArtifactNotFound, InvalidOption
from perdure.model.limits import Limits
from perdure.pipeline.draw import standings


def told(events, topic):
    return [event.data["value"] for event in events if event.kind == "step_emitted" and event.data["topic"] == topic]


def test_progress_is_seen_while_the_stage_runs(lab):  # A030
    """People see how far a stage was when it is over."""

    async def main():
        release = asyncio.Event()

        async def slow(stage: StageContext[Any, None]) -> int:
            stage.progress(0, "begun")
            stage.progress(0.5, "half", pages=7)
            await release.wait()
            stage.progress(1)
            return 1

        pipeline = Pipeline("p").stage("a", lambda: 1).stage("b", slow)
        async with lab.worker(pipeline) as app:
            handle = await app.start("p", id="r")
            await asyncio.sleep(1)
            events = await lab.journal(app, "r")
            painted = standings(pipeline, events, (await handle.info()).status)
            release.set()
            ended = await lab.ended(app, "r", "p")
            await lab.check_replay(app, ended, "p")
            return told(events, "progress"), painted["b"], ended

    seen, standing, ended = lab.play(main)
    assert seen == [
        {"stage": "b", "progress": 0, "message": "begun"},
        {"stage": "b", "progress": 0.5, "message": "half", "details": {"pages": 7}},
    ]
    assert standing == ("running", "50% half")
    kinds = [event.kind for event in ended.events if event.key == "b"]
    assert kinds == ["step_emitted"] * 3 + ["step_completed"]


def test_progress_of_an_attempt(lab):  # A030
    """Progress that is none is told, or fails a stage that tells too much of it."""

    async def chatty(stage: StageContext[Any, None]) -> int:
        with pytest.raises(InvalidOption):
            stage.progress(2)
        for number in range(30):
            stage.progress(number / 30)
        return 1

    ended = lab.finish(Pipeline("p").stage("a", chatty), settings={"limits": Limits(emitted_entries=10)})
    assert ended.value == 1
    assert len(told(ended.events, "progress")) == 10


def test_logs(lab, caplog):  # A033
    """A stage's log lines are lost, or nobody can tell whose they are."""

    def noisy(stage: StageContext[Any, None]) -> None:
        stage.log.debug("d")
        stage.log.info("i", page=7)
        stage.log.warning("w")
        stage.log.error("e", url="u")
        if stage.attempt == 1:
            raise ConnectionError

    caplog.set_level(logging.DEBUG, "perdure.run")
    ended = lab.finish(Pipeline("p").stage("a", noisy), id="r")
    lines = told(ended.events, "log")[:4]
    assert [(line["level"], line["message"]) for line in lines] == [
        ("debug", "d"), ("info", "i"), ("warning", "w"), ("error", "e"),
    ]  # fmt: skip
    assert (lines[1]["fields"], {line["stage"] for line in lines}) == ({"page": 7}, {"a"})
    assert [event.attempt for event in ended.events if event.kind == "step_emitted"] == [1] * 4 + [2] * 4
    record = next(record for record in caplog.records if record.message == "e")
    assert (record.run_id, record.stage, record.levelname) == ("r", "a", "ERROR")


def test_a_failed_stage_has_told_what_it_knew(lab):  # A022 A033
    """The lines that would explain a failure are lost with it."""

    def fail(stage: StageContext[Any, None]) -> None:
        stage.log.error("the disk is full")
        raise Terminal("no")

    ended = lab.finish(Pipeline("p").stage("a", fail))
    assert ended.status == "failed"
    assert told(ended.events, "log")[0]["message"] == "the disk is full"


def test_artifacts(lab):  # A029 A034
    """What a stage keeps is not what another finds, or cannot be read from outside."""
    nested = {"pages": [1, {"deep": None}]}

    async def keep(stage: StageContext[Any, None]) -> None:
        await stage.artifacts.save("pages/1.json", nested)
        await stage.artifacts.save("scan.bin", b"\x00\xff")
        await stage.artifacts.save("old", 1)

    def look(stage: StageContext[Any, None]) -> list[Any]:
        kept = stage.artifacts
        stage.wait(kept.delete("old"))
        stage.wait(kept.delete("never there"))
        with pytest.raises(ArtifactNotFound):
            stage.wait(kept.load("old"))
        assert stage.wait(kept.load("scan.bin")) == b"\x00\xff"
        return [stage.wait(kept.load("pages/1.json")), stage.wait(kept.exists("old")), stage.wait(kept.names())]

    async def main():
        async with lab.worker(Pipeline("p").stage("keep", keep).stage("look", look)) as app:
            handle = await app.start("p", id="r")
            exported = (await app.client.export("r"))["run"] if await handle.result() else {}
            return await handle.result(), await handle.artifacts(), await app.client.artifact("r", "scan.bin"), exported

    value, infos, data, exported = lab.play_on_real_clock(main)
    assert [(one["name"], one["size"]) for one in exported["artifacts"]] == [("pages/1.json", 27), ("scan.bin", 2)]
    assert value == [nested, False, ["pages/1.json", "scan.bin"]]
    assert [(info.name, info.step) for info in infos] == [("pages/1.json", "keep"), ("scan.bin", "keep")]
    assert data == b"\x00\xff"


def test_artifacts_belong_to_their_run(lab):  # A034 W19
    """A run sees, or leaves behind, what another one has kept."""

    async def keep(stage: StageContext[str, None]) -> list[str]:
        await stage.artifacts.save(stage.input, 1)
        return await stage.artifacts.names()

    async def main():
        async with lab.worker(Pipeline("p", input=str).stage("keep", keep)) as app:
            found = [await (await app.start("p", name)).result() for name in ("a", "b")]
            await asyncio.sleep(10)
            await app.client.prune(older_than=1)
            return found, await lab.sql(app, "select count(*) from perdure_artifacts")

    assert lab.play(main) == ([["a"], ["b"]], [(0,)])


def test_a_distributed_stage_tells_in_its_child(lab):
    """What a stage on another worker tells goes nowhere."""

    async def work(stage: StageContext[Any, None]) -> None:
        stage.progress(0.3)
        await stage.artifacts.save("x", stage.run_id)

    async def main():
        async with lab.worker(Pipeline("p").parallel({"a": Stage(work), "b": lambda: 1}, distribute=True)) as app:
            await (await app.start("p", id="r")).result()
            children, _ = await app.client.runs(RunFilter(parent="r"))
            assert len(children) == 2
            return told(await lab.journal(app, "r/a/p.stage"), "progress"), await app.client.artifact(
                "r/a/p.stage", "x"
            )

    assert lab.play(main) == ([{"stage": "a", "progress": 0.3, "message": ""}], "r/a/p.stage")


def test_remarks_and_usage(lab):
    """A stage cannot say why it decided so, or what its calls have cost, or what failed attempts said is lost."""

    def decide(stage: StageContext[Any, None]) -> None:
        stage.annotate("decision.outcome", "yes", actor="agent")
        stage.usage("small", input_tokens=7, cost="0.25")
        if stage.attempt == 1:
            raise ConnectionError

    async def main():
        async with lab.worker(Pipeline("p").stage("decide", decide)) as app:
            await (await app.start("p", id="r")).result()
            return await app.client.annotations("r"), await app.client.usage("r")

    remarks, used = lab.play(main)
    assert [(one.key, one.value, one.scope_id, one.attempt) for one in remarks] == [
        ("decision.outcome", "yes", "decide", 1), ("decision.outcome", "yes", "decide", 2),
    ]  # fmt: skip
    assert (str(used.total.cost), list(used.models)) == ("0.5", ["small"])
