"""
Every error that perdure raises, and its stable code.

    PerdureError                     code, fields as attributes, a message that says what to do
    ├─ UsageError                    raised where something is defined or called
    │  ├─ DuplicateName  UnknownWorkflow  UnknownQueue  InvalidName  InvalidOption  InvalidInput
    │  ├─ InvalidConfig  MissingOutput  UnknownSink
    │  ├─ NotSerializable  PayloadTooLarge  HistoryTooLong  TooManyEntries
    │  └─ NotInWorkflow  BlockingCall  Stalled
    ├─ StateError                    what is stored forbids it
    │  ├─ RunNotFound  RunFinished  RunPaused  StartConflict (ManifestMismatch)  IllegalMove  StepNotFound
    │  ├─ Divergence (ArgumentsChanged)  LeaseHeld  LeaseLost  Overloaded
    │  ├─ ArtifactNotFound
    │  ├─ DuplicateRun  QueueDraining  QueueInUse
    │  ├─ CommandConflict  CommandInProgress  CommandOvertaken
    │  ├─ DeliveryFailed  InvalidSignature
    │  ├─ StreamNotFound  StreamGone  StreamConflict  StreamClosed  StreamFull
    │  └─ ProducerFenced  ProducerGap
    ├─ RunError                      what a waiter or a workflow sees
    │  ├─ RunFailed  RunCancelled  RunTimedOut  ChildFailed  TooFewSucceeded
    │  ├─ StepTimedOut  StepInterrupted  ReceiveTimedOut  RecordedError  BatchTimedOut
    │  └─ SourceFailed  SourceGone
    └─ StoreError                    the database (retryable says whether trying again can help)
       └─ StoreUnavailable  StoreBusy  StoreFull  StoreReadOnly  StoreCorrupt  StoreClosed
          SchemaTooNew  SchemaMissing  OperationRefused

    Terminal, RetryAfter             raised by users, inside steps
    EngineSignal (BaseException)     control flow of the engine: ContinueAsNew, StepOver; never stored
"""

from perdure.errors.base import PerdureError
from perdure.errors.run import (
    BatchTimedOut,
    ChildFailed,
    ReceiveTimedOut,
    RecordedError,
    RunCancelled,
    RunError,
    RunFailed,
    RunTimedOut,
    StepInterrupted,
    StepTimedOut,
    TooFewSucceeded,
)
from perdure.errors.signal import ContinueAsNew, EngineSignal, StepOver
from perdure.errors.state import (
    ArgumentsChanged,
    ArtifactNotFound,
    CommandConflict,
    CommandInProgress,
    CommandOvertaken,
    DeliveryFailed,
    Divergence,
    DuplicateRun,
    IllegalMove,
    InvalidSignature,
    LeaseHeld,
    LeaseLost,
    ManifestMismatch,
    Overloaded,
    QueueDraining,
    QueueInUse,
    RunFinished,
    RunNotFound,
    RunPaused,
    StartConflict,
    StateError,
    StepNotFound,
)
from perdure.errors.store import (
    OperationRefused,
    SchemaMissing,
    SchemaTooNew,
    StoreBusy,
    StoreClosed,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)
from perdure.errors.stream import (
    ProducerFenced,
    ProducerGap,
    StreamClosed,
    StreamConflict,
    StreamFull,
    StreamGone,
    StreamNotFound,
)
from perdure.errors.turn import SourceFailed, SourceGone
from perdure.errors.usage import (
    BlockingCall,
    DuplicateName,
    HistoryTooLong,
    InvalidConfig,
    InvalidInput,
    InvalidName,
    InvalidOption,
    MissingOutput,
    NotInWorkflow,
    NotSerializable,
    PayloadTooLarge,
    Stalled,
    TooManyEntries,
    UnknownQueue,
    UnknownSink,
    UnknownWorkflow,
    UsageError,
)
from perdure.errors.user import RetryAfter, Terminal

__all__ = [
    "ArgumentsChanged",
    "ArtifactNotFound",
    "BatchTimedOut",
    "BlockingCall",
    "ChildFailed",
    "CommandConflict",
    "CommandInProgress",
    "CommandOvertaken",
    "ContinueAsNew",
    "DeliveryFailed",
    "Divergence",
    "DuplicateName",
    "DuplicateRun",
    "EngineSignal",
    "HistoryTooLong",
    "IllegalMove",
    "InvalidConfig",
    "InvalidInput",
    "InvalidName",
    "InvalidOption",
    "InvalidSignature",
    "LeaseHeld",
    "LeaseLost",
    "ManifestMismatch",
    "MissingOutput",
    "NotInWorkflow",
    "NotSerializable",
    "OperationRefused",
    "Overloaded",
    "PayloadTooLarge",
    "PerdureError",
    "ProducerFenced",
    "ProducerGap",
    "QueueDraining",
    "QueueInUse",
    "ReceiveTimedOut",
    "RecordedError",
    "RetryAfter",
    "RunCancelled",
    "RunError",
    "RunFailed",
    "RunFinished",
    "RunNotFound",
    "RunPaused",
    "RunTimedOut",
    "SchemaMissing",
    "SchemaTooNew",
    "SourceFailed",
    "SourceGone",
    "Stalled",
    "StartConflict",
    "StateError",
    "StepInterrupted",
    "StepNotFound",
    "StepOver",
    "StepTimedOut",
    "StoreBusy",
    "StoreClosed",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "StoreReadOnly",
    "StoreUnavailable",
    "StreamClosed",
    "StreamConflict",
    "StreamFull",
    "StreamGone",
    "StreamNotFound",
    "Terminal",
    "TooFewSucceeded",
    "TooManyEntries",
    "UnknownQueue",
    "UnknownSink",
    "UnknownWorkflow",
    "UsageError",
]

for _name in __all__:
    # One public home, also for the names under which errors are stored.
    globals()[_name].__module__ = __name__
