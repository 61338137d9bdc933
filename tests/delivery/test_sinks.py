"""Sinks: events of runs are delivered, in order, at least once, and nobody else pays for it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sinkkit import Ledger, lives, ship

from perdure import App, Context, Terminal, current_step
from perdure.clock import to_datetime
from perdure.errors import DuplicateName, IllegalMove, InvalidOption, RetryAfter, RunNotFound, UnknownSink
from perdure.model.event import Event
from perdure.store.operation import Operation
from perdure.testing.time import START


async def fail(ctx: Context) -> None:
    raise ValueError("secret detail")


async def long(ctx: Context) -> str:
    await ctx.emit("before", 1)
    await ctx.sleep(60)
    await ctx.emit("behind", 2)
    return "done"


async def again(ctx: Context, n: int) -> str:
    await ctx.emit("round", n)
    await ctx.sleep(10)
    if n < 3:
        ctx.continue_as_new(n + 1)
    return "over"


def test_a_run_tells_its_sink_in_order(office):  # A080 A085
    """Events would be missing, come twice, or in another order than they happened."""

    async def main():
        ledger = Ledger()
        async with lives(office, ship, sinks={"s": (ledger, {})}) as app:
            await (await app.start("ship", "o-1", id="r")).result()
            await asyncio.sleep(1)
            assert ledger.of("r") == ["started", "order.packed", "mail", "completed"]
            assert await office.count(app, "outbox") == 0
            first, packed, _, last = ledger.events
            assert (first.seq, first.workflow, first.at, first.data) == (0, "ship", to_datetime(START), None)
            assert (packed.kind, packed.data, packed.attempt) == ("emitted", {"order": "o-1"}, 1)
            assert last.data == {"output": "o-1 shipped", "seconds": 0.0}
            assert len({event.id for event in ledger.events}) == 4
            await office.check(app)

    office.play(main)


def test_a_sink_gets_what_it_asks_for(office):  # A084
    """A sink would be told of what is not its business, or two sinks would share one place."""

    async def main():
        ledgers = {name: Ledger() for name in ("ends", "orders", "steps", "others")}
        sinks = {
            "ends": (ledgers["ends"], {"events": ["completed", "failed", "cancelled"]}),
            "orders": (ledgers["orders"], {"events": "emitted", "topics": "order.*"}),
            "steps": (ledgers["steps"], {"events": ("step_completed", "completed")}),
            "others": (ledgers["others"], {"workflows": "fail"}),
        }
        async with lives(office, ship, fail, sinks=sinks) as app:
            await app.start("ship", "o-1", id="r")
            await app.start("fail", id="f")
            await asyncio.sleep(1)
            assert ledgers["ends"].of("r") == ["completed"]
            assert ledgers["orders"].of("r") == ["order.packed"]
            assert ledgers["steps"].of("r") == ["step_completed", "completed"]
            assert [event.key for event in ledgers["steps"].events if event.kind == "step_completed"] == ["label"]
            assert ledgers["others"].of("r") == []
            assert ledgers["others"].of("f") == ["started", "failed"]
            end = ledgers["ends"].events[-1] if ledgers["ends"].of("f") else None
            assert end is not None
            failed = next(event for event in ledgers["ends"].events if event.run_id == "f")
            assert failed.data == {"error": {"type": "builtins:ValueError", "message": "secret detail"}, "seconds": 0.0}
            assert await office.count(app, "outbox") == 0

    office.play(main)


def test_what_steps_emit_can_be_told(office):
    """Live progress of steps would not reach whoever watches from outside."""

    async def main():
        ledger = Ledger()

        async def work(ctx: Context) -> None:
            async def body():
                current_step().emit("progress.half", 0.5)
                current_step().emit("noise", 1)

            await ctx.step("work", body)

        sinks = {"s": (ledger, {"events": ["step_emitted", "completed"], "topics": "progress.*"})}
        async with lives(office, work, sinks=sinks) as app:
            await (await app.start("work", id="r")).result()
            await asyncio.sleep(1)
            assert ledger.of("r") == ["progress.half", "completed"]
            assert (ledger.events[0].data, ledger.events[0].key) == (0.5, "work")

    office.play(main)


def test_plain_functions_are_sinks_too(office):
    """A blocking sink would have to be written twice."""

    async def main():
        told = []
        app = office.app(ship)

        @app.sink("plain", events="completed")
        def plain(event: Event) -> None:
            told.append(event.run_id)

        async with app:
            await (await app.start("ship", "o-1", id="r")).result()
            await asyncio.sleep(1)
            assert told == ["r"]

    office.play(main)


def test_what_a_plain_function_gives_to_be_awaited_is_awaited(office):
    """A coroutine function behind a decorator would never run, and its events count as delivered."""

    async def main():
        told = []
        app = office.app(ship)

        async def tell(event: Event) -> None:
            told.append(event.run_id)

        @app.sink("wrapped", events="completed")
        def wrapped(event: Event):
            return tell(event)

        async with app:
            await (await app.start("ship", "o-1", id="r")).result()
            await asyncio.sleep(1)
            assert told == ["r"]

    office.play(main)


def test_who_fails_is_tried_again_and_others_do_not_wait(office):  # A082 W11
    """One run's trouble would hold up all others, or another sink would be told again for it."""

    async def main():
        ledger, other = Ledger(), Ledger()
        ledger.refuse = {"bad": OSError("down")}
        sinks = {"s": (ledger, {"events": "emitted"}), "other": (other, {"events": "emitted"})}
        async with lives(office, ship, sinks=sinks) as app:
            await app.start("ship", "x", id="bad")
            await app.start("ship", "x", id="good")
            await asyncio.sleep(0.5)
            assert ledger.of("good") == ["order.packed", "mail"]
            assert ledger.of("bad") == ["order.packed"]
            assert other.of("bad") == ["order.packed", "mail"]
            await asyncio.sleep(1)  # the second attempt came after 1 s
            assert ledger.of("bad") == ["order.packed"] * 2
            ledger.refuse = {}
            await asyncio.sleep(2)  # and the third after 2 s more
            assert ledger.of("bad") == ["order.packed"] * 3 + ["mail"]
            assert [event.attempt for event in ledger.events if event.run_id == "bad"] == [1, 2, 3, 1]
            assert len({event.id for event in ledger.events if event.run_id == "bad"}) == 2
            assert other.of("bad") == ["order.packed", "mail"]
            assert await office.count(app, "outbox") == 0

    office.play(main)


