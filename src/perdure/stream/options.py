"""How streams are served."""

from __future__ import annotations

from dataclasses import dataclass

from perdure.model.check import check_number


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """
    Bounds of what a server gives and keeps.

    Attributes:
        page_bytes: About as much content as one answer, or one event, has at most; a larger chunk comes whole.
        long_poll: Seconds that a long-poll waits for something new.
        sse: Seconds after which an event stream is ended, so that proxies do not hold it for ever; readers come back.
        tails: Readers that may wait at a time; more are told to come back later.
    """

    page_bytes: int = 1024 * 1024
    long_poll: float = 20.0
    sse: float = 60.0
    tails: int = 20_000

    def __post_init__(self) -> None:
        check_number("StreamOptions(page_bytes)", self.page_bytes, 1)
        check_number("StreamOptions(long_poll)", self.long_poll, 0.01, 3600, whole=False)
        check_number("StreamOptions(sse)", self.sse, 0.01, 86_400, whole=False)
        check_number("StreamOptions(tails)", self.tails, 1)
