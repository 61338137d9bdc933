"""Idempotent commands."""

import asyncio
import json
from dataclasses import dataclass

import pytest

from perdure import Command, Context, Status
from perdure.errors import (
    CommandConflict,
    CommandInProgress,
    CommandOvertaken,
    InvalidInput,
    InvalidOption,
    RunFinished,
    RunNotFound,
    StartConflict,
    UnknownQueue,
    UnknownWorkflow,
)


@dataclass
class Order:
    id: str
    cents: int


async def ship(ctx: Context, order: Order) -> str:
    return f"{order.id} shipped"


async def wait(ctx: Context) -> str:
    return await ctx.receive("go", str)


async def place(command: Command, order: Order) -> str:
    """The handler of most tests."""
    run = await command.start("ship", order)
    return run.id


ORDER = Order("o-1", 100)


def test_the_same_key_gives_the_same_run(office):  # A012
    """A client that repeats its request would order twice."""

    async def main():
        async with office.app(ship) as app:
            first = await app.command("k", place, ORDER)
            assert await app.command("k", place, Order(id="o-1", cents=100)) == first
            assert await app.command("other", place, ORDER) != first
            assert await app.command("k", place, ORDER, name="elsewhere") != first
            assert await app.handle(first).result() == "o-1 shipped"
            counts = await app.client.counts()
            assert counts == {Status.COMPLETED: 3} or sum(counts.values()) == 3
            await office.check(app)

    office.play(main)


def test_a_result_outlives_the_process(office):  # A064 W05
    """A keyed replay after a restart would do it all again."""

    async def main():
        async with office.app(ship).connected() as app:
            first = await app.command("k", place, ORDER)
        async with office.app(ship).connected() as app:
            assert await app.command("k", place, ORDER) == first
            assert await office.count(app, "runs") == 1

    office.play(main)


def test_other_input_under_the_same_key_is_refused(office):  # A012
    """Somebody would be told that his order was placed, and it was another one."""

    async def main():
        async with office.app(ship).connected() as app:
            await app.command("k", place, ORDER)
            with pytest.raises(CommandConflict) as caught:
                await app.command("k", place, Order("o-1", 200))
            assert (caught.value.name, caught.value.key) == ("place", "k")
            assert await office.count(app, "runs") == 1

    office.play(main)


def test_a_failed_handler_frees_the_key_and_has_done_nothing(office):  # A011
    """A mistake in the first request would keep a right one out, or half of it would have happened."""

    async def main():
        async def handler(command: Command, order: Order) -> str:
            office.ran["handler"] += 1
            run = await command.start("ship", order)
            if office.ran["handler"] == 1:
                raise ValueError("no")
            return run.id

        async with office.app(ship).connected() as app:
            with pytest.raises(ValueError, match="no"):
                await app.command("k", handler, ORDER)
            assert await office.count(app, "runs") == await office.count(app, "commands") == 0
            assert await app.command("k", handler, ORDER)
            assert await office.count(app, "runs") == 1

    office.play(main)


