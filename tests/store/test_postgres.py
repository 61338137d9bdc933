"""What is Postgres's own: migrations of many at once, the heartbeat, odd values, users' transactions, the doctor."""

import asyncio
import contextvars
import json
import threading
from pathlib import Path

import asyncpg
import pytest
import queuekit
from postgreskit.server import server, with_search_path
from storekit.database import ALL, Database, line, start
from storekit.kinds import NOW, PostgresSchema, StillClock

from perdure import App, Context, WorkerOptions
from perdure.errors import InvalidOption, OperationRefused, SchemaMissing, SchemaTooNew, StoreError, StoreUnavailable
from perdure.model.limits import Limits
from perdure.model.queue import Queue
from perdure.store.choose import behind, schema_sql, shown, sqlite_path, store_at
from perdure.store.migrate import migrations
from perdure.store.operation import AsyncBody, Operation
from perdure.store.pg import lasting
from perdure.store.pg.address import address
from perdure.store.pg.dialect import within
from perdure.store.pg.errors import by_state
from perdure.store.pg.function import functions
from perdure.store.pg.store import PostgresStore
from perdure.testing.time import run_virtual
from perdure.worker.claims import claiming


@pytest.fixture
def pg(tmp_path):
    database = Database(PostgresSchema(tmp_path))
    yield database
    database.close()


def store_on(url) -> PostgresStore:
    return store_at(url, clock=StillClock(), limits=Limits())


# ------------------------------------------------------------------------------------------ migrations
def test_many_processes_migrate_at_once():
    """Of several workers that start together on a new database all but one would fail."""
    url = server().url()

    async def main() -> None:
        stores = [store_on(url) for _ in range(8)]
        await asyncio.gather(*[store.connect() for store in stores])
        assert sorted(len(store.migrated) for store in stores) == [0] * 7 + [len(migrations("postgres"))]
        for store in stores:
            await store.close()

    asyncio.run(main())


def test_a_schema_is_not_made_unasked():
    """A slip of the pen in a URL would make a new, empty database."""

    async def main() -> None:
        store = store_on(server().url())
        with pytest.raises(
            SchemaMissing, match=r"There is no schema 's\d+_\d+' .* `perdure db migrate` makes a new one"
        ):
            await store.connect(migrating=False)

    asyncio.run(main())


def test_a_newer_schema_is_refused(pg):
    """An old perdure would write what a newer one does not understand."""
    pg.sql("insert into perdure_schema (version, name, applied_at) values (99, 'later', 1)")

    async def main() -> None:
        with pytest.raises(SchemaTooNew, match="99"):
            await store_on(pg.kind.url).connect()

    pg.run(main())


def test_a_schemas_name_may_be_odd():
    """A name with capitals, quotes or spaces would be another schema, or SQL."""

    async def main() -> None:
        for name in ('We"ird', "two words", "ünï", "drop'--"):
            store = store_on(server().url(schema=name.replace(" ", "%20")))
            await store.connect()
            assert (await store.apply(Operation([start("a")])))[0][0] == "started"
            assert await store.rows("counts") == [("queued", 1)]
            await store.close()

    asyncio.run(main())


def test_the_printed_sql_makes_a_schema_that_fits():
    """What an operator reviews and runs would not be what perdure needs."""
    url = server().url()

    async def main() -> None:
        connection = await asyncpg.connect(server().dsn)
        await connection.execute(schema_sql(url, NOW))
        await connection.close()
        store = store_on(url)
        await store.connect(migrating=False)
        assert store.migrated == []
        await store.close()

    asyncio.run(main())


def test_the_printed_sql_begins_where_a_schema_is():
    """A DBA who runs it on last year's schema would be told that its tables are there."""
    url = server().url()
    at = address(url)
    first = migrations("postgres")[0]

    async def main() -> None:
        assert await behind(url) == 0
        connection = await at.connect()
        await connection.execute(f"create schema {at.schema}")
        await connection.execute(within(at.schema, first.sql))
        await connection.execute(f"insert into {at.schema}.perdure_schema values (1, 'initial', 1)")
        assert await behind(url) == 1
        await connection.execute(schema_sql(url, NOW, 1))
        assert await behind(url) is None
        await connection.execute(f"drop function {functions(at.schema).run}")
        assert await behind(url) == migrations("postgres")[-1].version
        await connection.execute(schema_sql(url, NOW, migrations("postgres")[-1].version))
        store = store_on(url)
        await store.connect(migrating=False)
        await store.close()
        await connection.execute(f"insert into {at.schema}.perdure_schema values (99, 'later', 1)")
        with pytest.raises(SchemaTooNew):
            await behind(url)
        await connection.close()
        with pytest.raises(StoreUnavailable):
            await behind("postgresql://postgres@/postgres?host=/nowhere")

    asyncio.run(main())


