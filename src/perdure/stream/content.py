"""What a stream consists of, JSON messages or bytes: as requests bring it, as it is stored, and as it is sent."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from perdure.errors import InvalidOption

JSON = "application/json"
BYTES = "application/octet-stream"
_TYPE = re.compile(r"[\w!#$&^.+-]{1,100}/[\w!#$&^.+-]{1,100}(?:\s*;[\x20-\x7e]{0,200})?", re.ASCII)
_BODY = "body"
_SPACE = re.compile(r"[ \t\r\n]*")
Parts = Sequence[str] | bytes
"""Of a chunk: JSON messages as texts, or its bytes."""


class Chunk(NamedTuple):
    """One append, or what of it is behind the reader's offset."""

    nth: int
    parts: Parts


def check_type(text: object) -> str:
    """
    Return a media type, which may have parameters.

    Raises:
        InvalidOption: It is none.
    """
    if not isinstance(text, str) or not _TYPE.fullmatch(text):
        option = "content type"
        raise InvalidOption(option, f"{text!r} is no media type, such as application/json or text/plain")
    return text


def base_type(text: str) -> str:
    """A media type without its parameters, to compare it by."""
    return text.partition(";")[0].strip().lower()


class Content:
    """
    How a stream of one media type is stored and sent.

    Attributes:
        type: As the stream was made with it.
        json: Whether it consists of messages, whose bounds are kept.
        text: Whether its bytes are text.
    """

    def __init__(self, media_type: str) -> None:
        self.type = media_type
        self.base = base_type(media_type)
        self.json = self.base == JSON
        self.text = self.base.startswith("text/")

    def parts(self, body: bytes, *, empty: bool = False) -> Parts:
        """
        What a request's body brings. Of a JSON array each element is a message, in exactly the text that it has.

        Args:
            empty: Whether an empty array is right.

        Raises:
            InvalidOption: Not JSON, or an empty array.
        """
        if not self.json:
            return body
        messages = split_messages(body)
        if not messages and not empty:
            raise InvalidOption(_BODY, "an empty array has nothing to append")
        return messages

    def stored(self, parts: Parts) -> str:
        """The JSON text to store: messages between commas; text as a string, other bytes in base64 in an array."""
        if not isinstance(parts, bytes):
            return ",".join(parts)
        try:
            return json.dumps(parts.decode(), ensure_ascii=False)
        except UnicodeDecodeError:
            return json.dumps([b64encode(parts).decode()])

    def read(self, stored: str, within: int = 0) -> Parts:
        """What was stored, without its first messages or bytes; messages may still stand together, between commas."""
        if self.json:
            return split_messages(f"[{stored}]".encode())[within:] if within else [stored]
        found = json.loads(stored)
        return (found.encode() if isinstance(found, str) else b64decode(found[0]))[within:]

    def body(self, chunks: Iterable[Chunk]) -> bytes:
        """The body of an answer: one JSON array, or bytes."""
        if self.json:
            return f"[{','.join(part for chunk in chunks for part in _texts(chunk.parts))}]".encode("utf-8", "replace")
        return b"".join(_bytes(chunk.parts) for chunk in chunks)

    def event(self, chunks: Iterable[Chunk]) -> str:
        """The data of a server-sent event: JSON and text as they are, other bytes in base64."""
        body = self.body(chunks)
        return body.decode("utf-8", "replace") if self.json or self.text else b64encode(body).decode()

    @property
    def encoding(self) -> str | None:
        """How events encode the data, if they do."""
        return None if self.json or self.text else "base64"


def size_of(parts: Parts) -> int:
    """How many bytes it takes, as limits count them."""
    return len(parts) if isinstance(parts, bytes) else sum(len(part.encode("utf-8", "replace")) + 1 for part in parts)


def split_messages(body: bytes) -> list[str]:
    """
    The messages of a JSON text: the elements of an array, one level deep, or the value itself.

    Raises:
        InvalidOption: It is not JSON.
    """
    try:
        text = body.decode()
        begin = _skip(text, 0)
        if text[begin : begin + 1] != "[":
            end = _skip(text, _value(text, begin))
            _expect(text, end == len(text), end)
            return [text[begin:].strip(" \t\r\n")]
        return _elements(text, _skip(text, begin + 1))
    except (ValueError, RecursionError) as error:
        raise InvalidOption(_BODY, f"it is not JSON: {error}") from None


def _elements(text: str, at: int) -> list[str]:
    """The elements of an array whose first one is here, if it has one."""
    found: list[str] = []
    while text[at : at + 1] != "]" or found:
        end = _value(text, at)
        found.append(text[at:end])
        at = _skip(text, end)
        if text[at : at + 1] == "]":
            break
        _expect(text, text[at : at + 1] == ",", at)
        at = _skip(text, at + 1)
    _expect(text, _skip(text, at + 1) == len(text), at + 1)
    return found


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _value(text: str, at: int) -> int:
    """Where the value that begins here ends."""
    try:
        return _DECODER.raw_decode(text, at)[1]
    except StopIteration:
        problem = f"a value is missing at character {at}"
        raise ValueError(problem) from None


def _expect(text: str, met: bool, at: int) -> None:  # noqa: FBT001 - a condition
    if not met:
        problem = f"character {at} of {len(text)} does not belong there"
        raise ValueError(problem)


def _constant(name: str) -> Any:
    problem = f"{name} is no JSON"
    raise ValueError(problem)


_DECODER = json.JSONDecoder(parse_constant=_constant)


def _texts(parts: Parts) -> Sequence[str]:
    return () if isinstance(parts, bytes) else parts


def _bytes(parts: Parts) -> bytes:
    return parts if isinstance(parts, bytes) else b""
