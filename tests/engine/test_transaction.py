"""ctx.transaction: the user's rows and the step's outcome in one commit, or neither."""

import asyncio

import pytest
from postgreskit.server import ON_POSTGRES

from perdure import AsyncTransaction, Context, RecordedError, Retry, Terminal, Transaction, current_step
from perdure.errors import InvalidOption, NotSerializable
from perdure.store.operation import Operation


class Broken(Exception):
    pass


def create(tx: Transaction) -> None:
    tx.execute("create table if not exists account (name text primary key, cents integer not null check (cents >= 0))")
    tx.execute("insert into account values ('a', 100), ('b', 0) on conflict do nothing")


def move(tx: Transaction, cents: int) -> list:
    mark = "$1" if ON_POSTGRES else "?"
    tx.execute(f"update account set cents = cents - {mark} where name = 'a'", (cents,))
    tx.execute(f"update account set cents = cents + {mark} where name = 'b'", [cents])
    return [row[0] for row in tx.execute("select cents from account order by name")]


async def balance(lab, app):
    return [row[0] for row in await lab.sql(app, "select cents from account order by name")]


async def move_async(tx: AsyncTransaction, cents: int) -> list:
    mark = "$1" if ON_POSTGRES else "?"
    await tx.execute(f"update account set cents = cents - {mark} where name = 'a'", (cents,))
    await tx.execute(f"update account set cents = cents + {mark} where name = 'b'", [cents])
    return [row[0] for row in await tx.execute("select cents from account order by name")]


def play(lab, flow, *args, others=()):
    """Run a workflow to its end; its end, and the balances then and after a replay."""

    async def main():
        async with lab.worker(flow, *others) as app:
            ended = await lab.ended(app, (await app.start("flow", *args)).id, "flow")
            before = await balance(lab, app)
            await lab.check_replay(app, ended, "flow")
            assert await balance(lab, app) == before
            return ended, before

    return lab.play(main)


def test_rows_and_outcome_together(lab):
    """The user's rows would not be there with the outcome, or be written again on replay."""

    async def flow(ctx: Context) -> list[int]:
        await ctx.transaction(create)
        got = await ctx.transaction(move, 30)
        await ctx.sleep(60)
        return got

    ended, rows = play(lab, flow)
    assert (ended.value, rows) == ([70, 30], [70, 30])
    assert ended.keys("step_completed") == ["create", "move"]


def test_a_failure_rolls_everything_back(lab):
    """A transaction that raises would leave some of its rows, or record an outcome."""

    def half(tx: Transaction) -> None:
        move(tx, 10)
        raise Broken("after the first half")

    async def flow(ctx: Context) -> str:
        await ctx.transaction(create)
        try:
            await ctx.transaction(half)
        except Broken as error:
            return str(error)

    ended, rows = play(lab, flow)
    assert (ended.value, rows, ended.keys("step_failed")) == ("after the first half", [100, 0], ["half"])


def test_a_rule_of_the_database(lab):
    """A broken constraint would not be an error of its own that a workflow can catch, or break the batch."""

    async def flow(ctx: Context) -> str:
        await ctx.transaction(create)
        try:
            await ctx.transaction(move, 500)
        except Exception as error:  # noqa: BLE001 - its code is asserted
            return error.code

    ended, rows = play(lab, flow)
    assert (ended.value, rows) == ("operation_refused", [100, 0])


def test_a_transaction_may_be_retried(lab):
    """A failed transaction would not be tried again by its policy, or be applied twice."""
    attempts = []

    def flaky(tx: Transaction) -> list:
        attempts.append(1)
        out = move(tx, 10)
        if len(attempts) < 3:
            raise Broken
        return out

    async def flow(ctx: Context) -> list[int]:
        await ctx.transaction(create)
        return await ctx.transaction(lab.app().step(retry=Retry(delay=60, backoff=1, jitter=0))(flaky))

    ended, rows = play(lab, flow)
    assert (ended.value, rows, len(attempts), ended.seconds) == ([90, 10], [90, 10], 3, 120)