def test_what_is_given_up_waits_for_an_operator_and_goes_on_in_order(office):  # A082 A083 W10
    """A dead letter would be lost, or come after events that happened later."""

    async def main():
        ledger = Ledger()
        ledger.refuse = {("a", 1): OSError("no"), ("b", 1): OSError("no")}
        async with lives(office, long, sinks={"s": (ledger, {"events": ["emitted", "completed"]})}) as app:
            await app.start("long", id="a")
            await app.start("long", id="b")
            await asyncio.sleep(30)
            dead = await app.client.dead_events("s")
            assert sorted((event.run_id, event.seq, event.attempts, event.error) for event in dead) == [
                ("a", 1, 3, "OSError: no"), ("b", 1, 3, "OSError: no"),
            ]  # fmt: skip
            findings = {finding.code for finding in await app.client.doctor()}
            assert "events_dead" in findings
            await asyncio.sleep(60)
            assert await app.handle("a").result() == "done"
            (info,) = await app.client.sinks()
            assert (info.waiting, info.dead, info.oldest_at) == (2, 2, to_datetime(START))
            told = len(ledger.events)
            assert ledger.of("a") == ["before"] * 3
            ledger.refuse = {}
            assert await app.client.replay_events("s") == 2
            await asyncio.sleep(1)
            assert ledger.events[told:]
            assert ledger.of("a") == ["before"] * 4 + ["behind", "completed"]
            assert await app.client.replay_events("s") == 0
            assert await office.count(app, "outbox") == 0

    office.play(main)


