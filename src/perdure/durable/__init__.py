"""One function executed durably, without an app: `run_durable` and what goes with it."""

from perdure.durable.call import run_durable
from perdure.durable.event import Event, emit_event, find_event
from perdure.durable.result import DurableResult, StepRecord, Suspended

__all__ = [
    "DurableResult",
    "Event",
    "StepRecord",
    "Suspended",
    "emit_event",
    "find_event",
    "run_durable",
]