def test_terminal_ends_it(lab):
    """Terminal inside a transaction would be retried."""
    attempts = []

    def lost(tx: Transaction) -> None:
        attempts.append(1)
        raise Terminal("no")

    async def flow(ctx: Context) -> None:
        await ctx.transaction(lab.app().step(retry=Retry())(lost))

    ended = lab.finish(flow)
    assert (ended.status, str(ended.error), attempts) == ("failed", "no", [1])


def test_a_result_without_a_form_rolls_back(lab):
    """Rows would stay whose outcome could not be recorded."""

    def odd(tx: Transaction) -> object:
        move(tx, 10)
        return object()

    async def flow(ctx: Context) -> str:
        await ctx.transaction(create)
        try:
            await ctx.transaction(odd)
        except NotSerializable as error:
            return error.code

    ended, rows = play(lab, flow)
    assert (ended.value, rows) == ("not_serializable", [100, 0])


def test_transactions_among_other_steps(lab):
    """A transaction beside running steps, or two at once, would tear the journal or lose an outcome."""

    async def quick(n: int) -> int:
        await asyncio.sleep(n % 3)
        return n

    async def flow(ctx: Context) -> list:
        await ctx.transaction(create)
        got = await asyncio.gather(
            *[ctx.step(quick, n) for n in range(5)], ctx.transaction(move, 1), ctx.transaction(move, 2), ctx.sleep(1),
            ctx.transaction(move, 3), *[ctx.step(quick, n) for n in range(5)],
        )  # fmt: skip
        await ctx.sleep(60)
        return [got[:5], sorted(got[i][1] for i in (5, 6, 8))]

    ended, rows = play(lab, flow)
    assert ended.value[0] == [0, 1, 2, 3, 4]
    assert (rows, ended.value[1][-1]) == ([94, 6], 6)
    assert [event.seq for event in ended.events] == list(range(1, len(ended.events) + 1))


def test_many_runs_transact_at_once(lab):
    """Transactions of several runs would mix their rows or outcomes."""

    async def flow(ctx: Context, n: int) -> None:
        await ctx.transaction(move if n % 2 else move_async, n)

    async def begin(ctx: Context) -> None:
        await ctx.transaction(create)

    async def main():
        async with lab.worker(flow, begin) as app:
            await (await app.start("begin")).result()
            handles = [await app.start("flow", n) for n in range(10)]
            for handle in handles:
                await handle.result()
            assert await balance(lab, app) == [55, 45]

    lab.play(main)


def test_giving_up_a_transaction(lab):
    """A transaction that is cancelled before it ran would run, or leave its run hanging."""

    async def flow(ctx: Context) -> str:
        await ctx.transaction(create)
        task = asyncio.create_task(ctx.transaction(move, 5))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await ctx.sleep(60)
        return "cancelled" if task.cancelled() else "done"

    ended, rows = play(lab, flow)
    assert (ended.value, rows) == ("cancelled", [100, 0])


def test_after_a_crash_it_is_done_once(lab):
    """A worker that dies right after a transaction would leave rows that the next worker writes again."""
    deaths = []

    async def die() -> None:
        deaths.append(1)
        if len(deaths) == 1:
            lab.die()

    async def flow(ctx: Context) -> list[int]:
        await ctx.transaction(create)
        got = await ctx.transaction(move, 30)
        await ctx.step(die)
        return got

    assert lab.survive(flow).value == [70, 30]


def test_a_coroutine_function(lab):
    """Its rows would not be one commit with its outcome, or it would not know which step it is."""

    async def look(tx: AsyncTransaction, cents: int) -> list:
        got = await move_async(tx, cents)
        return [*got, current_step().key]

    async def half(tx: AsyncTransaction) -> None:
        await move_async(tx, 10)
        raise Broken("after the first half")

    async def cancelled(tx: AsyncTransaction) -> None:
        await move_async(tx, 10)
        raise asyncio.CancelledError

    async def flow(ctx: Context) -> list:
        await ctx.transaction(create)
        got = [await ctx.transaction(look, 30)]
        for fn in (half, cancelled):
            try:
                await ctx.transaction(fn)
            except (Broken, RecordedError) as error:
                got.append(type(error).__name__)
        await ctx.sleep(60)
        return got

    ended, rows = play(lab, flow)
    assert (ended.value, rows) == ([[70, 30, "look"], "Broken", "RecordedError"], [70, 30])
    assert ended.keys("step_completed") == ["create", "look"]


