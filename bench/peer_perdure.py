"""perdure itself, on SQLite or Postgres at its defaults, through its public names only."""

import asyncio
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import perdure
import talk
from child import StepLog, ask, import_ms, kill_and_recover, say
from jobs import Crew, JobLog, w5
from meter import Figures, Meter, idling, latencies, memory_kib
from parked import Parked
from peer import Job, main
from perdure import App, Context, RunFilter, Status, WorkerOptions, Workflow

LONG_S = 3600.0
AT_ONCE = 500
CONCURRENCY = 100
SETTLE_S = 3.0
CREWS = (1, 2, 4)
UNFINISHED = (Status.QUEUED, Status.RUNNING, Status.WAITING)

step_log = StepLog()
job_log = JobLog()
parked = Parked()


@dataclass(frozen=True)
class Bench:
    """An application and the workflows registered with it."""

    app: App
    workflow: Workflow[[int], int]
    sleeper: Workflow[[float], int]
    waiter: Workflow[[], str]
    queued: Workflow[[int, int], int]

    async def run(self, n: int) -> int:
        """Start a run of n steps and wait for its result."""
        return await (await self.app.start(self.workflow, n)).result()

    async def enqueue(self, numbers: range, steps: int = 1) -> None:
        """Put jobs on the queue."""
        for first in range(0, len(numbers), AT_ONCE):
            some = numbers[first : first + AT_ONCE]
            await asyncio.gather(*[self.app.start(self.queued, number, steps) for number in some])

    async def drained(self) -> bool:
        """Whether no run is left."""
        left, _ = await self.app.client.runs(RunFilter(status=UNFINISHED, limit=1))
        return not left


def bench(url: str, worker: WorkerOptions | None = None) -> Bench:
    """Define the workflows on this database; the application is not started yet."""
    app = App(url, worker=worker)

    @app.step
    async def body(i: int) -> dict[str, int]:
        step_log.hit(i)
        return {"i": i}

    @app.workflow
    async def workflow(ctx: Context, n: int) -> int:
        total = 0
        for i in range(n):
            total += (await ctx.step(body, i))["i"]
        return total

    @app.workflow
    async def sleeper(ctx: Context, seconds: float) -> int:
        parked.note(ctx.run_id)
        await ctx.sleep(seconds)
        return 1

    @app.workflow
    async def waiter(ctx: Context) -> str:
        parked.note(ctx.run_id)
        return await ctx.receive("go", str)

    @app.step
    async def job_body(number: int, i: int) -> dict[str, int]:
        job_log.hit(number)
        return {"i": i}

    @app.workflow(queue="jobs")
    async def queued(ctx: Context, number: int, n: int) -> int:
        total = 0
        for i in range(n):
            total += (await ctx.step(job_body, number, i))["i"]
        return total

    return Bench(app, workflow, sleeper, waiter, queued)


def one_run(url: str) -> None:
    """Make a database with one finished run of one step."""

    async def go() -> None:
        made = bench(url)
        async with made.app:
            await made.run(1)

    asyncio.run(go())


def measured(job: Job, work: Callable[[Bench], Awaitable[Figures]]) -> Figures:
    """Run the work on an application that has finished ten runs."""

    async def go() -> Figures:
        made = bench(job.url)
        async with made.app:
            for _ in range(10):
                await made.run(1)
            return await work(made)

    return asyncio.run(go())


def w1(job: Job) -> Figures:
    """Runs of one step, one at a time."""
    n = job.sizes.w1_runs

    async def work(made: Bench) -> Figures:
        took = []
        with Meter() as meter:
            for _ in range(n):
                started = time.perf_counter()
                await made.run(1)
                took.append(time.perf_counter() - started)
        return {**meter.figures(runs=n, steps=n), **latencies(took)}

    return measured(job, work)


def w1p(job: Job) -> Figures:
    """The same as runs of a pipeline of one stage."""
    n = job.sizes.w1_runs

    async def stage() -> dict[str, int]:
        step_log.hit(0)
        return {"i": 0}

    async def work(made: Bench) -> Figures:
        workflow = made.app.pipeline(perdure.Pipeline("pipeline").stage("stage", stage))
        assert await _result(made.app, workflow) == {"i": 0}
        took, before = [], made.app.client.store.commits
        with Meter() as meter:
            for _ in range(n):
                started = time.perf_counter()
                await _result(made.app, workflow)
                took.append(time.perf_counter() - started)
        commits = round((made.app.client.store.commits - before) / n, 2)
        return {**meter.figures(runs=n, steps=n), **latencies(took), "commits_per_run": commits}

    return measured(job, work)


def w2(job: Job) -> Figures:
    """All runs at once."""
    n, steps = job.sizes.w2_runs, job.sizes.w2_steps

    async def work(made: Bench) -> Figures:
        with Meter() as meter:
            results = await asyncio.gather(*[made.run(steps) for _ in range(n)])
        assert results == [sum(range(steps))] * n
        return meter.figures(runs=n, steps=n * steps)

    return measured(job, work)


