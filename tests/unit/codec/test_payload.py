"""Payloads keep to their limit, and what a codec sealed is opened again or refused by name."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.codec.payload import Compressed, Payloads
from perdure.errors import InvalidOption, NotSerializable, PayloadTooLarge, StoreCorrupt
from perdure.model.limits import Limits


class Reversed:
    name = "reversed"

    def encode(self, data):
        return data[::-1]

    def decode(self, data):
        return data[::-1]


class Broken(Reversed):
    def decode(self, data):
        raise KeyError("no key today")


class Unsaid(Reversed):
    def decode(self, data):
        return b"\xff"


PLAIN = Payloads(None, Limits())
words = st.text(st.characters(exclude_categories=["Cs"]))


@given(words, st.sampled_from([None, Compressed(), Compressed(level=1, at_least=0), Reversed()]))
def test_what_is_sealed_is_opened(word, codec):
    """A payload would be lost between writing and reading."""
    payloads = Payloads(codec, Limits())
    text = json.dumps({"a": word * 50}, ensure_ascii=False)
    sealed = payloads.seal(text, "It")
    assert payloads.open(sealed) == text
    assert payloads.open(text) == text  # stored before there was a codec
    assert sealed.startswith(f"~{codec.name}:" if codec else "{")


def test_large_payloads_are_compressed_and_small_ones_are_not():
    """Compression would cost space or time where it saves none."""
    payloads = Payloads(Compressed(at_least=100), Limits())
    assert payloads.seal('"a"', "It") == "~zlib:PSJhIg=="
    assert len(payloads.seal(json.dumps("a" * 10_000), "It")) < 100


@pytest.mark.parametrize(("text", "size"), [('"' + "a" * 9 + '"', 11), ('"äääää"', 12)])
@pytest.mark.parametrize("codec", [None, Compressed(at_least=0)])
def test_the_limit_counts_bytes_of_utf_8(text, size, codec):
    """A payload would exceed its limit, or be refused below it, by its characters."""
    assert Payloads(codec, Limits(payload_bytes=size)).seal(text, "It")
    with pytest.raises(PayloadTooLarge, match=f"The result takes {size} bytes, and the limit is {size - 1}"):
        Payloads(codec, Limits(payload_bytes=size - 1)).seal(text, "The result")


def test_half_a_surrogate_pair_is_refused():
    """A database driver would fail on it later."""
    with pytest.raises(NotSerializable, match="surrogates"):
        PLAIN.seal('"\ud800"', "It")


@pytest.mark.parametrize(
    ("codec", "stored", "problem"),
    [
        (None, "~reversed:MQ==", "written by the codec 'reversed', and this app has none"),
        (Compressed(), "~reversed:MQ==", "written by the codec 'reversed', and this app has 'zlib'"),
        (Compressed(), "~zlib:!", "codec 'zlib' cannot read a payload: Error"),
        (Compressed(), "~zlib:MQ==", "codec 'zlib' cannot read a payload: ValueError: neither"),
        (Compressed(), "~zlib:ejE=", "codec 'zlib' cannot read a payload: error"),
        (Compressed(), "~", "written by the codec ''"),
        (Broken(), "~reversed:MQ==", "codec 'reversed' cannot read a payload: KeyError: 'no key today'"),
        (Unsaid(), "~reversed:MQ==", "codec 'reversed' cannot read a payload: UnicodeDecodeError"),
    ],
)
def test_what_cannot_be_opened_names_the_codec(codec, stored, problem):
    """An operator would not learn which key or codec is missing."""
    with pytest.raises(StoreCorrupt, match=problem):
        Payloads(codec, Limits()).open(stored)


@given(st.text())
def test_any_text_is_opened_or_refused(text):
    """A damaged row would raise something that no caller expects."""
    for payloads in (PLAIN, Payloads(Compressed(), Limits())):
        for stored in (text, f"~zlib:{text}"):
            with suppress(StoreCorrupt):
                payloads.open(stored)


def test_codecs_are_checked_when_made():
    """A codec would be configured in a way that cannot be read back."""
    for name in ("", "a:b"):
        codec = Reversed()
        codec.name = name
        with pytest.raises(InvalidOption, match=r"codec\.name"):
            Payloads(codec, Limits())
    for level in (0, 10):
        with pytest.raises(InvalidOption, match="level"):
            Compressed(level=level)
