"""Queues as users meet them: workers that come, die and go, in virtual time."""

import asyncio
from collections import Counter
from random import Random

import pytest
from postgreskit.server import ON_POSTGRES

from perdure import Context, Debounce, Dedupe, Queue, Rate, Status
from perdure.clock import SECOND
from perdure.errors import (
    DuplicateName,
    DuplicateRun,
    InvalidInput,
    InvalidOption,
    QueueDraining,
    QueueInUse,
    RunCancelled,
    UnknownQueue,
)
from perdure.model.queue import Terms
from perdure.store.changes import Changes


async def nap(ctx: Context, seconds: float) -> float:
    await ctx.step(asyncio.sleep, seconds)
    return seconds


async def gather(ctx: Context, items: list[str]) -> str:
    return "".join(items)


async def fail(ctx: Context, path: str) -> str:
    done = await ctx.step("done", lambda: path)
    if not FIXED:
        problem = "not yet"
        raise ValueError(problem)
    return done


FIXED: list[int] = []


class Watch:
    """Who is at work now, as seen from the bodies of steps."""

    def __init__(self) -> None:
        self.at_work: dict[str, tuple[str, str]] = {}
        self.most = Counter()
        self.begun = 0

    def begin(self, run_id, key, worker):
        self.at_work[run_id] = (key, worker)
        self.begun += 1
        keys = Counter(key for key, _ in self.at_work.values())
        workers = Counter(worker for _, worker in self.at_work.values())
        now = {"all": len(self.at_work), "key": max(keys.values()), "worker": max(workers.values())}
        self.most |= Counter(now)

    def end(self, run_id, worker):
        if self.at_work.get(run_id, ("", ""))[1] == worker:
            del self.at_work[run_id]

    def died(self, worker):
        self.at_work = {run_id: found for run_id, found in self.at_work.items() if found[1] != worker}


def survive_deaths(lab, rng, watch, jobs, **limits):
    """
    Start jobs on a queue with these limits for four workers, of which now and then one dies; all must end.

    Args:
        jobs: Of each its id, how long it takes in seconds, and options of its start, the key among them.

    Returns:
        Of each run when it got its last slot, which, its key and its weight.
    """
    changes, made = Changes(), []

    async def boot():
        name = f"worker-{len(made)}"
        app = lab.app(lease=3, cached_runs=5, changes=changes, options={"id": name, "concurrency": 5})
        app.queue("q", **limits)

        async def body(run_id, key, seconds):
            watch.begin(run_id, key, name)
            await asyncio.sleep(seconds)
            watch.end(run_id, name)

        @app.workflow(queue="q")
        async def job(ctx: Context, key: str, seconds: float) -> str:
            await ctx.step("first", lambda: body(ctx.run_id, key, seconds))
            await ctx.sleep(seconds)
            await ctx.step("second", lambda: body(ctx.run_id, key, seconds))
            return key

        made.append(app)
        await app.__aenter__()
        return app

    async def main():
        crew = [await boot() for _ in range(4)]
        for run_id, seconds, options in jobs:
            await rng.choice(crew).start("job", options["key"], seconds, id=run_id, **options)
        for _ in range(12):
            await asyncio.sleep(rng.uniform(0.2, 2))
            dead = crew.pop(rng.randrange(4))
            dead.worker.kill()
            watch.died(dead.worker.id)
            await dead.__aexit__(None, None, None)
            crew.append(await boot())
        for run_id, _, options in jobs:
            assert await crew[0].handle(run_id, "job").result() == options["key"]
        rows = await lab.sql(crew[0], "select slot_at, ticket, queue_key, weight from perdure_runs order by slot_at")
        findings = [found for found in await crew[0].client.doctor() if found.severity != "note"]
        (info,) = await crew[0].client.queues()
        for app in crew:
            await app.__aexit__(None, None, None)
        assert findings == []
        assert (info.in_line, info.delayed, info.holding, info.driven) == (0, 0, 0, 0)
        return [tuple(row) for row in rows]

    return lab.play(main)


