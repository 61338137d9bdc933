"""Load the SQL files: every statement that perdure can run, under its name."""

from __future__ import annotations

import os
import re
from functools import cache
from typing import NamedTuple

_HEADING = re.compile(r"^-- name: (\w+)\(([\w, ]*)\)[ ]*$", re.MULTILINE)
_PARAMETER = re.compile(r"(?<![:\w]):(\w+)")
SQL = os.path.join(os.path.dirname(__file__), "sql")  # noqa: PTH118, PTH120 - pathlib takes 10 ms to import
_COMMENT = re.compile(r"--[^\n]*")


class Statement(NamedTuple):
    """
    One named statement.

    Attributes:
        sql: With numbered parameters ?1, ?2, …
        parameters: Their names, in order.
        tagged: Whether the first parameter is the runner's tag and rows come back under it.
    """

    name: str
    sql: str
    parameters: tuple[str, ...]
    tagged: bool


def read_sql(*path: str) -> str:
    """The text of a file in the folder of SQL files."""
    with open(os.path.join(SQL, *path), encoding="utf-8") as file:  # noqa: PTH118, PTH123 - no import of pathlib
        return file.read()


def parse(text: str, origin: str) -> dict[str, Statement]:
    """
    Split a file into its statements.

    Raises:
        ValueError: A name occurs twice, or a statement uses a parameter that its heading lacks or has one
            that it does not use.
    """
    found: dict[str, Statement] = {}
    pieces = _HEADING.split(text)[1:]
    for name, heading, body in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True):
        parameters = tuple(p.strip() for p in heading.split(",") if p.strip())
        sql = _COMMENT.sub("", body).strip().rstrip(";")
        used = set(_PARAMETER.findall(sql))
        if name in found or used != set(parameters):
            message = f"{origin}: statement {name!r} is defined twice, or its heading and its text disagree: {used}"
            raise ValueError(message)
        sql = " ".join(_numbered(sql, parameters).split())
        found[name] = Statement(name, sql, parameters, parameters[:1] == ("tag",))
    return found


def _numbered(sql: str, parameters: tuple[str, ...]) -> str:
    place = {parameter: f"?{number}" for number, parameter in enumerate(parameters, 1)}
    return _PARAMETER.sub(lambda used: place[used[1]], sql)


@cache
def statements(dialect: str) -> dict[str, Statement]:
    """All statements of one dialect: the shared ones and its own."""
    found: dict[str, Statement] = {}
    parts = ("queues", "delivery", "lone", "streams")
    shared = [
        "shared.sql",
        "journal.sql",
        "artifacts.sql",
        "ledger.sql",
        "doctor.sql",
        *(f"{part}.sql" for part in parts),
    ]
    for file in (*shared, f"{dialect}.sql", *(f"{dialect}_{part}.sql" for part in parts)):
        more = parse(read_sql(file), file)
        if twice := found.keys() & more.keys():
            message = f"{file}: {sorted(twice)} stand in another file as well"
            raise ValueError(message)
        found |= more
    return found
