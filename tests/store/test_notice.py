"""Several processes on one Postgres: what one commits the others hear of, or find out by asking."""

import asyncio
import logging
from contextlib import closing

import pytest
from postgreskit.proxy import Proxy
from postgreskit.server import server

from perdure import App, Context, WorkerOptions
from perdure.errors import InvalidOption
from perdure.store.pg import notice
from perdure.store.pg.address import address

NEVER = 10_000.0


def worker_on(url) -> App:
    app = App(url, worker=WorkerOptions(lease=60))

    @app.workflow
    async def greet(ctx: Context, name: str) -> str:
        asked = await ctx.receive("more", str)
        return f"{name} {asked}"

    return app


async def talk(url, rounds=3) -> None:
    """One app starts runs and talks to them, another one drives them."""
    async with worker_on(url), worker_on(url).connected() as client:
        client.client.store.start_polling()
        for place in range(rounds):
            handle = await client.start("greet", f"n{place}")
            with closing(client.client.store.changes.follow((await client.client.row(handle.id)).number)) as follower:
                while (await handle.info()).status != "waiting":
                    await follower.behind(0)
            await client.signal(handle.id, "more", "yes")
            assert await handle.result() == f"n{place} yes"


def within_time(main) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main

    asyncio.run(bounded())


def test_others_are_told_by_notifications(monkeypatch):
    """A run would begin, wake up and end only when somebody happens to look."""
    for name in ("POLL_QUICK_S", "POLL_SLOW_S", "POLL_LISTENING_S"):
        monkeypatch.setattr(notice, name, NEVER)
    within_time(talk(server().url()))


def test_a_client_that_only_starts_jobs_is_heard(monkeypatch):
    """A job from a process that listens to nothing would be begun when a worker happens to look."""
    for name in ("POLL_QUICK_S", "POLL_SLOW_S", "POLL_LISTENING_S"):
        monkeypatch.setattr(notice, name, NEVER)
    url = server().url()

    def app_with_queue() -> App:
        app = worker_on(url)
        app.queue("jobs")

        @app.workflow(queue="jobs")
        async def nod(_ctx: Context) -> bool:
            return True

        return app

    async def main() -> None:
        async with app_with_queue() as worker:
            for place in range(4):
                async with app_with_queue().connected() as client:
                    await client.start("nod", id=f"job-{place}")
                assert await worker.handle(f"job-{place}", "nod").result() is True

    within_time(main())


def test_who_only_tells_does_not_stay_with_a_standby(monkeypatch, tmp_path):
    """After a failover a process's jobs would be begun when a worker happens to look, for as long as it lives."""
    for name in ("POLL_QUICK_S", "POLL_SLOW_S", "POLL_LISTENING_S"):
        monkeypatch.setattr(notice, name, NEVER)
    url = server().url()

    async def main() -> None:
        proxy = Proxy(tmp_path, server().socket)
        await proxy.start()
        with server().standby() as standby:
            async with worker_on(url) as worker, worker_on(proxy.leading(url)).connected() as client:
                proxy.detours = [standby]
                await client.start("greet", "x", id="not told")
                await client.client.store._notice._told.wait()
                assert proxy.detours == []
                await client.start("greet", "x", id="told")
                for name in ("told", "not told"):
                    await client.signal(name, "more", "yes")
                    assert await worker.handle(name, "greet").result() == "x yes"
        await proxy.stop()

    within_time(main())


def test_others_find_out_by_asking():
    """Where notifications do not arrive nothing would ever happen."""
    within_time(talk(server().url(listen="off")))


def test_listening_goes_on_after_the_connection_broke(monkeypatch):
    """One broken connection would make a worker slow for the rest of its life."""
    monkeypatch.setattr(notice, "RETRY_S", 0.0)
    url = server().url()

    async def main() -> None:
        async with worker_on(url), worker_on(url).connected() as client:
            store = client.client.store
            store.start_polling()
            outside = await address(url).connect()
            for _ in range(3):
                while not store._notice.listening:
                    await store._notice.nudged.wait()
                    store._notice.nudged.clear()
                await outside.execute("select pg_terminate_backend($1)", store._notice._connection.get_server_pid())
                await store._notice.lost.wait()
            await outside.close()
        await talk(url)

    within_time(main())