def spent(rows, rate):
    """The most that one window of a rate has had, counted from who got a slot when."""
    most = 0
    for key in {key if rate.per_key else "" for _, _, key, _ in rows}:
        got = [(at, min(weight, rate.limit)) for at, _, whose, weight in rows if whose == key or not rate.per_key]
        for begin, _ in got:
            start = begin if rate.sliding else begin // rate.period * rate.period
            most = max(most, sum(weight for at, weight in got if start <= at < start + rate.period))
    return most


@pytest.mark.parametrize("seed", range(1 if ON_POSTGRES else 4))
@pytest.mark.parametrize("while_waiting", ["hold", "free"])
def test_limits_hold_with_four_workers_that_are_killed_again_and_again(lab, seed, while_waiting):
    """A death, a take-over or a race of two claims would let more runs in than the limits allow, or lose one."""
    rng, watch, rate = Random(seed), Watch(), Rate(12, per=5, sliding=True)
    jobs = [
        (f"job-{n}", rng.choice((0.05, 0.3, 1.0)), {
            "key": rng.choice("aaaabcd"), "priority": rng.randrange(3), "delay": rng.choice((0, 0, 2.5)),
        })
        for n in range(60)
    ]  # fmt: skip
    limits = {"concurrency": 5, "per_key": 2, "per_worker": 2, "rate": rate, "while_waiting": while_waiting}
    rows = survive_deaths(lab, rng, watch, jobs, **limits)
    assert watch.begun >= 120
    assert (watch.most["all"], watch.most["key"], watch.most["worker"]) == (5, 2, 2), "reached, and never exceeded"
    if while_waiting == "hold":
        assert sorted(ticket for _, ticket, _, _ in rows) == list(range(1, 61)), "one slot for each run"
        assert spent(rows, rate) <= rate.limit


@pytest.mark.parametrize("seed", range(1 if ON_POSTGRES else 2))
@pytest.mark.parametrize(
    "rates",
    [
        (Rate(11, per=5), Rate(5, per=4, per_key=True)),
        (Rate(12, per=5, sliding=True), Rate(5, per=4, sliding=True, per_key=True)),
    ],
    ids=["full windows", "any windows"],
)
def test_rates_of_weights_and_keys_hold_with_four_workers_that_are_killed_again_and_again(lab, seed, rates):
    """A death or a race of two claims would give a tenant more than its share, or count a heavy run as a light one."""
    rng = Random(seed)
    jobs = [
        (f"job-{n}", rng.choice((0.05, 0.3)), {"key": rng.choice("aaabcd"), "weight": rng.choice((1, 1, 1, 2, 3, 9))})
        for n in range(60)
    ]
    rows = survive_deaths(lab, rng, Watch(), jobs, rate=rates)
    assert sorted(ticket for _, ticket, _, _ in rows) == list(range(1, 61)), "one slot for each run"
    assert [spent(rows, rate) for rate in rates] == [rate.limit for rate in rates], "reached, and never exceeded"


def test_a_slot_that_becomes_free_is_given_out_at_that_moment(lab):
    """A queue would be worked off at the pace of a poll."""

    async def main():
        app = lab.app((nap, {"queue": Queue("q", concurrency=1)}))
        app.queue("q", concurrency=1)
        async with app:
            handles = [await app.start("nap", 7.0) for _ in range(3)]
            infos = [(await lab.ended(app, handle.id)).seconds for handle in handles]
            assert infos == [7, 14, 21]

    lab.play(main)


def test_a_rate_gives_the_next_slot_at_the_moment_when_its_window_ends(lab):
    """A queue would lag behind what its rate allows, or wait for somebody to look."""

    async def main():
        app = lab.app(nap)
        app.queue("q", rate=Rate(2, per=10))
        async with app:
            await asyncio.sleep(-lab.clock.now() % (10 * SECOND) / SECOND)
            begun = lab.seconds()
            handles = [await app.start("nap", 1.0, queue="q") for _ in range(5)]
            ended = [(await lab.ended(app, handle.id)).seconds - begun for handle in handles]
            assert ended == [1, 1, 11, 11, 21]

    lab.play(main)


