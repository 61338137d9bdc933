"""Operations as the functions of a schema take them, and what these answer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from typing import Any

from perdure.store.operation import ASKING, CLAIMS, ORDER, Line, Row
from perdure.store.pg.function import group_of
from perdure.store.queries import statements

_NUMBERS = {"run", "number", "parent"}
_IDS = {"id", "run_id", "child", "parent_id"}
_OTHERS = {
    "free_id", "register_worker", "start", "start_child", "fork_child", "add_tag", "start_trace", "add_blob_ref",
    "copy_entry", "copy_artifacts", "attach_first",
}  # fmt: skip
"""Statements whose id is not that of a run which others may be writing."""
_FENCED = {"append", "take", "take_keyed", "trace_run", "forget", "annotate", "annotate_child", "add_usage"}
"""Statements that come with others which name the same run."""
_OUTBOX = {
    "advance_delivery", "end_delivery", "leave_delivery", "fail_delivery", "replay_one", "skip_last", "skip_event",
    "attach",
}  # fmt: skip
"""Statements that change nothing of the run that they name, whose driver need not wait for them."""
_PARENTS = {"ask_children", "cancel_children"}
_STREAMS = {"stream", "source"}
_CLAIMS = CLAIMS | {group_of(name) for name in CLAIMS}
"""Of a work that asks for runs and does nothing else: the function has a short way for it when there are none."""


def work(operations: Iterable[list[Line]], *, locking: bool = True) -> str:
    """
    What the functions are given: the rows of each statement, and whose rows to lock before all else.

    Args:
        operations: Each one's lines; rows that come back are tagged with its place.
        locking: Off where nothing may be kept from others until a caller commits.
    """
    found: dict[str, Any] = {}
    locks: dict[str, set[Any]] = {}
    known = _known()
    for tag, lines in enumerate(operations):
        for name, parameters in lines:
            tagged, group, locked = known[name]
            row = (tag, *parameters) if tagged else parameters
            if name in found:
                found[name].append(row)
            else:
                found[name] = [row]
                found[group] = 1
            for kind, place in locked:
                locks.setdefault(kind, set()).add(parameters[place])
    if found.keys() <= _CLAIMS and not found.keys().isdisjoint(ASKING):
        found["#claims"] = 1
    if locking:
        for kind, values in locks.items():
            found[kind] = list(values)
    return json.dumps(found)


_READER = json.JSONDecoder(object_pairs_hook=lambda pairs: [value for _, value in pairs])


def answered(answer: str | None) -> list[Any]:
    """The rows of an answer, in which each is an object whose names do not count and may come twice."""
    return _READER.decode(answer) if answer and answer != "[]" else []


def tuples(answer: str | None) -> list[Row]:
    """The rows of one operation, without their tags."""
    return [tuple(row) for _, *row in answered(answer)]


@cache
def _known() -> dict[str, tuple[bool, str, list[tuple[str, int]]]]:
    """Of each statement: whether it is tagged, its group, and which of its parameters say whose rows to lock."""
    known = {}
    for name in ORDER:
        statement = statements("postgres")[name]
        known[name] = statement.tagged, group_of(name), _locks(name, statement.parameters[statement.tagged :])
    return known


def _locks(name: str, parameters: tuple[str, ...]) -> list[tuple[str, int]]:
    """Which parameters of a statement, without the tag, say whose rows to lock."""
    if name in _FENCED or name in _OUTBOX:
        return []
    found = [("#runs", place) for place, parameter in enumerate(parameters) if parameter in _NUMBERS]
    if name not in _OTHERS or name == "fork_child":
        found += [
            ("#ids", place)
            for place, parameter in enumerate(parameters)
            if parameter in _IDS and not (name == "fork_child" and parameter == "id")
        ]
    found += [("#streams", place) for place, parameter in enumerate(parameters) if parameter in _STREAMS]
    if name in _PARENTS:
        found.append(("#parents", parameters.index("run")))
    return found
