"""Equal data has one text and one fingerprint, in every process."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from perdure.codec.canonical import canonical_json, fingerprint, same_json
from perdure.errors import NotSerializable

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)


@dataclass
class Tagged:
    tags: frozenset[str]
    at: datetime


class Owner(BaseModel):
    name: str
    tagged: Tagged


def shuffled(value, chance):
    if isinstance(value, list):
        return [shuffled(part, chance) for part in value]
    if isinstance(value, dict):
        return {key: shuffled(value[key], chance) for key in chance.draw(st.permutations(list(value)))}
    return value


@given(json_values, st.data())
def test_the_order_of_keys_does_not_matter(value, chance):
    """Equal inputs would be taken for different ones because of how a dict was built."""
    other = shuffled(value, chance)
    assert canonical_json(other) == canonical_json(value)
    assert fingerprint((other,), {}) == fingerprint((value,), {})
    assert same_json(json.dumps(value), json.dumps(other, indent=1))
    assert json.loads(canonical_json(value)) == value


@given(json_values, json_values)
def test_different_data_is_told_apart(one, other):
    """Different inputs would be taken for equal ones; 1, 1.0 and True, which Python calls equal, included."""
    assert same_json(json.dumps(one), json.dumps(other)) == (repr(one) == repr(other)) or (
        isinstance(one, dict | list)  # whose repr may differ by the order of keys alone
    )


@pytest.mark.parametrize(
    ("one", "other"), [(1, 1.0), (1, True), (0, False), ("1", 1), (None, "None"), ([1, 2], [2, 1]), ([], {})]
)
def test_lookalikes_differ(one, other):
    """A changed argument would go unnoticed."""
    assert fingerprint((one,), {}) != fingerprint((other,), {})
    assert not same_json(json.dumps(one), json.dumps(other))


def test_the_canonical_form_is_what_it_is():
    """Stored fingerprints would stop matching after an upgrade."""
    value = {"b": (1, 2.5), "a": {3, 1, 2}, "é": None, "c": {2: b"\xff", 1: float("nan")}}
    assert canonical_json(value) == '{"a":[1,2,3],"b":[1,2.5],"c":{"1":NaN,"2":"_w=="},"é":null}'
    assert fingerprint((1, "a"), {"k": [None]}) == "529c7a424f2bf0d8"
    assert fingerprint((), {}) == "c3228f8cf811caaf"


def test_objects_are_written_as_the_data_they_hold():
    """A model would have another fingerprint than in the process that stored it."""
    tagged = Tagged(frozenset({"b", "a"}), datetime(2026, 1, 1, tzinfo=UTC))
    text = '{"name":"x","tagged":{"at":"2026-01-01T00:00:00Z","tags":["a","b"]}}'
    assert canonical_json(Owner(name="x", tagged=tagged)) == text
    assert fingerprint((Owner(name="x", tagged=tagged),), {}) is not None


def test_every_process_makes_the_same_fingerprint():
    """Hash randomisation would make a replay in another process look like changed code."""
    code = (
        "from perdure.codec.canonical import fingerprint as f; s = {str(i) for i in range(50)}; "
        "print(f((s, {'a': s, 'b': (s, {frozenset(s): 1} and None)}), {'x': [s]}))"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(prints) == 1
    assert "None" not in prints.pop()


def test_what_cannot_be_written_has_no_fingerprint():
    """A step with a connection or a callback among its arguments could not be started."""
    cycle = []
    cycle.append(cycle)
    for odd in (object(), print, cycle, "\ud800", {"a": {"b": lambda: 1}}, open):
        assert fingerprint((odd,), {}) is None
        with pytest.raises(NotSerializable, match="The input cannot be stored"):
            canonical_json({"a": odd}, "The input")


def test_iterators_are_not_used_up():
    """A step would get an exhausted generator, because its arguments had been fingerprinted."""
    numbers = (n for n in range(3))
    assert fingerprint(([numbers],), {}) is None
    assert list(numbers) == [0, 1, 2]


@given(st.text(), st.text())
def test_texts_that_are_not_json_are_only_like_themselves(one, other):
    """Comparing damaged text would raise."""
    assert same_json(one, one)
    assert same_json(one + "?", other + "!") is False
