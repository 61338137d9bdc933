"""I8: whatever escapes from the code that drives a run puts that run aside, with the reason, and nothing else."""

import asyncio
import logging

import pytest

from perdure import Context, Retry, Transaction, current_step
from perdure.engine import drive
from perdure.engine.machine import Machine
from perdure.engine.steps import Steps
from perdure.engine.waits import Waits
from perdure.engine.writer import Writer
from perdure.errors import Overloaded, StoreFull
from perdure.worker import children
from perdure.worker import claims as claims_module


class Odd(BaseException):
    """Not even an Exception."""


async def healthy(ctx: Context) -> str:
    await ctx.sleep(1)
    return await ctx.step("x", lambda: "alive")


async def flow(ctx: Context) -> str:
    """Passes through every way into a driver."""

    def flaky() -> None:
        if current_step().attempt == 1:
            raise ValueError

    await ctx.step("first", lambda: None)
    await ctx.step("flaky", flaky, retry=Retry(max_attempts=2, delay=0.01, on=(ValueError,)))
    await ctx.sleep(0.05)  # sat out
    await ctx.sleep(100)  # parked
    async with asyncio.TaskGroup() as group:
        group.create_task(ctx.step("long", lambda: asyncio.sleep(5)))
        word = group.create_task(ctx.receive("word", str))
    return word.result()


def failing(monkeypatch, owner, name, nth, error):
    """Let the nth call of a function of ours fail; the list says whether it has."""
    real, calls, failed = getattr(owner, name), [], []

    def fail(*args, **kwargs):
        calls.append(1)
        if len(calls) == nth:
            failed.append(1)
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, fail)
    return failed


async def check_paused(lab, app, *texts):
    """The run is paused as every paused run is, nothing of it is left in the worker, and others do not notice."""
    info = await lab.until(app, "r", "paused")
    assert info.reason["code"] == "internal_error"
    for text in texts:
        assert text in info.reason["message"]
    (last,) = (await lab.journal(app, "r"))[-1:]
    assert (last.kind, last.data["message"]) == ("paused", info.reason["message"])
    assert app.worker.statistics == {"driven": 0, "parked": 0}
    assert await (await app.start("healthy")).result() == "alive"
    assert [found for found in await app.client.doctor() if found.severity == "error"] == []


PLACES = [
    (drive, "present", 1), (Machine, "begin", 1), (drive.Driver, "_register", 1), (Waits, "clear", 1),
    *[(drive.Driver, "advance", nth) for nth in range(1, 8)],
    *[(Machine, "outcome", nth) for nth in range(1, 6)],
    *[(Waits, "deliver", nth) for nth in range(1, 4)],
    *[(Waits, "due", nth) for nth in range(1, 4)],
    (Waits, "topics", 1),
    *[(Steps, "committed", nth) for nth in range(1, 3)],
    *[(Steps, "failed", nth) for nth in range(1, 2)],
    *[(Writer, "record", nth) for nth in range(1, 6)],
]  # fmt: skip


@pytest.mark.parametrize("error", [RuntimeError("a bug of ours"), Odd("a bug of ours")], ids=["error", "odd"])
@pytest.mark.parametrize(("owner", "name", "nth"), PLACES, ids=lambda part: getattr(part, "__name__", str(part)))
def test_a_bug_of_ours_pauses_the_run(lab, monkeypatch, caplog, owner, name, nth, error):
    """A run would stay owned and idle for ever, without a word, because of one mistake in the driver."""

    async def main():
        async with lab.worker(flow, healthy, cached_runs=10) as app:
            failed = failing(monkeypatch, owner, name, nth, error)
            await app.start("flow", id="r")
            await asyncio.sleep(102)
            await app.signal("r", "word", "done")
            await asyncio.sleep(10)
            assert failed
            assert (await app.handle("r").info()).status == "paused"
            await check_paused(lab, app, type(error).__name__, "a bug of ours", "test_safety_net.py")
            await app.client.resume("r")
            assert (await lab.ended(app, "r")).value == "done"

    with caplog.at_level(logging.ERROR, "perdure"):
        lab.play(main)
    assert any(record.exc_info and record.exc_info[1] is error for record in caplog.records)


