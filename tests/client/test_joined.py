"""Starts and signals inside a caller's transaction: there when it commits, and never were if it does not."""

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing, contextmanager

import apsw
import asyncpg
import psycopg
import pytest
import sqlalchemy
from postgreskit.server import server
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from perdure import App, Context, Debounce, Dedupe, RunFinished, StartConflict
from perdure.errors import (
    DuplicateRun,
    InvalidOption,
    QueueDraining,
    RunNotFound,
    SchemaMissing,
    UnknownQueue,
)

PATIENCE = 20


class Rollback(Exception):
    """What ends a transaction that is not to be."""


async def ship(ctx: Context, order: int) -> int:
    return order + 1


async def gather(ctx: Context, orders: list[int]) -> list[int]:
    return orders


async def wait(ctx: Context) -> str:
    return await ctx.receive("go", str)


def app_on(url, *workflows) -> App:
    app = App(url)
    for workflow in workflows or (ship, gather, wait):
        app.workflow(workflow)
    app.queue("line", concurrency=5)
    return app


@pytest.fixture
def app():
    return app_on(server().url())


def schema_of(app) -> str:
    return app.url.rpartition("schema=")[2].partition("&")[0]


async def ended(app, run_id):
    async with asyncio.timeout(PATIENCE):
        return await app.handle(run_id).result()


async def until(look) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if await look():
                return
            await asyncio.sleep(0.005)


async def parked(run) -> bool:
    info = await run.info()
    return info.status == "waiting" and info.owner is None


async def ids(app) -> list[str]:
    return [row[0] for row in await app.client.store.select("select id from perdure_runs order by number")]


@asynccontextmanager
async def outside(app):
    """The caller's own connection."""
    connection = await asyncpg.connect(server().dsn)
    try:
        yield connection
    finally:
        await connection.close()


# ------------------------------------------------------------------------------- any driver's connection
def sqlalchemy_url(driver) -> str:
    return f"postgresql+{driver}://postgres@/postgres?host={server().socket}"


@asynccontextmanager
async def by_asyncpg():
    connection = await asyncpg.connect(server().dsn)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def by_asyncpg_pool():
    async with asyncpg.create_pool(server().dsn, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=repr, decoder=eval)
        async with connection.transaction():
            yield connection


@asynccontextmanager
async def by_psycopg():
    async with await psycopg.AsyncConnection.connect(server().dsn, row_factory=psycopg.rows.dict_row) as connection:
        yield connection


@asynccontextmanager
async def by_session(driver):
    engine = create_async_engine(sqlalchemy_url(driver))
    try:
        async with AsyncSession(engine) as session, session.begin():
            yield session
    finally:
        await engine.dispose()


@asynccontextmanager
async def by_connection(driver):
    engine = create_async_engine(sqlalchemy_url(driver))
    try:
        async with engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()


ASYNC = {
    "asyncpg": by_asyncpg,
    "asyncpg pool with codecs": by_asyncpg_pool,
    "psycopg with dicts": by_psycopg,
    "AsyncSession asyncpg": lambda: by_session("asyncpg"),
    "AsyncSession psycopg": lambda: by_session("psycopg"),
    "AsyncConnection asyncpg": lambda: by_connection("asyncpg"),
}


@pytest.mark.parametrize("kind", ASYNC)
def test_commit_and_rollback(app, kind):
    """A run would begin before the commit, or be there without it, or be missing after it."""

    async def main() -> None:
        async with app:
            with pytest.raises(Rollback):
                async with ASYNC[kind]() as connection:
                    await app.start("ship", 1, id="never", transaction=connection)
                    raise Rollback
            async with ASYNC[kind]() as connection:
                run = await app.start("ship", 2, id="now", tags=["a"], transaction=connection)
                again = await app.start("ship", 2, id="now", transaction=connection)
                assert (run.id, again.id) == ("now", "now")
                assert await ids(app) == []
            assert await ended(app, run.id) == 3
            assert await run.result() == 3
            assert await ids(app) == ["now"]
            assert await app.client.tags("now") == ["a"]

    asyncio.run(main())


@contextmanager
def by_sync_psycopg():
    with psycopg.connect(server().dsn) as connection:
        yield connection


@contextmanager
def by_sync_session():
    engine = sqlalchemy.create_engine(sqlalchemy_url("psycopg"), poolclass=sqlalchemy.NullPool)
    with Session(engine) as session, session.begin():
        yield session