def test_one_run_can_be_replayed_or_have_its_event_skipped(office):  # A083
    """An event that can never be delivered would hold its run's others back for ever."""

    async def main():
        ledger = Ledger()
        ledger.refuse = {"a": Terminal("never"), "b": Terminal("never")}
        async with lives(office, long, sinks={"s": (ledger, {"events": ["emitted", "completed"]})}) as app:
            for run_id in ("a", "b"):
                await app.start("long", id=run_id)
            await asyncio.sleep(70)
            assert [event.attempts for event in await app.client.dead_events("s")] == [1, 1]
            assert await app.client.replay_events("s", "a") == 1
            await asyncio.sleep(1)
            assert ledger.of("a") == ["before"] * 2
            ledger.refuse = {}
            assert await app.client.skip_event("s", "b") == 1
            await asyncio.sleep(1)
            assert ledger.of("b") == ["before", "behind", "completed"]
            with pytest.raises(IllegalMove):
                await app.client.skip_event("s", "b")
            with pytest.raises(RunNotFound):
                await app.client.skip_event("s", "nobody")
            for call in (app.client.skip_event("t", "b"), app.client.replay_events("t"), app.client.dead_events("t")):
                with pytest.raises(UnknownSink):
                    await call

    office.play(main)


def test_the_last_event_can_be_skipped(office):
    """Skipping the only event would leave a row that nobody ever takes."""

    async def main():
        ledger = Ledger()
        ledger.refuse = {"f": Terminal("never")}
        async with lives(office, fail, sinks={"s": (ledger, {"events": "failed"})}) as app:
            await app.start("fail", id="f")
            await asyncio.sleep(1)
            await app.client.skip_event("s", "f")
            assert await office.count(app, "outbox") == 0
            await office.check(app)

    office.play(main)


def test_a_receiver_says_when_to_come_again(office):
    """A sink that is overloaded would be asked at once again."""

    async def main():
        ledger = Ledger()
        ledger.refuse = {("f", 1): RetryAfter(100)}
        async with lives(office, fail, sinks={"s": (ledger, {"events": "failed"})}) as app:
            await app.start("fail", id="f")
            await asyncio.sleep(99)
            assert len(ledger.events) == 1
            await asyncio.sleep(2)
            assert len(ledger.events) == 2

    office.play(main)


def test_a_sink_that_hangs_has_failed(office):
    """One hanging receiver would hold its runs for ever."""

    async def main():
        ledger = Ledger()
        ledger.slow = 1000
        async with lives(office, fail, sinks={"s": (ledger, {"events": "failed", "timeout": 5})}) as app:
            await app.start("fail", id="f")
            await asyncio.sleep(60)
            (dead,) = await app.client.dead_events("s")
            assert dead.attempts == 3
            assert dead.error.startswith("TimeoutError")

    office.play(main)


def test_a_sink_that_is_cancelled_by_itself_has_failed(office):
    """The delivery would count as being made until the worker leaves, and nothing behind it be told."""

    async def main():
        (ledger := Ledger()).refuse["r"] = asyncio.CancelledError()
        async with lives(office, ship, sinks={"s": (ledger, {})}) as app:
            await app.start("ship", "o-1", id="r")
            await asyncio.sleep(60)
            assert (await app.client.dead_events("s"))[0].attempts == 3

    office.play(main)


def test_so_many_at_a_time(office):
    """A receiver would be flooded, or one slow event would hold up all others."""

    async def main():
        now, most = 0, 0

        async def slow(event: Event) -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(1)
            now -= 1

        async with lives(office, fail, sinks={"s": (slow, {"events": "failed", "concurrency": 3})}) as app:
            for _ in range(9):
                await app.start("fail")
            await asyncio.sleep(3.5)
            assert most == 3
            assert await office.count(app, "outbox") == 0

    office.play(main)


