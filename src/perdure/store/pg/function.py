"""
The functions that run a whole batch of operations in one round trip.

They are made of the named statements, as these stand in the SQL files, so there is nothing in them that SQLite
does not do alike. Their names carry a hash of their text: two versions of perdure can share a schema.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from string import Template

from perdure.clock import MAX_DURATION, SECOND
from perdure.model.queue import REPLACED, UNBOUNDED
from perdure.store.operation import ORDER, PLACE
from perdure.store.pg.clock import NOW
from perdure.store.pg.dialect import channel, in_function, literal, quoted, type_of, within
from perdure.store.queries import read_sql, statements

PLANNING = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
"""
A plan is made once per session, and is the one that the tests of the plans see, however few rows there are.

Before Postgres 18 what is off seems to cost so much that the plan would be compiled, which takes 100 ms.
"""
LOCKING = {"lock_timeout": "20s"}

_ROWS = "@rows"
_ANSWER = "returning _p.tag"
_GROUPS = re.compile(r"@groups\(([^)]*)\)")
_MICROS = re.compile(r"@micros\(((?:[^()]|\([^()]*\))*)\)")


@dataclass(frozen=True, slots=True)
class Functions:
    """
    Those of one schema.

    Attributes:
        sql: Creates them.
        apply: Runs a numbered batch once, however often it is sent: (writer, batch, at, works, apart, again).
        run: Runs the statements of one work: (work).
        join: Runs a work inside of a caller's transaction: (work, work for its commit, whether to notify, now).
        name: Of `run`, without its schema: when it is there, all are.
    """

    sql: str
    apply: str
    run: str
    join: str
    name: str


@cache
def functions(schema: str) -> Functions:
    """The functions of a schema."""
    body = _RUN.substitute(statements=_blocks(), settings=_settings())
    joined = _joined()
    idle = _idle()
    whole = body + _APPLY.template + idle + joined
    mark = hashlib.sha256(whole.encode()).hexdigest()[:12]
    run, apply, join = (f"{quoted(schema)}.perdure_{name}_{mark}" for name in ("run", "apply", "join"))
    sql = within(schema, body) + _APPLY.substitute(
        settings=_settings(), writers=within(schema, "perdure_writers"), idle=within(schema, idle),
    )  # fmt: skip
    sql += within(schema, joined)
    for name, value in (("run", run), ("channel", channel(schema))):
        sql = sql.replace(f"@literal({name})", literal(value))
    sql = sql.replace("@run", run).replace("@apply", apply).replace("@join", join)
    return Functions(sql, apply, run, join, f"perdure_run_{mark}")


def _joined() -> str:
    """The functions for transactions of callers, with the schema left open."""
    text = read_sql("postgres_joined.sql")
    text = _GROUPS.sub(lambda found: _groups(found[1].split(",")), text)
    text = _MICROS.sub(r"(extract(epoch from \1) * 1000000)::bigint", text)
    text = text.replace("@longest", str(MAX_DURATION // SECOND))
    return text.replace("@now", NOW).replace("@unbounded", str(UNBOUNDED)).replace("@replaced", json.dumps(REPLACED))


def _groups(names: list[str]) -> str:
    return f"'{json.dumps(dict.fromkeys((group_of(name.strip()) for name in names), 1))}'::jsonb"


def _settings() -> str:
    return "\n".join(f"set {name} = '{value}'" for name, value in (PLANNING | LOCKING).items())


GROUP = 8
"""Statements are looked for in groups: asking for each of sixty would take longer than a small batch itself."""


def group_of(name: str) -> str:
    """What a work has to say when it has rows for this statement."""
    return f"#{PLACE[name] // GROUP}"


def _blocks() -> str:
    found = []
    for first in range(0, len(ORDER), GROUP):
        blocks = "\n".join(_block(name) for name in ORDER[first : first + GROUP])
        found.append(f"  if _work ? '#{first // GROUP}' then\n{blocks}\n  end if;")
    return "\n".join(found)


def rows_of(name: str) -> str:
    """A query for the rows of parameters of one statement."""
    statement = statements("postgres")[name]
    columns = ", ".join(
        f"(_e ->> {place})::{type_of(parameter)} as {parameter}" for place, parameter in enumerate(statement.parameters)
    )
    # All of it stands in perdure's own SQL files.
    return f"select {columns or '1'} from jsonb_array_elements(_work -> '{name}') _e"  # noqa: S608


def _block(name: str) -> str:
    """One statement, once for each of its rows of parameters, or once for all of them if it says so by @rows."""
    statement = statements("postgres")[name]
    rows = rows_of(name)
    *before, last = (part.strip() for part in in_function(statement).split(";") if part.strip())
    parts = "".join(f"      {_answering(part) if _ANSWER in part else part};\n" for part in before)
    parts += f"      {_answering(last) if statement.tagged else last};\n"
    if _ROWS in parts:
        return f"    if _work ? '{name}' then\n{parts.replace(_ROWS, f'({rows}) _p')}    end if;"
    return f"    if _work ? '{name}' then\n    for _p in {rows} loop\n{parts}    end loop;\n    end if;"


def _idle() -> str:
    """Whether there is nothing to claim: neither a run that is due by itself nor anything in the queues asked about."""
    due, ready = (in_function(statements("postgres")[name]).rstrip(";") for name in ("any_due", "queue_ready"))
    return f"""
      for _p in {rows_of("claim")} loop
        _idle := ({due}) is null;
      end loop;
      for _p in {rows_of("claim_line")} loop
        _idle := _idle and ({ready}) is null;
      end loop;"""


def _answering(part: str) -> str:
    return f"for _r in {part} loop _out := _out || row_to_json(_r); end loop"


_RUN = Template("""
create or replace function @run(_work jsonb) returns json language plpgsql volatile
$settings
as $$perdure$$
#variable_conflict use_column
declare
  _p record;
  _q record;
  _r record;
  _out json[] := '{}';
  _numbers bigint[];
  _alive bigint[];
  _tree bigint[];
  _doomed bigint[] := '{}';
  _hashes text[];
