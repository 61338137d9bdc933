"""What Prometheus scrapes, read through its own client."""

import asyncio
import threading
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from perdure import Context, Retry, RunFailed
from perdure.engine.definition import Registry
from perdure.engine.observer import Observers
from perdure.errors import StoreFull
from perdure.model.queue import Queue
from perdure.model.run import Claimed
from perdure.observe.metrics import MOST_NAMES, OTHER, Metrics
from perdure.store.operation import Operation
from perdure.testing.time import START


def samples(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith(("_created", "_bucket"))
    }


class Read:
    """The registry as a scrape sees it."""

    def __init__(self, metrics) -> None:
        self._metrics = metrics

    def __call__(self, name, **labels):
        found = samples(generate_latest(self._metrics.registry).decode())
        return found.get((f"perdure_{name}", *sorted(labels.items())))


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def read(metrics):
    return Read(metrics)


async def off_the_loop(call, *args, **labels):
    """As the thread that answers scrapes does."""
    return await asyncio.get_running_loop().run_in_executor(None, lambda: call(*args, **labels))


def test_runs_steps_and_attempts(play, metrics, read):
    """A dashboard would show wrong numbers of what was done and of what went wrong."""
    tried = []

    def flaky():
        tried.append(1)
        if len(tried) % 2:
            raise ValueError("later")

    async def flow(ctx: Context, ok: bool) -> None:
        await ctx.step("flaky", flaky, retry=Retry(max_attempts=2, delay=0.02))
        await ctx.step("nap", lambda: asyncio.sleep(2))
        if not ok:
            await ctx.step("bad", lambda: 1 / 0)

    async def slow(ctx: Context) -> None:
        await ctx.step("nap", lambda: asyncio.sleep(1_000), timeout=5)

    async def main(app):
        for name, *args in (("flow", True), ("flow", True), ("flow", False), ("slow",)):
            try:
                await (await app.start(name, *args)).result()
            except RunFailed:
                assert name == "slow" or args == [False]

    play(main, flow, slow, observers=[metrics])
    assert read("runs_started_total", workflow="flow") == 3
    assert read("runs_ended_total", workflow="flow", status="completed") == 2
    assert read("runs_ended_total", workflow="flow", status="failed") == 1
    assert read("runs_ended_total", workflow="slow", status="failed") == 1
    attempts = {"workflow": "flow", "step": "flaky"}
    assert read("attempts_total", **attempts, outcome="failed") == 3
    assert read("attempts_total", **attempts, outcome="completed") == 3
    assert read("steps_total", **attempts, outcome="completed") == 3
    assert read("steps_total", **attempts, outcome="failed") is None
    assert read("steps_total", workflow="flow", step="bad", outcome="failed") == 1
    assert read("steps_total", workflow="slow", step="nap", outcome="timed_out") == 1
    assert read("attempt_duration_seconds_sum", workflow="flow", step="nap") == pytest.approx(6)
    assert read("run_duration_seconds_sum", workflow="slow", status="failed") == pytest.approx(5)
    assert read("commit_duration_seconds_count") > 10
    assert read("commit_operations_sum") >= read("commit_operations_count")


def test_how_late_runs_are_picked_up(play, metrics, read):
    """Nobody would see that there are too few workers."""

    async def flow(ctx: Context) -> None:
        await ctx.sleep(10)

    async def main(app):
        async with app.connected():
            for n in range(3):
                await app.start("flow", id=f"r{n}")
            await asyncio.sleep(30)
            async with app.variant(observers=[metrics]) as working:
                for n in range(3):
                    await working.handle(f"r{n}").result()

    play(main, flow, opened=False)
    assert read("pickup_seconds_count") == 6
    assert read("pickup_seconds_sum") == pytest.approx(90, abs=1)


def test_how_long_runs_stand_in_line(play, metrics, read):
    """Nobody would see that a queue's limits are too tight."""

    async def flow(ctx: Context) -> None:
        await ctx.step("nap", lambda: asyncio.sleep(100))

    async def main(app):
        app.registry.add_queue(Queue("narrow", concurrency=1))
        async with app:
            handles = [await app.start("flow", queue="narrow") for _ in range(3)]
            for handle in handles:
                await handle.result()

    play(main, flow, observers=[metrics], opened=False)
    assert read("queue_wait_seconds_count", queue="narrow") == 3
    assert read("queue_wait_seconds_sum", queue="narrow") == pytest.approx(300, abs=2)


def test_what_stands_in_line(play, metrics, read):
    """A queue that stands still, as somebody has forgotten that it is paused, would look like one with nothing to do."""

    async def flow(ctx: Context, ok: bool) -> None:
        await ctx.step("nap", lambda: asyncio.sleep(10))
        if not ok:
            raise ValueError("bad")
        await ctx.receive("go")

    async def main(app):
        app.registry.add_queue(Queue("narrow", concurrency=3, ageing=1_000))
        app.registry.add_queue(Queue("idle"))

        async def scrape(queue):
            names = ("queue_in_line", "queue_slots_held", "queue_failed", "queue_oldest_seconds")
            where = {"database": app.client.store.where, "queue": queue}
            return [await off_the_loop(read, name, **where) for name in names]

        async with app:
            begun = [await app.start("flow", ok, queue="narrow") for ok in (True, True, False)]
            await asyncio.sleep(20)
            await app.client.pause_queue("narrow")
            waiting = [await app.start("flow", True, queue="narrow", priority=n) for n in (0, 1, 2)]
            waiting.append(await app.start("flow", True, queue="narrow", delay=1_000))
            await asyncio.sleep(30)
            assert await scrape("narrow") == [3, 2, 1, pytest.approx(30)]
            assert await scrape("idle") == [0, 0, 0, 0]
            database = app.client.store.where
            assert await off_the_loop(read, "runs_due", database=database) == 0, "these need a queue's leave"
            for handle in (*begun[:2], *waiting):
                await app.signal(handle.id, "go")
            await app.client.resume_queue("narrow")
            for handle in waiting:
                await handle.result()

    play(main, flow, observers=[metrics], opened=False)


