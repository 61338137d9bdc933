"""The diary: one line for each body that was begun, appended at once, so that it survives any kill."""

import functools
import json
import os
from pathlib import Path
from typing import NamedTuple

from perdure import current_step


class Deed(NamedTuple):
    """A step's body was begun."""

    life: int
    run: str
    key: str
    attempt: int


def begin(folder: str, number: int, url: str) -> None:
    """This process is the test's process of this number, its diary is in this folder, its database there."""
    os.environ["CRASH_FOLDER"] = folder
    os.environ["CRASH_STORE"] = url.partition(":")[0]
    os.environ["CRASH_LIFE"] = str(number)


def folder() -> Path:
    """The test's folder."""
    return Path(os.environ["CRASH_FOLDER"])


def life() -> int:
    """Which of the test's processes this is, from 0."""
    return int(os.environ["CRASH_LIFE"])


def store() -> str:
    """The scheme of the database's URL."""
    return os.environ["CRASH_STORE"]


def note() -> None:
    """The body that calls this has begun. One short line is one write, which a kill cannot tear."""
    info = current_step()
    deed = Deed(life(), info.run_id, info.key, info.attempt)
    os.write(_file(), json.dumps(deed).encode() + b"\n")


@functools.cache
def _file() -> int:
    return os.open(folder() / "diary", os.O_WRONLY | os.O_APPEND)


def read(file: Path) -> list[Deed]:
    """All deeds, in order."""
    return [Deed(*json.loads(line)) for line in file.read_text(encoding="ascii").splitlines()]
