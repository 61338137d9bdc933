"""The engine's own control flow, which is never stored."""

from __future__ import annotations


class EngineSignal(BaseException):
    """Control flow of the engine, which ``except Exception`` in a workflow cannot eat."""


class ContinueAsNew(EngineSignal):
    """The run goes on with an empty history and this input."""

    def __init__(self, payload: str) -> None:
        super().__init__(payload)
        self.payload = payload