def w2f(job: Job) -> Figures:
    """The same runs as those of a flow."""
    n, steps = job.sizes.w2_runs, job.sizes.w2_steps

    async def body(i: int) -> dict[str, int]:
        step_log.hit(i)
        return {"i": i}

    flow = perdure.Flow("flow", output=lambda state: sum(result["i"] for result in state.results.values()))
    for place in range(steps):
        flow = flow.step(f"step {place}", body, given=lambda _state, place=place: place)

    async def work(made: Bench) -> Figures:
        workflow = made.app.flow(flow)
        assert await (await made.app.start(workflow)).result() == sum(range(steps))
        with Meter() as meter:
            results = await asyncio.gather(*[_result(made.app, workflow) for _ in range(n)])
        assert results == [sum(range(steps))] * n
        return meter.figures(runs=n, steps=n * steps)

    return measured(job, work)


async def _result(app: App, workflow: Workflow[..., Any]) -> Any:
    return await (await app.start(workflow)).result()


def w2s(job: Job) -> Figures:
    """The same runs, a bounded number in progress."""
    n, steps = job.sizes.w2_runs * job.sizes.w2s_rounds, job.sizes.w2_steps

    async def work(made: Bench) -> Figures:
        todo = iter(range(n))

        async def lane() -> None:
            for _ in todo:
                assert await made.run(steps) == sum(range(steps))

        with Meter() as meter:
            await asyncio.gather(*[lane() for _ in range(job.sizes.w2s_lanes)])
        return meter.figures(runs=n, steps=n * steps)

    return measured(job, work)


def w2h(job: Job) -> Figures:
    """W2 in a database that has seen very many runs."""
    import fill  # noqa: PLC0415 - only here, as the process that W3R recovers in has nothing to do with them
    import fill_postgres  # noqa: PLC0415 - as above

    if job.url.startswith("sqlite"):
        fill.copy(fill.filled(job.cache, job.sizes.w2h_finished, one_run), job.file)
    else:
        asyncio.run(fill_postgres.filled(job.url, job.sizes.w2h_finished, one_run))
    return w2(job)


def turns(job: Job) -> Figures:
    """Turns that stream at the same time."""
    return measured(job, lambda made: talk.turns(made.app, job.sizes.turns, job.sizes.turn_events))


