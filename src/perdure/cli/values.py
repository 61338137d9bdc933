"""What people type: durations, times, JSON."""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from perdure.clock import Clock, from_datetime, micros
from perdure.errors import InvalidOption

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", re.ASCII)
_PLAIN = re.compile(r"\d+(?:\.\d+)?", re.ASCII)


def duration(text: str, option: str) -> timedelta:
    """
    Read a duration: 30 and 30s are seconds, 250ms, 5m, 2h, 7d and 1w are what they say, 1h30m is their sum.

    Raises:
        InvalidOption: It is none, or longer than 100 years.
    """
    parts = _PART.findall(text)
    if _PLAIN.fullmatch(text):
        seconds = float(text)
    elif parts and "".join(number + unit for number, unit in parts) == text:
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        raise InvalidOption(option, f"{text!r} is no duration; write 30, 30s, 250ms, 5m, 2h, 7d or 1h30m")
    return timedelta(microseconds=micros(seconds, option))


def moment(text: str, option: str, clock: Clock) -> int:
    """
    Read a time: ISO 8601, local where it has no time zone, or a duration for that long ago.

    Returns:
        Microseconds since 1970.

    Raises:
        InvalidOption: It is none of these.
    """
    if _PLAIN.fullmatch(text) is None:
        try:
            return from_datetime(datetime.fromisoformat(text).astimezone(), option)
        except (ValueError, OverflowError):
            pass
        if _PART.match(text):
            return clock.now() - micros(duration(text, option), option)
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
