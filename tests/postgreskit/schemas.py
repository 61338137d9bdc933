"""Schemas that are emptied after a test and given to a later one: making a schema takes longer than most tests."""

import atexit
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import psycopg

from perdure.store.choose import schema_sql
from postgreskit.server import server, with_search_path

REST = 3
"""So many schemas lie still before the oldest is used again: meanwhile the sessions of its test have ended."""
MADE_AT = 1_750_000_000_000_000
FILLED = ("perdure_schema", "perdure_moves")
"""The tables that are not empty in a new schema."""
LOOKS = """
with space as (select to_regnamespace(%(schema)s)::oid as id),
  own as (select c.oid, c.xmin, c.relname from pg_class c, space where c.relnamespace = space.id)
select md5(string_agg(part, ' ' order by part)) from (
  select oid || '.' || xmin as part from own
  union all select 'p' || p.oid || '.' || p.xmin from pg_proc p, space where p.pronamespace = space.id
  union all select 'c' || c.oid || '.' || c.xmin from pg_constraint c, space where c.connamespace = space.id
  union all select 't' || t.oid || '.' || t.xmin from pg_trigger t join own on own.oid = t.tgrelid
  union all select 'i' || i.indexrelid || '.' || i.xmin from pg_index i join own on own.oid = i.indexrelid
  union all select 'a' || a.attrelid || '.' || a.attnum || '.' || a.xmin
    from pg_attribute a join own on own.oid = a.attrelid
  union all select 'd' || d.oid || '.' || d.xmin from pg_attrdef d join own on own.oid = d.adrelid
  union all select 's' || s.version || '.' || s.xmin from perdure_schema s
  union all select 'm' || m.old || m.new || '.' || m.xmin from perdure_moves m
) parts
"""
"""One text of every definition, and of who wrote it last: another one says that a test has changed something."""
SESSIONS = "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"


class Schema(NamedTuple):
    """
    One that is in use.

    Attributes:
        looks: What LOOKS said when it was new.
    """

    name: str
    looks: str

    def url(self, **options: str) -> str:
        return server().url(schema=self.name, **options)


class Schemas:
    """All of this process."""

    def __init__(self) -> None:
        self._connection = psycopg.connect(server().dsn, autocommit=True)
        atexit.register(self._connection.close)
        self._resting: deque[tuple[Schema, set[int]]] = deque()

    def take(self) -> Schema:
        """One that looks as if it were new."""
        while len(self._resting) > REST:
            schema, sessions = self._resting.popleft()
            # Whoever still has a session might write; and what has other tables or triggers is not as new.
            if not sessions & self._sessions() and self._looks(schema.name) == schema.looks:
                self._empty(schema.name)
                return schema
        url = server().url()
        name = url.rpartition("schema=")[2]
        self._connection.execute(schema_sql(url, MADE_AT))
        return Schema(name, self._looks(name))

    def give_back(self, schema: Schema) -> None:
        self._resting.append((schema, self._sessions()))

    def _sessions(self) -> set[int]:
        return {pid for (pid,) in self._connection.execute(SESSIONS)}

    def _looks(self, name: str) -> str:
        self._connection.execute(f"set search_path = {name}")
        ((looks,),) = self._connection.execute(LOOKS, {"schema": name})
        return looks

    def _empty(self, name: str) -> None:
        query = "select relkind::text, relname from pg_class where relnamespace = to_regnamespace(%s)"
        found = self._connection.execute(query, [name]).fetchall()
        deletes = [f"delete from {table};" for kind, table in found if kind == "r" and table not in FILLED]
        counts = [f"select setval('{sequence}', 1, false);" for kind, sequence in found if kind == "S"]
        sql = f"set local session_replication_role = replica; {''.join(deletes)} {''.join(counts)}"
        with self._connection.transaction():
            self._connection.execute(sql)


@cache
def schemas() -> Schemas:
    return Schemas()


@contextmanager
def empty_schema() -> Iterator[str]:
    """The URL of a schema that nothing has used, as far as can be seen."""
    schema = schemas().take()
    yield with_search_path(schema.url())
    schemas().give_back(schema)