def test_each_event_goes_to_one_of_many_workers(office):  # W10
    """Two workers would tell a sink the same, or mix up a run's order."""

    async def main():
        ledger = Ledger()
        ledger.slow = 0.01
        sinks = {"s": (ledger, {})}
        async with (
            lives(office, ship, sinks=sinks) as app,
            lives(office, ship, sinks=sinks) as other,
            lives(office, ship, sinks=sinks) as third,
        ):
            for place in range(12):
                await (app, other, third)[place % 3].start("ship", "o", id=f"r{place}")
            for _ in range(50):
                await asyncio.sleep(0.1)
                for each in (app, other, third):
                    each.client.store.changes.committed_elsewhere()
            for place in range(12):
                assert ledger.of(f"r{place}") == ["started", "order.packed", "mail", "completed"]
            assert len({event.id for event in ledger.events}) == len(ledger.events) == 48

    office.play(main)


def test_a_dead_deliverer_is_taken_over_and_repeats_by_the_same_id(office):  # A081
    """Events that a dead process was delivering would be lost, or could not be told from new ones."""

    async def main():
        ledger, go = Ledger(), asyncio.Event()

        async def hangs(event: Event) -> None:
            await ledger(event)
            await go.wait()

        first = lives(office, fail, sinks={"s": (hangs, {"events": "failed", "timeout": 900})})
        async with lives(
            office, fail, sinks={"s": (ledger, {"events": "failed"})}, worker={"deliver": False}
        ) as client:
            await first.__aenter__()
            await client.start("fail", id="f")
            await asyncio.sleep(1)
            first.client.store.changes.committed_elsewhere()
            await asyncio.sleep(1)
            assert len(ledger.events) == 1
            first.worker.kill()
            async with lives(office, sinks={"s": (ledger, {"events": "failed"})}) as second:
                await asyncio.sleep(60)
                assert len(ledger.events) == 2
                assert len({event.id for event in ledger.events}) == 1
                go.set()
                await asyncio.sleep(1)
                assert await office.count(second, "outbox") == 0
        first.client.store.abandon()

    office.play(main)


def test_a_late_deliverer_changes_nothing(office):  # W08
    """A worker that was thought dead would move the place of a sink that another one tells now."""

    async def main():
        go = asyncio.Event()

        async def hangs(event: Event) -> None:
            await go.wait()

        app = lives(office, long, sinks={"s": (hangs, {"events": "emitted"})})
        async with app:
            await app.start("long", id="r")
            await asyncio.sleep(1)
            rows = await app.client.store.select("select owner, epoch from perdure_outbox")
            ((owner, epoch),) = rows
            assert owner == app.worker.number
            await app.client.store.apply(Operation([("release_deliveries", (owner, office.clock.now() + 10**9))]))
            go.set()
            await asyncio.sleep(1)
            assert await app.client.store.select("select owner, next, epoch from perdure_outbox") == [(None, 1, epoch)]

    office.play(main)


def test_what_the_dead_were_delivering_is_due_whoever_buried_them(office):  # W08
    """Events of a worker that has left the list of the living, and owned no run, would never be delivered."""

    async def main():
        ledger, go = Ledger(), asyncio.Event()

        async def hangs(event: Event) -> None:
            await go.wait()

        first = lives(office, fail, sinks={"s": (hangs, {"events": "failed", "timeout": 900})})
        await first.__aenter__()
        await (await first.start("fail", id="f"))._end()
        await asyncio.sleep(1)
        await first.client.store.apply(Operation([("declare_dead", (first.worker.number, office.clock.now()))]))
        first.worker.kill()
        async with lives(office, sinks={"s": (ledger, {"events": "failed"})}):
            await asyncio.sleep(60)
            assert ledger.of("f") == ["failed"]
        first.client.store.abandon()

    office.play(main)


