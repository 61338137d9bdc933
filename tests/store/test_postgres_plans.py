"""How Postgres finds rows: every statement through an index, and every index for the statements that it names."""

import asyncio
import json
import re

import pytest
from postgreskit.server import INSTALLED, Server, new_server, older_programs, server
from storekit.kinds import NOW

from perdure.model.run import RunFilter
from perdure.model.status import Status
from perdure.store.listing import list_runs
from perdure.store.migrate import migrations
from perdure.store.operation import ORDER
from perdure.store.pg.address import address
from perdure.store.pg.dialect import composed, readable, type_of, within
from perdure.store.pg.function import LOCKING, PLANNING, rows_of
from perdure.store.pg.migrate import prepare
from perdure.store.pg.writer import APPEND, APPEND_AGAIN
from perdure.store.queries import statements

STATEMENTS = statements("postgres")
TEXT = "\n".join(found.sql for found in migrations("postgres"))
INDEXES = {
    name: [word.strip() for word in users.split(",")]
    for users, name in re.findall(r"-- ([^\n:]+): [^\n]*\ncreate (?:unique )?index (\w+)", TEXT)
}
PARTIAL = set(re.findall(r"create (?:unique )?index (\w+) on [^;]* where ", TEXT))
SMALL = {"perdure_workers", "perdure_schema", "perdure_writers", "perdure_queues", "perdure_rates", "perdure_sinks"}
OVERVIEWS = {"counts", "sizes", "drop_orphans", "sink_counts", "fill_entries", "fill_starts"}
"""Asked by operators, about everything there is; or done once, for a new sink that is to be told of the past."""
VARIABLES = {
    "_numbers": "bigint[]", "_alive": "bigint[]", "_doomed": "bigint[]", "_tree": "bigint[]", "_hashes": "text[]", "_q.plain": "boolean",
    "_q.key": "text", "_q.cursor": "text",
} | dict.fromkeys(("_q.room", "_q.reach", "_q.served", "_q.per_key"), "bigint")  # fmt: skip
LISTS = {
    "status": RunFilter(status=(Status.FAILED,)),
    "workflow": RunFilter(workflow="w7", version="1"),
    "parent": RunFilter(parent="r5"),
    "tag": RunFilter(tag="t7"),
    "id": RunFilter(id_prefix="r77"),
}
FILL = """
insert into perdure_runs (id, workflow, status, due_at, input, seed, created_at, finished_at, parent, root)
select 'r' || n, 'w' || n % 50, case when n % 100 = 0 then 'queued' else 'running' end,
  case when n % 100 = 0 then n end, 'null', n, n, null, case when n % 10 = 1 then n - 1 end, case when n % 10 = 1 then n - 1 end
from generate_series(1, 20000) n;
update perdure_runs set status = 'completed', finished_at = number where status = 'running';
insert into perdure_journal (run, seq, kind, key, at) select n, s, 'k', 'k', n from generate_series(1, 20000) n, generate_series(1, 3) s;
insert into perdure_inbox (run, topic, key, sent_at, taken_seq)
select n, 't', case when n % 2 = 0 then 'k' end, n, case when n % 4 = 0 then 1 end from generate_series(1, 10000) n;
insert into perdure_tags (tag, run) select 't' || n % 500, n from generate_series(1, 10000) n;
insert into perdure_blobs (hash, size, data) select 'h' || n, 1, 'x' from generate_series(1, 5000) n;
insert into perdure_blob_refs (run, hash) select n, 'h' || n % 5000 from generate_series(1, 10000) n;
insert into perdure_traces (run, trace) select n, 't' from generate_series(1, 5000) n;
insert into perdure_artifacts (run, name, step, form, media_type, size, data, saved_at)
select n, 'a' || n % 3, 's', 'json', 't', 1, '1', n from generate_series(1, 5000) n;
insert into perdure_queues (name, ageing, mark) select 'q' || n, 0, '' from generate_series(1, 50) n;
insert into perdure_rates (queue, place, most, period, grain, span, by_key) select 'q' || n, 1, 9, 9, 9, 9, 1 from generate_series(1, 50) n;
insert into perdure_names (scope, name, run_id, until)
select 's' || n % 50, 'n' || n, 'r' || n, case when n % 2 = 0 then n end from generate_series(1, 5000) n;
insert into perdure_commands (name, key, fingerprint, token, begun_at, until)
select 'c' || n % 50, 'k' || n, 'f', n, n, case when n % 2 = 0 then n end from generate_series(1, 5000) n;
insert into perdure_annotations (run, key, value, actor, scope, generation, at)
select n, 'k' || n % 500, '1', case when n % 2 = 0 then 'a' || n % 500 end, 'run', 1, n from generate_series(1, 8000) n;
insert into perdure_usage (run, step, generation, attempt, topic, kind, model, provider, input_tokens, output_tokens,
  cached_tokens, cost, duration, at)
select n, 's', 1, 1, 't' || n % 500, 'text', 'm', 'p', 1, 1, 1, 1, 1, n from generate_series(1, 8000) n;
insert into perdure_sinks (kind, name, since) select 'k' || n, 's' || n % 5, n from generate_series(1, 50) n;
insert into perdure_outbox (run, sink, root, next, last, since, due_at, owner, dead_at)
select n, 's' || n % 50, n, 1, 2, n, case n % 3 when 0 then n end, case n % 3 when 1 then n % 9 end, case n % 3 when 2 then n end
from generate_series(1, 6000) n;
insert into perdure_spent (queue, place, key, at, used, until)
select 'q' || n % 50, 1, 'k' || n % 9, n, 1, n + 9 from generate_series(1, 5000) n;
insert into perdure_runs (id, workflow, status, input, seed, created_at, due_at, queue, queue_key, slot, rank, finished_at)
select 'q' || n, 'w' || n % 500, case n % 4 when 0 then 'running' else 'queued' end, 'null', n, n, case when n % 4 = 1 then n end,
  'q' || n % 50, 'k' || n % 9, case n % 4 when 2 then 1 when 1 then n % 8 / 4 + 1 else 2 end, case when n % 4 = 2 then n end, null
from generate_series(1, 8000) n;
update perdure_runs set status = case when number % 8 = 0 then 'failed' else 'completed' end, finished_at = number
where status = 'running';
insert into perdure_streams (name, made, type, created_at, expires_at, source)
select 's' || n, 'm' || n, 't', n, case when n % 2 = 0 then n end, case when n % 10 = 0 then n - 1 end
from generate_series(1, 5000) n;
insert into perdure_chunks (stream, nth, at, size, total, producer, epoch, seq, data)
select n, s, n, 1, s, case when s % 2 = 0 then 'p' || n % 9 end, 1, s, 'x' from generate_series(1, 5000) n, generate_series(1, 9) s;
analyze;
"""


