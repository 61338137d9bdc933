"""The bounds of a store and its runs (I10)."""

from __future__ import annotations

from dataclasses import dataclass

from perdure.model.check import check_number


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What one app accepts. Exceeding a limit is an error that says so; nothing is cut silently.

    Attributes:
        payload_bytes: Largest input, output, signal or event, as JSON in UTF-8.
        inline_bytes: Payloads above this size go to the blob table, stored once by content.
        history_entries: Most journal entries of one run's present history.
        queued_operations: Operations that may wait for the next commit before callers are refused.
    """

    payload_bytes: int = 32 * 1024 * 1024
    inline_bytes: int = 32 * 1024
    history_entries: int = 100_000
    queued_operations: int = 100_000

    def __post_init__(self) -> None:
        for option in ("payload_bytes", "inline_bytes", "history_entries", "queued_operations"):
            check_number(f"Limits({option})", getattr(self, option), 1)
