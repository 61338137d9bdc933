"""What people type: durations, times, JSON."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from perdure.clock import PART, PLAIN, Clock, to_datetime
from perdure.clock import duration as duration  # noqa: PLC0414 - it is what people type, too
from perdure.errors import InvalidOption


def moment(text: str, option: str, clock: Clock) -> datetime:
    """
    Read a time: ISO 8601, local where it has no time zone, or a duration for that long ago.

    Raises:
        InvalidOption: It is none of these.
    """
    if PLAIN.fullmatch(text) is None:
        try:
            return datetime.fromisoformat(text).astimezone()
        except (ValueError, OverflowError):
            pass
        if PART.match(text):
            return to_datetime(clock.now()) - duration(text, option)
    problem = f"{text!r} is no time; write 2026-08-01, 2026-08-01T09:30, or for a time ago 30s, 5m, 2h or 7d"
    raise InvalidOption(option, problem)


def data(text: str, option: str) -> Any:
    """
    Read a value: JSON, @file or - (standard input) for JSON from there, or a plain word for that string.

    What begins like JSON must be JSON, so that a slip of the pen does not become a string.

    Raises:
        InvalidOption: The JSON is malformed, or the file cannot be read.
    """
    source = text
    if text == "-":
        source = sys.stdin.read()
    elif text.startswith("@"):
        try:
            source = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidOption(option, f"{text[1:]!r} cannot be read ({error})") from error
    try:
        return json.loads(source)
    except (ValueError, RecursionError) as error:
        if source is text and text and text[0] not in '{["':
            return text
        raise InvalidOption(option, f"it is not JSON ({error})") from error


def fields(text: str, option: str) -> dict[str, Any]:
    """
    Read a JSON object, as `data` does.

    Raises:
        InvalidOption: It is something else.
    """
    value = data(text, option)
    if not isinstance(value, dict):
        raise InvalidOption(option, 'it must be a JSON object with a key for each parameter: {"order": …}')
    return value
