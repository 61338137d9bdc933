"""The engine's laboratory, for pipelines."""

from tests.engine.conftest import lab

__all__ = ["lab"]
