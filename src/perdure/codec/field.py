"""
What an error carries, as JSON: plain data as it is, the rest marked by an object with one reserved key.

`__error__` the number of an error, `__tuple__` an array, `__bytes__` base64, `__map__` the pairs of a dict
that is not plain or looks like a mark, `__shown__` the text and the repr of something that is not JSON.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

from perdure.codec.value import ANY
from perdure.errors import NotSerializable

CUT = "… [cut]"
_REPR_CHARS = 1000
_DEPTH = 20
_INT_BITS = 14_000  # Python writes and reads ints of up to 4,300 digits
_MARKS = frozenset({"__error__", "__tuple__", "__bytes__", "__map__", "__shown__"})


class Shown(str):
    """What is left of a field that is not JSON: its text, and a repr that reads as the original's did."""

    __slots__ = ("shown",)
    shown: str

    def __new__(cls, text: str, shown: str = "") -> Self:
        """Keep both."""
        made = super().__new__(cls, text)
        made.shown = shown
        return made

    def __repr__(self) -> str:
        return self.shown


class FieldWriter:
    """
    Turn fields into data that `json.dumps` takes, within a number of characters.

    Args:
        room: Characters of ASCII JSON to write; what comes after them is cut, visibly.
        refer: Gives the number of another error, or None where that is left out.
    """

    def __init__(self, room: int, refer: Callable[[BaseException], int | None]) -> None:
        self.left = room
        self.refer = refer

    def string(self, text: str) -> str:
        """A text, cut to what is left."""
        room = max(self.left, 0)
        kept = text[:room]
        while kept and len(json.dumps(kept)) > room:
            kept = kept[: len(kept) // 2]
        self.left -= len(json.dumps(kept))
        return kept if len(kept) == len(text) else kept + self._cut()

    def items(self, values: Iterable[Any], depth: int = 0) -> list[Any]:
        """The parts of a list or tuple."""
        written: list[Any] = []
        for value in values:
            if self.left <= 0:
                return [*written, self._cut()]
            written.append(self.value(value, depth + 1))
        return written

    def mapping(self, values: Mapping[Any, Any], depth: int = 0) -> dict[str, Any]:
        """A dict, plain where its keys allow."""
        plain = all(type(key) is str for key in values) and not (len(values) == 1 and _MARKS & values.keys())
        pairs: list[Any] = []
        for key, value in values.items():
            if self.left <= 0:
                pairs.append([self._cut(), CUT])
                break
            pairs.append([self.value(key, depth + 1), self.value(value, depth + 1)])
        return dict(pairs) if plain else {"__map__": pairs}

    def value(self, value: Any, depth: int = 0) -> Any:
        """Anything."""
        self.left -= 4
        kind = type(value)
        if kind is str:
            return self.string(value)
        if value is None or kind is bool or kind is float or (kind is int and value.bit_length() < _INT_BITS):
            self.left -= len(repr(value))
            return value
        if depth > _DEPTH:
            return self._cut()
        if kind is list:
            return self.items(value, depth)
        if kind is tuple:
            self.left -= 16
            return {"__tuple__": self.items(value, depth)}
        return self.mapping(value, depth) if kind is dict else self._special(value, depth)

    def _special(self, value: Any, depth: int) -> Any:
        self.left -= 16
        if type(value) is bytes:
            return {"__bytes__": self._base64(value)}
        number = self.refer(value) if isinstance(value, BaseException) else None
        if number is not None:
            return {"__error__": number}
        data = None
        if not isinstance(value, Iterator | int):
            try:
                data = ANY.settle(value, "A field")[1]
            except NotSerializable:
                data = None
        if data is not None and type(data) is not str:
            return self.value(data, depth + 1)
        shown = _repr(value)
        return {"__shown__": [self.string(shown if data is None else data), self.string(shown)]}

    def _cut(self) -> str:
        self.left -= 2 * len(CUT)
        return CUT

    def _base64(self, data: bytes) -> str:
        room = max(self.left, 0) * 3 // 4
        kept = data if len(data) <= room else data[:room] + b" [cut]"
        text = b64encode(kept).decode()
        self.left -= len(text)
        return text


def read(data: Any, refer: Callable[[Any], BaseException]) -> Any:
    """
    Turn what a FieldWriter wrote into the fields again.

    Args:
        data: As parsed from JSON.
        refer: Gives the error of a number.

    Raises:
        TypeError, ValueError: No FieldWriter wrote this. So does whatever `refer` raises.
    """
    if isinstance(data, list):
        return [read(part, refer) for part in data]
    if not isinstance(data, dict):
        return data
    if len(data) == 1:
        ((mark, inner),) = data.items()
        if mark in _MARKS:
            return _read_mark(mark, inner, refer)
    return {key: read(part, refer) for key, part in data.items()}


def _read_mark(mark: str, inner: Any, refer: Callable[[Any], BaseException]) -> Any:
    if mark == "__error__":
        return refer(inner)
    if mark == "__tuple__":
        return tuple(read(part, refer) for part in inner)
    if mark == "__bytes__":
        return b64decode(inner, validate=True)
    if mark == "__map__":
        return {_key(read(key, refer)): read(part, refer) for key, part in inner}
    text, shown = inner
    return Shown(text, shown)


def _key(key: Any) -> Any:
    try:
        hash(key)
    except TypeError:  # was a frozenset or an object, and is a list or a dict now
        return repr(key)
    return key


def _repr(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - user code, or an int with too many digits
        text = f"<{type(value).__name__} that cannot be shown>"
    return text if len(text) <= _REPR_CHARS else text[:_REPR_CHARS] + CUT