def test_another_versions_functions_stay(pg):
    """A worker of another version on the same schema would lose the functions that it calls."""
    pg.sql("create function perdure_run_old(given text) returns text language sql as $$ select given $$")
    again = pg.another()
    assert pg.apply(start("a"), store=again)
    assert pg.sql("select perdure_run_old('x')") == [("x",)]


# ------------------------------------------------------------------------------------------- heartbeat
def test_the_pulse_extends_a_lease_from_a_thread(pg):
    """A blocked loop would cost a worker its runs, or a dead worker would go on."""
    worker = pg.worker("w", lease_until=NOW + 5)
    answers = []

    def beat() -> None:
        pulse = pg.store.pulse()
        answers.append(pulse.beat(worker, NOW + 1, NOW + 99))
        pg_state("dead")
        answers.append(pulse.beat(worker, NOW + 2, NOW + 999))
        pulse.close()

    def pg_state(state: str) -> None:
        pg.sql("update perdure_workers set state = ? where number = ?", state, worker)

    thread = threading.Thread(target=beat)
    thread.start()
    thread.join(30)
    assert answers == [True, False]
    assert pg.sql("select lease_until from perdure_workers") == [(NOW + 99,)]


def test_a_pulse_that_cannot_reach_the_database_says_so_and_tries_again():
    """A heartbeat would end for ever with the first failure of the network."""
    pulse = store_on("postgresql://u@/d?host=/nowhere").pulse()
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            pulse.beat(1, NOW, NOW)
    pulse.close()


def test_a_pulse_that_could_not_beat_leaves_no_connection_behind(pg):
    """Each worker that ends in trouble would leave its process a socket, and the server a session."""
    worker = pg.worker("w", lease_until=NOW + 5)
    pulse = pg.store.pulse()
    assert pulse.beat(worker, NOW + 1, NOW + 99)
    pg.sql("alter table perdure_workers rename column lease_until to away")
    files = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(StoreError):
        pulse.beat(worker, NOW + 2, NOW + 999)
    pg.sql("alter table perdure_workers rename column away to lease_until")
    pulse.close()
    assert len(list(Path("/dev/fd").iterdir())) < files


# ----------------------------------------------------------------------------------------- odd values
@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 3_000])
def test_texts_that_cannot_be_keys_are_refused_for_their_operation_only(pg, text):
    """One caller's odd text would be an error of the driver, for everybody in the batch."""
    (first, error), (rows, _) = pg.batch([start(text)], [start("fine")])
    assert isinstance(error, OperationRefused) or text == "x" * 3_000
    assert first == [] or text == "x" * 3_000
    assert rows[0][0] == "started"


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_queries_with_odd_texts_are_refused(pg, text):
    """Looking for a run by an odd id would be an error of the driver."""
    with pytest.raises(OperationRefused):
        pg.rows("run_by_id", text)


def test_all_of_unicode_comes_back(pg):
    """A payload would change on its way."""
    text = json.dumps("".join(map(chr, [*range(1, 0x300), 0x2028, 0xFFFD, 0x1F600, 0x10FFFF])), ensure_ascii=False)
    pg.queued("a", input=text)
    assert pg.row("a").input == text


@pytest.mark.parametrize(
    ("state", "code", "retryable"),
    [("40001", "store_busy", True), ("53100", "store_full", True), ("25006", "store_read_only", True),
     ("57P01", "store_unavailable", True), ("23505", "operation_refused", False), ("22021", "operation_refused", False),
     ("42P01", "schema_missing", False), ("XX001", "store_corrupt", False), ("42601", "store_error", False)],
)  # fmt: skip
def test_states_of_postgres_are_errors_of_perdure(state, code, retryable):
    """A full disk would look like a mistake of the caller, or a broken rule like a reason to try again."""
    found = by_state(state, "said so", "here")
    assert (found.code, found.retryable) == (code, retryable)
    assert "said so" in str(found)


# ------------------------------------------------------------------------------------ users' functions
def test_a_users_function_runs_again_when_others_changed_the_same_rows(pg):
    """Of two that add to one row at once the second would overwrite the first, or fail."""
    pg.sql("create table tally (n bigint)")
    pg.sql("insert into tally values (0)")
    other, ran = pg.another(), []

    def add(transaction):
        ((n,),) = transaction.execute("select n from tally")
        ran.append(n)
        if len(ran) == 1:
            pg.sql("update tally set n = n + 10")
        transaction.execute("update tally set n = $1", (n + 1,))
        return []

    assert pg.apply(store=other) == []
    assert pg.run(other.apply(Operation(body=add))) == []
    assert ran == [0, 10]
    assert pg.sql("select n from tally") == [(11,)]


