"""What tests of workflows need: virtual time, crashes on purpose, mocks, replay. Never imported by the rest."""

from perdure.testing.adapter import AdapterMismatch, check_adapter
from perdure.testing.crash import CrashMismatch, CrashReport
from perdure.testing.kit import Kit
from perdure.testing.mock import StepMock
from perdure.testing.replay import Replay, replay
from perdure.testing.time import Deadlock, VirtualClock, run_virtual
from perdure.testing.wait import NotEnded

__all__ = [
    "AdapterMismatch",
    "CrashMismatch",
    "CrashReport",
    "Deadlock",
    "Kit",
    "NotEnded",
    "Replay",
    "StepMock",
    "VirtualClock",
    "check_adapter",
    "replay",
    "run_virtual",
]