def test_not_to_be_able_to_listen_is_said_once(monkeypatch, caplog):
    """While a database is away its workers' logs would have a line a second that says the same."""
    monkeypatch.setattr(notice, "RETRY_S", 0.0)
    caplog.set_level(logging.INFO, "perdure.store")
    real, failed = notice.Notice._connect, []

    async def away(self):
        if len(failed) < 5:
            failed.append(self)
            raise ConnectionError
        return await real(self)

    monkeypatch.setattr(notice.Notice, "_connect", away)

    async def main() -> None:
        async with worker_on(server().url()) as worker:
            listener = worker.client.store._notice
            while not listener.listening:
                await listener.nudged.wait()
                listener.nudged.clear()

    within_time(main())
    assert (len(failed), caplog.text.count("cannot listen")) == (5, 1)


def test_a_notification_that_nobody_understands_is_a_reason_to_look():
    """Another version's notification, or one cut short, would stop the listener."""

    async def main() -> None:
        url = server().url()
        async with App(url).connected() as app:
            told = asyncio.Event()
            app.client.store.changes.on_mail(lambda _: told.set())
            app.client.store._notice._heard(None, 1, "x", "nonsense")
            app.client.store._notice._heard(None, 1, "x", '["other", true, null, null, null]')
            await told.wait()

    within_time(main())


def fail_first(monkeypatch, name):
    """Let the first call of each store's method fail as nobody has thought of; the list has those that have."""
    real, failed = getattr(notice.Notice, name), []

    async def call(self):
        if self not in failed:
            failed.append(self)
            raise RuntimeError("a mistake of ours")
        return await real(self)

    monkeypatch.setattr(notice.Notice, name, call)
    return failed


def test_a_mistake_ends_no_asking(monkeypatch, caplog):
    """One error that nobody has thought of, and a process would never again find out what others do."""
    failed = fail_first(monkeypatch, "_count")
    within_time(talk(server().url(listen="off")))
    assert len(failed) == 2
    assert "a mistake of ours" in caplog.text


def test_a_mistake_ends_no_telling_and_no_listening(monkeypatch, caplog):
    """One error that nobody has thought of, and a process would never again hear of others, or they of it."""
    for name in ("POLL_QUICK_S", "POLL_SLOW_S", "POLL_LISTENING_S"):
        monkeypatch.setattr(notice, name, NEVER)
    monkeypatch.setattr(notice, "RETRY_S", 0.0)
    failed = fail_first(monkeypatch, "_connect")
    url = server().url()

    async def main() -> None:
        async with worker_on(url) as worker, worker_on(url).connected() as client:
            listener, teller = worker.client.store._notice, client.client.store._notice
            while not listener.listening:
                await listener.nudged.wait()
                listener.nudged.clear()
            for place, told in enumerate((False, True)):
                await client.start("greet", "x", id=f"mistake-{place}")
                await teller._told.wait()
                assert (teller._speaking is not None) == told
            for place in range(2):
                await client.signal(f"mistake-{place}", "more", "yes")
                assert await worker.handle(f"mistake-{place}", "greet").result() == "x yes"
            assert failed == [listener, teller]

    within_time(main())
    assert "a mistake of ours" in caplog.text


@pytest.mark.parametrize(
    "url", ["postgresql://h/d?pooler=yes", "postgresql://h/d?listen=1", "postgresql://h/d?schema="]
)
def test_unknown_options_are_refused(url):
    """A slip of the pen would connect to something else, or slowly."""
    with pytest.raises(InvalidOption):
        App(url)


def test_what_is_not_perdures_own_goes_to_the_driver():
    """TLS would be off although the URL asks for it."""
    found = address("postgresql://u:secret@h:1/d?sslmode=require&schema=x&listen=off")
    assert (found.dsn, found.schema, found.listen) == ("postgresql://u:secret@h:1/d?sslmode=require", "x", False)
    assert "secret" not in found.where
