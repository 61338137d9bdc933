"""Remarks about runs, and what their steps have used."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal

import pytest

from perdure import Actor, Command, Context, Remark, Retry, RunFilter, SyncContext, current_step
from perdure.clock import to_datetime
from perdure.errors import InvalidOption, NotInWorkflow, RunNotFound, StartConflict
from perdure.testing.time import START

AT_ONCE = Retry(max_attempts=3, delay=0)


async def seen(app, run_id, **filters):
    return [(found.key, found.value) for found in await app.client.annotations(run_id, **filters)]


async def plain(ctx: Context) -> None:
    await ctx.annotate("trigger.source", "cron")


def test_remarks_of_the_code_are_made_once(office):  # A090
    """A replay would make each remark again, or a remark would be there without what the run did next."""

    async def talk(ctx: Context) -> None:
        await ctx.annotate("decision.outcome", {"yes": True}, payload=["why"], actor=Actor("gpt", "agent", "4"))
        await ctx.sleep(60)
        await ctx.annotate("decision.outcome", "later")
        await ctx.annotate("nothing", None)

    async def main():
        async with office.app(talk) as app:
            run = await app.start("talk", id="r")
            await asyncio.sleep(1)
            assert await seen(app, "r") == [("decision.outcome", {"yes": True})]
            await run.result()
            first, second = await app.client.annotations("r")
            assert (first.payload, first.actor, first.scope) == (["why"], Actor("gpt", "agent", "4"), "run")
            assert (first.generation, first.attempt, first.at) == (1, None, to_datetime(START))
            assert (second.value, second.actor) == ("later", None)
            await app.client.rerun("r")
            await run.result()
            assert [found.generation for found in await app.client.annotations("r")] == [1, 1, 2, 2]
            await office.check(app)

    office.play(main)


def test_plain_workflows_remark_too(office):
    """The context of a plain function would lack it."""

    def talk(ctx: SyncContext) -> None:
        ctx.annotate("a", 1, actor="ada", dedupe="x")
        ctx.annotate("a", 2, dedupe="x")

    async def main():
        async with office.app(talk) as app:
            await (await app.start("talk", id="r")).result()
            assert await seen(app, "r", actor="ada") == [("a", 1)] == await seen(app, "r")

    office.play(main)


def test_what_steps_remark_and_use_stays_whatever_becomes_of_them(office):  # A090 A100
    """A call that was paid for would not be counted, as its attempt failed, timed out or was cancelled."""

    async def work(ctx: Context) -> None:
        async def paid():
            step = current_step()
            step.usage("gpt", provider="openai", input_tokens=10, output_tokens=5, cost="0.000000015", seconds=2)
            step.annotate("call.finish", f"attempt {step.attempt}", scope="call", scope_id="c-1")
            if step.attempt < 3:
                raise OSError("no")

        async def hangs():
            current_step().usage("gpt", provider="openai", kind="embed", cost=Decimal("0.5"))
            await asyncio.sleep(1000)

        await ctx.step("paid", paid, retry=AT_ONCE)
        with suppress(TimeoutError):
            await ctx.step("slow", hangs, timeout=5)
        with suppress(TimeoutError):
            async with ctx.timeout(5):
                await ctx.step("given up", hangs)

    async def main():
        async with office.app(work) as app:
            await (await app.start("work", id="r")).result()
            found = await app.client.annotations("r", scope="call")
            assert [(each.value, each.attempt, each.scope_id) for each in found] == [
                ("attempt 1", 1, "c-1"), ("attempt 2", 2, "c-1"), ("attempt 3", 3, "c-1"),
            ]  # fmt: skip
            usage = await app.client.usage("r")
            assert (usage.total.calls, usage.total.input_tokens, usage.total.output_tokens) == (5, 30, 15)
            assert usage.total.cost == Decimal("1.000000045")
            assert usage.total.seconds == 6
            assert set(usage.models) == {"openai/gpt"}
            assert (usage.kinds["text"].calls, usage.kinds["embed"].calls) == (3, 2)
            await office.check(app)

    office.play(main)


def test_recording_costs_no_commit(office):
    """Each call of a model would wait for the disk once more."""

    async def main():
        async def silent(ctx: Context) -> None:
            await ctx.step("work", lambda: None)

        async def telling(ctx: Context) -> None:
            def body() -> None:
                current_step().usage("m", cost=1)
                current_step().annotate("k", "v")

            await ctx.step("work", body)
            await ctx.annotate("end", 1)

        async with office.app(silent, telling) as app:
            counts = []
            for name in ("silent", "telling"):
                before = app.client.store.commits
                await (await app.start(name)).result()
                counts.append(app.client.store.commits - before)
            assert counts[0] == counts[1]
            assert await office.count(app, "usage") == 1

    office.play(main)


def test_a_lost_worker_records_nothing_twice(office):
    """Usage of a worker that was thought dead would be counted beside that of the one that took over."""

    async def main():
        go = asyncio.Event()

        async def work(ctx: Context) -> None:
            async def body():
                current_step().usage("m", cost=1)
                await go.wait()

            await ctx.step("work", body)

        async with office.app(work) as first:
            run = await first.start("work", id="r")
            await asyncio.sleep(1)
            first.worker.kill()
            async with office.app(work) as second:
                await asyncio.sleep(100)
                go.set()
                await second.handle("r").result()
                await asyncio.sleep(1)
                assert (await second.client.usage("r")).total.calls == 1
                assert run.id == "r"

    office.play(main)


def test_totals_are_rolled_up_the_tree(office):  # A101 A106 W20
    """A parent's bill would lack what its children have used, or a neighbour's would be on it."""

    async def leaf(ctx: Context, cost: str) -> None:
        await ctx.step("call", lambda: current_step().usage("m", cost=cost, topic="research.search", input_tokens=1))

    async def root(ctx: Context) -> None:
        await ctx.step("own", lambda: current_step().usage("n", cost="1", topic="research", input_tokens=1))
        for cost in ("10", "100"):
            await ctx.call("middle", cost)

    async def middle(ctx: Context, cost: str) -> None:
        await ctx.call("leaf", cost)

    async def main():
        async with office.app(leaf, root, middle) as app:
            await (await app.start("root", id="run-1")).result()
            await (await app.start("leaf", "5", id="run-10")).result()
            assert (await app.client.usage("run-1")).total.cost == 111
            assert (await app.client.usage("run-1", deep=False)).total.cost == 1
            assert (await app.client.usage("run-1", model="m")).total.cost == 110
            assert (await app.client.usage("run-1", topic="research.search")).total.cost == 110
            assert (await app.client.usage(topic="research")).total.cost == 116
            assert (await app.client.usage(topic="research.search", model="m")).total.calls == 3
            assert (await app.client.usage(topic="res")).total.calls == 0
            assert (await app.client.usage()).total.cost == 116
            assert (await app.client.usage(until=to_datetime(START))).total.calls == 0
            assert (await app.client.usage(since=to_datetime(START))).models["m"].input_tokens == 3
            with pytest.raises(RunNotFound):
                await app.client.usage("nobody")

    office.play(main)


def test_a_record_with_a_key_counts_once(office):  # A103
    """A batch whose results are fetched twice would be paid for twice."""

    async def work(ctx: Context) -> None:
        for _ in range(2):
            await ctx.step("fetch", lambda: current_step().usage("m", kind="batch", cost=3, dedupe="batch-7"))

    async def main():
        async with office.app(work) as app:
            await (await app.start("work", id="r")).result()
            assert (await app.client.usage("r")).total.cost == 3

    office.play(main)


def test_remarks_from_outside(office):  # A091
    """An approval would need a run that waits for it, and could not be noted behind its end."""

    async def main():
        async with office.app(plain) as app:
            await (await app.start("plain", id="r")).result()
            note = app.client.annotate
            ada = Actor("ada", "human")
            assert (
                await note("r", {"approval.outcome": "yes", "approval.rank": 0, "approval.none": None}, actor=ada) == 2
            )
            assert await note("r", "seen", True, scope="step", scope_id="charge") == 1
            assert await note("r", "seen", None) == 0
            assert [await note("r", "ticket", n, dedupe="t-1") for n in (1, 2)] == [1, 0]
            assert [await note("r", "ticket", n) for n in (3, 4)] == [1, 1]
            assert await seen(app, "r", key="ticket") == [("ticket", 1), ("ticket", 3), ("ticket", 4)]
            with pytest.raises(RunNotFound):
                await note("nobody", "seen", True)
            with pytest.raises(RunNotFound):
                await app.client.annotations("nobody")

    office.play(main)


def test_filters(office):  # A092
    """Somebody who looks for one remark would get all, or miss it."""

    async def main():
        async with office.app(plain) as app:
            for run_id in ("a", "b"):
                await (await app.start("plain", id=run_id)).result()
                await asyncio.sleep(10)
                await app.client.annotate(run_id, "decision.outcome", run_id, actor=Actor("gpt", "agent"))
                await app.client.annotate(run_id, "decision.reason", run_id, actor=Actor("ada", "human"), scope="step",
                                          scope_id="s")  # fmt: skip
            look = app.client.annotations
            later = to_datetime(START) + timedelta(seconds=15)
            assert await seen(app, "a", prefix="decision.") == [("decision.outcome", "a"), ("decision.reason", "a")]
            assert await seen(app, "a", scope="step", scope_id="s") == [("decision.reason", "a")]
            assert await seen(app, "a", scope_id="other") == []
            assert await seen(app, "a", actor_kind="agent") == [("decision.outcome", "a")]
            assert await seen(app, "a", attempt=1) == []
            assert await seen(app, "a", limit=1) == [("trigger.source", "cron")]
            assert await seen(app, None, key="decision.outcome") == [
                ("decision.outcome", "a"),
                ("decision.outcome", "b"),
            ]
            assert [found.run_id for found in await look(key="decision.outcome", since=later)] == ["b"]
            assert [found.run_id for found in await look(actor="ada", until=later)] == ["a"]
            assert [found.key for found in await look(actor="gpt", prefix="decision.")] == ["decision.outcome"] * 2
            with pytest.raises(InvalidOption):
                await look(prefix="decision.")

    office.play(main)


def test_remarks_belong_to_commands_as_well(office):  # A093
    """A run that a request starts could not be told from others in the same commit."""

    async def main():
        async def handler(command: Command) -> str:
            run = await command.start("plain", id="new")
            await command.annotate("new", "trigger.reason", "a click", actor="ada")
            return run.id

        async def lost(command: Command) -> None:
            await command.annotate("nobody", "trigger.reason", "a click")

        async with office.app(plain).connected() as app:
            assert [await app.command("k", handler) for _ in range(2)] == ["new"] * 2
            assert await seen(app, "new") == [("trigger.reason", "a click")]
            with pytest.raises(RunNotFound):
                await app.command("l", lost)

    office.play(main)


FIRST = [
    Remark({"trigger.source": "mail", "trigger.none": None}, actor=Actor("ada", "human"), payload=["why"]),
    Remark("trigger.rank", 0, scope="call", scope_id="c-1", dedupe="once"),
    Remark("trigger.rank", 1, dedupe="once"),
]


@pytest.mark.parametrize(
    "options", [{}, {"queue": "slow"}, {"dedupe": "d"}, {"delay": 5}], ids=["direct", "queue", "dedupe", "later"]
)
def test_remarks_are_made_with_the_start(office, options):  # A091 A093
    """A crash behind the start would leave a run about which nobody knows who wanted it; a repeated one, noted twice."""

    async def main():
        async with office.app(plain) as app:
            app.queue("slow")
            await app.client.declare_queues(app.registry.queues.values(), ["slow"])
            before = app.client.store.commits
            await app.start("plain", id="r", annotations=FIRST, **options)
            assert app.client.store.commits - before == 1
            wanted = [("trigger.source", "mail"), ("trigger.rank", 0)]
            assert (await seen(app, "r"))[:2] == wanted
            again = await app.start("plain", id="r", annotations=FIRST, **options)
            await again.result()
            assert await seen(app, "r") == [*wanted, ("trigger.source", "cron")]
            first, second, _ = await again.annotations()
            assert (first.actor, first.payload, first.generation) == (Actor("ada", "human"), ["why"], 1)
            assert (second.scope, second.scope_id) == ("call", "c-1")
            assert await again.annotate("seen", True, scope="step", scope_id="s") == 1
            assert await seen(app, "r", scope="step") == [("seen", True)]
            for wrong in ("mail", [("a", 1)], {"": 1}):
                with pytest.raises(InvalidOption):
                    await app.start("plain", id="none", annotations=wrong, **options)
            with pytest.raises(RunNotFound):
                await app.client.annotations("none")
            await office.check(app)

    office.play(main)


def test_a_start_that_is_refused_remarks_nothing(office):
    """A request that was turned down would have left its remarks on somebody else's run."""

    async def taking(ctx: Context, number: int) -> None:
        await ctx.sleep(100)

    async def main():
        async with office.app(taking) as app:
            await app.start("taking", 1, id="r", annotations={"trigger.source": "first"})
            with pytest.raises(StartConflict):
                await app.start("taking", 2, id="r", annotations={"trigger.source": "second"})
            await app.start("taking", 1, dedupe="d", id="named", annotations={"trigger.source": "first"})
            await app.start("taking", 1, dedupe="d", id="joins", annotations={"trigger.source": "second"})
            wanted = [("trigger.source", "first")]
            assert await seen(app, "r") == await seen(app, "named") == wanted

    office.play(main)