def test_a_run_without_a_queue_asks_nothing_about_queues(lab):
    """What uses no queue would pay for them."""

    async def main():
        app = lab.app(nap)
        app.queue("q")
        async with app:
            await (await app.start("nap", 1.0)).result()
            assert app.worker._lanes.asked == ()
            await (await app.start("nap", 1.0, queue="q")).result()
            await (await app.start("nap", 1.0)).result()
            assert app.worker._lanes.asked == ("q",)
            await asyncio.sleep(100)
            await (await app.start("nap", 1.0, delay=1)).result()
            assert app.worker._lanes.asked == ()

    lab.play(main)


def test_a_run_in_line_says_what_it_waits_for(lab):
    """Somebody would look for hours for what keeps a run from beginning (I8)."""

    async def main():
        app = lab.app(nap)
        app.queue("q", concurrency=2, per_key=1, rate=Rate(3, per=60))
        async with app:
            for key in ("a", "a", "b", "c"):
                await app.start("nap", 50.0, id=f"{key}-{lab.seconds()}", queue="q", key=key)
                await asyncio.sleep(1)
            assert await app.client.why("a-0.0") == ""
            assert await app.client.why("a-1.0") == (
                "waits for queue q: 2 of 2 running; 1 of 1 running for the key 'a'"
            )
            await app.start("nap", 1.0, id="last", queue="q", key="c")
            assert "1 before it in its line" in await app.client.why("last")
            await app.client.change_queue("q", concurrency=None, per_key=None)
            await asyncio.sleep(1)
            assert "3 of 3 in 60 s used, more at 2025-06-15 15:07:00 UTC" in await app.client.why("a-1.0")
            await app.client.pause_queue("q")
            assert await app.client.why("last") == "waits for queue q: it is paused"
            await app.client.resume_queue("q")
            await app.client.change_queue("q", rate=())
            await lab.ended(app, "last")
            assert await app.client.why("last") == ""
        async with lab.app(nap).connected() as other:
            await other.start("nap", 1.0, id="alone", queue="q")
            assert await other.client.why("alone") == "waits for queue q: no worker is alive"
            await other.start("nap", 1.0, id="bare")
            assert await other.client.why("bare") == "no worker is alive"

    lab.play(main)


def test_a_run_that_waits_for_a_worker_says_so(lab):
    """Somebody would look for a limit of the queue where its workers have none left, or no room."""

    async def main():
        app = lab.app(nap, options={"concurrency": 2})
        app.queue("q", per_worker=1)
        async with app:
            for _ in range(2):
                last = await app.start("nap", 50.0, queue="q")
            await asyncio.sleep(1)
            assert await app.client.why(last.id) == "waits for queue q: every worker drives 1 of 1"
            await app.start("nap", 50.0)
            await app.client.change_queue("q", per_worker=None)
            await asyncio.sleep(1)
            assert await app.client.why(last.id) == "waits for queue q: its turn has come, and all workers are busy"

    lab.play(main)


def test_a_parent_that_frees_its_slot_leaves_it_to_its_children(lab):
    """Parents would hold the slots that their own children wait for."""

    async def parent(ctx: Context) -> float:
        return await ctx.call("nap", 2.0)

    async def main():
        app = lab.app((nap, {"queue": "q"}), (parent, {"queue": "q"}))
        app.queue("q", concurrency=1, while_waiting="free")
        async with app:
            handle = await app.start("parent")
            ended = await lab.ended(app, handle.id)
            assert (ended.value, ended.seconds) == (2.0, 2)

    lab.play(main)


