"""Pipelines as they are declared: order, ids, types and configs, by the statements of the acceptance list."""

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, Field

from perdure import App, Batch, Flow, Pending, Pipeline, Retry, Stage, StageContext
from perdure.errors import DuplicateName, InvalidConfig, InvalidName, InvalidOption, RunNotFound
from perdure.pipeline.config import ConfigProblem


class Inner(BaseModel):
    deep: int = 7


class Config(BaseModel):
    must: int
    name: str = "x"
    made: list[int] = Field(default_factory=lambda: [1])
    inner: Inner = Inner()
    maybe: int | None = 3


@dataclass
class Plain:
    size: int = 5


def take(stage: StageContext[str, None]) -> int:
    """Measure the text."""
    return len(stage.input)


def configured(stage: StageContext[Any, Config]) -> str:
    return stage.config.name


def sized(stage: StageContext[Any, Plain]) -> int:
    return stage.config.size


def nothing(stage: StageContext[None, None]) -> None:
    return None


def submit(stage: StageContext[Any, None]) -> str:
    return "b"


def check(stage: StageContext[Any, None], batch: str) -> int | Pending:
    return 1


WHOLE = (
    Pipeline("whole", input=str)
    .stage("take", take)
    .parallel({"left": configured, "right": sized})
    .stage("end", Batch(submit, check, dependencies=("left",)))
)


def test_groups_are_numbered():  # A001
    """Stages run in other groups than they were declared in."""
    assert [(group.number, group.names) for group in WHOLE.groups] == [
        (1, ("take",)),
        (2, ("left", "right")),
        (3, ("end",)),
    ]


@pytest.mark.parametrize("name", ["there", "later", "left"])
def test_dependencies_must_be_earlier(name):  # A002
    """A stage runs before what it needs."""
    stages = {"left": nothing, "right": Stage(nothing, dependencies=["take", name])}
    with pytest.raises(InvalidOption, match=rf"stage 'right' of pipeline 'p': it depends on '{name}'"):
        Pipeline("p").stage("take", take).parallel(stages).stage("later", nothing)


def test_all_errors_of_all_stages():  # A003
    """Somebody mends a config error by error, as only the first one is told."""
    found = WHOLE.validate_config({"left": {"must": "no", "inner": {"deep": "no"}}, "right": {"size": []}, "take": {}})
    assert [(problem.stage, problem.field) for problem in found] == [
        ("take", ""), ("left", "must"), ("left", "inner.deep"), ("right", "size"),
    ]  # fmt: skip
    assert str(found[1]).startswith("left.must: Input should be a valid integer")
    assert WHOLE.validate_config({"left": {"must": 1}}) == []
    assert WHOLE.validate_config(None) == [ConfigProblem("left", "must", "Field required")]


def test_default_config():  # A004
    """What people see as the defaults is not what stages get."""
    assert WHOLE.default_config == {
        "left": {"name": "x", "made": [1], "inner": {"deep": 7}, "maybe": 3}, "right": {"size": 5},
    }  # fmt: skip


def test_what_can_be_asked():  # A008
    """Tools cannot show a pipeline."""
    stage = WHOLE.get("take")
    assert (stage.target, stage.description, stage.input, stage.output) == ("take", "Measure the text.", str, int)
    assert WHOLE.get("nobody") is None
    assert WHOLE.ids == ("take", "left", "right", "end")
    assert (WHOLE.group_of("right").number, WHOLE.before("right"), WHOLE.before("end"), WHOLE.before("take")) == (
        2, ("take",), ("left", "right"), (),
    )  # fmt: skip
    assert WHOLE.order == "take → left + right → end"
    with pytest.raises(InvalidOption, match="pipeline 'whole' has take, left"):
        WHOLE.group_of("nobody")