def test_commands_start_with_remarks_too(office):
    """Who starts by a command would have to make the same remarks in another way."""

    async def main():
        async def handler(command: Command) -> None:
            for run_id in ("there", "new"):
                await command.start("plain", id=run_id, annotations={"trigger.source": "a click"})

        async with office.app(plain).connected() as app:
            await app.start("plain", id="there")
            for _ in range(2):
                await app.command("k", handler)
            assert await seen(app, "new") == [("trigger.source", "a click")]
            assert await seen(app, "there") == []

    office.play(main)


def test_children_are_started_with_remarks(office):
    """A parent's remark about its child would be there before the child, twice after a replay, or on a stranger's run."""

    async def parent(ctx: Context) -> None:
        child = await ctx.start("plain", annotations={"trigger.source": "parent"})
        await ctx.start("plain", id="stranger", annotations={"trigger.source": "parent"}, detached=True)
        await ctx.sleep(60)
        await child.result()

    async def main():
        async with office.app(plain, parent) as app:
            await (await app.start("plain", id="stranger")).result()
            await (await app.start("parent", id="r")).result()
            (child,) = [info.id for info in (await app.client.runs(RunFilter()))[0] if info.id.startswith("r/")]
            assert await seen(app, child) == [("trigger.source", "parent"), ("trigger.source", "cron")]
            assert await seen(app, "stranger") == [("trigger.source", "cron")]
            await office.check(app)

    office.play(main)