def test_a_run_that_holds_a_slot_and_finds_no_worker(play, metrics, read):
    """A queue whose slots are held by runs that nobody can drive would seem to be at work."""

    async def flow(ctx: Context) -> None:
        await ctx.receive("go")

    async def main(app):
        app.registry.add_queue(Queue("narrow", concurrency=1))
        async with app:
            await app.start("flow", id="r", queue="narrow")
            await asyncio.sleep(10)
        stranger = app.variant(observers=[metrics])
        stranger.registry = Registry()
        async with stranger:
            where = {"database": stranger.client.store.where, "queue": "narrow"}
            await stranger.signal("r", "go")
            await asyncio.sleep(40)
            assert await off_the_loop(read, "queue_slots_held", **where) == 1
            assert await off_the_loop(read, "queue_oldest_seconds", **where) == pytest.approx(40)

    play(main, flow, opened=False)


def test_what_a_worker_has_in_hand(play, metrics, read, url):
    """Nobody would see how full a worker is, or how much waits for it."""

    async def flow(ctx: Context, seconds: float) -> None:
        await ctx.step("nap", lambda: asyncio.sleep(seconds))
        await ctx.receive("go")

    async def main(app):
        first, *others = [await app.start("flow", seconds) for seconds in (1.0, 1_000.0, 1_000.0, 1_000.0)]
        await asyncio.sleep(50)
        found = await off_the_loop(lambda: samples(generate_latest(metrics.registry).decode()))
        where = ("database", app.client.store.where)
        assert {name[0]: value for name, value in found.items() if name[0].startswith("perdure_runs_d")} == {
            "perdure_runs_driven": 2.0, "perdure_runs_due": 1.0, "perdure_runs_due_oldest_seconds": 50.0,
        }  # fmt: skip
        assert ("perdure_runs_due", where) in found
        assert found["perdure_runs_parked",] == 1
        # On the loop nobody may wait: what was counted last is told.
        assert read("runs_due", database=where[1]) == 1
        for handle in (first, *others):
            await app.signal(handle.id, "go")
        for handle in (first, *others):
            await handle.result()
        assert read("runs_driven") == 0

    play(main, flow, observers=[metrics], worker={"concurrency": 2, "cached_runs": 5})
    assert read("runs_due", database=url) is None, "a worker that has stopped is asked no more"


def test_runs_of_the_dead(play, metrics, read):
    """A crash loop would show in nothing but the log."""

    async def flow(ctx: Context) -> None:
        await ctx.step("nap", lambda: asyncio.sleep(1_000))

    async def main(app):
        dying = app.variant()
        async with dying:
            await dying.start("flow", id="r")
            await asyncio.sleep(1)
            dying.worker.kill()
            number = dying.worker.number
        async with app.variant(observers=[metrics]) as other:
            await other.client.store.apply(Operation([("declare_dead", (number, START + 2_000_000))]))
            await other.handle("r").result()

    play(main, flow, opened=False, worker={"lease": 2})
    assert read("takeovers_total") == 1
    assert read("runs_started_total", workflow="flow") is None, "it was begun before"
    assert read("runs_ended_total", workflow="flow", status="completed") == 1


def test_what_the_store_refuses(metrics, read):
    """A full disk would not show."""
    Observers([metrics]).committed(3, 0.25, [StoreFull("no room"), ValueError("odd")])
    assert read("store_errors_total", code="store_full") == 1
    assert read("store_errors_total", code=OTHER) == 1
    assert read("commit_operations_sum") == 3
    assert read("commit_duration_seconds_sum") == 0.25


def test_names_are_bounded(metrics, read):
    """Workflows whose names are made up would fill Prometheus's memory."""
    for n in range(MOST_NAMES + 50):
        metrics.driving(Claimed(n, f"r{n}", f"w{n}", "running", 1, 1, None, "", 0, 0, None, None), 0)
        metrics.driving(Claimed(n, f"r{n}", "w7", "running", 1, 1, None, "", 0, 0, None, None), 0)
    assert read("runs_started_total", workflow=OTHER) == 50
    assert read("runs_started_total", workflow="w7") == MOST_NAMES + 51
    assert (
        len([name for name in samples(generate_latest(metrics.registry).decode()) if "runs_started" in name[0]]) == 201
    )


def test_two_on_one_registry_are_refused_and_two_registries_are_not(metrics):
    """Two apps of one process would count each other's runs, or could not be made."""
    Metrics(CollectorRegistry())
    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(metrics.registry)


def test_over_http(metrics):
    """A scraper would get nothing, or the port would stay taken."""
    served = metrics.serve(0, "127.0.0.1")
    metrics.took_over(2)
    before = threading.active_count()
    with urllib.request.urlopen(f"http://127.0.0.1:{served.port}/metrics", timeout=10) as answer:
        found = samples(answer.read().decode())
    assert found["perdure_takeovers_total",] == 2
    served.stop()
    assert threading.active_count() < before
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{served.port}/metrics", timeout=10)