def test_a_deliverer_that_counts_as_dead_waits_until_it_is_alive_again(office):
    """It would ask for its due events again and again, as fast as the processor can, and get none."""

    async def main():
        ledger = Ledger()
        async with lives(office, fail, sinks={"s": (ledger, {"events": "failed"})}) as app:
            store, number = app.client.store, app.worker.number
            await store.apply(Operation([("declare_dead", (number, office.clock.now()))]))
            before = store.commits
            await app.start("fail", id="f")
            await asyncio.sleep(60)
            assert ledger.of("f") == ["failed"]
            assert app.worker.number != number
            assert store.commits - before < 100

    office.play(main)


def test_who_has_lost_a_claim_stops_telling(office):  # W08
    """A worker that has stalled would tell a sink all of it once more, old events behind new ones."""

    async def tells(ctx: Context) -> None:
        for number in range(10):
            await ctx.emit("n", number)

    async def main():
        ledger = Ledger()
        ledger.slow = 1.0
        async with (
            lives(office, tells, sinks={"s": (ledger, {"events": "emitted"})}) as app,
            lives(office, sinks={}) as other,
        ):
            await app.start("tells", id="r")
            await asyncio.sleep(3.5)
            apply, number = app.client.store.apply, other.worker.number
            await apply(Operation([("release_deliveries", (app.worker.number, office.clock.now()))]))
            claimed = await apply(Operation([("claim_deliveries", ("s", number, office.clock.now(), 1))]))
            assert len(claimed) == 1
            await asyncio.sleep(20)
            assert [event.seq for event in ledger.events] == [1, 2, 3, 4]
            await apply(Operation([("release_deliveries", (number, office.clock.now()))]))
            app.client.store.changes.committed_elsewhere()
            await asyncio.sleep(60)
            assert [event.seq for event in ledger.events[4:]] == [4, 5, 6, 7, 8, 9, 10]

    office.play(main)


def test_a_new_sink_begins_now_or_when_it_is_told(office):
    """A new sink would be flooded with the past, or could not have it."""

    async def main():
        async with office.app(ship, long) as app:
            await (await app.start("ship", "o", id="old")).result()
            await asyncio.sleep(100)
            await app.start("long", id="between")
            await asyncio.sleep(1)
        now, before, since = Ledger(), Ledger(), to_datetime(START) + timedelta(seconds=50)
        sinks = {
            "now": (now, {}),
            "all": (before, {"since": datetime(2000, 1, 1, tzinfo=UTC)}),
            "some": (Ledger(), {"since": since}),
        }
        some = sinks["some"][0]
        async with lives(office, ship, long, sinks=sinks) as app:
            await app.start("ship", "n", id="new")
            await asyncio.sleep(100)
            whole = ["started", "order.packed", "mail", "completed"]
            assert [now.of("old"), before.of("old"), some.of("old")] == [[], whole, []]
            assert now.of("new") == before.of("new") == some.of("new") == whole
            assert now.of("between") == ["behind", "completed"]
            assert before.of("between") == some.of("between") == ["started", "before", "behind", "completed"]
        told = len(before.events)
        async with lives(office, ship, long, sinks=sinks):
            await asyncio.sleep(1)
            assert len(before.events) == told

    office.play(main)


def test_kinds_can_be_changed(office):
    """A changed declaration would be ignored, or make the sink begin anew."""

    async def main():
        ledger = Ledger()
        async with lives(office, ship, sinks={"s": (ledger, {"events": "completed"})}) as app:
            await (await app.start("ship", "o", id="one")).result()
            await asyncio.sleep(1)
        async with lives(office, ship, sinks={"s": (ledger, {"events": ["started", "emitted"]})}) as app:
            await (await app.start("ship", "o", id="two")).result()
            await asyncio.sleep(1)
            assert (await app.client.sinks())[0].events == ("emitted", "started")
        assert ledger.of("one") == ["completed"]
        assert ledger.of("two") == ["started", "order.packed", "mail"]

    office.play(main)


