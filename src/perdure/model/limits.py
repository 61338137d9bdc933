"""The bounds of a store and its runs (I10)."""

from __future__ import annotations

from dataclasses import dataclass, fields

from perdure.model.check import check_number


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What one app accepts. Exceeding a limit is an error that says so; nothing is cut silently.

    Attributes:
        payload_bytes: Largest input, output, signal or event, as JSON in UTF-8; largest append to a stream.
        inline_bytes: Payloads above this size go to the blob table, stored once by content.
        history_entries: Most journal entries of one run's present history.
        emitted_entries: Most entries that the steps of one run may emit, which are no part of its history.
        emitted_waiting: Most of them that may wait to be stored; their payloads may take `payload_bytes` together.
        stream_bytes: Most bytes of one stream, not counting what it has from the one it was forked from.
        queued_operations: Operations that may wait for the next commit before callers are refused.
    """

    payload_bytes: int = 32 * 1024 * 1024
    inline_bytes: int = 32 * 1024
    history_entries: int = 100_000
    emitted_entries: int = 1_000_000
    emitted_waiting: int = 10_000
    stream_bytes: int = 1024 * 1024 * 1024
    queued_operations: int = 100_000

    def __post_init__(self) -> None:
        for option in fields(self):
            check_number(f"Limits({option.name})", getattr(self, option.name), 1)
