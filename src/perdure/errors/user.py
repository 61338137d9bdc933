"""What users raise in their steps."""

from __future__ import annotations

from datetime import timedelta

from perdure.errors.usage import InvalidOption


class Terminal(Exception):
    """Raise it in a step: the step fails now, without further attempts."""


class RetryAfter(Exception):
    """
    Raise it in a step: try again after this delay, instead of the policy's.

    The attempt counts; when none is left, the step fails with this error.

    Args:
        delay: Seconds, or a timedelta; 0 or more.
        reason: Shown in the journal.
    """

    def __init__(self, delay: float | timedelta, reason: str = "") -> None:
        self.delay_s = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
        if not 0 <= self.delay_s < float("inf"):
            option = "RetryAfter(delay)"
            raise InvalidOption(option, f"{self.delay_s!r} is not a number of seconds from 0")
        super().__init__(reason or f"retry after {self.delay_s:g} s")