@contextmanager
def by_sync_connection():
    engine = sqlalchemy.create_engine(sqlalchemy_url("psycopg"), poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        yield connection


SYNC = {"psycopg": by_sync_psycopg, "Session": by_sync_session, "Connection": by_sync_connection}


@pytest.mark.parametrize("kind", SYNC)
def test_without_an_event_loop(app, kind):
    """Plain code, such as a web application's, could not start a run with its rows."""

    async def see(expected) -> None:
        async with app:
            assert await ids(app) == expected
            for run_id in expected:
                assert await ended(app, run_id) == 3

    asyncio.run(see([]))
    with pytest.raises(Rollback), SYNC[kind]() as connection:
        app.inside(connection).start("ship", 1, id="never")
        raise Rollback
    with SYNC[kind]() as connection:
        inside = app.inside(connection)
        assert inside.start("ship", 2, id="now") == inside.start("ship", 2, id="now") == "now"
        with pytest.raises(StartConflict):
            inside.start("ship", 3, id="now")
    asyncio.run(see(["now"]))


@contextmanager
def by_sqlite3(path):
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection


@contextmanager
def by_apsw(path):
    with closing(apsw.Connection(path)) as connection:
        connection.execute("begin immediate")
        yield connection
        connection.execute("commit")


@contextmanager
def by_session_on_a_file(path):
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", poolclass=sqlalchemy.NullPool)
    with Session(engine) as session, session.begin():
        yield session


@pytest.mark.parametrize("kind", [by_sqlite3, by_apsw, by_session_on_a_file])
def test_on_a_file(tmp_path, kind):
    """The same on SQLite: a run would not commit with the caller's rows."""
    path = str(tmp_path / "runs.db")
    app = app_on(f"sqlite:///{path}")

    async def begin() -> None:
        async with app:
            await app.start("wait", id="waiting")

    async def end() -> None:
        async with app:
            assert await ended(app, "now") == 3
            assert await ended(app, "first") == 6
            assert await ended(app, "waiting") == "went"
            assert sorted(await ids(app)) == ["first", "now", "waiting"]

    asyncio.run(begin())
    with pytest.raises(Rollback), kind(path) as connection:
        app.inside(connection).start("ship", 1, id="never")
        raise Rollback
    with kind(path) as connection:
        inside = app.inside(connection)
        assert inside.start("ship", 2, id="now") == "now"
        with pytest.raises(StartConflict):
            inside.start("ship", 3, id="now")
        assert inside.start("ship", 5, queue="line", dedupe="k", id="first") == "first"
        assert inside.start("ship", 6, queue="line", dedupe="k") == "first"
        assert inside.signal("waiting", "go", "went")
    asyncio.run(end())


def test_beside_an_open_app_on_a_file(tmp_path):
    """The worker would not hear of the commit; or two copies of SQLite in one process would break each other's locks."""
    path = str(tmp_path / "runs.db")
    app = app_on(f"sqlite:///{path}")

    async def main() -> None:
        async with app:
            with by_apsw(path) as connection:
                run = await app.start("ship", 1, transaction=connection)
                assert await ids(app) == []
            assert await ended(app, run.id) == 2
            with by_sqlite3(path) as connection, pytest.raises(InvalidOption, match="apsw"):
                app.inside(connection)

    asyncio.run(main())


# -------------------------------------------------------------------------------- what start can say
def test_conflicts_are_rows_not_failures(app):
    """A refused start would poison the caller's transaction, or pass as another error."""

    async def main() -> None:
        async with app.connected(), outside(app) as connection:
            await app.start("ship", 1, id="taken")
            await app.client.drain_queue("line")
            async with connection.transaction():
                for error, asked in (
                    (StartConflict, lambda: app.start("ship", 2, id="taken", transaction=connection)),
                    (StartConflict, lambda: app.start("wait", id="taken", transaction=connection)),
                    (UnknownQueue, lambda: app.start("ship", 2, queue="none", transaction=connection)),
                    (QueueDraining, lambda: app.start("ship", 2, queue="line", transaction=connection)),
                    (RunNotFound, lambda: app.signal("nobody", "go", transaction=connection)),
                ):
                    with pytest.raises(error):
                        await asked()
                assert (await app.start("ship", 1, id="taken", transaction=connection)).id == "taken"
                await app.start("ship", 9, id="fine", transaction=connection)
            assert await ids(app) == ["taken", "fine"]

    asyncio.run(main())


def test_a_savepoint_that_is_rolled_back(app):
    """What was done inside of it would stay, or the signal's wake-up be left behind."""

    async def main() -> None:
        async with app, outside(app) as connection:
            waiting = await app.start("wait")
            async with connection.transaction():
                with pytest.raises(Rollback):
                    async with connection.transaction():
                        await app.start("ship", 1, id="never", transaction=connection)
                        await app.signal(waiting.id, "go", "never", transaction=connection)
                        raise Rollback
                await app.signal(waiting.id, "go", "now", transaction=connection)
            assert await ended(app, waiting.id) == "now"
            assert await ids(app) == [waiting.id]

    asyncio.run(main())


def test_deduplication(app):
    """Two starts under one key, in and out of transactions, would both begin, or an ended one would block others."""

    async def main() -> None:
        async with app, outside(app) as connection:
            async with connection.transaction():
                first = await app.start("wait", dedupe="k", transaction=connection)
                same = await app.start("wait", dedupe="k", transaction=connection)
                assert same.id == first.id
            assert (await app.start("wait", dedupe="k")).id == first.id
            async with connection.transaction():
                with pytest.raises(DuplicateRun):
                    await app.start("wait", dedupe=Dedupe("k", then="reject"), transaction=connection)
                next_one = await app.start("wait", dedupe=Dedupe("k", then="replace"), transaction=connection)
                # Until the commit nobody is asked to make room.
                assert (await first.info()).status in {"running", "waiting"}
            assert next_one.id != first.id
            async with asyncio.timeout(PATIENCE):
                await asyncio.wait([asyncio.create_task(first.result())])
            assert (await first.info()).status == "cancelled"
            assert await app.signal(next_one.id, "go", "x")
            assert await ended(app, next_one.id) == "x"

    asyncio.run(main())


def test_debounce_and_batch(app):
    """A flood of starts in transactions would be many runs, or a batch lose an item."""

    async def main() -> None:
        async with app, outside(app) as connection:
            async with connection.transaction():
                runs = [
                    await app.start("ship", n, debounce=Debounce("k", wait=0.3), transaction=connection)
                    for n in range(3)
                ]
                items = [await app.batch("gather", n, size=3, wait=60, transaction=connection) for n in range(3)]
            assert len({run.id for run in runs}) == 1
            assert len({run.id for run in items}) == 1
            assert await ended(app, runs[0].id) == 3
            assert await ended(app, items[0].id) == [0, 1, 2]

    asyncio.run(main())


def test_large_input(app):
    """An input that is kept apart would not be there."""

    async def echo(ctx: Context, text: str) -> int:
        return len(text)

    async def main() -> None:
        async with app, outside(app) as connection:
            async with connection.transaction():
                run = await app.start("echo", "x" * 100_000, id="big", transaction=connection)
                await app.start("echo", "x" * 100_000, id="big", transaction=connection)
            assert await ended(app, run.id) == 100_000

    app.workflow(echo)
    asyncio.run(main())


# ------------------------------------------------------------------------------------------ signals
def test_a_signal_holds_nobody_up(app):
    """A worker would wait for the caller's transaction with all that it drives."""

    async def chat(ctx: Context) -> list[str]:
        got = [await ctx.receive("go", str)]
        await ctx.step("between", lambda: 1)
        return [*got, await ctx.receive("go", str)]

    async def main() -> None:
        async with app, outside(app) as connection:
            run = await app.start("chat")
            async with connection.transaction():
                assert await app.signal(run.id, "go", "second", transaction=connection)
                # The run goes on, records a step and parks while the other message is not committed yet.
                assert await app.signal(run.id, "go", "first")
                assert await ended(app, (await app.start("ship", 1)).id) == 2
                await until(lambda: parked(run))
            assert await ended(app, run.id) == ["first", "second"]

    app.workflow(chat)
    asyncio.run(main())


def test_a_run_that_parks_between_the_signal_and_the_commit(app):
    """The wake-up would get lost: the run parked as it saw no message, the sender as it saw no parked run."""

    async def slow(ctx: Context) -> str:
        await ctx.step(until_open)
        return await ctx.receive("go", str)

    gate = asyncio.Event()

    async def until_open() -> None:
        await gate.wait()

    async def main() -> None:
        async with app, outside(app) as connection:
            run = await app.start("slow")
            async with connection.transaction():
                assert await app.signal(run.id, "go", "there", transaction=connection)
                gate.set()
                await until(lambda: parked(run))
            assert await ended(app, run.id) == "there"
            with pytest.raises(RunFinished):
                async with connection.transaction():
                    await app.signal(run.id, "go", "late", transaction=connection)

    app.workflow(slow)
    asyncio.run(main())


def test_the_first_under_a_key_wins(app):
    """A signal that is sent twice would be received twice."""

    async def both(ctx: Context) -> list[str]:
        return [await ctx.receive("go", str), await ctx.receive("end", str)]

    async def main() -> None:
        async with app, outside(app) as connection:
            run = await app.start("both")
            async with connection.transaction():
                assert await app.signal(run.id, "go", "one", key="k", transaction=connection)
                assert not await app.signal(run.id, "go", "two", key="k", transaction=connection)
            assert not await app.signal(run.id, "go", "three", key="k")
            await app.signal(run.id, "end", "end")
            assert await ended(app, run.id) == ["one", "end"]

    app.workflow(both)
    asyncio.run(main())


# ---------------------------------------------------------------------------------- several at once
def test_the_same_id_in_two_transactions(app):
    """Both would insert it, or the one that waits would not learn how the other ended."""

    async def start_within(connection, begun, go, *, commit):
        transaction = connection.transaction()
        await transaction.start()
        begun.set()
        run = await app.start("ship", 1, id="one", transaction=connection)
        await go.wait()
        await (transaction.commit() if commit else transaction.rollback())
        return run.id

    async def main() -> None:
        async with app.connected(), outside(app) as one, outside(app) as other:
            for commit in (False, True):
                begun, begun_too, go = asyncio.Event(), asyncio.Event(), asyncio.Event()
                first = asyncio.create_task(start_within(one, begun, go, commit=commit))
                await begun.wait()
                second = asyncio.create_task(start_within(other, begun_too, go, commit=True))
                await begun_too.wait()
                go.set()
                assert await first == await second == "one"
                assert await ids(app) == ["one"]

    asyncio.run(main())


@pytest.mark.parametrize("listen", ["on", "off"])
def test_workers_of_other_processes_hear_of_the_commit(listen):
    """A run would lie there until something else happens."""
    url = server().url(listen=listen)

    async def main() -> None:
        async def listening() -> bool:
            return worker.client.store._notice.listening == (listen == "on")

        async with app_on(url) as worker, app_on(url).connected() as caller, outside(worker) as connection:
            await until(listening)
            for n in range(3):
                async with connection.transaction():
                    run = await caller.start("ship", n, transaction=connection)
                async with asyncio.timeout(4):
                    assert await run.result() == n + 1
            kinds = [row[0] for row in await caller.client.store.select("select id from perdure_writers")]
            assert sum(kind.startswith("session") for kind in kinds) == 1

    asyncio.run(main())


# ---------------------------------------------------------------------------------------- mistakes
def test_what_is_no_open_transaction(app):
    """A run would be committed by itself, beside rows of the caller that are not, or a loop be blocked."""

    async def main() -> None:
        async with app.connected(), outside(app) as connection:
            for odd in (connection, object(), "postgresql://", app):
                with pytest.raises(InvalidOption, match="connection"):
                    await app.start("ship", 1, transaction=odd)
            async with connection.transaction():
                with pytest.raises(InvalidOption, match="transaction="):
                    app.inside(connection)
            engine = create_async_engine(sqlalchemy_url("asyncpg"), isolation_level="AUTOCOMMIT")
            async with AsyncSession(engine) as session:
                with pytest.raises(InvalidOption, match="no transaction"):
                    await app.start("ship", 1, transaction=session)
            await engine.dispose()
            with psycopg.connect(server().dsn, autocommit=True) as plain:
                with pytest.raises(InvalidOption, match="no transaction"):
                    app.inside(plain)
                with plain.transaction():
                    app.inside(plain).start("ship", 1, id="fine")
            assert await ids(app) == ["fine"]

    asyncio.run(main())


def test_a_file_without_a_transaction(tmp_path):
    """Each statement of a start would be a commit of its own."""
    app = app_on(f"sqlite:///{tmp_path / 'runs.db'}")
    with (
        closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as connection,
        pytest.raises(InvalidOption, match="no transaction"),
    ):
        app.inside(connection)
    with pytest.raises(InvalidOption, match="in memory"):
        app_on("sqlite://").inside(connection)


def test_another_database(app):
    """A connection to the wrong place would fail with the driver's words about a missing function."""

    async def main() -> None:
        async with outside(app) as connection:
            for kind in ASYNC.values():
                async with app_on(server().url()).connected() as other:
                    schema = schema_of(other)
                    await connection.execute(f"drop schema {schema} cascade")
                    with pytest.raises(SchemaMissing, match="perdure db migrate"):
                        async with kind() as caller:
                            await other.start("ship", 1, transaction=caller)
        with SYNC["psycopg"]() as plain, pytest.raises(SchemaMissing):
            app.inside(plain).start("ship", 1)

    asyncio.run(main())
