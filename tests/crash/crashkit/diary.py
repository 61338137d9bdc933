"""The diary: one line for each body that was begun, appended at once, so that it survives any kill."""

import json
import os
from typing import NamedTuple

from perdure import current_step


class Deed(NamedTuple):
    """A step's body was begun."""

    life: int
    run: str
    key: str
    attempt: int


class Diary:
    """Opened once per process; appending one short line is one write, which a kill cannot tear."""

    def __init__(self, path: str, life: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        self._life = life

    def note(self) -> None:
        """The body that calls this has begun."""
        info = current_step()
        deed = Deed(self._life, info.run_id, info.key, info.attempt)
        os.write(self._file, json.dumps(deed).encode() + b"\n")


def read(path: str) -> list[Deed]:
    """All deeds, in order."""
    with open(path, encoding="ascii") as file:  # noqa: PTH123 - one line at a time
        return [Deed(*json.loads(line)) for line in file]