def test_a_coroutine_function_that_waits(lab):
    """On SQLite the whole file would wait for it; on Postgres it may."""

    async def slow(tx: AsyncTransaction) -> list:
        got = await move_async(tx, 10)
        await asyncio.sleep(5)
        return got

    async def flow(ctx: Context) -> list | str:
        await ctx.transaction(create)
        try:
            return await ctx.transaction(slow)
        except InvalidOption as error:
            return str(error)

    ended, rows = play(lab, flow)
    if ON_POSTGRES:
        assert (ended.value, rows) == ([90, 10], [90, 10])
    else:
        assert "await nothing but its transaction" in ended.value
        assert rows == [100, 0]


class Odd(BaseException):
    """Not even an Exception."""


@pytest.mark.parametrize("coroutine", [False, True])
@pytest.mark.parametrize("error", [Odd("no"), SystemExit("no")], ids=lambda error: type(error).__name__)
def test_what_is_no_exception_is_a_failure_too(lab, error, coroutine):
    """It would end the thread or the task that commits: nothing would be stored in this process ever again."""

    def plain(*_):
        raise error

    async def asynchronous(*_):
        raise error

    fn = asynchronous if coroutine else plain

    async def flow(ctx: Context) -> list:
        await ctx.transaction(create)
        found = []
        for call in (ctx.step, ctx.transaction):
            try:
                await call(fn)
            except (RecordedError, Odd, SystemExit) as caught:
                found.append((type(caught).__name__, str(caught)))
        return [*found, await ctx.transaction(move, 30)]

    ended, rows = play(lab, flow)
    as_a_step, as_a_transaction, after = ended.value
    assert as_a_step == as_a_transaction
    assert (after, rows) == ([70, 30], [70, 30])


@pytest.mark.parametrize("error", [Odd("no"), SystemExit("no")], ids=lambda error: type(error).__name__)
def test_what_is_no_exception_reaches_who_gave_the_function(lab, error):
    """As above, for a function that comes with a command."""

    def fail(_):
        raise error

    async def main():
        async with lab.app().connected() as app:
            with pytest.raises(type(error)):
                await app.client.store.apply(Operation(body=fail))
            assert await app.client.store.apply(Operation(body=lambda _: [])) == []

    lab.play(main)


@pytest.mark.skipif(not ON_POSTGRES, reason="on SQLite a function has the file for itself, and may await nothing else")
def test_leaving_does_not_wait_for_ever(lab):
    """A function that hangs would keep its worker from stopping; its run would be owned until the lease ends."""
    ran = []

    async def hang(tx: AsyncTransaction) -> str:
        ran.append(1)
        await tx.execute("insert into tally values (1)")
        await asyncio.sleep(10_000 if len(ran) == 1 else 1)
        return "second"

    async def flow(ctx: Context) -> str:
        return await ctx.transaction(hang)

    async def main():
        async with lab.worker(flow, options={"drain": 20}) as app:
            await lab.spoil(app, "create table tally (n integer)")
            await app.start("flow", id="r")
            await asyncio.sleep(1)
        assert lab.seconds() == 21
        async with lab.worker(flow) as app:
            ended = await lab.ended(app, "r")
            assert (ended.value, ended.info.takeovers, len(ran)) == ("second", 0, 2)
            assert ended.keys("attempt_failed") == []
            assert await lab.sql(app, "select count(*) from tally") == [(1,)]

    lab.play(main)