class Plans:
    """A schema with rows, and what EXPLAIN says of statements whose values are not known."""

    def __init__(self, at: Server) -> None:
        self.loop = asyncio.new_event_loop()
        self.address = address(at.url())
        self.loop.run_until_complete(self._open())

    async def _open(self) -> None:
        self.connection = await self.address.connect(plan_cache_mode="force_generic_plan")
        await prepare(self.connection, self.address.schema, NOW, migrating=True)
        await self.connection.execute(within(self.address.schema, FILL))

    def close(self) -> None:
        self.loop.run_until_complete(self._drop())
        self.loop.close()

    async def _drop(self) -> None:
        await self.connection.execute(f"drop schema {self.address.schema} cascade")
        await self.connection.close()

    def ask(self, sql: str):
        return self.loop.run_until_complete(self.connection.fetchval(sql))

    def explain(self, sql: str, **settings: str) -> list[dict]:
        """All nodes of the plan."""

        used = sorted({int(number) for number in re.findall(r"\$(\d+)", sql)})
        sql = re.sub(r"\$(\d+)", lambda at: f"${used.index(int(at[1])) + 1}", sql)
        nulls = f"({', '.join(['null'] * len(used))})" if used else ""

        async def ask() -> str:
            async with self.connection.transaction():
                for name, value in settings.items():
                    await self.connection.execute(f"set local {name} = '{value}'")
                await self.connection.execute(f"prepare looked_at as {sql}")
                try:
                    return await self.connection.fetchval(f"explain (format json) execute looked_at{nulls}")
                finally:
                    await self.connection.execute("deallocate looked_at")

        answer = json.loads(self.loop.run_until_complete(ask()))[0]
        return [node | {"Compiled": "JIT" in answer} for node in nodes(answer["Plan"])]

    def statement(self, name: str) -> list[dict]:
        """The nodes of a named statement, with all its parts, as it runs: by itself, or in the function."""
        if name not in ORDER:
            return self.explain(readable(self.address.schema)[name])
        found = STATEMENTS[name]
        text = found.sql.replace("@rows", f"({rows_of(name).replace('_work', '$99::jsonb')}) _p")
        parts = [part.strip() for part in text.split(";") if part.strip()]
        plans = []
        for part in parts:
            if part.startswith(("if ", "raise ", "end if", "create or replace trigger", "drop trigger")):
                continue
            sql = re.sub(r"^perform ", "select ", re.sub(r"^_\w+ := ", "select ", part)).replace("into _q", "")
            for place, (variable, kind) in enumerate(VARIABLES.items(), len(found.parameters) + 1):
                sql = sql.replace(variable, f"${place}::{kind}")
            if "@rows" in found.sql:
                sql = re.sub(r"\?(\d+)", lambda at: f"_p.{found.parameters[int(at[1]) - 1]}", sql)
            sql = re.sub(r"\?(\d+)", lambda at: f"${at[1]}::{type_of(found.parameters[int(at[1]) - 1])}", sql)
            plans += self.explain(within(self.address.schema, sql), **PLANNING, **LOCKING)
        return plans

    def list(self, wanted: RunFilter) -> list[dict]:
        asked = []

        class Recorder:
            async def select(self, sql, values):
                asked.append(sql)
                return []

        asyncio.run(list_runs(Recorder(), wanted))
        return self.explain(composed(self.address.schema, asked[0]))