@pytest.mark.parametrize(("owner", "name"), [(Machine, "close"), (Steps, "stop")])
def test_a_bug_while_a_run_is_left_does_not_keep_it_from_ending(lab, monkeypatch, owner, name):
    """A run whose function has ended would not be recorded as ended because of what is only tidied up behind it."""

    async def main():
        async with lab.worker(flow, healthy, cached_runs=10) as app:
            failed = failing(monkeypatch, owner, name, 1, RuntimeError("a bug of ours"))
            await app.start("flow", id="r")
            await app.signal("r", "word", "done")
            assert (await lab.ended(app, "r")).value == "done"
            assert failed
            assert app.worker.statistics["driven"] == 0

    lab.play(main)


class Stubborn(ExceptionGroup):
    """A user's group that cannot be taken apart."""

    def split(self, _condition):
        raise RuntimeError("not to be split")


class Moody(type):
    """A user's class that cannot be asked what belongs to it."""

    def __instancecheck__(cls, _instance):
        raise RuntimeError("do not ask")


class Mood(Exception, metaclass=Moody):
    pass


@pytest.mark.parametrize("where", ["group", "retry"])
def test_objects_of_users_that_fail_in_our_hands(lab, where):
    """A user's class with an odd method would leave its run owned and idle."""

    async def odd(ctx: Context) -> None:
        def body() -> None:
            raise ValueError

        if where == "group":
            raise Stubborn("odd", [ValueError()])
        await ctx.step("s", body, retry=Retry(max_attempts=3, on=(Mood,)))

    async def main():
        async with lab.worker(odd, healthy) as app:
            await app.start("odd", id="r")
            await check_paused(lab, app, "RuntimeError", "not to be split" if where == "group" else "do not ask")

    lab.play(main)


class Rot13:
    """A codec."""

    name = "rot"

    def encode(self, data: bytes) -> bytes:
        return data[::-1]

    def decode(self, data: bytes) -> bytes:
        return data[::-1]


def test_a_childs_result_that_the_parents_worker_cannot_read(lab):
    """A worker without the codec would keep the parent for ever, and nobody would hear why."""

    async def child(ctx: Context) -> str:
        await ctx.sleep(5)
        return "sealed"

    async def parent(ctx: Context) -> str:
        return await ctx.call("child")

    async def main():
        async with lab.worker(parent, child) as app:
            await app.start("parent", id="r")
            await asyncio.sleep(1)
        async with lab.worker(child, codec=Rot13()) as app:
            await asyncio.sleep(10)
        async with lab.worker(parent, child, healthy) as app:
            info = await lab.until(app, "r", "paused")
            assert info.reason["code"] == "store_corrupt"
            assert "'rot'" in info.reason["message"]
            assert await (await app.start("healthy")).result() == "alive"
        async with lab.worker(parent, child, codec=Rot13()) as app:
            await app.client.resume("r")
            assert (await lab.ended(app, "r")).value == "sealed"

    lab.play(main)


def test_a_journal_that_no_driver_can_be_made_of(lab):
    """A run with a damaged mark would be claimed by its worker and then forgotten."""

    async def main():
        async with lab.worker(healthy) as app:
            await app.start("healthy", id="r")
            await lab.until(app, "r", "waiting")
            row = await app.client.row("r")
            await lab.spoil(app, f"update perdure_journal set kind = 'rerun', data = '[]' where run = {row.number}")
            await asyncio.sleep(5)
            await check_paused(lab, app, "AttributeError", "history.py")

    lab.play(main)


def test_a_run_that_cannot_be_read_does_not_harm_those_claimed_with_it(lab, monkeypatch):
    """One bad row would keep all runs of its claim from being driven, and nobody would claim them again."""
    real = claims_module.resolve_input

    async def resolve_input(store, runs):
        if any(run.id == "r" for run in runs):
            raise RuntimeError("cannot be read")
        return await real(store, runs)

    async def main():
        async with lab.app(healthy).connected() as app:
            for run_id in ("a", "r", "b"):
                await app.start("healthy", id=run_id)
        monkeypatch.setattr(claims_module, "resolve_input", resolve_input)
        async with lab.worker(healthy) as app:
            assert [(await lab.ended(app, run_id)).value for run_id in "ab"] == ["alive", "alive"]
            await check_paused(lab, app, "cannot be read")

    lab.play(main)


