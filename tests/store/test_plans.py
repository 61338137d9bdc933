"""How SQLite finds rows: every statement through an index, and every index for the statements that it names."""

import asyncio
import re
from contextlib import closing

import apsw
import pytest
from storekit.kinds import NOW

from perdure.model.run import RunFilter
from perdure.model.status import Status
from perdure.store.listing import list_runs
from perdure.store.migrate import migrate, migrations
from perdure.store.operation import ORDER
from perdure.store.queries import statements

STATEMENTS = statements("sqlite")
TEXT = "\n".join(found.sql for found in migrations("sqlite"))
INDEXES = {
    name: [word.strip() for word in users.split(",")]
    for users, name in re.findall(r"-- ([^\n:]+): [^\n]*\ncreate (?:unique )?index (\w+)", TEXT)
}
SMALL = {"perdure_workers", "w", "perdure_queues", "q", "perdure_rates", "perdure_sinks"}
"""The tables of workers, queues and sinks, by their names and aliases: a handful of rows each, looked at whole."""
PARTS = {"CONSTANT", "tree", "t", "o", "later", "earlier", "rooms", "lines", "picks", "p", "chosen"} | {
    "l",
    "line",
    "found",
    "n",
}
"""What statements make for themselves, with as many rows as they are to give."""
OVERVIEWS = {"counts", "sizes", "drop_orphans", "sink_counts", "fill_entries", "fill_starts"}
"""Asked by operators, about everything there is; or done once, for a new sink that is to be told of the past."""
HOT = {
    "claim": "perdure_runs_due",
    "claim_held": "perdure_runs_queue_due",
    "claim_line": "perdure_runs_line",
    "line_up": "perdure_runs_queue_due",
    "next_due": "perdure_runs_due",
    "expire_runs": "perdure_runs_owner",
    "suspects": "perdure_runs_owner",
    "mail": "perdure_inbox_open",
    "park": "perdure_inbox_open",
    "history": "sqlite_autoindex_perdure_journal_1",
    "entries": "sqlite_autoindex_perdure_journal_1",
    "append": "INTEGER PRIMARY KEY",
    "fence": "INTEGER PRIMARY KEY",
    "finish": "INTEGER PRIMARY KEY",
    "wake": "INTEGER PRIMARY KEY",
    "wake_id": "sqlite_autoindex_perdure_runs_1",
    "send": "sqlite_autoindex_perdure_runs_1",
    "run_by_id": "sqlite_autoindex_perdure_runs_1",
    "take": "INTEGER PRIMARY KEY",
    "doom": "perdure_runs_finished",
    "append_chunk": "sqlite_autoindex_perdure_chunks_1",
    "chunks": "sqlite_autoindex_perdure_chunks_1",
    "stream_by_name": "sqlite_autoindex_perdure_streams_1",
    "touch_stream": "INTEGER PRIMARY KEY",
}
LISTS = {
    "status": RunFilter(status=(Status.FAILED,)),
    "workflow": RunFilter(workflow="w"),
    "parent": RunFilter(parent="p"),
    "tag": RunFilter(tag="t"),
    "id": RunFilter(id_prefix="a"),
}


@pytest.fixture(scope="module")
def connection():
    """A database with the schema and no rows: plans depend on the schema alone, as nothing runs ANALYZE."""
    with closing(apsw.Connection(":memory:")) as found:
        migrate(found, "memory", NOW)
        found.execute("create temp table perdure_doomed (number integer primary key)")
        yield found


def plan(connection, sql, values):
    return [row[3] for row in connection.execute(f"explain query plan {sql}", values)]


def plan_of(connection, name):
    found = STATEMENTS[name]
    return plan(connection, found.sql, (None,) * len(found.parameters))


def scans(steps):
    """The stored tables that a plan walks through from end to end."""
    walked = [step.split()[1] for step in steps if step.startswith("SCAN ") and "VIRTUAL TABLE" not in step]
    return [name for name in walked if name not in PARTS and not name.startswith("(subquery-")]


def list_plan(connection, wanted):
    """The plan of a list, as it is composed for this filter."""
    asked = []

    class Recorder:
        async def select(self, sql, values):
            asked.append((sql, values))
            return []

    asyncio.run(list_runs(Recorder(), wanted))
    ((sql, values),) = asked
    return plan(connection, sql, values)


@pytest.mark.parametrize(("name", "index"), HOT.items())
def test_a_hot_statement_uses_its_index(connection, name, index):
    """Cost would grow with the number of finished runs (I10)."""
    assert any(
        re.search(rf"USING (COVERING )?(INDEX )?{re.escape(index)}\b", step) for step in plan_of(connection, name)
    )


@pytest.mark.parametrize("name", [*ORDER, *sorted(set(STATEMENTS) - set(ORDER))])
def test_no_statement_walks_through_a_table(connection, name):
    """A statement would take longer with every run that ever was."""
    if name in OVERVIEWS or name.startswith("ill_"):
        return
    assert set(scans(plan_of(connection, name))) <= SMALL


def test_every_index_says_whom_it_serves():
    """An index would cost every write and nobody would know why."""
    assert set(INDEXES) == set(re.findall(r"create (?:unique )?index (\w+)", TEXT))


@pytest.mark.parametrize(("index", "user"), [(index, user) for index, users in INDEXES.items() for user in users])
def test_an_index_is_used_by_those_it_names(connection, index, user):
    """An index would be kept for a statement that has found another way, or is gone."""
    word = user.removeprefix("list by ")
    steps = plan_of(connection, user) if word == user else list_plan(connection, LISTS[word])
    assert any(re.search(rf"\b{index}\b", step) for step in steps), steps


@pytest.mark.parametrize("oldest_first", [False, True])
def test_a_page_without_a_filter_is_read_from_its_end(connection, oldest_first):
    """The first page of a large database would sort the whole table."""
    steps = list_plan(connection, RunFilter(after=5, oldest_first=oldest_first))
    assert steps == ["SEARCH perdure_runs USING INTEGER PRIMARY KEY (rowid" + (">?)" if oldest_first else "<?)")]


@pytest.mark.parametrize("name", LISTS)
def test_a_filtered_list_does_not_walk_through_all_runs(connection, name):
    """A list of a few runs would read them all."""
    steps = list_plan(connection, LISTS[name])
    assert scans(steps) == [], steps
