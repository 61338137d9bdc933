"""The loader of SQL files: what is written is what runs, and mistakes are found when it is read."""

import re
from contextlib import closing

import apsw
import pytest

from perdure.store.migrate import migrate
from perdure.store.operation import ORDER
from perdure.store.queries import parse, statements

STATEMENTS = statements("sqlite")


def test_a_file_is_split_into_its_statements():
    """A statement would get another one's text or parameters."""
    text = """
-- A remark.
-- name: first(a, b)
-- why
select :a, -- the first
  :b;

-- name: second(tag)
select :tag;
"""
    found = parse(text, "x.sql")
    assert list(found) == ["first", "second"]
    assert (found["first"].sql, found["first"].parameters, found["first"].tagged) == (
        "select ?1, ?2",
        ("a", "b"),
        False,
    )
    assert (found["second"].sql, found["second"].tagged) == ("select ?1", True)


def test_parameters_are_numbered_as_the_heading_lists_them():
    """Values would be bound to the wrong places."""
    (found,) = parse("-- name: s(b, a, ab)\nselect :a, :b, :ab, :a;", "x").values()
    assert found.sql == "select ?2, ?1, ?3, ?2"


def test_casts_are_no_parameters():
    """A cast of Postgres would be taken for a parameter."""
    (found,) = parse("-- name: s(a)\nselect :a::text, x::int;", "x").values()
    assert found.sql == "select ?1::text, x::int"


def test_a_comment_may_name_parameters():
    """A comment would change what a statement needs."""
    (found,) = parse("-- name: s(a)\n-- :nothing\nselect :a; -- and :b\n", "x").values()
    assert found.parameters == ("a",)


@pytest.mark.parametrize(
    "text",
    [
        "-- name: s()\nselect 1;\n-- name: s()\nselect 2;",
        "-- name: s()\nselect :a;",
        "-- name: s(a, b)\nselect :a;",
        "-- name: s(a)\nselect :b;",
    ],
    ids=["twice", "unknown", "unused", "other"],
)
def test_a_mistake_is_found_when_the_file_is_read(text):
    """A slip of the pen would be found by a user, in a statement that is rarely run."""
    with pytest.raises(ValueError, match=r"x\.sql.*'s'"):
        parse(text, "x.sql")


def test_an_unknown_dialect_has_no_statements():
    """A store that is not there would run another one's SQL."""
    with pytest.raises(FileNotFoundError):
        statements("oracle")


@pytest.fixture(scope="module")
def connection():
    with closing(apsw.Connection(":memory:")) as found:
        migrate(found, "memory", 0)
        found.execute("create temp table perdure_doomed (number integer primary key)")
        yield found


@pytest.mark.parametrize("found", STATEMENTS.values(), ids=STATEMENTS)
def test_every_statement_fits_the_schema(connection, found):
    """A statement would name a column that is not there."""
    if not found.sql.startswith("pragma"):
        connection.execute(f"explain {found.sql}", (None,) * len(found.parameters))


def test_order_names_every_statement_that_writes_and_no_other(connection):
    """A new statement could not be committed, or its place in a batch would be left to chance."""
    assert len(set(ORDER)) == len(ORDER)
    assert set(ORDER) <= set(STATEMENTS)
    for name, found in STATEMENTS.items():
        if name not in ORDER:
            reads = found.sql.startswith(("select", "pragma")) or re.fullmatch(
                r"with recursive .* \) select .*", found.sql
            )
            assert reads, f"{name} writes"
            assert not found.tagged, f"{name} is tagged, but no operation runs it"


def test_a_statement_that_returns_rows_to_its_operation_is_tagged():
    """A batch would not know whose rows they are."""
    for name in ORDER:
        found = STATEMENTS[name]
        gives = "returning" in found.sql or found.sql.startswith("select")
        assert found.tagged is gives, name


def test_no_statement_reads_a_clock_or_draws_at_random():
    """Time and chance would come from the database, where no test owns them (I11)."""
    for name, found in STATEMENTS.items():
        for word in ("now()", "current_timestamp", "random()", "datetime(", "strftime", "unixepoch"):
            assert word not in found.sql, name