def test_errors_of_a_user_that_look_like_the_drivers_are_his(pg):
    """A FileNotFoundError of a user's would be taken for a broken connection, and his function run for ever."""
    problem = FileNotFoundError("his")

    def fails(_transaction):
        raise problem

    assert pg.batch(Operation(body=fails), [start("a")]) == [([], problem), ([("started", pg.row("a").number)], None)]


def test_a_transaction_is_over_when_its_function_is(pg):
    """What a user executes later would commit with somebody else's operation."""
    kept = []
    pg.run(pg.store.apply(Operation(body=lambda transaction: kept.append(transaction) or [])))
    with pytest.raises(Exception, match="over"):
        kept[0].execute("select 1")


def test_a_users_function_holds_nobody_up(pg):
    """All that this process drives would wait for one slow function."""
    gate, begun = threading.Event(), threading.Event()

    def slow(_transaction):
        begun.set()
        assert gate.wait(20)
        return []

    async def main() -> None:
        slow_one = asyncio.create_task(pg.store.apply(Operation([start("slow")], body=slow)))
        await asyncio.to_thread(begun.wait)
        assert (await pg.store.apply(Operation([start("quick")])))[0][0] == "started"
        assert not slow_one.done()
        gate.set()
        assert (await slow_one)[0][0] == "started"

    pg.run(main())


def test_closing_waits_for_a_users_function(pg):
    """A transaction that was begun would be cut off, and its caller never answered."""
    store, gate, answers = pg.another(), threading.Event(), []

    def slow(_transaction):
        assert gate.wait(20)
        return []

    async def main() -> None:
        store.submit(Operation([start("slow")], body=slow), lambda rows, error: answers.append((rows, error)))
        await asyncio.sleep(0)
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
        gate.set()
        await closing

    pg.run(main())
    assert answers[0][0][0][0] == "started"
    assert pg.row("slow").status == "queued"


def test_a_users_function_that_leaves_its_transaction_alone(pg, monkeypatch):
    """It would be run again for ever, each time until the server ends its transaction."""
    monkeypatch.setattr(lasting, "IDLE_S", 0.1)
    ran = []

    async def idle(transaction):
        ran.append(await transaction.execute("select 1"))
        await asyncio.sleep(0.4)
        return await transaction.execute("select 1")

    async def lazy(transaction):
        ran.append(await transaction.execute("select 1"))
        await asyncio.sleep(0.4)
        return []

    store = pg.another()
    for body in (idle, lazy):
        with pytest.raises(OperationRefused, match="alone for"):
            pg.run(store.apply(Operation([start("a")], body=AsyncBody(body, contextvars.copy_context()))))
    assert len(ran) == 2
    assert pg.run(store.apply(Operation([start("b")], body=lambda _: [])))[0][0] == "started"
    assert pg.sql("select id from perdure_runs") == [("b",)]


# ---------------------------------------------------------------------------------- doctor and upkeep
def test_the_doctor_on_postgres():
    """The doctor would see ghosts, or nothing."""
    url = with_search_path(server().url())

    async def main(clock):
        app = App(url, clock=clock, worker=WorkerOptions(cached_runs=0), limits=Limits(inline_bytes=100))

        @app.workflow
        async def flow(ctx: Context, what: str) -> str:
            if what == "wait":
                await ctx.receive("never", str)
            return await ctx.step("large", lambda: "x" * 1_000)

        async with app:
            await (await app.start("flow", "go", id="done")).result()
            await app.start("flow", "wait", id="waiting")
            await asyncio.sleep(1)
            await app.client.start("flow", ("wait",), id="paused")
            await asyncio.sleep(1)
            await app.client.pause("paused")
            await asyncio.sleep(1)
            healthy = [finding.code for finding in await app.client.doctor()]
            assert await app.client.size() > 10_000
            with pytest.raises(InvalidOption, match="pg_dump"):
                await app.client.backup("copy.db")
        schema = url.partition("schema=")[2].partition("&")[0]
        with clock.still():
            connection = await asyncpg.connect(server().dsn)
            for sql in (
                "update perdure_runs set waiting_for = 'no json' where id = 'waiting'",
                "update perdure_runs set reason = '{}' where id = 'paused'",
                "delete from perdure_journal where seq = 1 and run = (select number from perdure_runs where id = 'done')",
                "delete from perdure_blobs",
            ):
                await connection.execute(within(schema, sql))
            await connection.close()
        async with app.connected():
            ill = {finding.code for finding in await app.client.doctor()}
            assert await app.client.prune(older_than=0) == 1
        return healthy, ill

    healthy, ill = run_virtual(main)
    assert healthy == ["size"]
    assert {"topics_unreadable", "paused_without_reason", "journal_gaps", "blob_missing"} <= ill


