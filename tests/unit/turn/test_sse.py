"""Reading a stream of server-sent events."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perdure.turn.sse import EventReader, ServerSentEvent, TooLong

STREAM = (
    "\ufeff: a comment\n\nretry: 1500\n\n"
    "id: 1\ndata: one\n\n: a comment\n\ndata: no id of its own\n\n"
    "event: word\r\ndata: first\r\ndata:second\r\ndata\r\nid:2\r\n\r\n"
    "id: 3\rdata: grüß\r\r"
    'id: 4\n\nid: a\0b\ndata: {"n": 5}\n\nevent: end\n\nretry: soon\nother: 1\nid: 6\ndata: is not over'
)
EVENTS = [
    ServerSentEvent("message", "one", "1"),
    ServerSentEvent("message", "no id of its own", None),
    ServerSentEvent("word", "first\nsecond\n", "2"),
    ServerSentEvent("message", "grüß", "3"),
    ServerSentEvent("message", '{"n": 5}', None),
    ServerSentEvent("end", "", None),
]


@example(cuts=[127, 127])
@given(cuts=st.lists(st.integers(0, len(STREAM.encode())), max_size=20))
def test_events_are_the_same_however_they_come(cuts):
    """An event would be lost, halved or joined with another where a packet ends."""
    data, places = STREAM.encode(), sorted(cuts)
    reader = EventReader(100)
    pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    assert [event for piece in pieces for event in reader.read(piece)] == EVENTS
    assert reader.retry == 1.5
    assert EVENTS[4].json() == {"n": 5}


@pytest.mark.parametrize(
    "stream", ["data: 34567890", "data: 3\ndata: 0\ndata", ": 345678901234\n", "id: 1\ndata: 34567890\n\n"]
)
def test_an_event_has_a_limit(stream):
    """One that never ends would take all memory, in one line or in many."""
    fits = "id: 1\ndata: 2\n\n" * 3
    with pytest.raises(TooLong, match="13 bytes"):
        EventReader(13).read((fits + stream).encode())
    assert len(EventReader(13).read((fits + ":\n" * 99 + fits).encode())) == 6
