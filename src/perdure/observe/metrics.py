"""
Metrics for Prometheus. Needs `perdure[metrics]`.

Labels are workflows, steps and queues, which are names in code, and so few; of each of them only the first
`MOST_NAMES` are told apart, in case that they are made up while running.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as Late
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from perdure.clock import SECOND, elapsed
from perdure.engine.observer import Observed, Observer
from perdure.errors import StepTimedOut, StoreError
from perdure.model.status import TERMINAL

if TYPE_CHECKING:
    from prometheus_client.metrics import MetricWrapperBase

    from perdure.engine.request import StepRequest
    from perdure.model.run import Claimed

MOST_NAMES = 200
OTHER = "other"
MOST_BACKLOG = 10_000
"""Runs that are due, and those of a queue, are counted up to here, at a scrape."""
FRESH_S = 5.0
"""A backlog that was counted less long ago is not counted again."""
PATIENCE_S = 2.0
QUICK = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
USUAL = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0)
LONG = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000)


class Served(NamedTuple):
    """
    Metrics that are exposed over HTTP.

    Attributes:
        port: Where.
        stop: Exposes them no more.
    """

    port: int
    stop: Callable[[], None]


class Metrics(Observer):
    """
    Counts what happens in this process, and what its workers see of the database.

    Args:
        registry: Where to register; a registry of its own when left out, so that two apps do not get in each other's
            way. Pass `prometheus_client.REGISTRY` to have everything of the process in one place.

    Attributes:
        registry: For whatever exposes it, such as `prometheus_client.generate_latest`.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._names: dict[str, set[str]] = {}
        self._made: dict[tuple[Any, ...], Any] = {}
        self._workers: list[_Gauges] = []
        self._define()
        self.registry.register(_Scraped(self._workers))

    def _define(self) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"perdure_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(f"perdure_{name}", text, labels, buckets=buckets, registry=self.registry)

        self._started = counter("runs_started_total", "Runs that a worker has begun.", "workflow")
        self._ended = counter("runs_ended_total", "Runs that have ended.", "workflow", "status")
        self._paused = counter("runs_paused_total", "Runs that were put aside until somebody resumes them.", "workflow")
        self._lasted = histogram(
            "run_duration_seconds", "From the first claim of a run to its end.", LONG, "workflow", "status"
        )
        self._steps = counter("steps_total", "Steps that have ended.", "workflow", "step", "outcome")
        self._attempts = counter("attempts_total", "Attempts of steps that have ended.", "workflow", "step", "outcome")
        self._ran = histogram("attempt_duration_seconds", "Attempts of steps.", USUAL, "workflow", "step")
        self._pickup = histogram("pickup_seconds", "From when a run was due to its claim.", USUAL)
        self._line = histogram("queue_wait_seconds", "From the start of a run to its slot of a queue.", LONG, "queue")
        self._taken = counter("takeovers_total", "Runs that were taken from dead workers.")
        self._lost = counter("runs_lost_total", "Runs that this process was driving when others took them.")
        self._commits = histogram("commit_duration_seconds", "Transactions of the store.", QUICK)
        self._batches = histogram("commit_operations", "Operations in a transaction.", SIZES)
        self._errors = counter("store_errors_total", "Operations that were not stored.", "code")

    def serve(self, port: int, address: str = "0.0.0.0") -> Served:  # noqa: S104 - a scraper is elsewhere
        """
        Expose the registry over HTTP, from a thread, at /metrics.

        Args:
            port: 0 for any that is free.

        Raises:
            OSError: The port is taken.
        """
        server, thread = start_http_server(port, address, self.registry)

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return Served(server.server_port, stop)

    # ---------------------------------------------------------------------------------------- told
    def driving(self, run: Claimed, at: int) -> None:  # noqa: ARG002 - an observer's
        """Count a run that begins."""
        if run.epoch == 1:
            self._of(self._started, run.workflow).inc()

    def left(self, run: Claimed, how: str, error: BaseException | None, at: int) -> None:  # noqa: ARG002 - as above
        """Count a run that has ended, or was put aside."""
        if how in TERMINAL:
            self._of(self._ended, run.workflow, how).inc()
            self._of(self._lasted, run.workflow, how).observe(_seconds(at - run.started_at))
        elif how == "paused":
            self._of(self._paused, run.workflow).inc()
        elif how == "lost":
            self._lost.inc()

    def attempt_ended(self, run: Claimed, step: StepRequest, error: BaseException | None, begun: int, at: int) -> None:
        """Count an attempt, and how long it took."""
        self._of(self._attempts, run.workflow, step.step.name, _outcome(error)).inc()
        self._of(self._ran, run.workflow, step.step.name).observe(_seconds(at - begun))

    def step_ended(self, run: Claimed, step: StepRequest, error: BaseException | None, at: int) -> None:  # noqa: ARG002 - as above
        """Count a step."""
        self._of(self._steps, run.workflow, step.step.name, _outcome(error)).inc()

    def claimed(self, runs: Sequence[Claimed], due: Mapping[int, int], at: int) -> None:  # noqa: ARG002 - as above
        """How late they are."""
        for was_due in due.values():
            self._pickup.observe(_seconds(at - was_due))

    def lined_up(self, waits: Sequence[tuple[str, int]]) -> None:
        """How long they waited."""
        for queue, waited in waits:
            self._of(self._line, queue).observe(_seconds(waited))

    def took_over(self, count: int) -> None:
        """Count runs of dead workers."""
        self._taken.inc(count)

    def committed(self, operations: int, seconds: float, errors: Sequence[Exception]) -> None:
        """A transaction, and what it could not store."""
        self._commits.observe(seconds)
        self._batches.observe(operations)
        for error in errors:
            self._of(self._errors, error.code if isinstance(error, StoreError) else OTHER).inc()

    def working(self, worker: Observed) -> None:
        """Ask this worker at each scrape."""
        self._workers.append(_Gauges(worker))

    def stopped(self, worker: Observed) -> None:
        """Ask it no more."""
        self._workers[:] = [gauges for gauges in self._workers if gauges.worker is not worker]

    def _of(self, metric: MetricWrapperBase, *labels: str) -> Any:
        """The metric's child with these labels; unknown ones beyond the limit are all the same."""
        key = (metric, *labels)
        found = self._made.get(key)
        if found is None:
            names = metric._labelnames  # noqa: SLF001 - as they were given in `_define`
            few = [self._bounded(name, value) for name, value in zip(names, labels, strict=True)]
            found = metric.labels(*few)
            if few == list(labels):
                self._made[key] = found
        return found

    def _bounded(self, name: str, value: str) -> str:
        known = self._names.setdefault(name, set())
        if value not in known:
            if len(known) >= MOST_NAMES:
                return OTHER
            known.add(value)
        return value


