"""The two databases: the same statements, tables, columns and indexes, or a reason why not."""

import asyncio
import re
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from storekit.kinds import NOW, PostgresSchema

from perdure.store import queries
from perdure.store.migrate import migrate, migrations
from perdure.store.operation import ORDER
from perdure.store.pg.dialect import type_of
from perdure.store.pg.migrate import prepare
from perdure.store.queries import parse, statements

FOLDER = Path(queries.__file__).parent / "sql"
OWN = {
    dialect: "\n".join(
        (FOLDER / f"{dialect}{part}.sql").read_text(encoding="utf-8")
        for part in ("", "_queues", "_delivery", "_lone", "_streams")
    )
    for dialect in ("sqlite", "postgres")
}
ONLY_POSTGRES = {"perdure_at_commit", "perdure_writers"}
"""SQLite answers at once, or has not committed; and whoever writes its file keeps all others waiting anyway."""


def test_both_have_the_same_statements():
    """An operation would work on one database only."""
    names = {dialect: set(statements(dialect)) for dialect in OWN}
    assert names["sqlite"] == names["postgres"]
    assert set(ORDER) <= names["postgres"]


@pytest.mark.parametrize("name", sorted(parse(OWN["sqlite"], "sqlite.sql")))
def test_both_take_the_same_parameters(name):
    """A value would be bound to another place on one of them."""
    assert statements("sqlite")[name].parameters == statements("postgres")[name].parameters


@pytest.mark.parametrize("dialect", OWN)
def test_each_statement_of_its_own_says_why(dialect):
    """A statement would be written twice where once is enough."""
    pieces = re.split(r"^-- name: (\w+)\(.*\)$", OWN[dialect], flags=re.MULTILINE)[1:]
    assert [name for name, text in zip(pieces[::2], pieces[1::2], strict=True) if "-- differs: " not in text] == []


def test_statements_that_are_alike_are_written_once():
    """Two copies of a statement would drift apart."""
    mine, other = (parse(text, dialect) for dialect, text in OWN.items())
    assert [name for name, found in mine.items() if name in other and found.sql == other[name].sql] == []


@pytest.fixture(scope="module")
def schemas(tmp_path_factory):
    """Columns and indexes of both, as the databases tell them."""
    kind = PostgresSchema(tmp_path_factory.mktemp("parity"))

    async def postgres():
        address = kind.store().address
        connection = await address.connect()
        await prepare(connection, address.schema, NOW, migrating=True)
        columns = await connection.fetch(
            "select table_name, column_name, is_nullable = 'NO', data_type from information_schema.columns "
            "where table_schema = $1 order by ordinal_position", address.schema,
        )  # fmt: skip
        indexes = await connection.fetch("select indexname from pg_indexes where schemaname = $1", address.schema)
        await connection.close()
        return list(map(tuple, columns)), {name for (name,) in indexes}

    with closing(apsw.Connection(":memory:")) as sqlite:
        migrate(sqlite, "memory", NOW)
        tables = "select name from sqlite_schema where type = 'table' and name like 'perdure%'"
        columns = [
            (table, name, bool(not_null or key), kind_)
            for (table,) in list(sqlite.execute(tables))
            for _, name, kind_, not_null, _, key in list(sqlite.execute(f"pragma table_info({table})"))
        ]
        indexes = {name for (name,) in sqlite.execute("select name from sqlite_schema where type = 'index'")}
    found = {"sqlite": (columns, indexes), "postgres": asyncio.run(postgres())}
    kind.close()
    return found


def test_both_have_the_same_columns(schemas):
    """A row read from one would not fit what the other writes; the order counts, as rows become tuples."""
    types = {"INTEGER": "bigint", "integer": "bigint", "TEXT": "text", "text": "text"}
    mine = [(table, name, must, types[kind]) for table, name, must, kind in schemas["sqlite"][0]]
    other = [found for found in schemas["postgres"][0] if found[0] not in ONLY_POSTGRES]
    assert sorted({found[0] for found in mine}) == sorted({found[0] for found in other})
    for table in {found[0] for found in mine}:
        assert [found for found in mine if found[0] == table] == [found for found in other if found[0] == table]


def test_both_have_the_same_indexes(schemas):
    """A statement would walk through a table on one of them."""
    mine = {name for name in schemas["sqlite"][1] if not name.startswith("sqlite_autoindex")}
    other = {name for name in schemas["postgres"][1] if not name.endswith(("_pkey", "_key"))}
    assert mine - {"perdure_inbox_key"} == other - {"perdure_inbox_key"}
    assert "perdure_inbox_key" in schemas["postgres"][1]


def test_indexes_name_the_same_statements():
    """An index would be kept on one database for what the other does without."""
    texts = {dialect: "\n".join(found.sql for found in migrations(dialect)) for dialect in OWN}
    users = {
        dialect: {
            name: names for names, name in re.findall(r"-- ([^\n:]+): [^\n]*\ncreate (?:unique )?index (\w+)", text)
        }
        for dialect, text in texts.items()
    }
    assert users["sqlite"] == users["postgres"]


def test_parameters_have_the_types_of_what_they_are_compared_with(schemas):
    """Postgres would compare a number with a text, which it refuses, at the first call."""
    kinds = {name: kind for _, name, _, kind in schemas["postgres"][0]}
    odd = {
        parameter
        for statement in statements("postgres").values()
        for parameter in statement.parameters
        if parameter in kinds and parameter not in {"id", "tag"} and type_of(parameter) != kinds[parameter]
    }
    assert odd == set()
