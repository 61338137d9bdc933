"""Pipelines of the simulation that are done again from a stage, once they have ended."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from tests.sim import programs

from perdure.errors import IllegalMove
from perdure.model.entry import Kind

if TYPE_CHECKING:
    from tests.sim.mirror import Fact
    from tests.sim.world import World

GROUPS = (("spec",), ("left", "right"), ("near", "far"), ("batch",), ("last",))
DONE = {Kind.STEP_COMPLETED, Kind.CHILD_COMPLETED}


@dataclass
class Work:
    """A run of the pipeline, and the stages that it is done again from."""

    id: str
    node: dict[str, Any]
    at: float
    again: list[str]


def draw(rng: Random) -> list[Work]:
    """Those of one world."""
    works = []
    for place in range(rng.choice((0, 0, 1, 2))):
        node = programs.Draw(rng, 1)._flow(0)
        stages = [rng.choice(rng.choice(GROUPS)) for _ in range(rng.choice((0, 1, 2)))]
        works.append(Work(f"p{place}", node, rng.choice((0.0, rng.uniform(0, 10))), stages))
    return works


async def script(world: World, work: Work) -> None:
    """Start it, and do it again each time when it has ended."""
    await asyncio.sleep(work.at)
    await world.insist(lambda process: process.app.start("sim_pipeline", work.node, id=work.id))
    for stage in work.again:
        while (run := world.mirror.run(work.id)) is None or not run.ended:  # noqa: ASYNC110 - the mirror tells nobody
            await asyncio.sleep(0.5)
        # Who got no answer asks again, and it may be under way by then.
        with suppress(IllegalMove):
            await world.insist(lambda process, stage=stage: process.app.client.rerun(work.id, stage=stage))


def check(world: World) -> None:
    """What came before the stage stays and is not begun again, all from its group on is done once more."""
    for work in world.pipelines:
        run = world.mirror.run(work.id)
        if run is None:
            world.wrong(f"I8: {work.id} is gone")
            continue
        value = work.node["value"] * 2 + 1
        output = json.loads(world.mirror.text(run.output) or "null")
        if (run.status, output) != (("failed", None) if work.node["fail"] else ("completed", [value] * 5)):
            world.wrong(f"{work.id} is {run.status} with {run.output}")
        if len(work.again) > run.generation - 1:
            world.wrong(f"{work.id} was to be done again from {work.again}, and has {run.generation} generations")
        kept: set[tuple[int, str]] = set()
        for generation in range(1, run.generation + 1):
            facts = [fact for fact in world.mirror.facts[run.number] if fact.round == generation]
            kept = _generation(world, work, generation, facts, kept)


def _generation(
    world: World, work: Work, generation: int, facts: list[Fact], kept: set[tuple[int, str]]
) -> set[tuple[int, str]]:
    """
    Check one generation.

    Args:
        kept: What was done before and counts, as seq and stage.

    Returns:
        The same for the next one.
    """
    old = {stage for _, stage in kept}
    for place in world.bodies:
        if place[:2] == (work.id, generation) and _stage(place[2]) in old:
            world.wrong(f"{place} was begun again, though its stage was kept")
    whole = kept | {(fact.seq, _stage(fact.key)) for fact in facts if fact.kind in DONE}
    done = {stage for _, stage in whole}
    for group in GROUPS[: -1 if work.node["fail"] else None]:
        if not done.issuperset(group):
            world.wrong(f"{work.id} has ended in generation {generation} without all of {group}: {done}")
    for fact in facts:
        if fact.kind == Kind.RERUN:
            last = json.loads(fact.data or "{}")["keep"]
            whole = {each for each in whole if each[0] <= last}
            _check_cut(world, work, {stage for _, stage in whole})
    return whole


def _check_cut(world: World, work: Work, kept: set[str]) -> None:
    """Whole groups are kept, those before one of the stages that were asked for."""
    cuts = [place for place, group in enumerate(GROUPS) if set(group) & set(work.again)]
    if not any(kept == {stage for group in GROUPS[:cut] for stage in group} for cut in cuts):
        world.wrong(f"{work.id} was to be done again from {work.again}, and kept were {sorted(kept)}")


def _stage(key: str) -> str:
    """The stage that an entry belongs to; a distributed one is a scope with a child."""
    return key.removesuffix("/sim_pipeline.stage").rpartition("/")[2].partition("#")[0]
