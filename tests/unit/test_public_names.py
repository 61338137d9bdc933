"""The names that users import."""

from __future__ import annotations

import perdure

NAMES = [
    "Actor", "App", "AsyncTransaction", "Batch", "Child", "ChildFailed", "Codec", "Command", "Compressed", "Context",
    "CurrentStep", "Debounce", "Dedupe", "DurableResult", "Entry", "Event", "Flow", "InvalidInput", "JsonLines",
    "LeaseHeld", "LeaseLost", "Limits",
    "ManifestMismatch", "MapResult", "Pending", "PerdureError", "Pipeline", "Queue", "Rate", "ReceiveTimedOut",
    "RecordedError", "Remark", "Retry", "RetryAfter", "RunCancelled", "RunEvent", "RunFailed", "RunFilter", "RunFinished",
    "RunHandle", "RunInfo", "RunNotFound", "RunPaused", "RunTimedOut", "Stage", "StageContext", "StartConflict",
    "State", "Status", "Step", "StepInfo", "StepInterrupted", "StepTimedOut",
    "Stream", "StreamInfo", "StreamItem", "StreamOptions", "StreamProducer", "StreamServer", "Suspended", "SyncContext", "Terminal",
    "TooFewSucceeded", "Transaction", "Webhook", "WorkerOptions", "Workflow", "current_step", "emit_event", "joined_id",
    "run_durable",
]  # fmt: skip


def test_public_names():
    """A public name has gone, come or moved without anybody deciding so."""
    assert sorted(perdure.__all__) == NAMES


def test_names_are_there():
    """`from perdure import *` raises, as __all__ names something that is not there."""
    for name in perdure.__all__:
        assert getattr(perdure, name) is not None
