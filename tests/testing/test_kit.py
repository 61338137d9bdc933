"""The kit, on an app that stands for a user's own: at module level, with a database that tests must not touch."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import BaseModel

from perdure import App, Compressed, Context, Retry, Status, SyncContext, WorkerOptions, current_step
from perdure.errors import InvalidOption, RunFailed, StoreClosed
from perdure.testing.kit import Kit
from perdure.testing.wait import NotEnded

DAY = timedelta(days=1)
app = App("sqlite:////nowhere/orders.db")


class Order(BaseModel):
    id: str
    cents: int


@app.step
async def charge(order: Order) -> Order:
    return Order(id=order.id, cents=order.cents * 2)


@app.workflow
async def checkout(ctx: Context, order: Order) -> Order:
    return await ctx.step(charge, order)


@app.workflow
async def patient(ctx: Context, days: int) -> datetime:
    await ctx.sleep(timedelta(days=days))
    return ctx.now()


@app.workflow
async def waiting(ctx: Context) -> str:
    return await ctx.receive("approval", str)


@app.workflow
def plain(ctx: SyncContext, days: int) -> str:
    ctx.sleep(timedelta(days=days))
    return ctx.step("greet", lambda: f"after {days} days")


@pytest.fixture
def perdure_app() -> App:
    return app


def test_runs_a_workflow_of_an_app_that_knows_nothing_of_tests(perdure_kit):
    """Users would have to change their app's file, or their real database would be written."""
    result = perdure_kit.run(checkout, Order(id="o-1", cents=21))
    assert result == Order(id="o-1", cents=42)
    assert perdure_kit.path.exists()
    assert not Path("/nowhere").exists()
    assert app.registry.stand_in is not None  # while the kit is in use


def test_leaves_the_app_as_it_was():
    """One test would change what the next one, or the program itself, does."""
    with Kit(app) as kit:
        folder = kit.folder
        kit.run(checkout, Order(id="o-1", cents=1))
    assert app.registry.stand_in is None
    assert not folder.exists()
    with pytest.raises(StoreClosed):
        _ = app.client


def test_sleeps_take_no_time_but_pass_time(perdure_kit):
    """A workflow of months could not be tested, or would think that no time had passed."""
    before = perdure_kit.now
    assert perdure_kit.run(patient, 400) == before + 400 * DAY
    assert perdure_kit.now == before + 400 * DAY


def test_plain_workflows_run_too(perdure_kit):
    """Workflows that are plain functions could not be tested."""
    assert perdure_kit.run(plain, 90) == "after 90 days"


def test_time_begins_where_asked():
    """A test of what happens on a certain day could not be written."""
    start = datetime(2028, 2, 28, tzinfo=UTC)
    with Kit(app, start=start) as kit:
        assert kit.run(patient, 2) == datetime(2028, 3, 1, tzinfo=UTC)


def test_retries_wait_exactly_as_long_as_their_policy_says(perdure_kit):
    """Times in tests would differ by chance, or retries would take real time."""

    @app.workflow(name="flaky")
    async def flaky(ctx: Context) -> list[datetime]:
        moments = []

        async def fetch() -> None:
            if current_step().attempt < 4:
                raise ConnectionError

        moments.append(ctx.now())
        await ctx.step("fetch", fetch, retry=Retry(max_attempts=4, delay=3600, backoff=2, cap=timedelta(days=9)))
        moments.append(ctx.now())
        return moments

    begun, ended = perdure_kit.run(flaky)
    assert ended - begun == timedelta(hours=1 + 2 + 4)


def test_timeouts_of_steps_and_of_asyncio_run_out_virtually(perdure_kit):
    """Time limits could not be tested without waiting for them."""

    @app.workflow(name="limits")
    async def limits(ctx: Context) -> list[str]:
        seen = []
        try:
            await ctx.step("hang", lambda: asyncio.sleep(1e6), timeout=60)
        except TimeoutError:
            seen.append("attempt")
        try:
            async with asyncio.timeout(3600):
                await ctx.receive("never")
        except TimeoutError:
            seen.append("asyncio")
        seen.append(await ctx.receive("never", str, timeout=DAY, default="receive"))
        return seen

    before = perdure_kit.now
    assert perdure_kit.run(limits) == ["attempt", "asyncio", "receive"]
    assert perdure_kit.now - before == timedelta(seconds=60, hours=1, days=1)


def test_a_lease_runs_out_virtually(caplog):
    """The take-over of a dead worker's runs could not be tested."""
    caplog.set_level(logging.ERROR)
    lease = timedelta(minutes=10)

    async def main(opened: App) -> tuple[str, datetime]:
        begun = asyncio.Event()

        async def body() -> str:
            if begun.is_set():
                return "second worker"
            begun.set()
            await asyncio.sleep(3600)
            return "first worker"

        @app.workflow(name="taken_over")
        async def taken_over(ctx: Context) -> tuple[str, datetime]:
            return await ctx.step("body", body), ctx.now()

        # The first worker has registered already, for the workflows that it knew.
        async with opened.variant() as first:
            run = await first.start(taken_over)
            await begun.wait()
            first.worker.kill()
            async with opened.variant():
                return await run.result()

    with Kit(app, lease=lease) as kit:
        before = kit.now
        who, when = kit.main(main)
    assert who == "second worker"
    assert lease <= when - before <= 2 * lease