@pytest.mark.skipif(not ON_POSTGRES, reason="on SQLite a function has the file for itself, and may await nothing else")
def test_operators_and_other_runs_do_not_wait_for_functions(lab):
    """Behind an operator's command, which waited for one of the few connections for functions, all commits would."""

    async def long(tx: AsyncTransaction) -> None:
        for _ in range(60):
            await asyncio.sleep(1)
            await tx.execute("select 1")

    async def busy(ctx: Context) -> None:
        await ctx.transaction(long)

    async def waiting(ctx: Context) -> None:
        await ctx.receive("never")

    async def main():
        async with lab.worker(busy, waiting) as app:
            await app.start("waiting", id="r")
            await lab.until(app, "r", "waiting")
            for _ in range(5):
                await app.start("busy")
            await asyncio.sleep(1)
            await app.client.pause("r")
            await app.start("waiting", id="next")
            await lab.until(app, "next", "waiting")
            assert lab.seconds() < 10

    lab.play(main)


@pytest.mark.skipif(not ON_POSTGRES, reason="on SQLite a function has the file for itself, and may await nothing else")
@pytest.mark.parametrize("what", ["signal", "cancel", "annotate"])
def test_who_has_a_message_for_a_run_does_not_wait_for_its_function(lab, what):
    """The writer's batch would wait for the run's row, and with it all commits of the process."""
    tries = []

    async def long(tx: AsyncTransaction) -> str:
        tries.append(lab.seconds())
        for _ in range(6):
            await asyncio.sleep(5)
            await tx.execute("insert into tally values (1)")
        return "done"

    async def busy(ctx: Context) -> str:
        done = await ctx.transaction(long)
        return done + await ctx.receive("more", str)

    async def idle(ctx: Context) -> None:
        await ctx.sleep(1)

    async def main():
        async with lab.worker(busy, idle) as app:
            await lab.spoil(app, "create table tally (n integer)")
            run = await app.start("busy", id="r")
            await asyncio.sleep(2)
            if what == "signal":
                await run.signal("more", " and more")
            elif what == "cancel":
                await app.cancel("r")
            else:
                await run.annotate("key", "value")
            await (await app.start("idle")).result()
            assert lab.seconds() < 10
            if what == "annotate":
                await run.signal("more", " and more")
            ended = await lab.ended(app, "r")
            rows = await lab.sql(app, "select count(*) from tally")
        return ended, rows

    ended, rows = lab.play(main)
    if what == "cancel":
        # The function had begun, and its rows are there with its outcome, or neither.
        assert ended.status == "cancelled"
        assert rows == [(6 * len(ended.keys("step_completed")),)]
    else:
        assert (ended.value, rows, len(tries)) == ("done and more", [(6,)], 1)


def test_what_cannot_be_a_transaction(lab):
    """SQL that ends the transaction would commit half of something."""

    def commits(tx: Transaction) -> None:
        move(tx, 10)
        tx.execute("commit")

    def rolls_back(tx: Transaction) -> None:
        tx.execute("rollback")

    def nonsense(tx: Transaction) -> None:
        tx.execute("selec 1")

    async def flow(ctx: Context) -> list[str]:
        await ctx.transaction(create)
        out = []
        for fn in (commits, rolls_back, nonsense):
            try:
                await ctx.transaction(fn)
                out.append("went through")
            except InvalidOption as error:
                out.append(error.code)
            except Exception as error:  # noqa: BLE001 - compared below
                out.append(getattr(error, "code", type(error).__name__))
        await ctx.step("still", lambda: 1)
        return out

    ended, rows = play(lab, flow)
    assert ended.value[0] == "invalid_option"
    assert "went through" not in ended.value
    assert (ended.status, rows) == ("completed", [100, 0])


def test_the_transaction_object_is_the_databases_own(lab):
    """Another connection than perdure's own would be used, and the rows not commit together."""
    seen = []

    def look(tx: Transaction) -> int:
        seen.append(tx.execute("select count(*) from perdure_runs")[0][0])
        tx.execute("insert into perdure_tags (tag, run) select 'mine', number from perdure_runs")
        return tx.execute("select count(*) from perdure_tags")[0][0]

    async def flow(ctx: Context) -> int:
        return await ctx.transaction(look)

    assert lab.finish(flow).value == 1
    assert seen == [1]
