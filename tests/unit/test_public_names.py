"""The names that users import."""

from __future__ import annotations

import subprocess
import sys

import perdure

NAMES = [
    "Actor", "App", "AsyncTransaction", "Batch", "Child", "ChildFailed", "Codec", "Command", "Compressed", "Context",
    "CurrentStep", "Debounce", "Dedupe", "DurableResult", "Entry", "Event", "Flow", "InvalidInput", "JsonLines",
    "LeaseHeld", "LeaseLost", "Limits",
    "ManifestMismatch", "MapResult", "Observer", "Pending", "PerdureError", "Pipeline", "Queue", "Rate", "ReceiveTimedOut",
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


def imported_with_perdure() -> set[str]:
    """What a process has imported that has done nothing but `import perdure`."""
    code = "import sys; before = set(sys.modules); import perdure; print(*set(sys.modules) - before)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True)
    return set(ended.stdout.split())


def test_only_what_defines_workflows_is_imported():
    """`import perdure` would take half as long again, with the store, the client and the worker in it."""
    imported = imported_with_perdure()
    rows = ("perdure.client.", "perdure.store.", "perdure.worker.", "perdure.flow.", "perdure.pipeline.")
    assert {name for name in imported if name.startswith(rows)} == {
        "perdure.client.face", "perdure.store.choose", "perdure.worker.options"
    }  # fmt: skip
    unneeded = {"engine.attempt", "engine.combine", "engine.saga", "model.event", "model.run", "model.start"}
    assert imported.isdisjoint(f"perdure.{name}" for name in unneeded)


def test_slow_packages_are_imported_by_those_who_use_them():
    """`import perdure` would wait for what most programs never ask for, such as the platform that a UUID looks up."""
    slow = {"apsw", "asyncpg", "decimal", "email", "http", "pathlib", "pydantic", "pydantic_core", "tempfile", "uuid"}
    assert imported_with_perdure().isdisjoint(slow)


def test_names_are_shown():
    """A prompt would not complete the names that are imported when they are asked for."""
    assert set(perdure.__all__) <= set(dir(perdure))
