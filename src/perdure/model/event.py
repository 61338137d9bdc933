"""What sinks are told of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from perdure.model.wire import wire_json

STARTED = "started"
"""The one kind of event that is no entry of a journal: the run is there."""


@dataclass(frozen=True, slots=True)
class Event:
    """
    Something that a run has done, for sinks.

    Attributes:
        id: The same for each delivery of this event, and for no other event: what to tell repetitions by.
        kind: "started", or the kind of the journal's entry: "completed", "failed", "emitted", "step_completed", …
        run_id, workflow, version: Of which run, and what it runs.
        seq: The place in the run's journal; 0 for "started". Events of a run come in this order.
        key: The operation of the workflow that it belongs to, such as a step.
        topic: Of an emitted event, its name.
        at: When it happened.
        data: Plain data: what was emitted, a step's result, {"output", "seconds"} or {"error", "seconds"} of an end.
        attempt: How often its delivery has been tried, with this time.
    """

    id: str
    kind: str
    run_id: str
    workflow: str
    version: str
    seq: int
    key: str
    topic: str
    at: datetime
    data: Any
    attempt: int = 1

    def json(self) -> str:
        """As one line of JSON, the same for each attempt."""
        fields = {
            "id": self.id, "kind": self.kind, "run_id": self.run_id, "workflow": self.workflow, "version": self.version,
            "seq": self.seq, "key": self.key, "topic": self.topic, "at": self.at.isoformat(), "data": self.data,
        }  # fmt: skip
        return wire_json(fields, separators=(",", ":"))
