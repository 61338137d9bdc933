"""What people type."""

from datetime import timedelta

import pytest

from perdure.cli.values import data, duration, fields, moment
from perdure.clock import to_datetime
from perdure.errors import InvalidOption


class Noon:
    """A clock that stands."""

    virtual = True

    def now(self) -> int:
        return 1_000_000_000_000_000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30), ("1.5", 1.5), ("30s", 30), ("250ms", 0.25), ("5m", 300), ("2h", 7200), ("7d", 604_800),
        ("1w", 604_800), ("1h30m", 5400), ("0", 0),
    ],
)  # fmt: skip
def test_durations(text, seconds):
    """`--timeout 5m` would mean something else than five minutes."""
    assert duration(text, "--timeout") == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "m", "-5", "5 m", "5x", "m5", "1h30", "1e3", "١٢", "nan", "200000w"])
def test_what_is_no_duration(text):
    """A slip of the pen would become some other span of time, and `db prune` would remove the wrong runs."""
    with pytest.raises(InvalidOption, match="--timeout"):
        duration(text, "--timeout")


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("2001-09-09T01:46:40Z", 1_000_000_000_000_000),
        ("2001-09-09T03:46:40+02:00", 1_000_000_000_000_000),
        ("1h", 1_000_000_000_000_000 - 3_600_000_000),
    ],
)
def test_moments(text, micros):
    """`run list --since` would list runs of another time."""
    assert moment(text, "--since", Noon()) == to_datetime(micros)


def test_a_local_time_is_local(monkeypatch):
    """Somebody who types the time on his clock would get runs of another hour."""
    here = moment("2001-09-09T01:46:40", "--since", Noon())
    assert here == moment("2001-09-09 01:46:40", "--since", Noon())
    assert abs(here - to_datetime(Noon().now())) <= timedelta(hours=14)


@pytest.mark.parametrize("text", ["", "yesterday", "1700000000", "2026-13-01", "5 m"])
def test_what_is_no_moment(text):
    """A number of seconds since 1970 would be taken for a time ago."""
    with pytest.raises(InvalidOption, match="--since"):
        moment(text, "--since", Noon())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-2.5", -2.5), ("true", True), ("null", None), ('"a"', "a"), ('{"a": [1]}', {"a": [1]}), ("[]", []),
        ("tea", "tea"), ("2026-08-01", "2026-08-01"), ("a b", "a b"),
    ],
)  # fmt: skip
def test_values(text, value):
    """A workflow would get another input than was typed."""
    assert data(text, "value") == value


@pytest.mark.parametrize("text", ["", '{"a": 1', "[1,", '"tea', "{a: 1}", "@", "@none.json"])
def test_what_begins_like_json_must_be_json(terminal, text):
    """Malformed JSON would be sent as a string, and be noticed only by the workflow."""
    with pytest.raises(InvalidOption, match="value"):
        data(text, "value")


def test_a_value_from_a_file(terminal):
    """Inputs that are too large for a command line could not be given."""
    (terminal.folder / "in.json").write_text('{"item": "té"}', encoding="utf-8")
    assert data("@in.json", "value") == {"item": "té"}
    (terminal.folder / "in.json").write_text("tea", encoding="utf-8")
    with pytest.raises(InvalidOption, match="not JSON"):
        data("@in.json", "value")


def test_named_values_are_an_object():
    """`--input '[1]'` would fail somewhere deep inside instead of saying what is expected."""
    assert fields('{"a": 1}', "--input") == {"a": 1}
    for text in ("[1]", "tea", "1"):
        with pytest.raises(InvalidOption, match="JSON object"):
            fields(text, "--input")