REFUSED = {
    "no such workflow": (lambda command: command.start("nothing"), UnknownWorkflow),
    "wrong input": (lambda command: command.start("ship", "a text"), InvalidInput),
    "an id that is another run's": (lambda command: command.start("ship", Order("x", 2), id="there"), StartConflict),
    "no such queue": (lambda command: command.start("ship", ORDER, queue="nowhere"), UnknownQueue),
    "a second way to tell repetitions": (lambda command: command.start("ship", ORDER, dedupe="d"), InvalidOption),
    "a signal to nobody": (lambda command: command.signal("nobody", "go"), RunNotFound),
    "a signal to what is over": (lambda command: command.signal("over", "go"), RunFinished),
    "a cancellation of what is over": (lambda command: command.cancel("over"), RunFinished),
    "a rerun of nothing": (lambda command: command.rerun("nobody"), RunNotFound),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_and_frees_the_key(office, case):  # A011
    """The result would be stored of something that was not done."""
    call, expected = REFUSED[case]

    async def main():
        async def handler(command: Command) -> None:
            await command.start("ship", ORDER, id="with it")
            await call(command)

        async with office.app(ship) as app:
            await (await app.start("ship", ORDER, id="there")).result()
            await (await app.start("ship", ORDER, id="over")).result()
            with pytest.raises(expected):
                await app.command("k", handler)
            assert await office.count(app, "commands") == 0
            assert await office.count(app, "runs") == 2
            await office.check(app)

    office.play(main)


def test_everything_about_runs_can_be_part_of_a_command(office):
    """A signal or a cancellation would happen without the result, or the other way round."""

    async def main():
        async def handler(command: Command, order: Order) -> list[str]:
            new = await command.start("ship", order, id="new", tags=["t"], queue="q")
            late = await command.start("wait", id="waits too")
            await command.signal(late.id, "go", "early")
            await command.signal("waits", "go", "now")
            await command.cancel("stops", "no need")
            await command.rerun("over")
            fork = await command.fork("over", id="fork")
            await command.pause("idle")
            command.transaction(lambda tx: tx.execute("create table mine (n integer)"))
            return [new.id, fork.id]

        app = office.app(ship, wait)
        app.queue("q", concurrency=1)
        async with app:
            await (await app.start("ship", ORDER, id="over")).result()
            for run_id in ("waits", "stops"):
                await app.start("wait", id=run_id)
            await app.start("wait", id="idle", delay=3600)
            await asyncio.sleep(1)
            assert await app.command("k", handler, ORDER) == ["new", "fork"]
            assert await app.command("k", handler, ORDER) == ["new", "fork"]
            assert await app.handle("new").result() == await app.handle("fork").result() == "o-1 shipped"
            assert [await app.handle(id).result() for id in ("waits", "waits too")] == ["now", "early"]
            await asyncio.sleep(1)
            infos = {id: await app.handle(id).info() for id in ("stops", "over", "idle")}
            assert [str(info.status) for info in infos.values()] == ["cancelled", "completed", "paused"]
            assert infos["over"].generation == 2
            assert await app.client.store.select("select count(*) from mine") == [(0,)]
            await office.check(app)

    office.play(main)


def test_rows_of_ones_own_fail_with_everything_else(office):
    """A constraint of the user's tables would be told as success, or leave a run behind."""

    async def main():
        async def handler(command: Command) -> str:
            await command.start("ship", ORDER, id="r")
            command.transaction(lambda tx: 1 / 0)
            return "done"

        async with office.app(ship).connected() as app:
            with pytest.raises(ZeroDivisionError):
                await app.command("k", handler)
            assert await office.count(app, "runs") == await office.count(app, "commands") == 0

    office.play(main)


def test_one_at_a_time(office):  # A013
    """Two requests at once would both be done."""

    async def main():
        begun, go = asyncio.Event(), asyncio.Event()

        async def handler(command: Command) -> int:
            office.ran["handler"] += 1
            begun.set()
            await go.wait()
            return office.ran["handler"]

        async with office.app().connected() as app, office.app().connected() as other:
            first = asyncio.create_task(app.command("k", handler))
            await begun.wait()
            with pytest.raises(CommandInProgress) as caught:
                await other.command("k", handler)
            assert 590 < caught.value.wait_s <= 600
            go.set()
            assert await first == 1
            assert await other.command("k", handler) == 1

    office.play(main)


def test_a_dead_attempt_is_taken_over_by_exactly_one(office):  # A013 W05
    """A key whose process died would be blocked for ever, or be free to many at once."""

    async def main():
        async def handler(command: Command) -> str:
            office.ran["handler"] += 1
            if office.ran["handler"] == 1:
                await asyncio.sleep(500)
            await command.start("ship", ORDER)
            return f"by attempt {office.ran['handler']}"

        async with office.app(ship).connected() as app, office.app(ship).connected() as other:
            late = asyncio.create_task(app.command("k", handler, stale_after=60))
            await asyncio.sleep(59)
            with pytest.raises(CommandInProgress):
                await other.command("k", handler)
            await asyncio.sleep(2)
            ends = await asyncio.gather(
                *[each.command("k", handler) for each in (app, other) * 5], return_exceptions=True
            )
            assert {end for end in ends if isinstance(end, str)} == {"by attempt 2"}
            assert {type(end) for end in ends} <= {str, CommandInProgress}
            with pytest.raises(CommandOvertaken):
                await late
            assert await app.command("k", handler) == "by attempt 2"
            assert await office.count(app, "runs") == 1

    office.play(main)


def test_a_cancelled_request_frees_the_key(office):
    """Whoever hung up would have to wait ten minutes."""

    async def main():
        async def handler(command: Command) -> str:
            office.ran["handler"] += 1
            await asyncio.sleep(0 if office.ran["handler"] > 1 else 100)
            return "done"

        async with office.app().connected() as app:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await app.command("k", handler)
            assert await app.command("k", handler) == "done"

    office.play(main)


def test_a_run_that_changes_meanwhile_is_decided_anew(office):  # W28
    """A command would act on what a run was when its handler looked."""

    async def main():
        go = asyncio.Event()

        async def handler(command: Command) -> None:
            await command.signal("w", "go", "from the command")
            await go.wait()

        async with office.app(wait) as app:
            await app.start("wait", id="w")
            task = asyncio.create_task(app.command("k", handler))
            await asyncio.sleep(1)
            await app.signal("w", "go", "first")
            await app.handle("w").result()
            go.set()
            with pytest.raises(RunFinished):
                await task
            assert await office.count(app, "commands") == 0

    office.play(main)


def test_a_result_is_kept_for_its_time_and_then_the_key_is_free(office):  # W19
    """Keys would pile up for ever, or be forgotten while clients still repeat."""

    async def main():
        async with office.app(ship).connected() as app:
            first = await app.command("k", place, ORDER, keep=60)
            await app.command("for ever", place, ORDER, keep=None)
            await asyncio.sleep(59)
            assert await app.command("k", place, ORDER, keep=60) == first
            await asyncio.sleep(2)
            assert await app.command("k", place, ORDER, keep=60) != first
            await asyncio.sleep(61)
            assert await office.count(app, "commands") == 2
            await app.client.prune(older_than=0)
            assert await app.client.store.select("select key from perdure_commands") == [("for ever",)]

    office.play(main)


def test_live_and_repeated_results_are_alike(office):
    """The first caller would get another type than the second (I5)."""

    async def main():
        async def handler(command: Command) -> Order:
            return Order("o", 5)

        async def plain(command: Command):
            return (1, {"x": None})

        async with office.app().connected() as app:
            results = [await app.command("k", handler) for _ in range(2)]
            assert results == [Order("o", 5)] * 2
            results = [await app.command("k", plain) for _ in range(2)]
            assert [json.dumps(result) for result in results] == ['[1, {"x": null}]'] * 2

    office.play(main)


def test_a_command_costs_two_commits(office):  # W05
    """Every request would wait for the disk more often than it must."""

    async def main():
        async with office.app(ship).connected() as app:
            before = app.client.store.commits
            await app.command("k", place, ORDER)
            assert app.client.store.commits == before + 2
            await app.command("k", place, ORDER)
            assert app.client.store.commits == before + 3

    office.play(main)