def test_a_run_that_cannot_be_read_gives_its_place_back(lab, monkeypatch):
    """What became due while it took the last place would wait until something else happens, perhaps for hours."""
    real = claims_module.resolve_input

    async def resolve_input(store, runs):
        if any(run.id == "r" for run in runs):
            await asyncio.sleep(5)
            raise RuntimeError("cannot be read")
        return await real(store, runs)

    async def main():
        monkeypatch.setattr(claims_module, "resolve_input", resolve_input)
        async with lab.worker(healthy, options={"concurrency": 1}) as app:
            await app.start("healthy", id="r", delay=1)
            await app.start("healthy", id="a", delay=2)
            assert (await lab.ended(app, "a")).seconds < 60
            await check_paused(lab, app, "cannot be read")

    lab.play(main)


def test_a_bug_of_ours_gives_the_slot_of_a_queue_back(lab, monkeypatch):
    """The next run in line would wait until something else happens, perhaps for hours."""

    async def main():
        app = lab.app(flow, healthy)
        app.queue("q", concurrency=1)
        async with app:
            failing(monkeypatch, Steps, "committed", 2, RuntimeError("a bug of ours"))
            await app.start("flow", id="r", queue="q")
            await app.start("healthy", id="a", queue="q")
            assert (await lab.ended(app, "a")).seconds < 60
            await check_paused(lab, app, "a bug of ours")

    lab.play(main)


def test_a_look_at_a_taken_id_that_fails(lab, monkeypatch):
    """A run that waits to hear whose id its child's is would wait for ever, owned and idle."""

    async def parent(ctx: Context) -> str:
        return await ctx.call("healthy", id="taken")

    async def fail(*_args):
        raise RuntimeError("cannot look")

    async def main():
        async with lab.worker(parent, healthy) as app:
            await app.start("healthy", id="taken")
            monkeypatch.setattr(children, "end_of_taken", fail)
            await app.start("parent", id="r")
            await check_paused(lab, app, "cannot look")

    lab.play(main)


def test_the_pause_waits_for_the_store(lab, monkeypatch):
    """A run would be lost after all if the database were full at the moment that it is put aside."""

    async def main():
        async with lab.worker(flow, healthy) as app:
            failing(monkeypatch, Steps, "committed", 2, RuntimeError("a bug of ours"))
            store, refused = app.client.store, []
            submit = store.submit

            def full(operation, done):
                if any(name == "pause_own" for name, _ in operation.lines) and len(refused) < 3:
                    refused.append(1)
                    raise StoreFull("full")
                submit(operation, done)

            monkeypatch.setattr(store, "submit", full)
            await app.start("flow", id="r")
            await check_paused(lab, app, "a bug of ours")
            assert len(refused) == 3

    lab.play(main)


def test_a_full_queue_does_not_lose_a_transaction(lab, monkeypatch):
    """A transaction that found the queue full would count as failed, or hold its run for ever."""
    ran = []

    def rows(transaction: Transaction) -> int:
        ran.append(1)
        return len(transaction.execute("select 1"))

    async def transacting(ctx: Context) -> int:
        return await ctx.transaction(rows)

    async def main():
        async with lab.worker(transacting) as app:
            store, refused = app.client.store, []
            submit = store.submit

            def full(operation, done):
                if operation.body is not None and len(refused) < 2:
                    refused.append(1)
                    what = "The queue"
                    raise Overloaded(what, 1)
                submit(operation, done)

            monkeypatch.setattr(store, "submit", full)
            await app.start("transacting", id="r")
            ended = await lab.ended(app, "r")
            assert (ended.value, len(ran), len(refused)) == (1, 1, 2)

    lab.play(main)


def test_a_cancellation_replayed_by_other_code(lab):
    """Code that waits for something else when it is cancelled again on replay would never be heard of again."""

    async def clean_up(ctx: Context, *waited: str) -> None:
        try:
            await asyncio.gather(*[ctx.step(name, lambda: asyncio.sleep(1000)) for name in waited])
        finally:
            await ctx.sleep(10)

    async def flow(ctx: Context) -> None:
        await clean_up(ctx, "a")

    async def changed(ctx: Context) -> None:
        await clean_up(ctx, "a", "b")

    async def main():
        async with lab.worker((flow, {"name": "f"})) as app:
            await app.start("f", id="r")
            await asyncio.sleep(1)
            await app.cancel("r")
            await asyncio.sleep(1)
            assert (await app.handle("r").info()).owner is None
        async with lab.worker((changed, {"name": "f"})) as app:
            info = await lab.until(app, "r", "paused")
            assert info.reason["code"] == "divergence"

    lab.play(main)