class _Line(NamedTuple):
    """A queue, as a scrape is told of it: a row of the statement `queue_gauges`."""

    queue: str
    in_line: int
    holding: int
    dead: int
    first: int | None


class _Backlog(NamedTuple):
    """
    What waits in a database.

    Attributes:
        at: When it was counted.
        due: Runs that are due and need no queue's leave; `first`: since when the first of them is.
    """

    at: int = 0
    due: int = 0
    first: int | None = None
    lines: tuple[_Line, ...] = ()

    def waited(self, since: int | None) -> float:
        """For how many seconds something has waited."""
        return 0.0 if since is None else _seconds(self.at - since)


class _Gauges:
    """What a worker and its database say when they are asked."""

    def __init__(self, worker: Observed) -> None:
        self.worker = worker
        self._loop_thread = threading.get_ident()
        self._backlog = _Backlog()
        self._counting: Future[None] | None = None
        self._counted = -FRESH_S

    def backlog(self) -> _Backlog:
        """What waits; a little old if it has to be."""
        if elapsed() - self._counted > FRESH_S:
            # A count that takes long is not given up: the next scrape gets it.
            if self._counting is None or self._counting.done():
                self._counting = asyncio.run_coroutine_threadsafe(self._count(), self.worker.loop)
            # On the loop's own thread there is no waiting.
            if threading.get_ident() != self._loop_thread:
                with contextlib.suppress(Late, CancelledError, StoreError):
                    self._counting.result(PATIENCE_S)
        return self._backlog

    async def _count(self) -> None:
        now, store = self.worker.clock.now(), self.worker.store
        ((due, first),) = await store.rows("backlog", now, MOST_BACKLOG)
        lines = await store.rows("queue_gauges", now, MOST_BACKLOG, MOST_NAMES)
        self._backlog = _Backlog(now, due, first, tuple(_Line(*row) for row in lines))
        self._counted = elapsed()


class _Scraped(Collector):
    """The gauges of all workers of this process."""

    def __init__(self, workers: list[_Gauges]) -> None:
        self._workers = workers

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Their names, for which nobody need be asked."""
        yield from self._families()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Ask each worker."""
        driven, parked, due, oldest, in_line, held, first, failed = families = self._families()
        workers = tuple(self._workers)
        for family, name in ((driven, "driven"), (parked, "parked")):
            family.add_metric([], sum(gauges.worker.statistics[name] for gauges in workers))
        for where, gauges in {gauges.worker.store.where: gauges for gauges in workers}.items():
            backlog = gauges.backlog()
            due.add_metric([where], backlog.due)
            oldest.add_metric([where], backlog.waited(backlog.first))
            for line in backlog.lines:
                labels = [where, line.queue]
                in_line.add_metric(labels, line.in_line)
                held.add_metric(labels, line.holding)
                first.add_metric(labels, backlog.waited(line.first))
                failed.add_metric(labels, line.dead)
        yield from families

    @staticmethod
    def _families() -> tuple[GaugeMetricFamily, ...]:
        def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"perdure_{name}", text, labels=labels)

        where, queue, most = "database", "queue", f"counted up to {MOST_BACKLOG}"
        return (
            gauge("runs_driven", "Runs that this process drives."),
            gauge("runs_parked", "Runs that wait, in this process's memory."),
            gauge("runs_due", f"Runs without a queue that are due, {most}.", where),
            gauge("runs_due_oldest_seconds", "How long the first has been due.", where),
            gauge("queue_in_line", f"Runs that wait for a slot, {most}.", where, queue),
            gauge("queue_slots_held", f"Runs that hold a slot, {most}.", where, queue),
            gauge("queue_oldest_seconds", "How long the first has waited for a slot or a worker.", where, queue),
            gauge("queue_failed", f"Runs that have failed, {most}.", where, queue),
        )


def _seconds(micros: int) -> float:
    return max(0, micros) / SECOND


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "completed"
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    return "timed_out" if isinstance(error, StepTimedOut) else "failed"
