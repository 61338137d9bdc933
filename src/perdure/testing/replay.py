"""Replay an exported run against the code as it is now: no database, no step bodies."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.app import App
from perdure.client.export import FORMAT
from perdure.codec.payload import Payloads
from perdure.engine.definition import Workflow
from perdure.engine.ending import beginning, ending_of
from perdure.engine.history import base_time, key_prefix, present
from perdure.engine.machine import EVICTED, Machine
from perdure.errors import InvalidInput
from perdure.model.entry import Entry
from perdure.model.run import Claimed
from perdure.model.status import Status

Exported = Mapping[str, Any]
"""What `Client.export` gives."""


@dataclass(frozen=True, slots=True)
class Replay:
    """
    Where today's code stands at the end of a recorded history.

    Attributes:
        run_id: The run that was exported.
        status: How the workflow ended; None when it goes on.
        result: What it returned.
        error: What it raised.
        next: What it asks for when it goes on, such as "step 'charge'" or "signal 'approval'".
    """

    run_id: str
    status: Status | None
    result: Any
    error: BaseException | None
    next: tuple[str, ...]


def replay(app: App, history: Exported | str | os.PathLike[str], workflow: Workflow[..., Any] | None = None) -> Replay:
    """
    Run a workflow's code through what an earlier version of it recorded.

    Every outcome comes from the history: no body of a step runs, nothing is stored, no time passes. Call it
    outside of any event loop.

    Args:
        app: Where the workflow, and those that it starts, are registered.
        history: What `Client.export` gave, or the path of a file with it as JSON.
        workflow: The code to check; the app's workflow of the recorded name when left out.

    Raises:
        Divergence: The code asks for something else than what was recorded; the run would be paused there.
        InvalidInput: This is no exported run, or one of another version of the format.
        UnknownWorkflow: The app has no workflow of the recorded name.
    """
    document = _read(history)
    run = document["run"]
    definition = workflow or app.registry.get(run["workflow"])
    journal = [_entry(fields) for fields in document["journal"]]
    started_at = run["started_at"] or run["created_at"]
    claimed = Claimed(
        number=0, id=run["id"], workflow=definition.stored_as, status=Status.RUNNING, generation=run["generation"],
        epoch=0, parent=None, input=json.dumps(run["input"]), seed=run["seed"], started_at=started_at,
        deadline_at=run["deadline_at"], forked_from=run["forked_from"],
    )  # fmt: skip
    payloads = Payloads(None, app.limits)
    next_seq = journal[-1].seq + 1 if journal else 1
    base = base_time(journal, started_at)
    machine = Machine(claimed, payloads, present(journal), next_seq, base, key_prefix(journal))
    try:
        machine.begin(beginning(machine, definition, app.registry, payloads))
        if machine.divergence is not None:
            raise machine.divergence
        return _standing(machine, definition)
    finally:
        machine.close(EVICTED)


def _standing(machine: Machine, definition: Workflow[..., Any]) -> Replay:
    run_id = machine.run.id
    if not machine.done:
        return Replay(run_id, None, None, None, tuple(str(request) for request in machine.wanted.values()))
    ending = ending_of(machine, definition)
    if ending.status is None:
        return Replay(run_id, None, None, None, ("continue_as_new",))
    result = None
    if ending.output is not None:
        result = definition.call.returns.decode(machine.payloads.open(ending.output), f"The result of run {run_id!r}")
    return Replay(run_id, ending.status, result, ending.error, ())


def _read(history: Exported | str | os.PathLike[str]) -> Exported:
    if not isinstance(history, Mapping):
        history = json.loads(Path(history).read_text(encoding="utf-8"))
    if not isinstance(history, Mapping) or history.get("perdure") != FORMAT:
        what = "The exported run"
        raise InvalidInput(what, f'it must be an object with "perdure": {FORMAT}, as client.export(…) gives')
    return history


def _entry(fields: Exported) -> Entry:
    data = json.dumps(fields["data"]) if "data" in fields else None
    return Entry(**(dict(fields) | {"data": data}))