def test_events_stay_while_nobody_delivers(office):
    """What happens while no worker with the sink lives would be lost."""

    async def main():
        ledger = Ledger()
        sinks = {"s": (ledger, {"events": ["started", "completed"]})}
        async with lives(office, sinks=sinks).connected():
            pass
        async with office.app(ship) as app:
            await (await app.start("ship", "o", id="r")).result()
            await asyncio.sleep(4000)
            assert "events_undelivered" in {finding.code for finding in await app.client.doctor()}
        async with lives(office, sinks=sinks):
            await asyncio.sleep(1)
            assert ledger.of("r") == ["started", "completed"]

    office.play(main)


def test_a_worker_that_leaves_delivers_first(office):
    """A short script would end before its sink hears of it."""

    async def main():
        ledger = Ledger()
        ledger.slow = 1
        async with lives(office, ship, sinks={"s": (ledger, {})}) as app:
            await (await app.start("ship", "o", id="r")).result()
        assert ledger.of("r") == ["started", "order.packed", "mail", "completed"]

    office.play(main)


def test_a_worker_that_leaves_in_haste_gives_back(office):
    """What was not delivered in time would belong to a worker that is gone."""

    async def main():
        ledger = Ledger()
        ledger.slow = 25
        async with lives(office, fail, sinks={"s": (ledger, {"events": "failed"})}) as app:
            await app.start("fail", id="f")
            await asyncio.sleep(1)
        async with office.app().connected() as app:
            assert await app.client.store.select("select owner from perdure_outbox where due_at is not null") == [
                (None,)
            ]
        ledger.slow = 0
        async with lives(office, fail, sinks={"s": (ledger, {"events": "failed"})}):
            await asyncio.sleep(1)
        assert ledger.of("f") == ["failed"]

    office.play(main)


def test_reruns_and_what_they_replaced(office):
    """The end of an earlier generation would be told with the output of a later one."""

    async def main():
        ledger = Ledger()

        async def counting(ctx: Context) -> int:
            return await ctx.step("n", lambda: office.ran.update(n=1) or office.ran["n"])

        sinks = {"s": (ledger, {"events": ["completed", "rerun"]})}
        async with lives(office, counting, sinks=sinks, worker={"deliver": False}) as app:
            run = await app.start("counting", id="r")
            await run.result()
            await app.client.rerun("r")
            assert await run.result() == 2
        async with lives(office, counting, sinks=sinks):
            await asyncio.sleep(1)
            assert ledger.of("r") == ["completed", "rerun", "completed"]
            assert [event.data["output"] for event in ledger.events if event.kind == "completed"] == [1, 2]

    office.play(main)


def test_continue_as_new_waits_for_the_sink(office):
    """A run that begins anew would take undelivered events with it."""

    async def main():
        ledger = Ledger()
        sinks = {"s": (ledger, {"events": ["emitted", "completed"]})}
        async with lives(office, again, sinks=sinks, worker={"deliver": False}) as app:
            assert await (await app.start("again", 1, id="r")).result() == "over"
            await office.check(app)
        async with lives(office, again, sinks=sinks) as app:
            await asyncio.sleep(1)
            assert [event.data for event in ledger.events if event.topic == "round"] == [1, 2, 3]
            assert ledger.of("r") == ["round"] * 3 + ["completed"]

    office.play(main)


def test_nothing_is_pruned_that_a_sink_has_not_got(office):  # W19
    """Retention would remove events, or an outbox that nobody empties would never say so."""

    async def main():
        sinks = {"s": (Ledger(), {"events": "completed"})}
        async with lives(office, ship, sinks=sinks, worker={"deliver": False}) as app:
            await (await app.start("ship", "o", id="r")).result()
            await asyncio.sleep(10)
            assert await app.client.prune(older_than=1) == 0
            assert await app.client.prune(older_than=1, undelivered=True) == 1
            assert await office.count(app, "outbox") == 0
            await office.check(app)

    office.play(main)


