"""The engine's laboratory, for flows."""

from tests.engine.conftest import lab

__all__ = ["lab"]
