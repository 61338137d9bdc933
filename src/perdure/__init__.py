"""
perdure: durable execution for Python.

Runs of workflows survive crashes, deploys and months of waiting, in one SQLite file.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from perdure.app import App
from perdure.codec.payload import Codec, Compressed
from perdure.engine.child import Child
from perdure.engine.context import Context
from perdure.engine.current import CurrentStep, StepInfo, current_step
from perdure.engine.definition import Step, Workflow
from perdure.engine.observer import Observer
from perdure.engine.threaded import SyncContext
from perdure.errors import (
    ChildFailed,
    InvalidInput,
    LeaseHeld,
    LeaseLost,
    ManifestMismatch,
    PerdureError,
    ReceiveTimedOut,
    RecordedError,
    RetryAfter,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunNotFound,
    RunPaused,
    RunTimedOut,
    StartConflict,
    StepInterrupted,
    StepTimedOut,
    Terminal,
    TooFewSucceeded,
)
from perdure.ids import joined_id
from perdure.model.limits import Limits
from perdure.model.queue import Queue, Rate
from perdure.model.retry import Retry
from perdure.model.status import Status
from perdure.worker.options import WorkerOptions

if TYPE_CHECKING:
    from perdure.client.command import Command
    from perdure.client.handle import RunHandle
    from perdure.client.view import RunEvent, RunInfo
    from perdure.durable import DurableResult, Suspended, emit_event, run_durable
    from perdure.engine.combine import MapResult
    from perdure.flow.builder import Entry, Flow
    from perdure.flow.state import State
    from perdure.model.event import Event
    from perdure.model.ledger import Actor, Remark
    from perdure.model.run import RunFilter
    from perdure.model.start import Debounce, Dedupe
    from perdure.outbox.lines import JsonLines
    from perdure.outbox.webhook import Webhook
    from perdure.pipeline.batch import Batch, Pending
    from perdure.pipeline.builder import Pipeline
    from perdure.pipeline.context import StageContext
    from perdure.pipeline.stage import Stage
    from perdure.store.transaction import AsyncTransaction, Transaction
    from perdure.stream.handle import Stream, StreamInfo, StreamItem, StreamProducer
    from perdure.stream.options import StreamOptions
    from perdure.stream.server import StreamServer
else:
    _LATER = {
        "Command": "client.command", "RunEvent": "client.view", "RunHandle": "client.handle", "RunInfo": "client.view",
        "AsyncTransaction": "store.transaction", "Transaction": "store.transaction",
        "Actor": "model.ledger", "Remark": "model.ledger", "RunFilter": "model.run",
        "Debounce": "model.start", "Dedupe": "model.start", "MapResult": "engine.combine",
        "Entry": "flow.builder", "Event": "model.event", "Flow": "flow.builder", "State": "flow.state",
        "Batch": "pipeline.batch", "Pending": "pipeline.batch", "Pipeline": "pipeline.builder",
        "JsonLines": "outbox.lines", "Webhook": "outbox.webhook",
        "Stage": "pipeline.stage", "StageContext": "pipeline.context",
        "Stream": "stream.handle", "StreamInfo": "stream.handle", "StreamItem": "stream.handle",
        "StreamProducer": "stream.handle", "StreamOptions": "stream.options", "StreamServer": "stream.server",
        "DurableResult": "durable", "Suspended": "durable", "emit_event": "durable", "run_durable": "durable",
    }  # fmt: skip

    def __getattr__(name: str) -> object:
        """Import what not every program names when it is asked for: `import perdure` need not wait for it."""
        if name not in _LATER:
            problem = f"module 'perdure' has no attribute {name!r}"
            raise AttributeError(problem)
        return getattr(import_module(f"perdure.{_LATER[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LATER})


__all__ = [
    "Actor",
    "App",
    "AsyncTransaction",
    "Batch",
    "Child",
    "ChildFailed",
    "Codec",
    "Command",
    "Compressed",
    "Context",
    "CurrentStep",
    "Debounce",
    "Dedupe",
    "DurableResult",
    "Entry",
    "Event",
    "Flow",
    "InvalidInput",
    "JsonLines",
    "LeaseHeld",
    "LeaseLost",
    "Limits",
    "ManifestMismatch",
    "MapResult",
    "Observer",
    "Pending",
    "PerdureError",
    "Pipeline",
    "Queue",
    "Rate",
    "ReceiveTimedOut",
    "RecordedError",
    "Remark",
    "Retry",
    "RetryAfter",
    "RunCancelled",
    "RunEvent",
    "RunFailed",
    "RunFilter",
    "RunFinished",
    "RunHandle",
    "RunInfo",
    "RunNotFound",
    "RunPaused",
    "RunTimedOut",
    "Stage",
    "StageContext",
    "StartConflict",
    "State",
    "Status",
    "Step",
    "StepInfo",
    "StepInterrupted",
    "StepTimedOut",
    "Stream",
    "StreamInfo",
    "StreamItem",
    "StreamOptions",
    "StreamProducer",
    "StreamServer",
    "Suspended",
    "SyncContext",
    "Terminal",
    "TooFewSucceeded",
    "Transaction",
    "Webhook",
    "WorkerOptions",
    "Workflow",
    "current_step",
    "emit_event",
    "joined_id",
    "run_durable",
]
