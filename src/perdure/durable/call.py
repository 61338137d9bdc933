"""`run_durable`: one function, executed under a lease in this process, replayed from what it has done before."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Coroutine, Iterable
from datetime import timedelta
from typing import Any, Generic, Literal, TypeVar, overload

from perdure import ids
from perdure.app import App
from perdure.client.handle import RunHandle
from perdure.client.view import run_info
from perdure.clock import SECOND, micros, to_datetime
from perdure.codec.call import CallCodec
from perdure.codec.canonical import canonical_hash
from perdure.durable.again import failed_at
from perdure.durable.opened import opened
from perdure.durable.result import DurableResult, Suspended, steps_of
from perdure.engine.context import Context
from perdure.engine.definition import LONE, LoneWorkflow
from perdure.engine.threaded import SyncContext
from perdure.errors import (
    Divergence,
    IllegalMove,
    InvalidOption,
    LeaseHeld,
    LeaseLost,
    ManifestMismatch,
    RunPaused,
    StartConflict,
)
from perdure.model.run import End, RunRow, WorkerRow
from perdure.model.status import Status
from perdure.store.changes import Waiter
from perdure.store.load import find_run, load_first_input, load_journal, resolve
from perdure.worker.lone import LoneRun
from perdure.worker.register import gone

R = TypeVar("R")
_TOLD = {
    "lost": "another worker has taken it over, or has declared this one dead",
    "released": "its worker was stopped, as the app was closed",
}


@overload
async def run_durable(
    run_id: str, fn: Callable[[Context], Coroutine[Any, Any, R]], *, store: App | str, manifest: Any = ...,
    wait: float | timedelta | None = ..., again: bool = ..., suspend: Literal[False] = ...,
    timeout: float | timedelta | None = ..., tags: Iterable[str] = ...,
) -> DurableResult[R]: ...  # fmt: skip
@overload
async def run_durable(
    run_id: str, fn: Callable[[Context], Coroutine[Any, Any, R]], *, store: App | str, manifest: Any = ...,
    wait: float | timedelta | None = ..., again: bool = ..., suspend: bool,
    timeout: float | timedelta | None = ..., tags: Iterable[str] = ...,
) -> DurableResult[R] | Suspended: ...  # fmt: skip
@overload
async def run_durable(
    run_id: str, fn: Callable[[SyncContext], R], *, store: App | str, manifest: Any = ...,
    wait: float | timedelta | None = ..., again: bool = ..., suspend: Literal[False] = ...,
    timeout: float | timedelta | None = ..., tags: Iterable[str] = ...,
) -> DurableResult[R]: ...  # fmt: skip
@overload
async def run_durable(
    run_id: str, fn: Callable[[SyncContext], R], *, store: App | str, manifest: Any = ...,
    wait: float | timedelta | None = ..., again: bool = ..., suspend: bool,
    timeout: float | timedelta | None = ..., tags: Iterable[str] = ...,
) -> DurableResult[R] | Suspended: ...  # fmt: skip
async def run_durable(
    run_id: str,
    fn: Any,
    *,
    store: App | str,
    manifest: Any = None,
    wait: float | timedelta | None = 0,
    again: bool = False,
    suspend: bool = False,
    timeout: float | timedelta | None = None,
    tags: Iterable[str] = (),
) -> Any:
    """
    Execute one function durably in this process; what it did under this id before is replayed.

    The function is a workflow without a name: it gets a `Context` (a `SyncContext` if it is a plain function), and
    everything in the guide holds for it. Nobody goes on with it by itself when this process dies: call again with the
    same id, from any process.

    Args:
        run_id: The same id is the same run.
        fn: ``async def fn(ctx)`` or ``def fn(ctx)``.
        store: The URL of a database, or an open app with a worker, which saves opening it for each call.
        manifest: What makes this run this run and no other: any data that has a JSON form, compared as canonical JSON.
        wait: Seconds or timedelta to wait for another process that executes the run now; None for as long as it takes.
        again: Run it again if it has failed or was cancelled before: what is on record is replayed, failures that
            the function has dealt with too; only the step that it has failed by is done again. Resume it if it was
            paused.
        suspend: Return `Suspended` as soon as the run only waits (for a time, a signal, a child) instead of sitting it
            out; the process may end then.
        timeout: Seconds or timedelta from the first call to the run's deadline.
        tags: To find the run by; not part of its identity.

    Returns:
        ``(result, record, steps)``. If the run has ended before, its result is returned and nothing is executed.

    Raises:
        ManifestMismatch: The run was begun with another manifest.
        StartConflict: The id belongs to a run of a workflow.
        LeaseHeld: Another process, or another call in this one, executes it, and did not end within `wait`.
        LeaseLost: Others have taken the run from this process meanwhile; bodies that ran here were cancelled.
        RunFailed: The function failed, now or before; its error is in ``cause``.
        RunCancelled: The run was cancelled.
        RunPaused: It was put aside.
        Divergence: The function no longer does what is on record; `ArgumentsChanged` if only a step's arguments differ.
    """
    settings = micros(wait, "wait") if wait is not None else None
    async with opened(store) as app:
        call: Call[Any] = Call(app, ids.check_id("run id", run_id), fn, manifest, again=again, suspend=suspend)
        return await call.outcome(settings, timeout, tags)


class Call(Generic[R]):
    """One call of `run_durable` on an open app."""

    def __init__(self, app: App, run_id: str, fn: Any, manifest: Any, *, again: bool, suspend: bool) -> None:
        assert app.worker is not None  # noqa: S101 - `opened` has seen to that
        self._worker = app.worker
        self._client = app.client
        self._id = run_id
        self._workflow = lone_workflow(fn)
        self._manifest = manifest
        self._again = again
        self._suspend = suspend
        self._loop = asyncio.get_running_loop()
        self._until: float | None = None
        self._ended: tuple[str, BaseException | None] | None = None
        self._news = asyncio.Event()
        self._lone = LoneRun(run_id, self._workflow, self._told)

    async def outcome(
        self, wait: int | None, timeout: float | timedelta | None, tags: Iterable[str]
    ) -> DurableResult[R] | Suspended:
        """
        Take part in the run until it has ended, or only waits and need not be sat out.

        Args:
            wait: Microseconds; None without end.
        """
        self._until = None if wait is None else self._loop.time() + wait / SECOND
        await self._lend()
        try:
            row = await self._begin(timeout, tags)
            self._lone.claims = True
            return await self._follow(row)
        finally:
            self._worker.lone.withdraw(self._lone)

    # ---------------------------------------------------------------------------------------- beginning
    async def _lend(self) -> None:
        """Give the worker the function, once no other call in this process has given it one for this run."""
        while (other := self._worker.lone.lend(self._lone)) is not self._lone:
            row = await find_run(self._client.store, self._id)
            if row is not None:
                await self._check_manifest(row)
            if self._left_to_wait() == 0:
                raise await self._held(self._worker.number)
            try:
                async with asyncio.timeout_at(self._until):
                    await other.over.wait()
            except TimeoutError:
                continue

    async def _begin(self, timeout: float | timedelta | None, tags: Iterable[str]) -> RunRow:
        """Insert the run or find it, and have it driven here unless it has ended."""
        try:
            await self._client.start(self._workflow, (self._manifest,), id=self._id, timeout=timeout, tags=tags)
        except StartConflict:
            await self._check_manifest(await self._client.row(self._id))
            raise
        row = await self._client.row(self._id)
        if self._lone.number:  # begun by this call: there is nobody to wait for
            self._until = None
            return row
        row = await self._revived(row)
        if row.finished:
            return row
        held = None
        if row.owner is None or row.owner != self._worker.number:
            held = None if row.owner is None else await self._holder(row.owner)
            if held is None and not await self._worker.lone.claim(self._lone):
                # Others may have been faster.
                row = await self._client.row(self._id)
                held = None if row.owner in {None, self._worker.number} else await self._holder(row.owner)
        if held is not None and self._left_to_wait() == 0:
            raise held
        if held is None:
            self._until = None
        return row

    async def _revived(self, row: RunRow) -> RunRow:
        """
        Let a run go on that has failed or was put aside, if it may.

        Raises:
            RunPaused: It was put aside, and the caller does not say that it is to go on.
        """
        try:
            if row.status == Status.PAUSED:
                reason = json.loads(row.reason or "{}")
                # A replay by the function that is here now finds out whether that has been put right.
                if not self._again and reason.get("code") != Divergence.code:
                    raise RunPaused(self._id, str(reason.get("code")), str(reason.get("message")))
                await self._client.resume(self._id)
            elif self._again and row.finished and row.status != Status.COMPLETED:
                await self._client.rerun(self._id, before=await self._failed_at(row))
            else:
                return row
        except IllegalMove:
            pass  # somebody else has done it meanwhile
        return await self._client.row(self._id)

    async def _failed_at(self, row: RunRow) -> str | None:
        store = self._client.store
        error = None if row.error is None else await resolve(store, row.error)
        return failed_at(await load_journal(store, row.number), error, self._client.payloads)

    async def _check_manifest(self, row: RunRow) -> None:
        """
        Whether a run is this one.

        Raises:
            ManifestMismatch, StartConflict: It is not.
        """
        if row.workflow != LONE:
            raise StartConflict(self._id, f"the workflow {row.workflow!r} instead of a function of run_durable")
        store, payloads = self._client.store, self._client.payloads
        stored = await load_first_input(store, row)
        (recorded,), _ = self._workflow.call.decode(payloads.open(stored))
        (given,), _ = self._workflow.call.decode(self._workflow.call.encode((self._manifest,), {}))
        hashes = canonical_hash(recorded), canonical_hash(given)
        if hashes[0] != hashes[1]:
            raise ManifestMismatch(self._id, *hashes)

    async def _holder(self, number: int) -> LeaseHeld | None:
        """The refusal in the name of a worker that executes the run; None when it is dead, so that we take over."""
        now = self._client.store.clock.now()
        for worker in [WorkerRow(*row) for row in await self._client.store.rows("workers")]:
            if worker.number != number or worker.state != "alive" or worker.lease_until < now:
                continue
            if not self._worker.clock.virtual and gone(worker.place, worker.pid, ids.process_place()):
                continue
            return LeaseHeld(self._id, worker.id, to_datetime(worker.lease_until).isoformat())
        return None

    async def _held(self, number: int) -> LeaseHeld:
        """The same in the name of this very process."""
        now = to_datetime(self._client.store.clock.now()).isoformat()
        return await self._holder(number) or LeaseHeld(self._id, self._worker.id, now)

    def _left_to_wait(self) -> float | None:
        """Seconds; None without end."""
        return None if self._until is None else max(0.0, self._until - self._loop.time())

    # ---------------------------------------------------------------------------------------- following
    def _told(self, how: str, error: BaseException | None) -> None:
        """The worker no longer drives the run."""
        if how in _TOLD or how == "paused":
            self._ended = (how, error)
        if how != "parked" or self._suspend:  # a parked run is claimed again when it is due
            self._news.set()

    def _ended_somewhere(self, watch: Waiter) -> None:
        if not watch.cancelled():
            self._news.set()

    async def _follow(self, row: RunRow) -> DurableResult[R] | Suspended:
        changes = self._client.store.changes
        # If it is driven here, the worker tells what becomes of it, and it need not be looked at before.
        look = row.owner != self._worker.number or not self._lone.number
        while True:
            # Taken before the run is read, so that nothing falls between.
            end = changes.watch(row.number)
            end.add_done_callback(self._ended_somewhere)
            try:
                if look:
                    row, answer = await self._look(row)
                    if answer is not None:
                        return answer
                await self._next_news(row)
                self._news.clear()
                look = True
            finally:
                end.cancel()

    async def _look(self, row: RunRow) -> tuple[RunRow, DurableResult[R] | Suspended | None]:
        """
        What there is to say of the run now; None for nothing.

        Raises:
            LeaseLost, RunPaused, Divergence: It is no longer driven here.
        """
        if self._ended is not None and self._ended[0] == "released":
            raise LeaseLost(self._id, _TOLD["released"])  # the database may be closed
        row = await self._client.row(self._id)
        if row.end is not None:
            return row, await self._answer(row, row.end)
        if self._ended is not None:
            raise self._why_ended(*self._ended, row)
        return row, await self._suspended(row) if self._suspend and self._only_waits(row) else None

    async def _next_news(self, row: RunRow) -> None:
        """
        Wait until there is something to look at.

        Raises:
            LeaseHeld: Another process still executes the run, and the time to wait for it is over.
        """
        try:
            async with asyncio.timeout_at(self._until):
                await self._news.wait()
        except TimeoutError:
            self._until = None
            row = await self._client.row(self._id)
            if row.owner not in {None, self._worker.number} and (held := await self._holder(row.owner)):
                raise held from None

    def _why_ended(self, how: str, error: BaseException | None, row: RunRow) -> BaseException:
        if how in _TOLD:
            return LeaseLost(self._id, _TOLD[how])
        if isinstance(error, Divergence):
            return error
        reason = json.loads(row.reason or "{}")
        return RunPaused(self._id, str(reason.get("code")), str(reason.get("message")))

    def _only_waits(self, row: RunRow) -> bool:
        due = row.due_at is not None and row.due_at <= self._client.store.clock.now()
        return row.owner is None and not due and row.status not in {Status.QUEUED, Status.PAUSED}

    # ---------------------------------------------------------------------------------------- answering
    async def _answer(self, row: RunRow, end: End) -> DurableResult[R]:
        handle: RunHandle[R] = RunHandle(self._client, self._id, self._workflow.call.returns)
        result = await handle.value_of(end)
        steps = await steps_of(self._client.store, self._client.payloads, row.number)
        return DurableResult(result, run_info(row), steps)

    async def _suspended(self, row: RunRow) -> Suspended:
        steps = await steps_of(self._client.store, self._client.payloads, row.number)
        info = run_info(row)
        return Suspended(info.due_at, info.waiting_for, info, steps)


def lone_workflow(fn: Any) -> LoneWorkflow[..., Any]:
    """
    The workflow that a caller's function is.

    Raises:
        InvalidOption: It is no function of one context.
    """
    option = "fn"
    if not callable(fn):
        raise InvalidOption(option, f"{fn!r} is not a function")
    try:
        inspect.signature(fn).bind(None)
    except TypeError as error:
        problem = f"it is called with the context alone: {error}. Bind the rest with functools.partial"
        raise InvalidOption(option, problem) from error
    returns = CallCodec(fn).returns
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None)):  # noqa: B004 - it is to be looked at, not called

        async def durable(ctx: Context, manifest: Any) -> Any:  # noqa: ARG001 - it is there to be stored
            return await fn(ctx)

        return LoneWorkflow(durable, returns)

    def plain(ctx: SyncContext, manifest: Any) -> Any:  # noqa: ARG001 - as above
        value = fn(ctx)
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            problem = "a plain function returned an awaitable; pass an async function, or a functools.partial of one"
            raise InvalidOption(option, problem)
        return value

    return LoneWorkflow(plain, returns)
