"""When a start is not one of its own: it repeats another one, or is part of a flood. Frozen data, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from perdure.clock import micros
from perdure.errors import InvalidOption
from perdure.ids import check_id
from perdure.model.queue import Span


@dataclass(frozen=True, slots=True)
class Dedupe:
    """
    Tell a start from its repetition: one run at a time has the key, within its queue or else its workflow.

    Attributes:
        key: 1 to 200 characters.
        then: When a run has the key: "existing" gives a handle on it, "reject" raises `DuplicateRun`, "replace"
            cancels it, whether it has begun or not, and starts the new one.
        ttl: Seconds or timedelta from its start that a run has the key, even if it ends sooner. None: until it ends.
    """

    key: str
    then: Literal["existing", "reject", "replace"] = "existing"
    ttl: Span | None = None

    def __post_init__(self) -> None:
        check_id("deduplication key", self.key)
        if self.then not in ("existing", "reject", "replace"):
            option = "Dedupe(then)"
            raise InvalidOption(option, f"{self.then!r} is none of 'existing', 'reject' and 'replace'")
        if self.ttl is not None and micros(self.ttl, "Dedupe(ttl)") == 0:
            option = "Dedupe(ttl)"
            raise InvalidOption(option, "it must be more than 0")


@dataclass(frozen=True, slots=True)
class Debounce:
    """
    Start once when a flood of starts has calmed down, with the input of the last.

    Attributes:
        key: Whose starts belong together, within their workflow; 1 to 200 characters.
        wait: Seconds or timedelta without another start before the run begins.
        longest: Seconds or timedelta after the first start at which it begins in any case; None for no bound.
    """

    key: str
    wait: Span
    longest: Span | None = None

    def __post_init__(self) -> None:
        check_id("debounce key", self.key)
        if micros(self.wait, "Debounce(wait)") == 0:
            option = "Debounce(wait)"
            raise InvalidOption(option, "it must be more than 0")
        if self.longest is not None and micros(self.longest, "Debounce(longest)") < micros(self.wait):
            option = "Debounce(longest)"
            raise InvalidOption(option, "it must not be less than wait")
