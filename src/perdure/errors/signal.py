"""The engine's own control flow, which is never stored."""

from __future__ import annotations


class EngineSignal(BaseException):
    """Control flow of the engine, which ``except Exception`` in a workflow cannot eat."""


class ContinueAsNew(EngineSignal):
    """The run goes on with an empty history and this input."""

    def __init__(self, payload: str) -> None:
        super().__init__(payload)
        self.payload = payload


class StepOver(EngineSignal):
    """
    A body emits, and its outcome no longer counts: it was cancelled, has timed out, or another worker has its run.

    Attributes:
        key: The step's key in the journal.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"Step {key!r} is over for this body: nothing that it does is recorded any more.")
        self.key = key
