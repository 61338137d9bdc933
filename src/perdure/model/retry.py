"""When a failed attempt is made again, and after which delay."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from perdure.clock import MAX_DURATION, SECOND, micros
from perdure.errors import RetryAfter, StepInterrupted, Terminal, UsageError
from perdure.model.check import check_classes, check_number


@dataclass(frozen=True, slots=True)
class Retry:
    """
    A step's retry policy.

    The delay before attempt n+1 is min(cap, delay * backoff**(n-1)), of which `jitter` is left to chance:
    jitter 1 draws uniformly between 0 and that delay ("full jitter"), jitter 0 waits exactly that long.

    Attributes:
        max_attempts: How often the body may run, 1 or more; None for no limit.
        delay: Seconds or timedelta before the second attempt.
        backoff: Factor from one delay to the next, 1 or more.
        cap: Seconds or timedelta that no delay exceeds.
        jitter: Share of the delay left to chance, from 0 to 1.
        on: Exception classes that are tried again; others fail at once.
        never: Exception classes that fail at once even if `on` names them.

    Source of the default: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    max_attempts: int | None = 6
    delay: float | timedelta = 1.0
    backoff: float = 2.0
    cap: float | timedelta = 60.0
    jitter: float = 1.0
    on: tuple[type[BaseException], ...] = (Exception,)
    never: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if self.max_attempts is not None:
            check_number("Retry(max_attempts)", self.max_attempts, 1)
        check_number("Retry(backoff)", self.backoff, 1, whole=False)
        check_number("Retry(jitter)", self.jitter, 0, 1, whole=False)
        check_classes("Retry(on)", self.on)
        check_classes("Retry(never)", self.never)
        micros(self.delay, "Retry(delay)")
        micros(self.cap, "Retry(cap)")

    def next_delay(self, attempt: int, error: BaseException, chance: float) -> int | None:
        """
        How long to wait after a failed attempt.

        Args:
            attempt: The attempt that failed, from 1.
            error: What it raised.
            chance: From 0 up to 1, drawn by the caller.

        Returns:
            Microseconds until the next attempt, or None when the step has failed for good.
        """
        if self.max_attempts is not None and attempt >= self.max_attempts:
            return None
        if isinstance(error, RetryAfter):
            # Who asks for longer, as the server of a webhook may, is not given up for it.
            return min(round(error.delay_s * SECOND), MAX_DURATION)
        interrupted = isinstance(error, StepInterrupted)
        if isinstance(error, (Terminal, UsageError, *self.never)) or not (interrupted or isinstance(error, self.on)):
            return None
        cap = micros(self.cap)
        try:
            full = min(cap, round(micros(self.delay) * self.backoff ** (attempt - 1)))
        except OverflowError:
            full = cap
        return round(full * (1 - self.jitter * chance))


NO_RETRY = Retry(max_attempts=1)
