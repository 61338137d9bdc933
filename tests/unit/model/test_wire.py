"""JSON that other programs read."""

import json
from datetime import UTC, datetime

from perdure.model.event import Event
from perdure.model.wire import wire_json

NAN, INF = float("nan"), float("inf")


def strict(text):
    """Read JSON as everybody but Python does."""

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_what_others_have_no_word_for_is_null():
    """One such number would keep a browser from reading all that stands around it."""
    assert strict(wire_json({"a": [NAN, {"b": (INF, -INF)}], "c": 1.5, "d": "NaN"})) == {
        "a": [None, {"b": [None, None]}], "c": 1.5, "d": "NaN",
    }  # fmt: skip


def test_values_are_not_changed():
    """Who goes on with a value after it was told would go on with another one."""
    value = {"a": [NAN]}
    wire_json(value)
    assert value["a"][0] != value["a"][0]


def test_what_webhooks_send_can_be_read():
    """A receiver would refuse the delivery each time, until it is given up."""
    at = datetime(2026, 1, 2, tzinfo=UTC)
    told = strict(Event("e", "timer_set", "r", "w", "", 1, "k", "", at, {"score": NAN, "at": at}).json())
    assert told["data"] == {"score": None, "at": "2026-01-02T00:00:00+00:00"}