def test_a_url_is_shown_without_its_password():
    """A password would be printed to a terminal or a log."""
    assert shown("postgresql://me:secret@host/db?schema=x") == "postgresql://me:***@host/db?schema=x"
    assert shown("postgresql://me:se@c/ret@host/db") == "postgresql://me:***@host/db"
    assert shown("postgresql:///db?user=me&password=secret&port=1") == "postgresql:///db?user=me&password=***&port=1"
    assert shown("sqlite:///a@b.db") == "sqlite:///a@b.db"
    assert shown("postgresql://host:5432/db?user=me") == "postgresql://host:5432/db?user=me"
    with pytest.raises(InvalidOption) as caught:
        sqlite_path("mysql://me:secret@host/db")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("more", ["sslmode=perhaps", "port=often"])
def test_a_url_that_the_driver_cannot_read_is_the_callers_mistake(more):
    """It would be told as a value that Postgres cannot hold, with the exit code of a database that failed."""

    async def main() -> None:
        with pytest.raises(InvalidOption, match=r"^url: "):
            await store_on(f"{server().url()}&{more}").connect()

    asyncio.run(main())
    with pytest.raises(InvalidOption, match=r"^url: Invalid IPv6 URL"):
        address("postgresql://[host/db")


@pytest.mark.parametrize(("more", "name"), [({}, "perdure"), ({"application_name": "shop"}, "shop")])
def test_the_url_says_what_connections_are_called(more, name):
    """Whoever looks for an app's sessions by the name in its URL would not find them."""

    async def main() -> None:
        connection = await address(server().url(**more)).connect(lock_timeout="7s")
        assert await connection.fetchval("show application_name") == name
        assert await connection.fetchval("show lock_timeout") == "7s"
        await connection.close()

    asyncio.run(main())


def test_an_unknown_run_is_not_locked_out(pg):
    """A batch about runs that are not there would fail or wait."""
    assert pg.apply(line("send", run_id="nobody", topic="t", key=None, data=None, now=NOW)) == []


def test_pruning_forgets_stores_that_are_long_gone(pg):
    """The table of writers would grow with every start of a process (I10)."""
    pg.queued("a")
    pg.sql("insert into perdure_writers (id, batch, at) values ('old', 5, ?), ('new', 5, ?)", 0, NOW)
    lines = [line("doom", before=NOW, statuses="[]", most=1, undelivered=0), line("clear_doomed")]
    pg.apply(*lines)
    assert pg.sql("select count(*) from perdure_writers where id in ('old', 'new')") == [(1,)]
    assert pg.apply(start("b")), "a store whose row is gone goes on"


def test_the_drivers_own_confusion_is_a_broken_connection(pg):
    """A function whose connection broke would fail its step for ever, with an error about states of the driver."""
    ran = []

    async def confused(transaction):
        ran.append(len(ran))
        if len(ran) == 1:
            transaction._connection = Confused(transaction._connection)
        await transaction.execute("select 1")
        return []

    body = AsyncBody(confused, contextvars.copy_context())
    assert pg.run(pg.store.apply(Operation([start("a")], body=body)))[0][0] == "started"
    assert ran == [0, 1]


class Confused:
    """What asyncpg may be in when the server has gone while a statement was prepared."""

    def __init__(self, connection) -> None:
        self.is_closed = connection.is_closed

    async def fetch(self, _sql):
        raise asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in progress")


# ------------------------------------------------------------------------------------------------ claims
@pytest.mark.parametrize("queue", ["", "q"])
def test_a_claim_that_comes_too_late_writes_nothing(pg, queue):
    """Every idle worker would flush the log for each run that one of them gets, and wait for its locks."""

    def claim():
        asked = claiming(worker, NOW, most=9, top=9, workflows=ALL, queues=("q",))
        return pg.apply(*asked.lines)

    def written():
        return pg.run(pg.store.select("select sum(batch) from perdure_writers", ()))

    worker = pg.worker()
    queuekit.make(pg, Queue("q"))
    before = written()
    assert claim() == []
    assert written() == before
    queuekit.put(pg, "a", queue=queue or None)
    before = written()
    assert [row[2] for row in claim()] == ["a"]
    assert written() != before
    before = written()
    assert claim() == []
    assert written() == before
