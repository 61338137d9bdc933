"""What a stream refuses."""

from __future__ import annotations

from perdure.errors.state import StateError


class StreamNotFound(StateError):
    """There is no stream of this name, or it has expired."""

    code = "stream_not_found"
    http_status = 404
    exit_code = 4
    name: str

    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is no stream {name!r}. Create it first; one that has expired can be made anew.", name=name
        )


class StreamGone(StateError):
    """What is asked for was there once."""

    code = "stream_gone"
    http_status = 410
    exit_code = 4
    name: str
    problem: str

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"Stream {name!r} does not have this any more: {problem}.", name=name, problem=problem)


class StreamConflict(StateError):
    """The stream is not as the request assumes."""

    code = "stream_conflict"
    name: str
    problem: str

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"Stream {name!r}: {problem}.", name=name, problem=problem)


class StreamClosed(StateError):
    """
    Nothing can be appended to a closed stream.

    Attributes:
        offset: Its end.
    """

    code = "stream_closed"
    name: str
    offset: str

    def __init__(self, name: str, offset: str) -> None:
        super().__init__(
            f"Stream {name!r} is closed. Append to another one, or to a fork of it.", name=name, offset=offset
        )


class StreamFull(StateError):
    """The stream would have more bytes than the limit; nothing was stored."""

    code = "stream_full"
    http_status = 413
    name: str
    limit: int

    def __init__(self, name: str, limit: int) -> None:
        super().__init__(
            f"Stream {name!r} has reached {limit:,} bytes. Go on in another stream, or raise Limits(stream_bytes=…).",
            name=name,
            limit=limit,
        )


class ProducerFenced(StateError):
    """
    A producer with this id has begun a newer epoch: this one must stop.

    Attributes:
        epoch: The newest one.
    """

    code = "producer_fenced"
    http_status = 403
    name: str
    producer: str
    epoch: int

    def __init__(self, name: str, producer: str, epoch: int) -> None:
        super().__init__(
            f"Producer {producer!r} of stream {name!r} goes on in epoch {epoch}: somebody else has taken over. Stop.",
            name=name,
            producer=producer,
            epoch=epoch,
        )


class ProducerGap(StateError):
    """A producer's number is not the next one: something before it has not arrived."""

    code = "producer_gap"
    name: str
    producer: str
    expected: int
    received: int

    def __init__(self, name: str, producer: str, expected: int, received: int) -> None:
        super().__init__(
            f"Producer {producer!r} of stream {name!r} sent number {received}, and {expected} is next. "
            "Send what is missing first.",
            name=name,
            producer=producer,
            expected=expected,
            received=received,
        )
