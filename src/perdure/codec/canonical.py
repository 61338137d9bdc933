"""One text for equal data: canonical JSON, and fingerprints made from it."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b, sha256
from typing import Any

from perdure.codec.value import ANY, ATOMS, TEXT, dump_plain
from perdure.errors import InvalidInput, NotSerializable


def canonical_json(value: Any, what: str = "A value") -> str:
    """
    Write a value as JSON whose text depends on the data only: keys and sets sorted, no whitespace.

    Args:
        value: Plain data, or whatever perdure stores: dataclasses, models, dates, sets, bytes.
        what: How errors name the value.

    Raises:
        NotSerializable: It has no JSON form, or is an iterator, which reading would use up.
    """
    return _canonical(value, what).decode()


def canonical_hash(value: Any, what: str = "A value") -> str:
    """
    A name of some data that any process can compute: SHA-256 of its canonical JSON, as 64 hex digits.

    Raises:
        NotSerializable: As for `canonical_json`.
    """
    return sha256(_canonical(value, what)).hexdigest()


def fingerprint(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """
    A short name of a call's arguments, the same in every process and for keywords in any order.

    Returns:
        16 hex digits, or None when something in the arguments has no JSON form.
    """
    try:
        if not kwargs and ATOMS.issuperset(map(type, args)):
            data = dump_plain((args, kwargs))  # nothing in there to sort
        else:
            data = _canonical((args, kwargs), "An argument")
    except Exception:  # noqa: BLE001 - whatever keeps it from having a JSON form
        return None
    return blake2b(data, digest_size=8).hexdigest()


def input_fingerprint(text: str) -> str | None:
    """A short name of a run's input, given as JSON text; as `fingerprint`."""
    try:
        return fingerprint((ANY.decode(text, "A text"),), {})
    except InvalidInput:
        return None


def same_json(a: str, b: str) -> bool:
    """Whether two JSON texts hold the same data, the order of keys aside; 1, 1.0 and true all differ."""
    if a == b:
        return True
    try:
        return canonical_json(ANY.decode(a, "A text")) == canonical_json(ANY.decode(b, "A text"))
    except (InvalidInput, NotSerializable):
        return False


def _canonical(value: Any, what: str) -> bytes:
    try:
        return dump_plain(_sorted(value, what))
    except NotSerializable:
        raise
    except Exception as error:
        raise NotSerializable(what, f"{type(error).__name__}: {error}") from error


def _sorted(value: Any, what: str) -> Any:
    kind = type(value)
    if kind in ATOMS:
        return value
    if kind is list or kind is tuple:
        return [part if type(part) in ATOMS else _sorted(part, what) for part in value]
    if kind is dict and (not value or TEXT.issuperset(map(type, value))):
        return {key: _sorted(value[key], what) for key in sorted(value)}
    if isinstance(value, Iterator):
        problem = "an iterator can be read only once"
        raise NotSerializable(what, problem)
    return _sorted(ANY.settle(value, what)[1], what)