begin
  -- Before everything else the rows of all runs that this is about, in one order, so that batches do not wait for
  -- each other in a circle. From here on nobody else changes them: what a fence sees stays true (I1), and a message
  -- is there for a park, or the park for whoever sends it (I8).
  if _work ? '#ids' or _work ? '#parents' then
    perform 1 from perdure_runs where number = any (array(
      select v::bigint from jsonb_array_elements_text(_work -> '#runs') v
      union
      select n.number from perdure_runs n
      where n.id = any (array(select jsonb_array_elements_text(_work -> '#ids')))
      union
      select n.number from perdure_runs n
      where n.parent = any (array(select v::bigint from jsonb_array_elements_text(_work -> '#parents') v))
    )) order by number for no key update;
  elsif _work ? '#runs' then
    perform 1 from perdure_runs
    where number = any (array(select v::bigint from jsonb_array_elements_text(_work -> '#runs') v))
    order by number for no key update;
  end if;
  if _work ? '#streams' then
    perform 1 from perdure_streams
    where number = any (array(select v::bigint from jsonb_array_elements_text(_work -> '#streams') v))
    order by number for no key update;
  end if;
$statements
  return array_to_json(_out);
end $$perdure$$;
""")

_APPLY = Template("""
create or replace function @apply(
  _writer text, _batch bigint, _at bigint, _works text[], _apart boolean, _again boolean
) returns json language plpgsql volatile
$settings
as $$perdure$$
#variable_conflict use_column
declare
  _out json;
  _outs json[] := '{}';
  _each text;
  _work jsonb;
  _p record;
  _idle boolean;
begin
  if not _apart then
    _work := _works[1]::jsonb;
    _idle := _work ? '#claims' and not _again;
  end if;
  if _idle then
    -- All workers claim when they hear of a commit. Those who come too late write nothing, not even that they came;
    -- but what is sent again may have been done.
$idle
    if _idle then
      return '[]';
    end if;
  end if;
  -- A batch is done once: one that is sent again, as its commit was not confirmed, is answered as it was. A first
  -- one that is still under way is waited for here.
  update $writers set batch = _batch, answer = null, at = _at where id = _writer and batch < _batch;
  if not found then
    insert into $writers (id, batch, at) values (_writer, _batch, _at) on conflict (id) do nothing;
    if not found then
      return (select coalesce(answer, '[]') from $writers where id = _writer and batch = _batch);
    end if;
  end if;
  if not _apart then
    _out := @run(_work);
  else
    -- One bad operation was among these: each has a transaction of its own inside this one.
    foreach _each in array _works loop
      begin
        _outs := _outs || json_build_object('rows', @run(_each::jsonb));
      exception
        when serialization_failure or deadlock_detected or lock_not_available or query_canceled then
          raise;
        when others then
          _outs := _outs || json_build_object('state', sqlstate, 'problem', sqlerrm);
      end;
    end loop;
    _out := array_to_json(_outs);
  end if;
  if json_array_length(_out) > 0 then
    update $writers set answer = _out where id = _writer;
  end if;
  return _out;
end $$perdure$$;
""")
