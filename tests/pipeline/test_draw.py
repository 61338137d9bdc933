"""Pipelines as diagrams and data, with runs painted on them."""

import asyncio
import json
from typing import Any

from pydantic import BaseModel

from perdure import Batch, Pending, Pipeline, Stage, StageContext, Terminal
from perdure.declared.standing import Standing
from perdure.pipeline.draw import mermaid, plan, standings


class Config(BaseModel):
    size: int = 3


def read(stage: StageContext[str, Config]) -> list[str]:
    """Read it."""
    return [stage.input]


def look(stage: StageContext[list[str], None]) -> int:
    return 1


def check(stage: StageContext[Any, None], batch: str) -> int | Pending:
    return Pending(600, progress="1 of 2")


PIPELINE = (
    Pipeline("papers", input=str, description="Reads papers.")
    .stage("read", read)
    .parallel({"look": look, "find <x>": Stage(look, dependencies=["read"])}, distribute=True)
    .stage("score", Batch(lambda: "b", check))
)


def test_plan():
    """A dashboard cannot show a pipeline, as something of it is missing."""
    data = json.loads(json.dumps(plan(PIPELINE)))
    assert {name: data[name] for name in ("pipeline", "description", "input", "order")} == {
        "pipeline": "papers", "description": "Reads papers.", "input": "str", "order": "read → look + find <x> → score",
    }  # fmt: skip
    first, second, third = data["groups"]
    (stage,) = first["stages"]
    assert stage["config"]["defaults"] == {"size": 3}
    assert stage["config"]["schema"]["properties"]["size"]["type"] == "integer"
    assert (stage["description"], stage["input"], stage["output"], stage["run"]) == (
        "Read it.",
        "str",
        "list[str]",
        "read",
    )
    assert (second["distribute"], second["stages"][1]["dependencies"]) == (True, ["read"])
    (batch,) = third["stages"]
    assert (batch["kind"], batch["check"], batch["every"], batch["deadline"]) == ("batch", "check", "30 s", "86400 s")
    assert batch["input"] is None


def test_mermaid():
    """The diagram does not show what comes after what."""
    assert mermaid(PIPELINE).splitlines() == [
        "flowchart TD",
        '    start(["start"])',
        '    g1_0["read"]',
        "    start --> g1_0",
        '    g2_0[["look"]]',
        "    g1_0 --> g2_0",
        '    g2_1[["find &lt;x&gt;: look"]]',
        "    g1_0 --> g2_1",
        '    g3_0[/"score"/]',
        "    g2_0 --> g3_0",
        "    g2_1 --> g3_0",
        '    done(["end"])',
        "    g3_0 --> done",
    ]


def test_painted(lab):  # A020
    """A run's state is not that of the diagram."""
    found = []

    async def main():
        release = asyncio.Event()

        async def slow() -> None:
            await release.wait()

        async def fail() -> None:
            await release.wait()
            raise Terminal("no")

        pipeline = (
            Pipeline("p").stage("a", lambda: 1).stage("b", Batch(lambda: 1, check, deadline=700))
            .parallel({"c": slow, "d": fail}).stage("e", lambda: 1)
        )  # fmt: skip

        async def paint():
            info = await app.handle("r").info()
            painted = standings(pipeline, await lab.journal(app, "r"), info.status)
            found.append({stage: " ".join(standing).strip() for stage, standing in painted.items()})

        async with lab.worker(pipeline) as app:
            await app.start("p", id="r")
            await paint()
            await asyncio.sleep(20)
            await paint()
            await asyncio.sleep(20)
            await paint()
            ended = await lab.ended(app, "r")
            await paint()
            assert ended.status == "failed"

    lab.play(main)
    assert [one["b"] for one in found[1:]] == ["waiting submitted", "waiting 1 of 2", "failed"]
    assert found[1] == {"a": "completed", "b": "waiting submitted", "c": "pending", "d": "pending", "e": "pending"}


def test_running_and_failed(lab):
    """Nobody can see which stage of a group has failed."""

    async def main():
        release, found = asyncio.Event(), []

        async def slow() -> None:
            await asyncio.sleep(3600)

        async def fail() -> None:
            await release.wait()
            raise Terminal("no")

        pipeline = Pipeline("p").stage("a", lambda: 1).parallel({"c": slow, "d": fail}).stage("e", lambda: 1)
        async with lab.worker(pipeline) as app:
            await app.start("p", id="r")
            await asyncio.sleep(5)
            for status in ("running", "failed"):
                found.append(standings(pipeline, await lab.journal(app, "r"), status))
                release.set()
                await lab.ended(app, "r")
            return [{stage: standing.status for stage, standing in one.items()} for one in found]

    running, failed = lab.play(main)
    assert running == {"a": "completed", "c": "running", "d": "running", "e": "pending"}
    assert failed == {"a": "completed", "c": "cancelled", "d": "failed", "e": "pending"}
    assert "classDef failed" in mermaid(Pipeline("p").stage("a", look), {"a": Standing("failed")})


def test_after_a_rerun(lab):
    """What a rerun has dropped is shown as done."""
    pipeline = Pipeline("p").stage("a", lambda: 1).stage("b", lambda: 1)

    async def main():
        async with lab.worker(pipeline) as app:
            await app.start("p", id="r")
            await lab.ended(app, "r")
        async with lab.app(pipeline).connected() as app:
            await app.client.rerun("r", stage="b")
            return standings(pipeline, await lab.journal(app, "r"), "queued")

    assert {stage: standing.status for stage, standing in lab.play(main).items()} == {"a": "completed", "b": "pending"}