def test_everything_goes_with_its_run(office):  # W19
    """Remarks and usage would pile up for ever."""

    async def work(ctx: Context) -> None:
        await ctx.step("work", lambda: current_step().usage("m", cost=1))
        await ctx.annotate("k", "v")

    async def main():
        async with office.app(work) as app:
            await (await app.start("work")).result()
            await asyncio.sleep(10)
            assert await app.client.prune(older_than=1) == 1
            assert await office.count(app, "usage") == await office.count(app, "annotations") == 0

    office.play(main)


WRONG = {
    "a negative count": {"input_tokens": -1},
    "half a token": {"output_tokens": 0.5},
    "a negative cost": {"cost": -1},
    "no amount": {"cost": "much"},
    "no number": {"cost": float("nan")},
    "no names": {"topic": "a..b"},
    "a model that is none": {"model": 5},
    "no duration": {"seconds": -1},
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_records_are_refused(office, case):
    """A bill would be wrong, and nobody would know why."""

    async def main():
        async def work(ctx: Context) -> str:
            def body():
                try:
                    current_step().usage(**WRONG[case])
                except InvalidOption as error:
                    return error.option
                return ""

            return await ctx.step("work", body)

        async with office.app(work) as app:
            assert await (await app.start("work")).result()
            assert await office.count(app, "usage") == 0

    office.play(main)


def test_transactions_have_rows_of_their_own(office):
    """What a transaction records would be there though it was rolled back."""

    async def main():
        async def work(ctx: Context) -> str:
            def body(tx):
                try:
                    current_step().usage("m")
                except NotInWorkflow:
                    return "refused"
                return ""

            return await ctx.transaction(body)

        async with office.app(work) as app:
            assert await (await app.start("work")).result() == "refused"

    office.play(main)
