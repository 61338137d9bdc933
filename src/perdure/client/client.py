"""Start runs, and send to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Protocol

from perdure import ids
from perdure.client.export import export_run
from perdure.client.handle import RunHandle
from perdure.client.steer import Steering
from perdure.client.upkeep import Upkeep
from perdure.client.view import RunInfo, WorkerInfo, run_info, worker_info
from perdure.clock import Clock, micros
from perdure.codec.canonical import same_json
from perdure.codec.payload import Payloads
from perdure.codec.value import codec_for
from perdure.engine.definition import Registry, Workflow
from perdure.errors import PerdureError, RunFinished, StartConflict
from perdure.model.limits import Limits
from perdure.model.run import Claimed, RunFilter, RunRow, WorkerRow
from perdure.model.status import Status
from perdure.store.listing import list_runs
from perdure.store.load import load_run, resolve
from perdure.store.operation import Operation, Row
from perdure.store.record import shelve
from perdure.store.sqlite import SqliteStore


class Adopter(Protocol):
    """A worker in this process that can drive a new run without anybody claiming it first."""

    def reserve(self) -> int | None:
        """Its number, if it can take one more run; `adopt` or `unreserve` follows."""

    def adopt(self, run: Claimed) -> None:
        """Drive this run, which was inserted as claimed by it."""

    def unreserve(self) -> None:
        """The run was not inserted after all."""


class Client(Steering, Upkeep):
    """
    Everything that callers ask of the store.

    Args:
        adopter: A worker in this process, if there is one.
    """

    def __init__(
        self, store: SqliteStore, *, clock: Clock, payloads: Payloads, registry: Registry, limits: Limits
    ) -> None:
        self.store = store
        self.payloads = payloads
        self.adopter: Adopter | None = None
        self._clock = clock
        self._registry = registry
        self._limits = limits

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
    ) -> RunHandle[Any]:
        """
        Start a run; it is durable when this returns.

        Args:
            id: The run's id, 1 to 200 characters; made up when left out. Starting again with the same id,
                workflow and input gives a handle on the same run.
            tags: To find it by.
            timeout: Seconds or timedelta from now to its deadline; the workflow's own when left out.
            delay: Seconds or timedelta to wait before it begins.

        Raises:
            UnknownWorkflow: It is not registered here.
            InvalidInput: The input does not fit the workflow's parameters; nothing was stored.
            StartConflict: The id belongs to a run of another workflow or with other input.
        """
        definition = self._registry.get(workflow)
        what = f"The input of {definition.name}"
        text = definition.call.encode(args, {})
        payload = self.payloads.seal(text, what)
        now = self._clock.now()
        run_id = ids.run_id(now) if id is None else ids.check_id("run id", id)
        limit = timeout if timeout is not None else definition.settings.timeout
        deadline = None if limit is None else now + micros(limit, "timeout")
        due_at = now + micros(delay, "delay")
        labels = ids.check_tags(tags)
        handle: RunHandle[Any] = RunHandle(self, run_id, definition.call.returns)
        owner = self.adopter.reserve() if self.adopter and due_at == now else None
        operation = Operation(makes_due=owner is None)
        stored = shelve(operation, run_id, payload) if len(payload) > self._limits.inline_bytes else payload
        seed = ids.seed()
        operation.add("start", run_id, definition.name, *_begun(owner, due_at, now), stored, seed, now,
                      None if owner is None else now, deadline, None)  # fmt: skip
        for tag in labels:
            operation.add("add_tag", run_id, tag)
        run = (run_id, definition.name, Status.RUNNING, 1, 1, None, payload, seed, now, deadline, None)
        rows = await self._insert(operation, run if owner is not None else None)
        if not rows:
            await self._check_same(run_id, definition.name, text)
        return handle

    async def _insert(self, operation: Operation, run: tuple[Any, ...] | None) -> list[Row]:
        """
        Insert a run; the worker of this process begins to drive it as soon as it is durable.

        Args:
            run: The run as claimed, without its number, when the worker here is to drive it.
        """
        inserted: asyncio.Future[list[Row]] = asyncio.get_running_loop().create_future()
        adopter = self.adopter if run is not None else None

        def done(rows: list[Row], error: Exception | None) -> None:
            if adopter is not None and run is not None:
                if rows:
                    adopter.adopt(Claimed(rows[0][1], *run))
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

    async def _check_same(self, run_id: str, workflow: str, text: str) -> None:
        """The same start once more is the same run; another one under its id is a mistake."""
        row = await self.row(run_id)
        if row.workflow != workflow:
            raise StartConflict(run_id, f"the workflow {row.workflow!r} instead of {workflow!r}")
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
        returns = codec_for(Any) if workflow is None else self._registry.get(workflow).call.returns
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

    async def cancel(self, run_id: str, reason: str = "") -> None:
        """
        Ask a run to end. Its workflow sees it as asyncio's cancellation and may clean up.

        The request is durable when this returns; the run ends when its clean-up has. Asking again changes
        nothing.

        Raises:
            RunNotFound: There is no such run.
            RunFinished: It has ended.
        """
        now = self._clock.now()
        message = self.payloads.seal(json.dumps(reason), "A reason")
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
        return [run_info(row) for row in page.rows], page.next

    async def workers(self) -> list[WorkerInfo]:
        """All workers that are known, oldest first."""
        return [worker_info(WorkerRow(*row)) for row in await self.store.rows("workers")]

    async def counts(self) -> dict[Status, int]:
        """How many runs there are of each status."""
        return {Status(status): count for status, count in await self.store.rows("counts")}


def _begun(owner: int | None, due_at: int, now: int) -> tuple[Any, ...]:
    """Status, owner, epoch and due time of a new run: claimed by a worker here, or to be claimed."""
    return ("running", owner, 1, None) if owner is not None else ("queued", None, 0, max(due_at, now))
