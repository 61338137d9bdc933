"""Events of `text/event-stream`, read back as the standard says that readers do."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.codec.sse import sse_comment, sse_event
from perdure.errors import InvalidName


def read(stream: bytes) -> list[dict]:
    """What a reader makes of a stream: the events that it is told of, each with the last id."""
    told, event, last_id = [], {}, None
    for line in re.split(r"\r\n|\r|\n", stream.decode()):
        if not line:
            if "data" in event:
                told.append({**event, "id": last_id})
            event = {}
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            last_id = value
        elif name == "data":
            event["data"] = f"{event['data']}\n{value}" if "data" in event else value
        elif name:
            event[name] = value
    return told


@given(st.lists(st.tuples(st.text(), st.text(min_size=1))))
def test_any_text_comes_back_as_it_was(events):
    """A line end in a text would end the event early, or smuggle a field in."""
    told = read(b"".join(sse_event(data, event=kind) for data, kind in events))
    assert [found["data"] for found in told] == [re.sub(r"\r\n?", "\n", data) for data, _ in events]
    assert [found["event"] for found in told] == [re.sub(r"[\r\n]", " ", kind) for _, kind in events]


def test_all_fields():
    """A field is missing, or not what the standard calls it."""
    assert sse_event("a\nb", event="x\ny", id="7", retry=1500.9) == (
        b"id: 7\nretry: 1500\nevent: x y\ndata: a\ndata: b\n\n"
    )
    assert sse_event("") == b"data: \n\n"
    assert sse_event("a\n b", event="x", tight=True) == b"event: x\ndata:a\ndata:  b\n\n"
    assert sse_event("\ud800") == b"data: ?\n\n"


@pytest.mark.parametrize("retry", [float("nan"), float("inf"), -1])
def test_a_retry_that_is_no_time_is_left_out(retry):
    """A reader would come back at once, or never."""
    assert sse_event("a", retry=retry) == b"data: a\n\n"


def test_without_data_only_the_id_is_noted():
    """A reader would be told of an event that is none, or would come back to the wrong place."""
    assert read(sse_event(None, id="9", retry=10) + sse_event("a")) == [{"data": "a", "id": "9"}]


@pytest.mark.parametrize("id", ["a\nb", "a\rdata: x", "a\0"])
def test_an_id_that_cannot_come_back_is_refused(id):
    """The reader would say that it is somewhere else, and get events twice or not at all."""
    with pytest.raises(InvalidName, match="event id"):
        sse_event("a", id=id)


def test_comments_are_ignored():
    """A sign of life would be taken for an event."""
    assert sse_comment() == b": \n\n"
    assert read(sse_comment("still\nhere") + sse_event("a")) == [{"data": "a", "id": None}]