def test_main_opens_the_app_for_a_whole_scenario(perdure_kit):
    """Signals could not be sent at a chosen time, and nothing could be looked at while a run goes on."""

    async def main(opened: App) -> tuple[Status, str]:
        run = await opened.start(waiting, id="w")
        await asyncio.sleep(3 * 86_400)
        status = (await run.info()).status
        await opened.signal("w", "approval", "yes")
        return status, await run.result()

    before = perdure_kit.now
    assert perdure_kit.main(main) == (Status.WAITING, "yes")
    assert perdure_kit.now == before + 3 * DAY


def test_code_that_uses_the_apps_own_object_reaches_the_kit(perdure_kit):
    """Functions of the user's program that call `app.start(…)` could not be tested."""

    async def a_view_of_the_users_web_server(order_id: str) -> Order:
        run = await app.start(checkout, Order(id=order_id, cents=5), id=order_id)
        return await run.result()

    async def main(opened: App) -> Order:
        return await a_view_of_the_users_web_server("o-7")

    assert perdure_kit.main(main).cents == 10
    assert perdure_kit.events("o-7")[-1].kind == "completed"


def test_meanwhile_plays_the_part_of_others(perdure_kit):
    """A workflow that waits for people could not be run in one line."""

    async def approve(run) -> None:
        await asyncio.sleep(3600)
        await run.signal("approval", "granted")

    assert perdure_kit.run(waiting, meanwhile=approve) == "granted"


def test_an_error_of_meanwhile_ends_the_test(perdure_kit):
    """A failed assertion beside a waiting run would show up as a run that does not end."""

    async def expect(run) -> None:
        assert (await run.info()).status == Status.FAILED, "not failed"

    with pytest.raises(AssertionError, match="not failed"):
        perdure_kit.run(waiting, meanwhile=expect)


def test_the_database_lives_from_call_to_call(perdure_kit):
    """A restart of the program could not be played."""

    async def start(opened: App) -> None:
        await opened.start(waiting, id="w")

    async def finish(opened: App) -> str:
        await opened.signal("w", "approval", "late")
        return await opened.handle("w", waiting).result()

    perdure_kit.main(start)
    assert perdure_kit.main(finish) == "late"


def test_a_failed_run_raises_its_error(perdure_kit):
    """A test could not say which failure it expects."""

    @app.workflow(name="failing")
    async def failing(ctx: Context) -> None:
        raise LookupError("no such order")

    with pytest.raises(RunFailed, match="no such order") as caught:
        perdure_kit.run(failing)
    assert isinstance(caught.value.cause, LookupError)


def test_a_run_that_waits_for_ever_is_reported_with_what_it_waits_for(perdure_kit):
    """A forgotten signal would hang the test."""
    with pytest.raises(NotEnded, match=r"'run-1' of waiting is waiting; it waits for signal:approval") as caught:
        perdure_kit.run(waiting)
    assert [run.id for run in caught.value.runs] == ["run-1"]


def test_a_time_limit_of_the_test_itself_is_left_alone(perdure_kit):
    """A timeout that the test expects would be taken for a run that does not end."""

    async def main(opened: App) -> None:
        async with asyncio.timeout(5):
            await (await opened.start(waiting)).result()

    with pytest.raises(TimeoutError):
        perdure_kit.main(main)


def test_a_paused_run_is_reported_at_once(perdure_kit):
    """A divergence would show up as a run that does not end, without its reason."""
    switch = []

    @app.workflow(name="changing")
    async def changing(ctx: Context) -> None:
        await ctx.sleep(DAY) if switch else await ctx.receive("go")

    async def start(opened: App) -> None:
        await opened.start(changing, id="c")

    perdure_kit.main(start)
    switch.append(True)
    with pytest.raises(NotEnded, match=r"'c' of changing is paused; .*disagree at journal entry 1"):
        perdure_kit.run(changing, id="c", meanwhile=lambda run: run.signal("go"))


def test_chance_is_the_same_in_every_test():
    """A test of a workflow that uses ctx.uuid() or ctx.random() could not compare results."""

    @app.workflow(name="chancy")
    async def chancy(ctx: Context) -> list[str]:
        return [ctx.run_id, str(ctx.uuid()), str(ctx.random().random())]

    with Kit(app) as kit, Kit(app) as other:
        first = kit.run(chancy)
        assert kit.run(chancy)[1] != first[1]
    with Kit(app) as other:
        assert other.run(chancy) == first
    assert first[0] == "run-1"


def test_the_apps_codec_and_limits_are_kept():
    """A test would pass with payloads that the real app cannot read."""
    packed = App("sqlite:////nowhere/packed.db", codec=Compressed(at_least=1), worker=WorkerOptions(concurrency=3))

    @packed.workflow
    async def big(ctx: Context) -> str:
        return await ctx.step("make", lambda: "long " * 1000)

    with Kit(packed) as kit:
        assert kit.run(big, id="b") == "long " * 1000
        assert kit.export("b")["journal"][0]["data"] == "long " * 1000
        assert len(kit.path.read_bytes()) < 300_000


def test_an_open_app_is_refused():
    """Calls on the app would reach the one database or the other by chance."""
    opened = App("sqlite://")

    @opened.workflow
    async def nothing(ctx: Context) -> None: ...

    async def main() -> None:
        async with opened:
            await asyncio.to_thread(use)

    def use() -> None:
        with Kit(opened) as kit, pytest.raises(InvalidOption, match="open itself"):
            kit.run(nothing)

    asyncio.run(main())
