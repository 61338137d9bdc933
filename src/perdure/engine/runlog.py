"""A logger for workflows, which keeps silent about what it said before a replay."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from perdure.engine.machine import Machine

log = logging.getLogger("perdure.run")


class RunLogger(logging.LoggerAdapter[logging.Logger]):
    """Logs with the run's id, and keeps silent about what was logged before a replay."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(log, {"run_id": machine.run.id, "workflow": machine.run.workflow})
        self._machine = machine

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        """Not while replaying."""
        return not self._machine.replaying and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the run's id to the record; keep the caller's extra fields."""
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs
