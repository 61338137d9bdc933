"""What perdure stores as JSON that others read: standard JSON, without the numbers that only Python's has."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any


def wire_json(value: Any, **options: Any) -> str:
    """
    Plain data as JSON for other programs.

    At rest NaN and the infinities stay what they are, and workflows get them so. Others have no word for them, and
    would refuse all that stands around them; they are told null.

    Args:
        options: Of `json.dumps`.
    """
    options.setdefault("default", _shown)
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(value), **options)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)