def test_a_child_goes_through_its_workflows_queue_and_one_without_does_not(lab):
    """Fan-out would pass the limits."""

    async def parent(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(ctx.call("nap", 3.0))
            for _ in range(4):
                group.create_task(ctx.call("nap", 5.0, queue=""))

    async def main():
        app = lab.app((nap, {"queue": "q"}), parent)
        app.queue("q", concurrency=2)
        async with app:
            handle = await app.start("parent")
            assert (await lab.ended(app, handle.id)).seconds == 6

    lab.play(main)


def test_a_queue_is_paused_resumed_drained_and_removed_while_it_is_used(lab):
    """Operators would have to stop the workers."""

    async def main():
        app = lab.app(nap)
        app.queue("q", concurrency=1)
        async with app:
            client = app.client
            first = await app.start("nap", 2.0, queue="q")
            await asyncio.sleep(1)
            await client.pause_queue("q")
            second = await app.start("nap", 2.0, queue="q")
            await asyncio.sleep(10)
            assert (await first.info()).status == Status.COMPLETED
            assert (await second.info()).in_line
            await client.resume_queue("q")
            await client.drain_queue("q")
            with pytest.raises(QueueDraining):
                await app.start("nap", 1.0, queue="q")
            with pytest.raises(QueueInUse):
                await client.drop_queue("q")
            assert (await lab.ended(app, second.id)).seconds == 13
            await client.drop_queue("q")
            with pytest.raises(UnknownQueue):
                await app.start("nap", 1.0, queue="q")
            for call in (client.pause_queue, client.drop_queue, client.queue, client.dead_letters):
                with pytest.raises(UnknownQueue):
                    await call("q")

    lab.play(main)


def test_dead_letters_are_listed_and_go_on_where_they_failed(lab):
    """After an outage each failed run would have to be found and repaired by hand."""

    async def main():
        FIXED.clear()
        app = lab.app((fail, {"queue": "q"}))
        app.queue("q", concurrency=2)
        async with app:
            handles = [await app.start("fail", f"p{n}") for n in range(5)]
            for handle in handles:
                assert (await lab.ended(app, handle.id)).status == "failed"
            page, more = await app.client.dead_letters("q", limit=3)
            assert [run.id for run in page] == [handle.id for handle in handles[:3]]
            rest, end = await app.client.dead_letters("q", after=more)
            assert (len(rest), end, (await app.client.queue("q")).dead) == (2, None, 5)
            FIXED.append(1)
            assert await app.client.retry_dead_letters("q", most=4) == 4
            for n, handle in enumerate(handles[:4]):
                ended = await lab.ended(app, handle.id)
                assert (ended.value, len(ended.keys("step_completed"))) == (f"p{n}", 1)
            assert await app.client.retry_dead_letters("q", before="") == 1
            assert (await lab.ended(app, handles[4].id)).value == "p4"

    lab.play(main)


@pytest.mark.parametrize("queue", [None, "q"])
def test_a_deduplication_key_belongs_to_one_run_at_a_time(lab, queue):
    """A repeated click would do the work twice."""

    async def main():
        app = lab.app(nap)
        app.queue("q")
        async with app:
            first = await app.start("nap", 5.0, queue=queue, dedupe="k")
            again = await app.start("nap", 6.0, queue=queue, dedupe=Dedupe("k"))
            assert again.id == first.id
            with pytest.raises(DuplicateRun) as refused:
                await app.start("nap", 5.0, queue=queue, dedupe=Dedupe("k", then="reject"))
            assert refused.value.run_id == first.id
            other = await app.start("nap", 1.0, queue=queue, dedupe="l")
            assert await asyncio.gather(first.result(), again.result(), other.result()) == [5.0, 5.0, 1.0]
            assert (await app.start("nap", 1.0, queue=queue, dedupe="k")).id != first.id
            await app.client.prune(older_than=0)
            assert await lab.sql(app, "select count(*) from perdure_names") == [(1,)]

    lab.play(main)


def test_a_deduplication_key_belongs_to_the_queue_or_else_to_the_workflow(lab):
    """Starts of two workflows would be taken for one; or a queue's key would not hold for all that goes through it."""

    async def main():
        app = lab.app(nap, gather, (nap, {"version": "2"}))
        app.queue("q")
        async with app:
            ids = [
                (await app.start(workflow, given, queue=queue, dedupe="k", version=version)).id
                for workflow, given, queue, version in (
                    ("nap", 5.0, "q", "2"), ("gather", ["a"], "q", None), ("nap", 5.0, None, "2"),
                    ("nap", 5.0, None, ""), ("gather", ["a"], None, None),
                )
            ]  # fmt: skip
            assert ids[0] == ids[1]
            assert ids[2] == ids[3]
            assert len(set(ids)) == 3

    lab.play(main)


def test_with_a_ttl_the_key_stays_taken_after_the_end_and_is_free_after_its_time(lab):
    """A webhook that is delivered twice would be worked off twice, or its key be lost for ever."""

    async def main():
        async with lab.worker(nap) as app:
            hour = Dedupe("k", ttl=3600)
            first = await app.start("nap", 5.0, dedupe=hour)
            await first.result()
            await app.client.prune(older_than=0)
            assert (await app.start("nap", 5.0, dedupe=hour)).id == first.id
            long = await app.start("nap", 9_000.0, dedupe=Dedupe("l", ttl=3600))
            await asyncio.sleep(3600)
            for key, before in (("k", first), ("l", long)):
                assert (await app.start("nap", 5.0, dedupe=Dedupe(key, ttl=3600))).id != before.id

    lab.play(main)


def test_many_starts_at_once_under_one_key_are_one_run(lab):
    """Two requests in the same millisecond would both be first."""

    async def main():
        app = lab.app(nap)
        app.queue("q")
        async with app:
            started = await asyncio.gather(*(app.start("nap", 5.0, queue="q", dedupe="k") for _ in range(20)))
            assert len({handle.id for handle in started}) == 1
            replaced = await asyncio.gather(
                *(app.start("nap", 5.0, queue="q", dedupe=Dedupe("k", then="replace")) for _ in range(5))
            )
            ends = await asyncio.gather(*(handle.result() for handle in replaced), return_exceptions=True)
            assert Counter(type(end) for end in ends) == {RunCancelled: 4, float: 1}

    lab.play(main)


@pytest.mark.parametrize("begun", [True, False])
def test_the_newest_takes_the_place_of_the_one_before(lab, begun):
    """Of two deployments of one service the older would win, or both go on."""

    async def tidy(ctx: Context, seconds: float) -> float:
        try:
            await ctx.sleep(seconds)
        finally:
            await ctx.step("clean up", lambda: asyncio.sleep(3))
        return seconds

    async def main():
        app = lab.app(tidy)
        app.queue("q", per_key=1)
        newest = Dedupe("service", then="replace")
        async with app:
            if not begun:
                await app.client.pause_queue("q")
            first = await app.start("tidy", 100.0, queue="q", key="service", dedupe=newest)
            await asyncio.sleep(1)
            second = await app.start("tidy", 10.0, queue="q", key="service", dedupe=newest)
            await app.client.resume_queue("q")
            assert (await lab.ended(app, first.id)).status == "cancelled"
            ended = await lab.ended(app, second.id)
            # The one that had begun cleans up in its slot, and then the newest begins.
            assert (ended.value, ended.seconds) == (10.0, 17 if begun else 14)

    lab.play(main)


def test_a_debounced_start_begins_once_with_the_last_input(lab):
    """Each key press would begin a run, or none while somebody types."""

    async def main():
        async with lab.worker(nap) as app:
            typing = Debounce("user-1", wait=2, longest=5)
            ids, seconds = set(), 0.0
            for _ in range(5):
                seconds += 0.25
                ids.add((await app.start("nap", seconds, debounce=typing)).id)
                await asyncio.sleep(1)
            (only,) = ids
            ended = await lab.ended(app, only)
            assert (ended.value, ended.seconds) == (1.25, 6.25), "at most 5 seconds after the first"
            other = await app.start("nap", 0.5, debounce=typing)
            assert other.id != only
            assert (await lab.ended(app, other.id)).seconds == 8.75

    lab.play(main)


def test_a_batch_begins_when_it_is_full_or_its_time_has_come(lab):
    """Items would be lost, done twice, or wait for ever for others."""

    async def main():
        app = lab.app(gather)
        app.queue("q", rate=Rate(5, per=60))
        async with app:
            rest = await app.client.batch("gather", "x", size=3, wait=10, key="other")
            handles = [await app.client.batch("gather", item, size=3, wait=10, queue="q") for item in "abcdefgh"]
            assert len({handle.id for handle in handles}) == 3
            full = [await lab.ended(app, handles[place].id) for place in (0, 3)]
            # The rate counts items, and its next minute begins after 20 seconds.
            assert [(ended.value, ended.seconds) for ended in full] == [("abc", 0), ("def", 20)]
            assert (await lab.ended(app, handles[7].id)).value == "gh"
            assert ((await lab.ended(app, rest.id)).value, (await lab.ended(app, rest.id)).seconds) == ("x", 10)

    lab.play(main)


def test_a_crowd_of_items_fills_batches_without_losing_one(lab):
    """Items that come in one commit would overfill a batch or fall between two."""

    async def main():
        app = lab.app(gather)
        async with app:
            letters = "abcdefghijklmnopqrstuvwxyz"
            large = "L" * 100_000
            handles = await asyncio.gather(
                *(app.client.batch("gather", item, size=5, wait=1) for item in [*letters, large])
            )
            counts = Counter(handle.id for handle in handles)
            assert sorted(counts.values()) == [2, 5, 5, 5, 5, 5]
            results = [(await lab.ended(app, run_id)).value for run_id in counts]
            assert sorted("".join(results)) == sorted(letters + large)
            (big,) = (run_id for run_id, found in zip(counts, results, strict=True) if large in found)
            assert large in (await app.client.export(big))["run"]["input"]["items"]
            fork = await app.client.fork(big, before="")
            await app.client.prune(older_than=0, most=1)
            assert large in await fork.result()
            with pytest.raises(InvalidInput):
                await app.client.batch("gather", {"not": "text"}, size=5, wait=1)

    lab.play(main)


def test_a_fork_goes_through_the_queue_of_its_original(lab):
    """A fork would pass the limits."""

    async def main():
        app = lab.app((nap, {"queue": "q"}))
        app.queue("q", concurrency=1)
        async with app:
            first = await app.start("nap", 3.0, key="k", priority=2)
            fork = await app.client.fork(first.id, before="")
            info = await fork.info()
            assert (info.queue, info.queue_key, info.priority) == ("q", "k", 2)
            assert (await lab.ended(app, fork.id)).seconds == 6

    lab.play(main)


def test_code_declares_queues_once_and_operators_change_them(lab):
    """A restart would undo what an operator has set, or leave a queue that is named without a row."""

    async def main():
        app = lab.app((nap, {"queue": "named"}))
        app.queue("q", concurrency=2, rate=Rate(5, per=60))
        with pytest.raises(DuplicateName):
            app.queue("q", concurrency=3)
        async with app:
            assert [info.queue.name for info in await app.client.queues()] == ["named", "q"]
            await app.client.change_queue("q", concurrency=9, rate=(Rate(7, per=1, sliding=True, per_key=True),))
        async with app:
            queue = (await app.client.queue("q")).queue
            assert (queue.concurrency, queue.rates) == (9, (Rate(7, per=1.0, sliding=True, per_key=True),))
        changed = lab.app(nap)
        changed.queue("q", concurrency=4)
        async with changed:
            assert (await changed.client.queue("q")).queue == Queue("q", concurrency=4, ageing=queue.ageing)

    lab.play(main)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Queue("q", concurrency=0), lambda: Queue("q", per_key=1.5), lambda: Queue("q", while_waiting="sleep"),
        lambda: Queue("q", rate=5), lambda: Queue("q").changed(speed=1), lambda: Rate(0, per=1),
        lambda: Rate(1, per=0), lambda: Dedupe("k", then="maybe"), lambda: Dedupe("k", ttl=0),
        lambda: Debounce("k", wait=0), lambda: Debounce("k", wait=2, longest=1), lambda: Terms("", key="k").checked(),
        lambda: Terms("q", weight=0).checked(), lambda: Terms("q", priority=10**9).checked(),
    ],
)  # fmt: skip
def test_limits_and_terms_that_cannot_be_are_refused(make):
    """A slip of the pen would be found out by a queue that stands still."""
    with pytest.raises(InvalidOption):
        make()


def test_starts_that_contradict_themselves_are_refused(lab):
    """One of the two would silently not hold."""

    async def main():
        async with lab.worker(nap, gather) as app:
            for terms in ({"key": "k"}, {"priority": 1}, {"priority": 0.0}, {"weight": 2}, {"weight": True}):
                with pytest.raises(InvalidOption):
                    await app.start("nap", 1.0, **terms)
            with pytest.raises(InvalidOption):
                await app.start("nap", 1.0, dedupe="a", debounce=Debounce("a", wait=1))
            with pytest.raises(InvalidOption):
                await app.client.batch("gather", "x", size=1, wait=1)

    lab.play(main)
