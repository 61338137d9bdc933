"""Show a pipeline: as data, as a Mermaid diagram, and with the state of a run painted on it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from perdure.clock import SECOND
from perdure.codec.value import schema_of
from perdure.declared.standing import (
    COLOURS,
    MEANING,
    PENDING,
    UNDOING,
    Event,
    Standing,
    chart,
    name_of,
    span_text,
    standing_events,
    text_in,
)
from perdure.engine.history import first_name
from perdure.engine.saga import SUFFIX
from perdure.model.entry import Kind
from perdure.model.status import Status
from perdure.pipeline.batch import Batch
from perdure.pipeline.builder import Group, Pipeline
from perdure.pipeline.context import PROGRESS
from perdure.pipeline.stage import Work
from perdure.pipeline.types import NONE

_DONE = {"#submit": Standing("waiting", "submitted"), "#cancel": Standing("cancelled")}
_UNDER_WAY = frozenset({"running", "waiting", "retrying"})


# --------------------------------------------------------------------------------------------- as data
def plan(pipeline: Pipeline, standings: Mapping[str, Standing] | None = None) -> dict[str, Any]:
    """A pipeline as plain data, to be written as JSON; with `standings` each stage has its status."""
    defaults = pipeline.default_config
    return {
        "pipeline": pipeline.name,
        "description": pipeline.description,
        "input": _type_text(pipeline.input),
        "order": pipeline.order,
        "groups": [_group_data(group, defaults, standings) for group in pipeline.groups],
    }


def _group_data(group: Group, defaults: Mapping[str, Any], standings: Mapping[str, Standing] | None) -> dict[str, Any]:
    data: dict[str, Any] = {"group": group.number}
    if group.distribute:
        data |= {"distribute": True, "queue": group.queue or None}
    data["stages"] = [_stage_data(work, defaults, standings) for work in group.works]
    return data


def _stage_data(work: Work, defaults: Mapping[str, Any], standings: Mapping[str, Standing] | None) -> dict[str, Any]:
    stage = work.stage
    data: dict[str, Any] = {
        "id": work.id, "kind": stage.kind, "run": stage.target, "description": stage.description,
        "input": None if stage.input is NONE else _type_text(stage.input), "output": _type_text(stage.output),
        "dependencies": list(stage.dependencies),
    }  # fmt: skip
    if stage.config is not NONE:
        data["config"] = {"schema": schema_of(stage.config), "defaults": defaults[work.id]}
    if isinstance(stage, Batch):
        data |= {"check": name_of(stage.check), "every": _seconds(stage.every), "deadline": _seconds(stage.deadline)}
    if stage.options.compensate is not None:
        data["compensate"] = name_of(stage.options.compensate)
    if standings is not None:
        data |= standings.get(work.id, PENDING).document
    return data


def _seconds(span: int) -> str:
    return span_text(span / SECOND)


def _type_text(annotation: Any) -> str:
    return inspect.formatannotation(annotation)


# ------------------------------------------------------------------------------------------ the state
def standings(pipeline: Pipeline, events: Iterable[Event], status: str) -> dict[str, Standing]:
    """
    How far a run has come, by the stages' ids.

    Args:
        events: The run's journal so far.
        status: The run's.
    """
    ids = set(pipeline.ids)
    found: dict[str, Standing] = {}
    for event in standing_events(events):
        stage = first_name(event.key)
        if stage in ids and (standing := _standing(event, event.key[len(stage) :])):
            found[stage] = standing
    come = max((group.number for group in pipeline.groups if not found.keys().isdisjoint(group.names)), default=0)
    for group in pipeline.groups:
        if group.number < come and found.keys().isdisjoint(group.names):
            found |= dict.fromkeys(group.names, Standing("skipped"))
    here = next((group for group in pipeline.groups if not _done(group, found)), None)
    if here is not None and status == Status.RUNNING:
        found |= {name: Standing("running") for name in here.names if name not in found}
    if status in {Status.FAILED, Status.CANCELLED}:  # which is why nobody waits for them any more
        found |= {name: Standing(status) for name in found if found[name].status in _UNDER_WAY}
    return {name: found.get(name, PENDING) for name in pipeline.ids}


def _done(group: Group, found: Mapping[str, Standing]) -> bool:
    return all(name in found and found[name].status in {"completed", "skipped"} for name in group.names)


def _standing(event: Event, part: str) -> Standing | None:
    """What an entry says of its stage; `part` is what its key has behind the stage's id."""
    kind = Kind(event.kind)
    if kind == Kind.STEP_EMITTED:
        told = event.data["value"] if event.data["topic"] == PROGRESS else None
        return Standing("running", _progress_text(told)) if isinstance(told, dict) and "progress" in told else None
    status = (UNDOING if part.endswith(SUFFIX) else MEANING).get(kind)
    if status is None:
        return None
    if kind == Kind.STEP_COMPLETED and part in _DONE:
        return _DONE[part]
    if kind == Kind.STEP_COMPLETED and part.startswith("#check") and isinstance(event.data, dict):
        return Standing("waiting", str(event.data["progress"]))
    if part.startswith("#wait"):
        return None if kind == Kind.RECEIVE_STARTED else Standing("running")
    return Standing(status)


def _progress_text(told: dict[str, Any]) -> str:
    return f"{told['progress']:.0%} {told['message']}".strip()


# ---------------------------------------------------------------------------------------- as Mermaid
def mermaid(pipeline: Pipeline, standings: Mapping[str, Standing] | None = None) -> str:
    """A pipeline as a Mermaid flowchart; with `standings` its stages have the colours of their statuses."""
    lines, classes, before = [], {}, ["start"]
    for group in pipeline.groups:
        boxes = []
        for place, work in enumerate(group.works):
            box = f"g{group.number}_{place}"
            status, detail = (standings or {}).get(work.id, PENDING)
            lines.append(f"    {box}{_shaped(group, work, detail)}")
            lines += [f"    {one} --> {box}" for one in before]
            if status in COLOURS:
                classes[box] = status
            boxes.append(box)
        before = boxes
    return chart(lines, before, classes)


def _shaped(group: Group, work: Work, detail: str) -> str:
    label = work.id if work.stage.target in {work.id, "<lambda>"} else f"{work.id}: {work.stage.target}"
    label = f"{label} ({detail})" if detail else label
    if isinstance(work.stage, Batch):
        return f'[/"{text_in(label)}"/]'
    return f'[["{text_in(label)}"]]' if group.distribute else f'["{text_in(label)}"]'
