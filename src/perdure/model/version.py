"""
A workflow's version: a part of the name that its runs are stored under.

The runs of version "2" of the workflow "checkout" are stored as runs of "checkout@2", and workers say that they know
"checkout@2". So a claim compares one text, as without versions, and a run cannot get to code of another version.
"""

from __future__ import annotations

import re

from perdure.errors import InvalidName

_MARK = "@"
_AFTER_MARK = "A"
_VERSION = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,49}"
_PART = r"\d+|\D+"


def pin(name: str, version: str) -> str:
    """The name that the runs of a workflow's version are stored under; without a version, the workflow's own."""
    return f"{name}{_MARK}{version}" if version else name


def unpin(stored: str) -> tuple[str, str]:
    """The workflow's name and the version, "" for none, of a stored name."""
    name, _, version = stored.partition(_MARK)
    return name, version


def versions_between(name: str) -> tuple[str, str]:
    """From what, inclusive, to what, exclusive, the stored names of a workflow's versions sort, except of none."""
    return name + _MARK, name + _AFTER_MARK


def recency(version: str) -> list[tuple[bool, int, str]]:
    """Sorts versions from the oldest to the newest: "" first, and numbers in them as numbers, so 2.10 after 2.9."""
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.findall(_PART, version)]


def check_version(value: object) -> str:
    """
    Return a version given by a user.

    Raises:
        InvalidName: Not 1 to 50 letters, digits and ". _ + -", with a letter or digit first.
    """
    if not isinstance(value, str) or not re.fullmatch(_VERSION, value):
        what, problem = "version", 'it must be a string of 1 to 50 letters, digits, ".", "_", "+" and "-"'
        raise InvalidName(what, str(value), problem)
    return value


def check_workflow_name(name: str) -> str:
    """
    Return a workflow's name.

    Raises:
        InvalidName: It has the mark that perdure puts between a name and a version.
    """
    if _MARK in name:
        what, problem = "workflow name", f"{_MARK!r} stands between a name and a version; use version="
        raise InvalidName(what, name, problem)
    return name