def nodes(plan):
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def walked(plan) -> set[str]:
    """The tables that are read from end to end, be it along an index of all their rows."""
    found = set()
    for node in plan:
        along = "Index Name" in node and node["Index Name"] not in PARTIAL and "Index Cond" not in node
        if node["Node Type"] == "Seq Scan" or (along and "Relation Name" in node):
            found.add(node["Relation Name"])
    return found


def used(plan) -> set[str]:
    return {node["Index Name"] for node in plan if "Index Name" in node}


@pytest.fixture(scope="module", params=["wheel", "older"])
def plans(request):
    """Up to Postgres 17, what is switched off costs 1e10, which hides what else a plan costs; later it is counted."""
    programs = older_programs()
    if request.param == "older" and programs is None:
        pytest.skip(f"no Postgres 14 to 17 in {INSTALLED}")
    found = Plans(server() if request.param == "wheel" else new_server(durable=False, programs=programs))
    yield found
    found.close()


@pytest.mark.parametrize("name", [*ORDER, *sorted(set(STATEMENTS) - set(ORDER))])
def test_no_statement_walks_through_a_table(plans, name):
    """A statement would take longer with every run that ever was."""
    if name in OVERVIEWS or name.startswith(("ill_", "file_size")):
        return
    assert walked(plans.statement(name)) <= SMALL


@pytest.mark.parametrize(("index", "user"), [(index, user) for index, users in INDEXES.items() for user in users])
def test_an_index_is_used_by_those_it_names(plans, index, user):
    """An index would be kept for a statement that has found another way, or is gone."""
    word = user.removeprefix("list by ")
    if word == "counts":
        return  # so many rows are counted faster from the table itself, if most of it is in memory
    plan = plans.statement(user) if word == user else plans.list(LISTS[word])
    assert index in used(plan), plan


@pytest.mark.parametrize(
    "name",
    [name for name in STATEMENTS if name not in OVERVIEWS | {"queue_counts"} and not name.startswith("ill_")],
)
def test_a_run_that_is_named_is_not_looked_for_among_others(plans, name):
    """
    A commit of 1,000 runs would look through the 1,000 owned runs for each of them.

    Nobody owned a run when the statistics were made, so an index of what is rare looks like the shortest way.
    """
    indexes = {index for index in used(plans.statement(name)) if index in INDEXES and index.startswith("perdure_runs_")}
    assert {index for index in indexes if name not in INDEXES[index]} == set()


@pytest.mark.parametrize("name", ["bury", "expire_runs"])
def test_no_plan_is_compiled_for_its_cost(plans, name):
    """Each look for dead workers would take 100 ms: what is switched off makes a plan seem the costliest of all."""
    if not plans.ask("select pg_jit_available()"):
        pytest.skip("this server has no compiler")
    assert not any(node["Compiled"] for node in plans.statement(name))


@pytest.mark.parametrize("sql", [APPEND, APPEND_AGAIN], ids=["once", "again"])
def test_a_lone_entry_finds_its_run_by_number(plans, sql):
    """Each sequential step would look through the runs that are owned, or through all."""
    plan = plans.explain(within(plans.address.schema, sql), **PLANNING)
    assert (walked(plan), used(plan)) == (set(), {"perdure_runs_pkey"})


@pytest.mark.parametrize("name", LISTS)
def test_a_filtered_list_does_not_walk_through_all_runs(plans, name):
    """A list of a few runs would read them all."""
    assert walked(plans.list(LISTS[name])) == set()


@pytest.mark.parametrize("oldest_first", [False, True])
def test_a_page_without_a_filter_is_read_from_its_end(plans, oldest_first):
    """The first page of a large database would sort the whole table."""
    plan = plans.list(RunFilter(after=5, oldest_first=oldest_first))
    assert [node["Node Type"] for node in plan] == ["Limit", "Index Scan"]
