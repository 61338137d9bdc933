"""The log of a worker process: text for people, or one JSON object per line."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import StrEnum

from perdure.observe.logs import JsonLines, RunFields, TextLines


class Level(StrEnum):
    """Least important lines to print."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Format(StrEnum):
    """What a log line looks like."""

    TEXT = "text"
    JSON = "json"


def configure(level: Level, form: Format, worker_id: Callable[[], str] | None = None, *, process: str = "") -> None:
    """
    Send the logs of the whole process to standard error; other loggers' own settings stay.

    Args:
        worker_id: Asked for each JSON line.
        process: Added to each line, to tell several processes of one supervisor apart.
    """
    handler = logging.StreamHandler()
    if process:
        handler.addFilter(lambda record: bool(vars(record).setdefault("worker_process", process)))
    handler.setFormatter(JsonLines() if form is Format.JSON else TextLines())
    # In text, the worker's id would be on every line; the process is known by then.
    handler.addFilter(RunFields(worker_id if form is Format.JSON else None))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Its debug lines are about the selector, at each start.
    logging.getLogger("asyncio").setLevel(max(logging.INFO, root.level))
    # It tells the whole address of each request, where the token of a webhook may stand.
    logging.getLogger("httpx").setLevel(max(logging.WARNING, root.level))
