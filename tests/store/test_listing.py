"""Lists of runs: every filter, and pages without gaps or repeats while the table grows."""

import pytest
from storekit.database import claim, line
from storekit.kinds import NOW

from perdure.clock import to_datetime
from perdure.errors import InvalidOption
from perdure.model.run import MAX_PAGE, RunFilter
from perdure.model.status import Status
from perdure.store.listing import list_runs


def found(db, **wanted):
    """The ids of the one page that a filter gives."""
    page = db.run(list_runs(db.store, RunFilter(**wanted)))
    return [row.id for row in page.rows]


@pytest.fixture
def runs(db):
    """Five runs that differ in everything one may ask for."""
    db.worker()
    db.owned("p")
    db.child("p/c", db.row("p"))
    db.queued("b", workflow="v", created_at=NOW + 10)
    db.queued("b2", created_at=NOW + 20)
    db.queued("a%_", created_at=NOW + 30)
    db.apply(line("cancel", id="b2", now=NOW))
    for run_id, tag in (("b", "red"), ("b", "blue"), ("p", "red")):
        db.apply(line("add_tag", id=run_id, name=tag))
    return db


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ({}, ["a%_", "b2", "b", "p/c", "p"]),
        ({"oldest_first": True}, ["p", "p/c", "b", "b2", "a%_"]),
        ({"status": (Status.RUNNING,)}, ["p"]),
        ({"status": (Status.RUNNING, Status.CANCELLING)}, ["b2", "p"]),
        ({"status": (Status.FAILED,)}, []),
        ({"workflow": "v"}, ["b"]),
        ({"workflow": ""}, []),
        ({"parent": "p"}, ["p/c"]),
        ({"parent": "nobody"}, []),
        ({"tag": "red"}, ["b", "p"]),
        ({"tag": "re"}, []),
        ({"id_prefix": "b"}, ["b2", "b"]),
        ({"id_prefix": "a%"}, ["a%_"]),
        ({"id_prefix": "_"}, []),
        ({"created_from": to_datetime(NOW + 10)}, ["a%_", "b2", "b"]),
        ({"created_to": to_datetime(NOW + 10)}, ["p/c", "p"]),
        ({"created_from": to_datetime(NOW + 10), "created_to": to_datetime(NOW + 30)}, ["b2", "b"]),
        ({"tag": "red", "workflow": "w", "status": (Status.RUNNING,)}, ["p"]),
        ({"tag": "red", "workflow": "v", "status": (Status.RUNNING,)}, []),
        ({"workflow": "v' or '1' = '1"}, []),
    ],
)  # fmt: skip
def test_a_filter_gives_the_runs_that_meet_all_of_it(runs, wanted, ids):
    """A list would show runs that were not asked for, or hide some that were."""
    assert found(runs, **wanted) == ids


@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize("wanted", [{}, {"tag": "t"}, {"status": (Status.QUEUED,)}, {"workflow": "w"}])
def test_pages_follow_each_other_while_runs_are_inserted(db, oldest_first, wanted):
    """Somebody who pages through a busy database would miss runs or see them twice."""
    made = [f"r{place}" for place in range(23)]
    for run_id in made:
        db.queued(run_id)
        db.apply(line("add_tag", id=run_id, name="t"))
    seen, after, pages = [], None, 0
    while True:
        page = db.run(list_runs(db.store, RunFilter(after=after, limit=5, oldest_first=oldest_first, **wanted)))
        seen += [row.id for row in page.rows]
        pages += 1
        if pages < 4:
            db.queued(f"new{pages}")
            db.apply(line("add_tag", id=f"new{pages}", name="t"))
        if page.next is None:
            break
        after = page.next
    new = [f"new{place}" for place in (1, 2, 3)]
    assert seen == (made + new if oldest_first else made[::-1])


@pytest.mark.parametrize(("count", "more"), [(4, False), (5, False), (6, True)])
def test_only_a_page_that_has_a_next_one_says_so(db, count, more):
    """The last page would promise another one, or hide it."""
    for place in range(count):
        db.queued(f"r{place}")
    page = db.run(list_runs(db.store, RunFilter(limit=5)))
    assert len(page.rows) == min(count, 5)
    assert (page.next == page.rows[-1].number) is more
    assert (page.next is None) is not more


@pytest.mark.parametrize("limit", [0, -1, MAX_PAGE + 1])
def test_a_page_is_bounded(limit):
    """One request would load the whole table (I10)."""
    with pytest.raises(InvalidOption):
        RunFilter(limit=limit)


def test_rows_are_whole(db):
    """A list would show other values than the run itself has."""
    db.worker()
    db.queued("a", deadline_at=NOW + 9)
    db.apply(claim(db.hire(1)))
    page = db.run(list_runs(db.store, RunFilter()))
    assert page.rows == [db.row("a")]


def test_counts_are_by_status(db):
    """An overview would count runs under the wrong status."""
    assert db.rows("counts") == []
    for status in (Status.QUEUED, Status.PAUSED, Status.FAILED):
        db.in_status(status, status)
    db.queued("one more")
    assert dict(db.rows("counts")) == {"queued": 2, "paused": 1, "failed": 1}
