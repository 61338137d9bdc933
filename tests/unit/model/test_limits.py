"""Bounds that can hold nothing are mistakes."""

from dataclasses import fields

import pytest

from perdure.errors import InvalidOption
from perdure.model.limits import Limits


@pytest.mark.parametrize("option", [field.name for field in fields(Limits)])
def test_a_limit_is_at_least_one(option):
    """An app would start that can store nothing."""
    assert getattr(Limits(**{option: 1}), option) == 1
    for value in (0, -1):
        with pytest.raises(InvalidOption, match=option):
            Limits(**{option: value})


def test_small_payloads_fit_into_a_row():
    """A payload would be too large to be stored and small enough to be kept inline."""
    assert Limits().inline_bytes < Limits().payload_bytes
