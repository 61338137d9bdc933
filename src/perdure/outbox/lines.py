"""A sink that appends to a file, one line of JSON for each event."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from perdure.model.event import Event


class JsonLines:
    """
    Append events to a file: ``app.sink("audit", JsonLines("audit.jsonl"))``.

    A line is on disk when the event counts as delivered. Events that are delivered again stand there twice, with the
    same ``id``. A line that a crash has cut off stays as it is, on a line of its own.

    Args:
        path: Made when there is something to write; its folder must be there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __call__(self, event: Event) -> None:
        """
        Append one event.

        Raises:
            OSError: The file cannot be written.
        """
        line = event.json().encode() + b"\n"
        with self.path.open("a+b") as file:
            # Other processes deliver other runs' events to it.
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
