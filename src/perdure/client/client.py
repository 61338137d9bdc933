"""Everything that is asked of an open store: start runs, send to them, look at them, steer them."""

from __future__ import annotations

import asyncio
import json
from functools import cached_property
from typing import Any

from perdure import ids
from perdure.client.command import Commands
from perdure.client.export import export_run
from perdure.client.guest import Guest
from perdure.client.handle import RunHandle
from perdure.client.ledger import Ledger
from perdure.client.pages import Pages
from perdure.client.queue import Queues
from perdure.client.restart import guarded, unchanged
from perdure.client.sink import Sinks
from perdure.client.starter import Starter
from perdure.client.steer import Steering
from perdure.client.stuck import run_infos
from perdure.client.upkeep import Upkeep
from perdure.client.view import ArtifactInfo, RunInfo, WorkerInfo, artifact_info, worker_info
from perdure.codec.value import TypeCodec, codec_for
from perdure.engine.artifact import load_artifact
from perdure.engine.definition import Workflow
from perdure.engine.outcome import cancel_request
from perdure.engine.request import signal_topic
from perdure.engine.waits import CANCEL
from perdure.errors import PerdureError, RunFinished
from perdure.model.run import Claimed, RunFilter, WorkerRow
from perdure.model.status import Status
from perdure.store.listing import list_runs
from perdure.store.operation import Operation, Row
from perdure.store.store import Store


class Client(Starter[RunHandle[Any]], Steering, Queues, Upkeep, Commands, Sinks, Ledger):
    """
    Everything that callers ask of the store.

    Args:
        adopter: A worker in this process, if there is one.
    """

    store: Store

    @cached_property
    def pages(self) -> Pages:
        """Reads journals, for all handles."""
        return Pages(self.store)

    def _started(self, run_id: str, returns: TypeCodec, number: int | None = None) -> RunHandle[Any]:
        return RunHandle(self, run_id, returns, number)

    def drives(self, number: int) -> bool:
        """Whether a worker of this process drives the run."""
        return self.adopter is not None and self.adopter.drives(number)

    async def _insert(self, operation: Operation, run: tuple[Any, ...] | None, trace: str | None) -> list[Row]:
        """Insert a run; the worker of this process begins to drive it as soon as it is durable, if that was agreed."""
        adopter = self.adopter
        if adopter is None or run is None:
            return await self.store.apply(operation)
        inserted: asyncio.Future[list[Row]] = asyncio.get_running_loop().create_future()

        def done(rows: list[Row], error: Exception | None) -> None:
            # First, so that whoever waits for a short run does so before it ends, and need not read how it has ended.
            if not inserted.done():
                if error is None:
                    inserted.set_result(rows)
                else:
                    inserted.set_exception(error)
            if rows:
                claimed = Claimed(rows[0][1], *run)
                adopter.adopt(claimed if trace is None else claimed._replace(trace=trace))
            else:
                adopter.unreserve()

        try:
            self.store.submit(operation, done)
        except PerdureError:
            adopter.unreserve()
            raise
        return await inserted

    def joining(self, connection: object) -> Guest[RunHandle[Any]]:
        """
        Start runs and send signals in a transaction of the caller's own, on this database.

        Args:
            connection: See `Caller`.

        Raises:
            InvalidOption: It is no connection, or has no transaction open.
        """
        return Guest(
            self.store.joined(connection), given=self._started, clock=self._clock, payloads=self.payloads,
            registry=self._registry, limits=self._limits, observer=self._observer,
        )  # fmt: skip

    def handle(self, run_id: str, workflow: Workflow[..., Any] | str | None = None) -> RunHandle[Any]:
        """
        A handle on a run that was started before.

        Args:
            workflow: Gives the result its declared type; plain data without it.
        """
        returns = codec_for(Any) if workflow is None else self._registry.pick(workflow).call.returns
        return RunHandle(self, ids.check_id("run id", run_id), returns)

    # -------------------------------------------------------------------------------------- sending
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
        topic = signal_topic(ids.check_name("signal name", name))
        row = await self.row(run_id)
        if row.owner is not None or row.finished or topic not in json.loads(row.waiting_for or "[]"):
            return False
        more = Operation()
        # Between two waits the epoch changes, so this key is that of the one wait; the first message under it wins.
        self._send(more, run_id, name, f"answer:{row.epoch}", data)
        return await self._apply(guarded([unchanged(row)], more.lines, changed=(row.number,)))

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
        operation.add("send", run_id, CANCEL, None, message, now)
        operation.add("cancel", run_id, now)
        if not await self.store.apply(operation):
            row = await self.row(run_id)
            raise RunFinished(run_id, row.status)

    # -------------------------------------------------------------------------------------- looking
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

    async def artifacts(self, run_id: str) -> list[ArtifactInfo]:
        """
        What a run keeps under names, without the data, in the order of the names.

        Raises:
            RunNotFound: There is no such run.
        """
        row = await self.row(run_id)
        return [artifact_info(found) for found in await self.store.rows("artifacts", row.number)]

    async def artifact(self, run_id: str, name: str, type: Any = Any) -> Any:
        """
        What a run keeps under a name: bytes, or plain data.

        Args:
            type: To have it as this type.

        Raises:
            RunNotFound: There is no such run.
            ArtifactNotFound: It keeps nothing under this name.
            InvalidInput: It does not have the type.
        """
        row = await self.row(run_id)
        return await load_artifact(self.store, self.payloads, row.number, run_id, name, type)

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