def test_a_removed_sink_leaves_nothing_behind(office):
    """A database without sinks would pay for those that it once had."""

    async def main():
        sinks = {"s": (Ledger(), {}), "t": (Ledger(), {})}
        async with lives(office, ship, sinks=sinks, worker={"deliver": False}) as app:
            await (await app.start("ship", "o")).result()
            await app.client.remove_sink("s")
            assert [sink.name for sink in await app.client.sinks()] == ["t"]
            await (await app.start("ship", "o")).result()
            assert await office.count(app, "outbox") == 2
            await app.client.remove_sink("t")
            await (await app.start("ship", "o")).result()
            assert await office.count(app, "outbox") == await office.count(app, "sinks") == 0
            assert await triggers(app) == set()
            with pytest.raises(UnknownSink):
                await app.client.remove_sink("t")

    office.play(main)


async def triggers(app) -> set[str]:
    sql = (
        "select name from sqlite_schema where type = 'trigger' and name like '%told'"
        if app.client.store.dialect == "sqlite"
        else "select tgname from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace "
        f"where tgname like '%told' and n.nspname = '{app.client.store.address.schema}'"
    )
    return {name for (name,) in await app.client.store.select(sql)}


def test_without_sinks_nothing_is_paid(office):
    """A plain run would write or read more for a feature that it does not use."""

    async def main():
        async with office.app(ship) as app:
            asked = []
            rows = app.client.store.rows

            async def noting(name, *parameters):
                asked.append(name)
                return await rows(name, *parameters)

            app.client.store.rows = noting
            before = app.client.store.commits
            await (await app.start("ship", "o")).result()
            plain = app.client.store.commits - before
            assert await triggers(app) == set()
            assert "due_deliveries" not in asked
        async with lives(
            office, ship, sinks={"s": (Ledger(), {"events": "completed"})}, worker={"deliver": False}
        ) as app:
            before = app.client.store.commits
            await (await app.start("ship", "o")).result()
            assert app.client.store.commits - before == plain, "what a sink is to be told rides along"
            assert await triggers(app) == {"perdure_journal_told", "perdure_runs_told"}

    office.play(main)


def test_an_event_costs_two_commits_however_many_there_are(office):  # A080 W23
    """Each event would wait for the disk by itself."""

    async def main():
        ledger = Ledger()
        sinks = {"s": (ledger, {})}
        async with lives(office, ship, sinks=sinks, worker={"deliver": False}) as app:
            await (await app.start("ship", "o", id="r")).result()
        async with lives(office, sinks=sinks) as app:
            seen, apply = [], app.client.store.apply

            async def noting(operation):
                seen.append([name for name, _ in operation.lines])
                return await apply(operation)

            app.client.store.apply = noting
            await asyncio.sleep(0.5)
            assert len(ledger.events) == 4
            assert [names for names in seen if "deliver" in names[0]] in (
                [["claim_deliveries"], ["end_delivery", "leave_delivery"]], [["end_delivery", "leave_delivery"]],
            )  # fmt: skip

    office.play(main)


BAD = {
    "no such kind": {"events": ["exploded"]},
    "no kinds": {"events": []},
    "no texts": {"topics": [1]},
    "no timeout": {"timeout": 0},
    "no room": {"concurrency": 0},
    "no such option": {"colour": "red"},
    "a date without a zone": {"since": datetime(2020, 1, 1)},  # noqa: DTZ001 - the mistake
}


def nothing() -> None: ...


def items(event: Event):
    yield event


async def live_items(event: Event):
    yield event


@pytest.mark.parametrize("target", [nothing, items, live_items, 7])
def test_a_target_that_cannot_be_told_is_refused(target):
    """A function with a `yield` would do nothing and count as told; one without a parameter fail for each event."""
    with pytest.raises(InvalidOption, match="target"):
        App("sqlite://").sink("s", target)


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_declaration_is_refused(case):
    """A sink would silently get nothing."""
    with pytest.raises(InvalidOption):
        App("sqlite://").sink("s", print, **BAD[case])


def test_two_sinks_of_one_name_are_refused():
    """Two receivers would share one place in the journal."""
    app = App("sqlite://")
    app.sink("s", print)
    with pytest.raises(DuplicateName):
        app.sink("s", len)
    with pytest.raises(InvalidOption):
        app.sink("t", "no function")
