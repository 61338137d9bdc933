"""perdure's statements as Postgres takes them: in a schema, with typed parameters."""

from __future__ import annotations

import re
from functools import cache

from perdure.store.migrate import migrations
from perdure.store.queries import Statement, read_sql, statements

_MADE = re.compile(r"^create (?:or replace )?(?:table|function|sequence) (perdure_\w+)", re.MULTILINE)
_PLACE = re.compile(r"\?(\d+)")
_MARK = re.compile(r"\?")
_INTEGERS = frozenset({
    "after", "ageing", "at", "attempt", "attempts", "base", "before", "by_key", "bytes", "cached_tokens", "closed_at",
    "closes", "concurrency", "cost", "created_at", "dead_at", "deadline_at", "deep", "detached", "due_at", "duration",
    "epoch", "expires_at", "frees", "generation", "grain", "input_tokens", "last", "late", "lease_until", "longest",
    "message", "most", "most_takeovers", "next", "now", "nth", "number", "output_tokens", "owner", "parent",
    "per_key", "per_worker", "period", "pid", "priority", "rank", "run", "seed", "sent_at", "seq", "since", "size",
    "source", "span", "started_at", "stream", "tag", "token", "top", "total", "ttl", "undelivered", "until", "weight",
    "within", "worker",
})  # fmt: skip
"""Parameters that are integers, in all statements; the others are texts."""


def type_of(parameter: str) -> str:
    """The type of a statement's parameter."""
    return "bigint" if parameter in _INTEGERS else "text"


@cache
def _names() -> re.Pattern[str]:
    """What a schema has, so that it can be named with it."""
    texts = [*(migration.sql for migration in migrations("postgres")), read_sql("postgres_joined.sql")]
    made = {name for text in texts for name in _MADE.findall(text)}
    return re.compile(rf"\b(?:{'|'.join(sorted(made))})\b")


def within(schema: str, sql: str) -> str:
    """
    SQL that means the tables and functions of this schema, whatever the connection's search_path is.

    Behind a pooler there is no telling which settings a connection has.
    """
    return _names().sub(lambda found: f"{quoted(schema)}.{found[0]}", sql)


def quoted(name: str) -> str:
    """An identifier as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def channel(schema: str) -> str:
    """What those who LISTEN hear of a schema."""
    return f"perdure:{schema}"


def literal(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


@cache
def readable(schema: str) -> dict[str, str]:
    """The text of every statement that is run by itself, with parameters $1, $2 and so on."""
    return {name: within(schema, _typed(found)) for name, found in statements("postgres").items()}


def _typed(statement: Statement) -> str:
    def place(found: re.Match[str]) -> str:
        return f"${found[1]}::{type_of(statement.parameters[int(found[1]) - 1])}"

    return _PLACE.sub(place, statement.sql)


def composed(schema: str, sql: str) -> str:
    """A query that was composed with ? for its values."""
    count = iter(range(1, 10_000))
    return within(schema, _MARK.sub(lambda _: f"${next(count)}", sql))


def in_function(statement: Statement) -> str:
    """A statement with the fields of the record _p as its parameters."""
    return _PLACE.sub(lambda found: f"_p.{statement.parameters[int(found[1]) - 1]}", statement.sql)
