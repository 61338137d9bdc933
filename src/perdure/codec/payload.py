"""Payloads at rest: their limit, and the seam for compression and encryption."""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from typing import Any, Protocol, runtime_checkable

from perdure.errors import InvalidOption, NotSerializable, PayloadTooLarge, StoreCorrupt
from perdure.model.check import check_number
from perdure.model.limits import Limits

_SEALED = "~"  # JSON text never begins with it, so one database may hold sealed and plain payloads
_BATCH = "+"  # nor with this: an array of the stored texts that a batch has gathered


@runtime_checkable
class Codec(Protocol):
    """
    A reversible change of bytes, made before payloads are stored.

    Attributes:
        name: Stored with each payload; 1 character or more, without a colon. A codec that can no longer
            read what it wrote under this name needs another one.
    """

    name: str

    def encode(self, data: bytes) -> bytes:
        """Change a payload for storage; an exception fails whatever was to be stored."""

    def decode(self, data: bytes) -> bytes:
        """Give back exactly what `encode` was given, or raise."""


class Compressed:
    """
    A codec that compresses by zlib.

    Args:
        level: From 1, fast, to 9, small.
        at_least: Payloads with fewer bytes are stored as they are.
    """

    name = "zlib"

    def __init__(self, level: int = 6, at_least: int = 1024) -> None:
        check_number("Compressed(level)", level, 1, 9)
        check_number("Compressed(at_least)", at_least, 0)
        self.level = level
        self.at_least = at_least

    def encode(self, data: bytes) -> bytes:
        """Compress, and mark whether it was done: z or, for small data, an equals sign."""
        return b"=" + data if len(data) < self.at_least else b"z" + zlib.compress(data, self.level)

    def decode(self, data: bytes) -> bytes:
        """Read what `encode` wrote, with whatever level; ValueError or zlib.error for anything else."""
        mark, rest = data[:1], data[1:]
        if mark not in {b"=", b"z"}:
            problem = f"neither compressed nor marked as plain: it begins with {mark!r}"
            raise ValueError(problem)
        return zlib.decompress(rest) if mark == b"z" else rest


class Payloads:
    """
    Check JSON texts on their way into the database, seal them there, and open them on their way out.

    Args:
        codec: How payloads are written from now on; None for plain JSON text.
        limits: Of which `payload_bytes` is used.
    """

    def __init__(self, codec: Codec | None, limits: Limits) -> None:
        if codec is not None and (not codec.name or ":" in codec.name):
            option = "codec.name"
            raise InvalidOption(option, f"{codec.name!r} is empty or has a colon")
        self.codec = codec
        self.limit = limits.payload_bytes

    def seal(self, text: str, what: str, *, limited: bool = True) -> str:
        """
        Give the text to store for a JSON text.

        Args:
            text: JSON.
            what: How errors name it.
            limited: Off for errors and reasons, which have bounds of their own and must be storable in any case.

        Raises:
            PayloadTooLarge: It takes more than Limits.payload_bytes in UTF-8, before the codec.
            NotSerializable: The codec failed, or the text has no form in UTF-8.
        """
        if self.codec is None and len(text) <= self.limit and text.isascii():
            return text
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise NotSerializable(what, str(error)) from error
        if limited and len(data) > self.limit:
            raise PayloadTooLarge(what, len(data), self.limit)
        if self.codec is None:
            return text
        try:
            sealed = self.codec.encode(data)
        except Exception as error:
            problem = f"the codec {self.codec.name!r} failed with {type(error).__name__}"
            raise NotSerializable(what, problem) from error
        return f"{_SEALED}{self.codec.name}:{b64encode(sealed).decode()}"

    def _joined(self, text: str) -> str:
        """The inputs that a batch has gathered as one: the same parameters, with their lists one behind the other."""
        whole: dict[str, list[Any]] = {}
        try:
            for item in json.loads(text[1:]):
                for parameter, values in json.loads(self.open(item)).items():
                    whole.setdefault(parameter, []).extend(values)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            problem = f"What a batch has gathered cannot be read: {type(error).__name__}: {error}"
            raise StoreCorrupt(problem) from error
        return json.dumps(whole, ensure_ascii=False)

    def open(self, text: str) -> str:
        """
        Give back the JSON text of a stored text, sealed or plain.

        Raises:
            StoreCorrupt: It was sealed by another codec than this app's, or this one cannot read it.
        """
        if not text.startswith(_SEALED):
            return self._joined(text) if text.startswith(_BATCH) else text
        name, _, sealed = text[1:].partition(":")
        if self.codec is None or name != self.codec.name:
            mine = f"has {self.codec.name!r}" if self.codec else "has none"
            problem = f"A payload was written by the codec {name!r}, and this app {mine}."
            raise StoreCorrupt(problem)
        try:
            return self.codec.decode(b64decode(sealed, validate=True)).decode()
        except Exception as error:
            problem = f"The codec {name!r} cannot read a payload: {type(error).__name__}: {error}"
            raise StoreCorrupt(problem) from error
