"""Mistakes in what a worker does beside driving runs: it goes on with it, and nothing is left owned and idle (I8)."""

import asyncio
import threading

import pytest
from postgreskit.server import ON_POSTGRES

from perdure import App, Context
from perdure.engine.machine import Machine
from perdure.errors import StoreError
from perdure.store.base import BaseStore
from perdure.store.pg.pulse import PostgresPulse
from perdure.store.pulse import SqlitePulse
from perdure.worker import mail
from perdure.worker import retention as retention_module
from perdure.worker import worker as worker_module


async def flow(ctx: Context) -> str:
    await ctx.sleep(50)
    return await ctx.receive("word", str)


def fail_first(monkeypatch, owner, name, times=1):
    """Let the first calls fail as nobody has thought of; returns when it was called, by the loop's clock."""
    real, called = getattr(owner, name), []

    async def call(*args, **kwargs):
        called.append(asyncio.get_running_loop().time())
        if len(called) <= times:
            raise RuntimeError("a mistake of ours")
        return await real(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)
    return called


def test_a_run_is_claimed_at_its_time_all_the_same(lab, monkeypatch, caplog):
    """A worker that cannot find out when it has to look next would wait until something else happens."""

    async def main():
        async with lab.worker(flow) as app:
            called = fail_first(monkeypatch, worker_module, "look_ahead", 2)
            run = await app.start("flow", id="r")
            await app.signal("r", "word", "done")
            async with asyncio.timeout(60):
                assert await run.result() == "done"
            assert len(called) > 2

    lab.play(main)
    assert "an internal task failed, trying again" in caplog.text


def test_what_was_sent_to_a_run_is_read_all_the_same(lab, monkeypatch, caplog):
    """A run would not hear of a message until the next one comes."""

    async def both(ctx: Context) -> str:
        _, word = await asyncio.gather(ctx.step("long", lambda: asyncio.sleep(10)), ctx.receive("word", str))
        return word

    async def main():
        async with lab.worker(both) as app:
            run = await app.start("both", id="r")
            await asyncio.sleep(1)
            called = fail_first(monkeypatch, mail, "load_messages", 2)
            await app.signal("r", "word", "done")
            await asyncio.sleep(8)
            assert len(called) == 3
            assert (await run.result(), lab.seconds()) == ("done", 10)

    lab.play(main)
    assert "an internal task failed, trying again" in caplog.text


@pytest.mark.parametrize("refusal", [StoreError("the password is wrong just now"), RuntimeError("a mistake of ours")])
@pytest.mark.parametrize("statement", ["pause_own", "release"])
def test_a_run_is_let_go_of_in_the_end(lab, monkeypatch, refusal, statement):
    """A run that cannot be driven here would stay with its worker, idle, for as long as that lives."""
    real, refused = BaseStore.submit, []

    def submit(store, operation, done):
        if len(refused) < 3 and any(name == statement for name, _ in operation.lines):
            refused.append(1)
            raise refusal
        real(store, operation, done)

    def fail(*_):
        raise RuntimeError("a bug of ours") if statement == "pause_own" else StoreError("cannot be read")

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", id="r")
            await asyncio.sleep(10)
            monkeypatch.setattr(BaseStore, "submit", submit)
            with monkeypatch.context() as broken:
                broken.setattr(
                    *((Machine, "begin") if statement == "pause_own" else (worker_module, "read_claimed")), fail
                )
                await asyncio.sleep(41)
            info = await lab.until(app, "r", "paused" if statement == "pause_own" else "waiting")
            assert info.waiting_for == ([] if statement == "pause_own" else ["signal:word"])
            assert len(refused) == 3

    lab.play(main)


def test_the_look_for_dead_workers_goes_on_and_does_not_double(lab, monkeypatch, caplog):
    """Runs of dead workers would stay theirs; or each mistake would make the worker look twice as often."""

    async def main():
        async with lab.worker(flow, lease=30) as app:
            called = fail_first(monkeypatch, worker_module, "sweep", 2)
            await asyncio.sleep(100)
            assert 9 <= len(called) <= 10
            assert app.worker is not None

    lab.play(main)
    assert "a mistake of ours" in caplog.text


def test_the_removal_of_old_runs_goes_on_and_does_not_double(lab, monkeypatch, caplog):
    """A database would grow for ever after one mistake; or be pruned at twice the rate after each."""

    async def main():
        async with lab.worker(flow, options={"retention": 600}):
            called = fail_first(monkeypatch, retention_module, "prune_some", 2)
            await asyncio.sleep(305)
            assert len(called) == 5

    lab.play(main)
    assert "a mistake of ours" in caplog.text


def test_a_heart_does_not_stop_for_a_mistake(lab, monkeypatch, caplog):
    """The worker would be taken for dead, and never hear of it: it could claim nothing for the rest of its life."""
    pulse = PostgresPulse if ON_POSTGRES else SqlitePulse
    real, beaten, alive = pulse.beat, [], threading.Event()

    def beat(self, *args):
        beaten.append(1)
        if len(beaten) <= 2:
            raise (RuntimeError, KeyError)[len(beaten) - 1]("a mistake of ours")
        alive.set()
        return real(self, *args)

    async def main():
        monkeypatch.setattr(pulse, "beat", beat)
        async with lab.worker(flow, lease=0.3):
            assert await asyncio.to_thread(alive.wait, 30)

    lab.play_on_real_clock(main)
    assert "a mistake of ours" in caplog.text


def hearts():
    return [thread for thread in threading.enumerate() if thread.name == "perdure-heartbeat"]


@pytest.mark.parametrize("late", [False, True])
def test_a_worker_that_leaves_while_it_gets_a_new_identity(lab, monkeypatch, late):
    """Its new identity would count as alive for as long as the process lives, with a heart that beats for nobody."""
    before, real = len(hearts()), worker_module.register
    asked, answer, leaving = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def register(*args, **kwargs):
        asked.set()
        if not late:
            await answer.wait()
        number = await real(*args, **kwargs)
        if late:
            await answer.wait()
        return number

    async def leave(app):
        leaving.set()
        await app.__aexit__(None, None, None)

    async def main():
        async with lab.app(flow).connected() as outside:
            app = lab.app(flow)
            await app.__aenter__()
            monkeypatch.setattr(worker_module, "register", register)
            app.worker._declared_dead()
            await asked.wait()
            left = asyncio.create_task(leave(app))
            await leaving.wait()
            await asyncio.sleep(0)
            assert app.worker is None
            answer.set()
            await left
            states = [row[6] for row in await outside.client.store.rows("workers")]
            assert "left" in states
            assert states.count("alive") == 1  # the one that counts as dead only here
            assert len(hearts()) == before
            assert app.registry._listeners == []

    lab.play_on_real_clock(main)


def test_a_worker_that_cannot_say_goodbye_leaves_nothing_behind(tmp_path, monkeypatch, caplog):
    """Its heart would go on beating for a worker that does nothing; or its process end with a traceback."""
    before, real = len(hearts()), BaseStore.submit

    def submit(store, operation, done):
        if operation.lines[0][0] == "release_deliveries":
            raise StoreError("not now")
        real(store, operation, done)

    async def main():
        app = App(f"sqlite:///{tmp_path / 'a.db'}")
        app.sink("s", print)
        async with app:
            monkeypatch.setattr(BaseStore, "submit", submit)
            assert len(hearts()) == before + 1

    asyncio.run(main())
    assert len(hearts()) == before
    assert "cannot say goodbye, and counts as alive until its lease ends: StoreError('not now')" in caplog.text
