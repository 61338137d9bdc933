"""Start runs, and send to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Protocol

from perdure import ids
from perdure.client.command import Commands
from perdure.client.enqueue import Start, enqueue
from perdure.client.export import export_run
from perdure.client.handle import RunHandle
from perdure.client.queue import Queues
from perdure.client.restart import guarded
from perdure.client.steer import Steering
from perdure.client.stuck import run_infos
from perdure.client.upkeep import Upkeep
from perdure.client.view import RunInfo, WorkerInfo, worker_info
from perdure.clock import Clock, micros
from perdure.codec.canonical import same_json
from perdure.codec.payload import Payloads
from perdure.codec.value import codec_for
from perdure.engine.definition import Registry, Workflow
from perdure.engine.observer import Observer
from perdure.engine.outcome import cancel_request
from perdure.errors import InvalidOption, PerdureError, RunFinished, StartConflict
from perdure.model.limits import Limits
from perdure.model.queue import Debounce, Dedupe, Queue
from perdure.model.run import Claimed, RunFilter, RunRow, WorkerRow
from perdure.model.status import Status
from perdure.model.version import unpin
from perdure.store.listing import list_runs
from perdure.store.load import load_run, resolve
from perdure.store.operation import Operation, Row
from perdure.store.record import shelve
from perdure.store.store import Store


class Adopter(Protocol):
    """A worker in this process that can drive a new run without anybody claiming it first."""

    def reserve(self) -> int | None:
        """Its number, if it can take one more run; `adopt` or `unreserve` follows."""

    def adopt(self, run: Claimed) -> None:
        """Drive this run, which was inserted as claimed by it."""

    def unreserve(self) -> None:
        """The run was not inserted after all."""


class Client(Steering, Queues, Upkeep, Commands):
    """
    Everything that callers ask of the store.

    Args:
        adopter: A worker in this process, if there is one.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        payloads: Payloads,
        registry: Registry,
        limits: Limits,
        observer: Observer | None = None,
    ) -> None:
        self.store = store
        self.payloads = payloads
        self.adopter: Adopter | None = None
        self._clock = clock
        self._registry = registry
        self._limits = limits
        self._observer = observer

    # ------------------------------------------------------------------------------------- starting
    async def start(
        self,
        workflow: Workflow[..., Any] | str,
        args: tuple[Any, ...],
        *,
        id: str | None = None,
        tags: Iterable[str] = (),
        timeout: float | timedelta | None = None,
        delay: float | timedelta = 0,
        queue: Queue | str | None = None,
        key: str = "",
        priority: int = 0,
        weight: int = 1,
        dedupe: Dedupe | str | None = None,
        debounce: Debounce | None = None,
        version: str | None = None,
    ) -> RunHandle[Any]:
        """
        Start a run; it is durable when this returns.

        Args:
            workflow: A name, whose newest version is taken; or what the decorator returned, which is taken itself.
            id: The run's id, 1 to 200 characters; made up when left out. Starting again with the same id,
                workflow and input gives a handle on the same run.
            tags: To find it by.
            timeout: Seconds or timedelta from now to its deadline; the workflow's own when left out.
            delay: Seconds or timedelta to wait before it begins, or stands in line.
            queue: The queue that it goes through; the workflow's own when left out, none when "".
            key: Whose line of the queue it stands in, such as a tenant's; the keys take turns.
            priority: Levels before others of its key, or behind them; see `Queue.ageing`.
            weight: What it counts for in the queue's rates, 1 or more.
            dedupe: Tells it from its repetition; a text is short for Dedupe(text).
            debounce: Start once for a flood of starts, with the last input.
            version: Which version of the workflow to begin with, and so to stay with; "" for the one without.

        Raises:
            UnknownQueue: There is no such queue; nothing was stored.
            QueueDraining: The queue takes no more runs; nothing was stored.
            DuplicateRun: Dedupe(then="reject"), and another run has the key; nothing was stored.
            UnknownWorkflow: It is not registered here.
            InvalidInput: The input does not fit the workflow's parameters; nothing was stored.
            StartConflict: The id belongs to a run of another workflow or with other input.
        """
        definition = self._registry.pick(workflow, version)
        what = f"The input of {definition.name}"
        text = definition.call.encode(args, {})
        payload = self.payloads.seal(text, what)
        now = self._clock.now()
        run_id = ids.run_id(now) if id is None else ids.check_id("run id", id)
        limit = timeout if timeout is not None else definition.settings.timeout
        deadline = None if limit is None else now + micros(limit, "timeout")
        due_at = now + micros(delay, "delay")
        labels = ids.check_tags(tags)
        trace = None if self._observer is None else self._observer.starting(definition.stored_as, run_id)
        terms = definition.terms(queue, key, priority, weight)
        if terms.queue or dedupe is not None or debounce is not None:
            if dedupe is not None and debounce is not None:
                option = "debounce"
                raise InvalidOption(option, "it excludes dedupe")
            if debounce is not None:
                due_at = now + micros(debounce.wait)
            start = Start(
                run_id, definition.stored_as, payload, ids.seed(), now, due_at, deadline, terms, tuple(labels),
                Dedupe(dedupe) if isinstance(dedupe, str) else dedupe, debounce, trace=trace,
            )  # fmt: skip
            return await self._enqueue(start, definition, text, version)
        handle: RunHandle[Any] = RunHandle(self, run_id, definition.call.returns)
        owner = self.adopter.reserve() if self.adopter and due_at == now else None
        operation = Operation(makes_due=owner is None)
        stored = shelve(operation, run_id, payload) if len(payload) > self._limits.inline_bytes else payload
        seed = ids.seed()
        operation.add("start", run_id, definition.stored_as, *_begun(owner, due_at, now), stored, seed, now,
                      None if owner is None else now, deadline, None)  # fmt: skip
        for tag in labels:
            operation.add("add_tag", run_id, tag)
        if trace is not None:
            operation.add("start_trace", run_id, now, trace)
        run = (run_id, definition.stored_as, Status.RUNNING, 1, 1, None, payload, seed, now, deadline, None)
        rows = await self._insert(operation, run if owner is not None else None, trace)
        if not rows:
            await self._check_same(run_id, definition, text, version)
        return handle

    async def batch(
        self,
        workflow: Workflow[..., Any] | str,
        item: Any,
        *,
        size: int,
        wait: float | timedelta,
        key: str = "",
        queue: Queue | str | None = None,
    ) -> RunHandle[Any]:
        """
        Hand an item to a run that takes many at once: a workflow whose input is one list.

        The first item of a batch makes its run, which begins when it has `size` items, or `wait` after the first.
        The item is durable when this returns. In the rates of a queue a batch weighs as many as it has items.

        Args:
            size: Most items of one run, 2 or more.
            wait: Seconds or timedelta.
            key: Items with different keys go to different runs; it is the queue's key as well.
            queue: As for `start`.

        Returns:
            A handle on the run that has the item.

        Raises:
            InvalidInput: The item does not fit; nothing was stored.
            UnknownQueue, QueueDraining: As for `start`.
        """
        if size < 2:  # noqa: PLR2004 - a batch of one is a start
            option = "size"
            raise InvalidOption(option, f"{size!r} is less than 2")
        definition = self._registry.pick(workflow)
        text = definition.call.encode(([item],), {})
        now = self._clock.now()
        deadline = None if definition.settings.timeout is None else now + micros(definition.settings.timeout, "timeout")
        terms = definition.terms(queue)
        if terms.queue and key:
            terms = definition.terms(terms.queue, key)
        run_id = ids.run_id(now)
        trace = None if self._observer is None else self._observer.starting(definition.stored_as, run_id)
        start = Start(
            run_id, definition.stored_as, self.payloads.seal(text, f"The input of {definition.name}"),
            ids.seed(), now, now + micros(wait, "wait"), deadline, terms, batch=(key, size), trace=trace,
        )  # fmt: skip
        return await self._enqueue(start, definition, text)

    async def _enqueue(
        self, start: Start, definition: Workflow[..., Any], text: str, version: str | None = None
    ) -> RunHandle[Any]:
        found = await enqueue(self.store, start, self._limits.inline_bytes)
        if found is None:
            await self._check_same(start.id, definition, text, version)
        return RunHandle(self, found or start.id, definition.call.returns)

    async def _insert(self, operation: Operation, run: tuple[Any, ...] | None, trace: str | None) -> list[Row]:
        """
        Insert a run; the worker of this process begins to drive it as soon as it is durable.

        Args:
            run: The run as claimed, without its number, when the worker here is to drive it.
            trace: What is kept with it.
        """
        inserted: asyncio.Future[list[Row]] = asyncio.get_running_loop().create_future()
        adopter = self.adopter if run is not None else None

        def done(rows: list[Row], error: Exception | None) -> None:
            if adopter is not None and run is not None:
                if rows:
                    claimed = Claimed(rows[0][1], *run)
                    adopter.adopt(claimed if trace is None else claimed._replace(trace=trace))
                else:
                    adopter.unreserve()
            if inserted.done():
                return
            if error is None:
                inserted.set_result(rows)
            else:
                inserted.set_exception(error)

        try:
            self.store.submit(operation, done)
        except PerdureError:
            if adopter is not None:
                adopter.unreserve()
            raise
        return await inserted

    async def _check_same(self, run_id: str, definition: Workflow[..., Any], text: str, version: str | None) -> None:
        """
        The same start once more is the same run; another one under its id is a mistake.

        A newer version that has become the one for new runs meanwhile makes no difference; one that was asked for does.
        """
        row = await self.row(run_id)
        there, wanted = row.workflow, definition.stored_as
        if there != wanted and (version is not None or unpin(there)[0] != definition.name):
            raise StartConflict(run_id, f"the workflow {there!r} instead of {wanted!r}")
        first = row.input if row.first_input is None else row.first_input
        if not same_json(self.payloads.open(await resolve(self.store, first)), text):
            problem = "other input"
            raise StartConflict(run_id, problem)

    def handle(self, run_id: str, workflow: Workflow[..., Any] | str | None = None) -> RunHandle[Any]:
        """
        A handle on a run that was started before.

        Args:
            workflow: Gives the result its declared type; plain data without it.
        """
        returns = codec_for(Any) if workflow is None else self._registry.pick(workflow).call.returns
        return RunHandle(self, ids.check_id("run id", run_id), returns)

    # -------------------------------------------------------------------------------------- sending
    async def signal(self, run_id: str, name: str, data: Any = None, *, key: str | None = None) -> bool:
        """
        Send a signal to a run, whether it waits for it yet or not. It is durable when this returns.

        Args:
            name: What the run receives it as.
            data: Any value that can be stored as JSON.
            key: Deduplication: of several signals with the same name and key only the first counts.

        Returns:
            Whether it was accepted: False when one with this key came before.

        Raises:
            RunNotFound: There is no such run.
            RunFinished: It has ended.
        """
        ids.check_name("signal name", name)
        what = f"The payload of signal {name!r}"
        payload = self.payloads.seal(codec_for(Any).encode(data, what), what)
        now, topic = self._clock.now(), f"signal:{name}"
        operation = Operation(makes_due=True)
        if len(payload) > self._limits.inline_bytes:
            payload = shelve(operation, run_id, payload)
        operation.add("send", run_id, topic, key, payload, now)
        operation.add("wake_id", run_id, topic, now)
        rows = await self.store.apply(operation)
        if rows:
            return True
        row = await self.row(run_id)
        if row.finished:
            raise RunFinished(run_id, row.status)
        return False

    async def answer(self, run_id: str, name: str, data: Any = None) -> bool:
        """
        Send a signal that a run waits for now, and that nobody has sent: of several at once exactly one is accepted.

        Args:
            name: What the run receives it as.
            data: As for `signal`.

        Returns:
            Whether it was accepted, and so is durable. False when the run does not wait for it (any more), as it
            goes on, waits for something else or has ended; then nothing was changed.

        Raises:
            RunNotFound: There is no such run.
        """
        topic = f"signal:{ids.check_name('signal name', name)}"
        what = f"The payload of signal {name!r}"
        payload = self.payloads.seal(codec_for(Any).encode(data, what), what)
        row = await self.row(run_id)
        if row.owner is not None or row.finished or topic not in json.loads(row.waiting_for or "[]"):
            return False
        now, more = self._clock.now(), Operation()
        if len(payload) > self._limits.inline_bytes:
            payload = shelve(more, run_id, payload)
        # Between two waits the epoch changes, so this key is that of the one wait; the first message under it wins.
        more.add("send", run_id, topic, f"answer:{row.epoch}", payload, now)
        more.add("wake_id", run_id, topic, now)
        guard = ("guard", (run_id, row.epoch, row.status))
        rows = await self.store.apply(guarded([guard], more.lines, changed=(row.number,)))
        return bool(rows) and rows[0][0] != "stale"

    async def cancel(self, run_id: str, reason: str = "", *, compensate: bool = False) -> None:
        """
        Ask a run to end. Its workflow sees it as asyncio's cancellation and may clean up.

        The request is durable when this returns; the run ends when its clean-up has. Asking again changes
        nothing; nor does asking a run that is compensating, which ends when that is done.

        Args:
            compensate: Undo what the run did, by the compensations of its steps, whatever its workflow's option
                says.

        Raises:
            RunNotFound: There is no such run.
            RunFinished: It has ended.
        """
        now = self._clock.now()
        message = self.payloads.seal(cancel_request(reason, compensate=compensate), "A reason")
        operation = Operation(makes_due=True)
        operation.add("send", run_id, "control:cancel", None, message, now)
        operation.add("cancel", run_id, now)
        if not await self.store.apply(operation):
            row = await self.row(run_id)
            raise RunFinished(run_id, row.status)

    # -------------------------------------------------------------------------------------- looking
    async def row(self, run_id: str) -> RunRow:
        """
        A run as it is stored.

        Raises:
            RunNotFound: There is no such run.
        """
        return await load_run(self.store, run_id)

    async def info(self, run_id: str) -> RunInfo:
        """
        How a run stands now.

        Raises:
            RunNotFound: There is no such run.
        """
        (found,) = await run_infos(self.store, [await self.row(run_id)], self._clock.now())
        return found

    async def export(self, run_id: str) -> dict[str, Any]:
        """See `export_run`: one run and its journal as plain data, which `perdure.testing` can replay."""
        return await export_run(self.store, self.payloads, run_id)

    async def tags(self, run_id: str) -> list[str]:
        """
        A run's tags, sorted.

        Raises:
            RunNotFound: There is no such run.
        """
        row = await self.row(run_id)
        return [tag for (tag,) in await self.store.rows("tags_of", row.number)]

    async def runs(self, wanted: RunFilter) -> tuple[list[RunInfo], int | None]:
        """One page of runs, and the `after` of the next page."""
        page = await list_runs(self.store, wanted)
        return await run_infos(self.store, page.rows, self._clock.now()), page.next

    async def workers(self) -> list[WorkerInfo]:
        """All workers that are known, oldest first."""
        return [worker_info(WorkerRow(*row)) for row in await self.store.rows("workers")]

    async def counts(self) -> dict[Status, int]:
        """How many runs there are of each status."""
        return {Status(status): count for status, count in await self.store.rows("counts")}


def _begun(owner: int | None, due_at: int, now: int) -> tuple[Any, ...]:
    """Status, owner, epoch and due time of a new run: claimed by a worker here, or to be claimed."""
    return ("running", owner, 1, None) if owner is not None else ("queued", None, 0, max(due_at, now))
