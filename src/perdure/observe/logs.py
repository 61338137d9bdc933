"""
Log lines that say which run they are about.

`logging.getLogger("perdure.run")`, which is `ctx.log`, says it by itself. For all other loggers `RunFields` adds it to
whatever is logged inside the body of a step, also by libraries.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from perdure.engine.current import running_step
from perdure.model.wire import wire_json

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class RunFields(logging.Filter):
    """
    Adds `run_id`, `workflow`, `step` and `attempt` to records of step bodies, and `worker_id` to all.

    Put it on a handler; on a logger it would not see the records of the loggers below.

    Args:
        worker_id: Asked for each line; None adds none.
    """

    def __init__(self, worker_id: Callable[[], str] | None = None) -> None:
        super().__init__()
        self._worker_id = worker_id

    def filter(self, record: logging.LogRecord) -> bool:
        """Add what the record does not have; let all through."""
        fields = vars(record)
        running = running_step.get()
        if running is not None:
            step = running.info
            fields.setdefault("run_id", step.run_id)
            fields.setdefault("workflow", step.workflow)
            fields.setdefault("step", step.key)
            fields.setdefault("attempt", step.attempt)
        if self._worker_id is not None and (worker := self._worker_id()):
            fields.setdefault("worker_id", worker)
        return True


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, logger, message, exception, and all that came as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without the newline."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return wire_json(
            {**line, **{name: value for name, value in _extras(record).items() if name not in line}}, default=_shown
        )


class TextLines(logging.Formatter):
    """Lines for people: time, level, logger, message, then all that came as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it if there is one."""
        at = f"{datetime.fromtimestamp(record.created, UTC).astimezone():%Y-%m-%d %H:%M:%S.%f}"[:-3]
        extras = "".join(f" {key}={value}" for key, value in _extras(record).items())
        text = f"{at} {record.levelname:<7} {record.name}: {record.getMessage()}{extras}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave besides the message, such as ctx.log's run_id."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _shown(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - an object of the user's, which must not keep its line from being logged
        return f"<{type(value).__name__}>"
