"""Streams in the store: each append sees those before it, whatever shares its commit."""

import pytest
from storekit.database import line
from storekit.kinds import NOW

from perdure.store.operation import Operation

FAR = NOW + 10**9


def create(name="s", **given):
    usual = {
        "made": f"m{name}", "type": "text/plain", "now": NOW, "ttl": None, "expires_at": None, "closed_at": None,
        "source": None, "base": 0, "within": 0,
    }  # fmt: skip
    return line("create_stream", name=name, **usual | given)


def append(stream, data="x", **given):
    usual = {
        "now": NOW, "size": 1, "most": 1_000, "writer_seq": None, "producer": None, "epoch": None, "seq": None, "closes": 0
    }  # fmt: skip
    return line("append_chunk", stream=stream, data=data, **usual | given)


def close(stream, **given):
    return line("close_stream", stream=stream, **{"now": NOW, "producer": None, "epoch": None, "seq": None} | given)


def made(db, name="s", **given) -> int:
    ((label, number),) = db.apply(create(name, **given))
    assert label == "created"
    return number


def heads(outcomes):
    return [rows[0][1] if rows else None for rows, error in outcomes if error is None]


def test_a_hundred_appends_of_one_commit_are_numbered(db):
    """Two appends in one transaction would get one number, and the second be lost."""
    stream = made(db)
    assert heads(db.batch(*([append(stream, str(n))] for n in range(100)))) == list(range(1, 101))
    found = db.rows("chunks", stream, 0, 1_000, 1_000, 10**6)
    assert found == [(n + 1, str(n)) for n in range(100)]


def test_what_one_append_decides_holds_for_the_next_of_the_same_commit(db):
    """Something would be appended behind a closure, a sequence go back, or a producer write twice."""
    closing, rising, once, full = (made(db, name) for name in "abcd")
    producer = {"producer": "p", "epoch": 1}
    outcomes = db.batch(
        [append(closing)], [append(closing, closes=1)], [append(closing)],
        [append(rising, writer_seq="b")], [append(rising, writer_seq="a")], [append(rising)], [append(rising, writer_seq="b")],
        [append(once, seq=0, **producer)], [append(once, seq=0, **producer)], [append(once, seq=2, **producer)],
        [append(once, seq=1, **producer)], [append(once, producer="p", epoch=2, seq=0)], [append(once, seq=2, **producer)],
        [append(full, size=600)], [append(full, size=600)], [append(full, size=400)],
    )  # fmt: skip
    assert heads(outcomes) == [1, 2, None, 1, None, 2, None, 1, None, None, 2, 3, None, 1, None, 2]


def test_a_closure_without_a_chunk(db):
    """A closed stream would take an append, or the closure of another producer count."""
    stream = made(db)
    db.apply(append(stream, producer="p", epoch=3, seq=0))
    assert db.apply(close(stream, producer="p", epoch=2, seq=1)) == []
    assert db.apply(close(stream, producer="p", epoch=3, seq=2)) == []
    assert db.apply(close(stream, producer="p", epoch=3, seq=1)) == [("closed", 1)]
    assert db.apply(close(stream)) == []
    assert db.apply(append(stream)) == []
    other = made(db, "t")
    db.apply(append(other, closes=1))
    assert db.apply(close(other)) == []


def test_of_two_that_make_one_name_one_does(db):
    """Both would believe that the stream is theirs, and its first content be mixed."""

    def whole(mark):
        first = line("first_chunk", name="s", made=mark, nth=1, now=NOW, data=mark, size=1, total=1, closes=0)
        return Operation([create(made=mark), first])

    outcomes = db.batch(whole("one"), whole("two"))
    assert sorted(len(rows) for rows, _ in outcomes) == [0, 1]
    ((number, *_),) = db.rows("stream_by_name", "s")
    ((nth, mark),) = db.rows("chunks", number, 0, 9, 9, 9)
    assert (nth, mark) == (1, "one" if outcomes[0][0] else "two")


def test_what_is_gone_takes_nothing_and_its_name_is_free(db):
    """An expired stream would grow, or block its name for ever."""
    stream = made(db, ttl=1, expires_at=NOW + 1)
    db.apply(append(stream))
    late = {"now": NOW + 1}
    assert db.apply(append(stream, **late)) == []
    assert db.apply(close(stream, **late)) == []
    db.apply(line("touch_stream", stream=stream, now=NOW + 1, expires_at=FAR))
    assert db.apply(create(**late)) == []
    db.apply(line("free_stream", stream=stream, now=NOW + 1))
    assert db.apply(create(**late))
    assert db.apply(line("delete_stream", stream=stream, now=NOW + 1)) == []


def test_a_source_with_forks_keeps_name_and_chunks(db):
    """A fork would lose what it began with."""
    source = made(db)
    db.apply(append(source))
    fork = made(db, "f", source=source, base=1)
    assert db.apply(append(fork)) == [("appended", 2)]
    assert db.apply(line("delete_stream", stream=source, now=NOW), line("free_stream", stream=source, now=NOW))
    assert db.rows("stream_by_name", "s")
    assert db.apply(("drop_chunks", (NOW, 100)), ("drop_streams", (NOW,))) == []
    assert db.rows("lineage", fork) == [(fork, 1), (source, 0)]
    assert db.apply(create("g", source=source)) == [], "nothing new is forked from what is gone"
    db.apply(line("delete_stream", stream=fork, now=NOW))
    gone = []
    while rows := db.apply(("drop_chunks", (NOW, 100)), ("drop_streams", (NOW,))):
        gone += [number for label, number in rows if label == "gone"]
    assert gone == [fork, source]
    assert db.count("streams") == db.count("chunks") == 0


def test_chunks_go_in_pieces(db):
    """The removal of a large stream would keep everybody else from writing."""
    stream = made(db)
    db.batch(*([append(stream)] for _ in range(25)))
    db.apply(line("delete_stream", stream=stream, now=NOW))
    left = []
    while db.apply(("drop_chunks", (NOW, 10)), ("drop_streams", (NOW,))):
        left.append((db.count("chunks"), db.count("streams")))
    assert left == [(15, 1), (5, 1), (0, 0)]


@pytest.mark.parametrize("size", [1, 100, 250, 10**6])
def test_a_page_ends_where_it_has_enough(db, size):
    """A reader would get everything at once, or nothing."""
    stream = made(db)
    db.batch(*([append(stream, str(n), size=100)] for n in range(5)))
    count = len(db.rows("chunks", stream, 1, 5, 1_000, size))
    assert count == min(4, -(-size // 100))
    assert len(db.rows("chunks", stream, 1, 3, 1_000, 10**6)) == 2
    assert len(db.rows("chunks", stream, 0, 5, 3, 10**6)) == 3
