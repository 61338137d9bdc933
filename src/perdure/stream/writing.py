"""PUT, POST, DELETE and HEAD on a stream that is written by name."""

from __future__ import annotations

import re
from datetime import datetime
from urllib.parse import unquote, urlsplit

from perdure.clock import from_datetime, to_datetime
from perdure.errors import InvalidInput, InvalidOption
from perdure.model.stream import Producer
from perdure.stream import append as appending
from perdure.stream import make
from perdure.stream.append import MAX_COUNT
from perdure.stream.content import BYTES, base_type, check_type
from perdure.stream.http import Answer, Headers, Request
from perdure.stream.hub import Hub
from perdure.stream.make import Making
from perdure.stream.offset import Offset, offset_of
from perdure.stream.source import Source

_COUNT = re.compile(r"0|[1-9]\d{0,15}", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)


async def head(source: Source) -> Answer:
    """How a stream stands; this is no reading."""
    end = await source.end()
    return Answer(200, {
        "Content-Type": source.content.type, "Stream-Next-Offset": str(end.next),
        "Stream-Closed": "true" if end.closed else None, "Cache-Control": "no-store", **_life(*source.life),
    })  # fmt: skip


async def create(hub: Hub, request: Request, name: str, prefix: str) -> Answer:
    """Make a stream, or find it as it is wanted."""
    wanted = _making(request.headers, prefix)
    body = await request.body(hub.limits.payload_bytes)
    row, made = await make.create(hub.streams, name, wanted, body)
    return Answer(201 if made else 200, {
        "Content-Type": row.type, "Stream-Next-Offset": str(Offset(row.head)),
        "Stream-Closed": "true" if row.closed else None, "Location": request.url if made else None,
    })  # fmt: skip


async def append(hub: Hub, request: Request, name: str) -> Answer:
    """Append to a stream, close it, or both."""
    headers = request.headers
    closes, producer = _true(headers.get("stream-closed")), _producer(headers)
    body = await request.body(hub.limits.payload_bytes)
    media_type, parts = None, None
    content = (await hub.streams.remember(name)).content
    if body or not closes:
        media_type = headers.get("content-type")
        if not body or media_type is None:
            option = "body" if media_type else "Content-Type"
            raise InvalidOption(option, "there is none; an append needs one, and Stream-Closed: true alone closes")
        # Of another type it is refused, whatever it is.
        parts = content.parts(body) if base_type(media_type) == content.base else body
    wanted = appending.Append(parts, media_type, headers.get("stream-seq"), producer, closes)
    done = await appending.append(hub.streams, name, wanted)
    status = 200 if producer and parts is not None and not done.duplicate else 204
    return Answer(status, {
        "Stream-Next-Offset": str(done.offset), "Stream-Closed": "true" if done.closed else None,
        "Producer-Epoch": str(producer.epoch) if producer else None,
        "Producer-Seq": str(done.seq) if producer else None,
    })  # fmt: skip


async def delete(hub: Hub, name: str) -> Answer:
    """Remove a stream."""
    await hub.streams.delete(name)
    return Answer(204, {})


def source_of(headers: Headers, prefix: str) -> str | None:
    """
    The name of the stream that a request wants to fork.

    Args:
        prefix: What the paths of streams begin with.
    """
    given = headers.get("stream-forked-from")
    if given is None:
        return None
    path = unquote(urlsplit(given).path)
    return path.removeprefix(prefix)


def _making(headers: Headers, prefix: str) -> Making:
    ttl, ends = headers.get("stream-ttl"), headers.get("stream-expires-at")
    if ttl is not None and ends is not None:
        option = "Stream-TTL"
        raise InvalidOption(option, "it excludes Stream-Expires-At")
    media_type, source = headers.get("content-type"), source_of(headers, prefix)
    return Making(
        check_type(media_type) if media_type else None if source is not None else BYTES,
        None if ttl is None else _count("Stream-TTL", ttl, 10**10),
        None if ends is None else _time(ends),
        _true(headers.get("stream-closed")),
        source,
        _fork_at(headers, forked=source is not None),
    )


def _fork_at(headers: Headers, *, forked: bool) -> Offset | None:
    """Where to fork: an offset, and how many messages or bytes behind it."""
    offset, part = headers.get("stream-fork-offset"), headers.get("stream-fork-sub-offset")
    if not forked:
        for option, given in (("Stream-Fork-Offset", offset), ("Stream-Fork-Sub-Offset", part)):
            if given is not None:
                raise InvalidOption(option, "it needs Stream-Forked-From")
        return None
    within = 0 if part is None else _count("Stream-Fork-Sub-Offset", part, 10**15)
    if offset is None:
        if within:
            option = "Stream-Fork-Sub-Offset"
            raise InvalidOption(option, "nothing is behind the end, where a fork without Stream-Fork-Offset begins")
        return None
    at = offset_of(offset)
    return at if not within else Offset(at.chunk, at.within + within)


def _producer(headers: Headers) -> Producer | None:
    given = [headers.get(f"producer-{part}") for part in ("id", "epoch", "seq")]
    if given == [None, None, None]:
        return None
    name, epoch, seq = given
    if not name or epoch is None or seq is None or len(name) > MAX_NAME:
        option = "Producer-Id"
        raise InvalidOption(option, f"Producer-Id (of 1 to {MAX_NAME} characters), -Epoch and -Seq come together")
    return Producer(name, _count("Producer-Epoch", epoch, MAX_COUNT), _count("Producer-Seq", seq, MAX_COUNT))


MAX_NAME = 200


def _count(option: str, text: str, most: int) -> int:
    if not _COUNT.fullmatch(text) or int(text) > most:
        raise InvalidOption(option, f"{text!r} is no whole number from 0 to {most:,}, as digits without a sign")
    return int(text)


def _time(text: str) -> int:
    try:
        if _TIME.fullmatch(text):
            return from_datetime(datetime.fromisoformat(text.upper()))
    except ValueError as error:
        what = "Stream-Expires-At"
        raise InvalidInput(what, str(error)) from None
    option = "Stream-Expires-At"
    raise InvalidOption(option, f"{text!r} is no time as RFC 3339 has it, such as 2026-08-01T09:30:00Z")


def _true(text: str | None) -> bool:
    """Any other value counts as none."""
    return text is not None and text.strip().lower() == "true"


def _life(ttl: int | None, expires_at: int | None) -> Headers:
    """The headers that say how long a stream lives."""
    if ttl is not None:
        return {"Stream-TTL": str(ttl)}
    if expires_at is not None:
        return {"Stream-Expires-At": to_datetime(expires_at).isoformat().replace("+00:00", "Z")}
    return {}