def turns10(job: Job) -> Figures:
    """A fifth of them, which need not wait so long for each other."""
    return measured(job, lambda made: talk.turns(made.app, job.sizes.turns // 5, job.sizes.turn_events))


def turns1(job: Job) -> Figures:
    """One."""
    return measured(job, lambda made: talk.turns(made.app, 1, job.sizes.turn_events))


def tail(job: Job) -> Figures:
    """A stream that another process writes."""
    return measured(job, lambda made: talk.tail(made.app, job.url, job.sizes.turn_events))


def w3(job: Job) -> Figures:
    """One run of many steps."""
    steps = job.sizes.w3_steps

    async def work(made: Bench) -> Figures:
        with Meter() as meter:
            assert await made.run(steps) == sum(range(steps))
        return meter.figures(steps=steps)

    return measured(job, work)


def w3r(job: Job) -> Figures:
    """The same, killed near its end and started again."""
    steps, log = job.sizes.w3_steps, job.home / "steps.log"
    args = (job.url, steps, log)
    return kill_and_recover(log, "recover", args, steps=steps, kill_at=job.sizes.w3_kill_at)


def recover(url: str, steps: str, log: str) -> None:
    """Role of W3R: start the run; the second time the id says that it is the same one."""
    step_log.open(log)

    async def go() -> None:
        made = bench(url)
        async with made.app:
            handle = await made.app.start(made.workflow, int(steps), id="w3r")
            assert await handle.result() == sum(range(int(steps)))
            say()
            await asyncio.sleep(60)

    asyncio.run(go())


def w4(job: Job) -> Figures:
    """Runs that sleep; how long after the last wake-up the last one is done."""
    n, seconds = job.sizes.w4_runs, job.sizes.w4_sleep_s

    async def work(made: Bench) -> Figures:
        with Meter() as meter:
            handles = await asyncio.gather(*[made.app.start(made.sleeper, seconds) for _ in range(n)])
            await asyncio.gather(*[handle.result() for handle in handles])
        last = parked.last() + seconds - meter.started
        return {**meter.figures(runs=n), "after_wake_s": round(meter.wall_s - last, 3)}

    return measured(job, work)


def w4s(job: Job) -> Figures:
    """Runs that wait for a signal; how long after the last signal the last one is done."""
    n = job.sizes.w4_runs

    async def work(made: Bench) -> Figures:
        with Meter() as meter:
            handles = await asyncio.gather(*[made.app.start(made.waiter) for _ in range(n)])
            await parked.count(n)
            grown = memory_kib() - meter.start_kib
            await asyncio.gather(*[made.app.signal(handle.id, "go", "x") for handle in handles])
            sent = meter.elapsed()
            await asyncio.gather(*[handle.result() for handle in handles])
        return {
            **meter.figures(runs=n),
            "after_wake_s": round(meter.wall_s - sent, 3),
            "parked_kib": round(grown / n, 1),
        }

    return measured(job, work)


def memory(job: Job) -> Figures:
    """What one parked run costs: few and many of them, kept in memory and evicted."""
    out: Figures = {}
    for name, runs in (("few", job.sizes.mem_few), ("many", job.sizes.mem_many)):
        for kept in ("held", "evicted"):
            for what in ("rss", "heap"):
                url = f"sqlite:///{job.home}/{kept}-{name}-{what}.db"
                said = ask("parking", url, runs, kept, what)
                out[f"{kept}_{name}" + ("_heap" if what == "heap" else "") + "_kib"] = said["kib"]
    return out


def parking(url: str, runs: str, kept: str, what: str) -> None:
    """Role of MEM: park the runs and say by how much memory grew for each."""
    n = int(runs)
    read = memory_kib if what == "rss" else heap_kib

    async def go() -> None:
        made = bench(url, WorkerOptions(cached_runs=n + 1 if kept == "held" else 0))
        async with made.app:
            await asyncio.gather(*[made.run(1) for _ in range(100)])
            await made.app.start(made.waiter)
            await parked.count(1)
            if what == "heap":
                tracemalloc.start()
            before = read()
            for _ in range(n):
                await made.app.start(made.waiter)
            await parked.count(n)
            assert made.app.worker is not None
            assert made.app.worker.statistics == {"driven": 0, "parked": n + 1 if kept == "held" else 0}
            say(kib=round((read() - before) / n, 2))

    asyncio.run(go())


def heap_kib() -> float:
    """Memory that Python's allocators have handed out since tracing began."""
    return tracemalloc.get_traced_memory()[0] / 1024


def imports(job: Job) -> Figures:
    """Time of the import."""
    return import_ms("perdure", job.sizes.import_times)


def idle(job: Job) -> Figures:
    """CPU of a process in which runs sleep and nothing happens."""
    return asleep(job, job.sizes.idle_runs)


def sleep(job: Job) -> Figures:
    """The same with very many runs."""
    return asleep(job, job.sizes.sleepers)


def asleep(job: Job, runs: int) -> Figures:
    """Let runs fall asleep, then look for a while."""

    async def work(made: Bench) -> Figures:
        with Meter() as meter:
            for first in range(0, runs, AT_ONCE):
                some = range(first, min(first + AT_ONCE, runs))
                await asyncio.gather(*[made.app.start(made.sleeper, LONG_S) for _ in some])
            await parked.count(runs)
        return {**meter.figures(runs=runs), **await idling(job.sizes.idle_s)}

    return measured(job, work)


def cluster(job: Job) -> Figures:
    """Worker processes that have nothing to do."""

    async def go() -> Figures:
        made = bench(job.url)
        async with made.app:
            await made.run(1)
        async with Crew(job, job.sizes.cluster, job.url) as crew:
            await asyncio.sleep(SETTLE_S)
            return await idling(job.sizes.idle_s, crew.cpu_s, job.sizes.cluster)

    return asyncio.run(go())


def queue(job: Job) -> Figures:
    """Jobs for two worker processes."""

    async def go() -> Figures:
        made = bench(job.url)
        async with made.app.connected():
            return await w5(job, made.enqueue, made.drained, job.url)

    return asyncio.run(go())


def scale(job: Job) -> Figures:
    """Runs of several steps for one worker process, then for two, then for four."""
    runs, steps = job.sizes.scale_runs, job.sizes.w2_steps

    async def go() -> Figures:
        made, out = bench(job.url), Figures()
        async with made.app.connected():
            for workers in CREWS:
                await made.enqueue(range(runs), steps)
                async with Crew(job, workers, job.url) as crew:
                    figures = await crew.drain(runs * steps, made.drained)
                out[f"steps_per_s_{workers}"] = round(runs * steps / figures["drain_s"], 1)
                out[f"cpu_us_per_step_{workers}"] = round(figures["cpu_s"] / runs / steps * 1e6, 1)
        return out

    return asyncio.run(go())


def work(url: str, log: str) -> None:
    """Role of W5, SCALE and CLUSTER: a worker."""
    job_log.open(log)

    async def go() -> None:
        async with bench(url, WorkerOptions(concurrency=CONCURRENCY)).app:
            say()
            await asyncio.sleep(LONG_S)

    asyncio.run(go())


if __name__ == "__main__":
    main(
        {"W1": w1, "W1P": w1p, "W2": w2, "W2S": w2s, "W2F": w2f, "W2H": w2h, "W3": w3, "W3R": w3r, "W4": w4, "W4S": w4s}
        | {"TURNS": turns, "TURNS10": turns10, "TURNS1": turns1, "TAIL": tail}
        | {"W5": queue, "MEM": memory, "IMPORT": imports, "IDLE": idle}
        | {"SLEEP": sleep, "CLUSTER": cluster, "SCALE": scale},
        {"recover": recover, "parking": parking, "work": work, "write": talk.write},
    )