def test_mistakes_are_found_when_it_is_built():  # W13
    """A pipeline that cannot run is accepted."""
    pipeline = Pipeline("p").stage("a", nothing)
    with pytest.raises(DuplicateName):
        pipeline.stage("a", take)
    with pytest.raises(InvalidOption, match="group 2 of pipeline 'p': it has no stages"):
        pipeline.parallel({})
    with pytest.raises(InvalidName):
        pipeline.stage("a#b", take)
    with pytest.raises(InvalidOption, match="neither a function nor a Stage"):
        pipeline.stage("b", 7)
    with pytest.raises(InvalidOption, match="would be called with"):
        pipeline.stage("b", lambda *, x: x)
    with pytest.raises(InvalidOption, match="step options"):
        pipeline.stage("b", take, patience=3)
    with pytest.raises(InvalidOption, match=r"write \['a'\]"):
        pipeline.stage("b", take, dependencies="a")
    with pytest.raises(InvalidOption, match="queue"):
        pipeline.parallel({"b": take}, queue="q")
    with pytest.raises(InvalidOption, match="compensate"):
        pipeline.parallel({"b": Stage(take, compensate=nothing)}, distribute=True)
    with pytest.raises(InvalidOption, match="compensate"):
        Batch(submit, check, compensate=nothing)
    with pytest.raises(InvalidOption, match="deadline"):
        Batch(submit, check, deadline=0)
    with pytest.raises(InvalidOption, match="next_check_in"):
        Pending(0)


@pytest.mark.parametrize("stages", [{}, [take], take])
def test_parts_have_names(stages):
    """Stages, entries and branches without names would be an AttributeError in perdure's own code."""
    with pytest.raises(InvalidOption, match=r"group 1 of pipeline 'p': it has no stages by name: write {name: …}"):
        Pipeline("p").parallel(stages)
    with pytest.raises(InvalidOption, match=r"parallel 'n': it has no entries by name"):
        Flow("f").parallel("n", stages)
    with pytest.raises(InvalidOption, match=r"route 'n': it has no branches by name"):
        Flow("f").route("n", take, stages)


def test_options_are_for_functions():
    """Attempts that a user has asked for beside a Stage would silently not be made."""
    with pytest.raises(InvalidOption, match=r"^retry: it is for functions; a Stage or Batch has its own options"):
        Pipeline("p").stage("a", Stage(take), retry=Retry(max_attempts=9))
    mixed = Pipeline("p").parallel({"a": Stage(take), "b": take}, timeout=4)
    assert [mixed.get(name).options.timeout for name in "ab"] == [None, 4]


def test_types_can_be_given():
    """A function without annotations, or with others, cannot be a stage."""
    stage = Stage(lambda stage: 1, input=list[int], config=Plain, output=str)
    assert (stage.input, stage.config, stage.output) == (list[int], Plain, str)
    assert Stage(lambda: 1).input is type(None)
    assert Stage(lambda stage: 1).input is Any


def test_default_attempts():  # A045 W27
    """A stage that fails once by chance fails its run, or one that must not be repeated is."""
    retry = Stage(take).options.retry
    assert (retry.max_attempts, retry.delay, retry.backoff) == (3, 2.0, 2.0)
    assert Stage(take, retry=Retry(max_attempts=1)).options.retry.max_attempts == 1
    own = App("sqlite://").step(retry=Retry(max_attempts=9), timeout=4)(take)
    assert (Stage(own).options.retry.max_attempts, Stage(own).options.timeout) == (9, 4)


def test_refused_at_the_start(lab):  # A011
    """A run that cannot succeed is stored all the same."""

    async def main():
        async with lab.worker(WHOLE) as app:
            with pytest.raises(InvalidConfig) as refused:
                await app.start("whole", "text", {"left": {}, "nobody": {}, "right": {"size": "large"}}, id="r")
            with pytest.raises(RunNotFound):
                await app.handle("r").info()
            return refused.value, await lab.sql(app, "select count(*) from perdure_journal")

    error, entries = lab.play(main)
    assert [problem.partition(":")[0] for problem in error.problems] == ["nobody", "left.must", "right.size"]
    assert "left.must: Field required" in str(error)
    assert entries == [(0,)]
