"""What the doctor finds in a database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One fact about a database that somebody should know.

    Attributes:
        code: Stable snake_case name.
        severity: "error": an invariant is broken, and something is lost or stuck until somebody acts.
            "warning": it may right itself, or is waiting for an operator. "note": good to know.
        message: What was found.
        what_to_do: The next step for whoever reads it.
        count: How many runs, rows or workers are concerned.
        examples: A few of them.
    """

    code: str
    severity: Severity
    message: str
    what_to_do: str
    count: int
    examples: list[str]
