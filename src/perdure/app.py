"""The app: the one place that joins store, engine, worker and client. No globals."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Self, TypeVar, overload

from perdure.client.face import Face
from perdure.clock import Clock, SystemClock, duration
from perdure.codec.payload import Codec, Payloads
from perdure.engine.annotation import check_context
from perdure.engine.context import Context
from perdure.engine.decorator import StepDecorator, WorkflowDecorator, workflow_options
from perdure.engine.definition import AsyncStep, Registry, Step, StepOptions, SyncStep, Workflow
from perdure.engine.observer import Observer, joined, listed
from perdure.engine.threaded import SyncContext
from perdure.errors import InvalidOption, StoreClosed
from perdure.model.check import check_kind
from perdure.model.limits import Limits
from perdure.model.queue import Queue
from perdure.store.choose import shown, store_at
from perdure.worker.options import WorkerOptions, retention_of

if TYPE_CHECKING:
    from perdure.client.client import Client
    from perdure.client.guest import Inside
    from perdure.flow.builder import Flow
    from perdure.model.event import Event
    from perdure.pipeline.builder import Pipeline
    from perdure.store.batch import Probe
    from perdure.store.changes import Changes
    from perdure.stream.handle import Stream
    from perdure.stream.hub import Hub
    from perdure.stream.server import StreamServer
    from perdure.turn.producer import Turn, TurnResult
    from perdure.turn.workflow import TurnDecorator
    from perdure.worker.part import Part
    from perdure.worker.worker import Worker

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
T = TypeVar("T")
Synchronous = Literal["FULL", "NORMAL"]
log = logging.getLogger("perdure.worker")


class App(Face):
    """
    Workflows, and the database that their runs live in.

    ``async with app:`` opens the database and drives runs in this process until the block ends;
    ``async with app.connected():`` opens it only to start, watch and steer runs that other processes drive;
    ``asyncio.run(app.serve())`` does nothing but drive runs until the process is told to stop.

    Args:
        url: ``sqlite:///orders.db`` (relative), ``sqlite:////var/lib/orders.db`` (absolute), or
            ``sqlite://`` for a database in memory that ends with the app, or
            ``postgresql://user:password@host/database?schema=perdure``, which needs ``perdure[postgres]``.
        worker: How the worker of this process behaves.
        limits: Largest payloads, longest histories.
        codec: Compression or encryption of all payloads.
        synchronous: SQLite's. "FULL": a commit survives a power cut. "NORMAL": it survives the process only; faster.
        observers: Told of what happens, such as `perdure.observe.metrics.Metrics` and
            `perdure.observe.tracing.Tracing`.
        migrate: Create or update the database's schema on opening it. Without this, a schema that does not fit
            is an error.
        clock, changes, inline_only, probe: For tests and simulations.
    """

    def __init__(
        self,
        url: str = "sqlite:///perdure.db",
        *,
        worker: WorkerOptions | None = None,
        limits: Limits | None = None,
        codec: Codec | None = None,
        synchronous: Synchronous = "FULL",
        observers: Iterable[Observer] = (),
        migrate: bool = True,
        clock: Clock | None = None,
        changes: Changes | None = None,
        inline_only: bool = False,
        probe: Probe | None = None,
    ) -> None:
        check_kind("worker", worker, WorkerOptions)
        check_kind("limits", limits, Limits)
        check_kind("codec", codec, Codec)
        check_kind("clock", clock, Clock)
        self.url = url
        self.limits = limits or Limits()
        self.worker_options = worker or WorkerOptions()
        self.observers = listed(observers)
        self._observer = joined(self.observers)
        self.registry = Registry()
        self._options: dict[str, Any] = {
            "url": url, "worker": worker, "limits": limits, "codec": codec, "synchronous": synchronous,
            "observers": self.observers, "migrate": migrate, "clock": clock, "changes": changes,
            "inline_only": inline_only, "probe": probe,
        }  # fmt: skip
        self._clock = clock or SystemClock()
        self._payloads = Payloads(codec, self.limits)
        self._migrate = migrate
        self._store = partial(
            store_at, url, clock=self._clock, limits=self.limits, synchronous=synchronous, inline_only=inline_only,
            changes=changes, probe=probe,
        )  # fmt: skip
        # A URL or options that cannot be are told here, not when the app is opened.
        self._store()
        self._client: Client | None = None
        self._worker: Worker | None = None
        self._hub: Hub | None = None

    @classmethod
    def from_env(cls, **options: Any) -> Self:
        """
        An app configured by the environment.

        PERDURE_URL is the database, PERDURE_SYNCHRONOUS is FULL or NORMAL, PERDURE_CONCURRENCY,
        PERDURE_THREADS, PERDURE_LEASE (such as 30s) and PERDURE_RETENTION (such as 30d, or never) are the worker's.

        Args:
            options: As for `App`; they win over the environment.
        """
        read = os.environ.get
        worker: dict[str, Any] = {}
        for variable, option, kind in (
            ("PERDURE_CONCURRENCY", "concurrency", int),
            ("PERDURE_THREADS", "threads", int),
            ("PERDURE_LEASE", "lease", partial(duration, option="PERDURE_LEASE")),
            ("PERDURE_RETENTION", "retention", partial(retention_of, option="PERDURE_RETENTION")),
        ):
            if text := read(variable):
                try:
                    worker[option] = kind(text)
                except ValueError:
                    raise InvalidOption(variable, f"{text!r} is not a number") from None
        found: dict[str, Any] = {"url": read("PERDURE_URL", "sqlite:///perdure.db"), "worker": WorkerOptions(**worker)}
        if text := read("PERDURE_SYNCHRONOUS"):
            found["synchronous"] = text.upper()
        return cls(**(found | options))

    def variant(self, **options: Any) -> Self:
        """
        An app with the same workflows on another database, or with other options, as tests use it.

        Args:
            options: As for `App`; those left out are this app's own.
        """
        other = type(self)(**(self._options | options))
        other.registry = self.registry
        return other

    @contextmanager
    def lent(self, other: App) -> Iterator[None]:
        """
        Let whatever is asked of this app go to another, open one meanwhile.

        Code that uses a module's own app is tested so.

        Raises:
            InvalidOption: This app is open itself.
        """
        if self._client is not None:
            option = "app"
            raise InvalidOption(option, "it is open itself; calls on it cannot go elsewhere")
        self._client, self._worker = other.client, other.worker
        try:
            yield
        finally:
            self._client = self._worker = None

    # ------------------------------------------------------------------------------------ defining
    @overload
    def step(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncStep[P, R]: ...  # type: ignore[overload-overlap]  # the first one that fits counts
    @overload
    def step(self, fn: Callable[P, R], /) -> SyncStep[P, R]: ...
    @overload
    def step(self, /, **options: Any) -> StepDecorator: ...
    def step(self, fn: Any = None, /, **options: Any) -> Any:
        """
        Make a function a step: ``@app.step`` or ``@app.step(retry=Retry(max_attempts=5), timeout=30)``.

        The function stays callable as it is.

        Args:
            options: Fields of `StepOptions`.
        """
        settings = StepOptions().changed(**options)
        return Step(fn, settings) if fn is not None else lambda fn: Step(fn, settings)

    @overload
    def workflow(self, fn: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
    @overload
    def workflow(self, fn: Callable[Concatenate[SyncContext, P], R], /) -> Workflow[P, R]: ...
    @overload
    def workflow(self, /, **options: Any) -> WorkflowDecorator: ...
    def workflow(self, fn: Any = None, /, **options: Any) -> Any:
        """
        Register a workflow: ``@app.workflow`` or ``@app.workflow(name="checkout", version="2", timeout=3600)``.

        The function takes the context first, `Context` in a coroutine function and `SyncContext` in a plain
        one, then its input. While the app is open, its worker claims runs of the new workflow from then on.

        Args:
            options: Fields of `WorkflowOptions`.

        Raises:
            DuplicateName: Another workflow of this app has the name, and the version.
            InvalidOption: An option that there is not, no function, or one that declares the other kind's context.
        """
        settings = workflow_options(options)

        def register(fn: Any) -> Workflow[..., Any]:
            workflow: Workflow[..., Any] = Workflow(fn, settings)
            check_context(fn)
            self.registry.add(workflow)
            return workflow

        return register(fn) if fn is not None else register

    def flow(self, flow: Flow, /, **options: Any) -> Workflow[..., Any]:
        """
        Register a flow under its name; it is started like a workflow.

        Args:
            options: Fields of `WorkflowOptions`, without the name.

        Raises:
            DuplicateName: Another workflow of this app has the name, and the version.
            UnknownWorkflow: One of its children is not registered; register them first.
        """
        from perdure.flow.play import children_of, compiled  # noqa: PLC0415 - `import perdure` need not wait for it

        registered = workflow_options(options, flow.name)
        for child in children_of(flow):
            if child != flow.name:
                self.registry.pick(child)
        workflow = compiled(flow, registered)
        self.registry.add(workflow)
        return workflow

    def pipeline(self, pipeline: Pipeline, /, **options: Any) -> Workflow[..., Any]:
        """
        Register a pipeline under its name; it is started like a workflow, with its input and its config.

        Args:
            options: Fields of `WorkflowOptions`, without the name.

        Raises:
            DuplicateName: Another workflow of this app has the name, and the version.
        """
        from perdure.pipeline.play import compiled  # noqa: PLC0415 - `import perdure` need not wait for it

        workflow, *others = compiled(pipeline, workflow_options(options, pipeline.name))
        for made in (workflow, *others):
            self.registry.add(made)
        return workflow

    @overload
    def turn(self, fn: Callable[Concatenate[Turn, P], AsyncIterator[Any]], /) -> Workflow[P, TurnResult]: ...
    @overload
    def turn(self, /, **options: Any) -> TurnDecorator: ...
    def turn(self, fn: Any = None, /, **options: Any) -> Any:
        """Register a turn: an async generator function whose events are logged as they flow; see `turn_workflow`."""
        from perdure.turn.workflow import register  # noqa: PLC0415 - as for flows

        return register(self.registry, fn, options)

    def queue(self, name: str, **limits: Any) -> Queue:
        """
        Declare a queue: ``app.queue("email", concurrency=10, per_key=2, rate=Rate(100, per=60))``.

        It is made when the app is opened. One that is there already is changed only if its declaration differs from
        the last one, so that what operators have set since stays.

        Args:
            limits: Fields of `Queue`.

        Raises:
            DuplicateName: This app declares another queue of this name.
        """
        queue = Queue(name).changed(**limits)
        self.registry.add_queue(queue)
        return queue

    def sink(self, name: str, target: Callable[[Event], Any] | None = None, /, **options: Any) -> Callable[[T], T]:
        """
        Declare a sink: ``app.sink("billing", Webhook(url, secret), events=["completed", "failed"])``.

        Over a function, ``@app.sink("audit", topics="order.*")``, it is called with each `Event`. The sink is made when
        the app is opened, and told by this app's workers from then on: of each event at least once, each run's in
        order.

        Args:
            options: Fields of `perdure.model.sink.Sink`: ``events``, ``topics``, ``workflows``, ``retry``, ``timeout``,
                ``concurrency``, ``since``.

        Raises:
            DuplicateName: This app has another sink of the name.
            InvalidOption: An option that there is not, or that is wrong.
        """
        from perdure.model.sink import declaring  # noqa: PLC0415 - who has no sinks need not wait for it

        return declaring(self.registry.add_sink, name, target, options)

    # ---------------------------------------------------------------------------------------- life
    async def __aenter__(self) -> Self:
        """Open the database and start a worker in this process."""
        from perdure.worker.worker import Worker  # noqa: PLC0415 - who only defines workflows need not wait for it

        client = await self._open()
        self._worker = Worker(
            client.store, clock=client.store.clock, payloads=self._payloads, registry=self.registry, limits=self.limits,
            options=self.worker_options, observer=self._observer, parts=self._parts(),
        )  # fmt: skip
        try:
            await self._worker.start()
        except BaseException:
            await self._close()
            raise
        client.adopter = self._worker
        if self._observer is not None:
            self._observer.working(self._worker)
        return self

    def _parts(self) -> list[Part]:
        """What the worker does beside driving runs."""
        sinks = self.registry.sinks.values()
        if not sinks or not self.worker_options.deliver:
            return []
        from perdure.outbox.deliverer import Deliverer  # noqa: PLC0415 - who has no sinks need not wait for it

        return [Deliverer(sinks, self._payloads)]

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the worker leave, and close the database."""
        await self._close()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Self]:
        """Open the database without a worker: to start, watch and steer runs that others drive."""
        await self._open()
        try:
            yield self
        finally:
            await self._close()

    async def serve(self) -> None:
        """
        Drive runs in this process until SIGTERM or SIGINT (Ctrl-C), as `perdure worker` does.

        At the first signal the worker takes no more runs, lets running bodies end within its ``drain`` and gives
        its runs back; then this returns. A second signal ends the process at once, with exit code 9.

        Raises:
            InvalidOption: The app is open already, or this is not the main thread, which alone hears signals.
        """
        from perdure.worker.stop import StopSignals  # noqa: PLC0415 - as above

        with StopSignals() as stop:
            async with self:
                log.info("driving %s on %s", ", ".join(self.registry.names()) or "no workflows", shown(self.url))
                await stop.told.wait()
                log.info("%s: draining", stop.by)

    async def _open(self) -> Client:
        from perdure.client.client import Client  # noqa: PLC0415 - as above

        if self._client is not None:
            option = "app"
            raise InvalidOption(option, "it is open already; use one App per block")
        store = self._store()
        await store.connect(migrating=self._migrate)
        self._client = Client(
            store, clock=store.clock, payloads=self._payloads, registry=self.registry, limits=self.limits,
            observer=self._observer,
        )  # fmt: skip
        if self._observer is not None:
            store.observe(self._observer.committed)
        try:
            await self._client.declare_queues(self.registry.queues.values(), self.registry.queue_names())
            await self._client.declare_sinks(self.registry.sinks.values())
        except BaseException:
            await self._close()
            raise
        return self._client

    async def _close(self) -> None:
        worker, self._worker = self._worker, None
        client, self._client = self._client, None
        hub, self._hub = self._hub, None
        if hub is not None:
            hub.close()
        try:
            if worker is not None:
                await worker.stop()
        finally:
            if worker is not None and self._observer is not None:
                self._observer.stopped(worker)
            if client is not None:
                await client.store.close()
                client.store.changes.committed_elsewhere()  # whoever waits looks, and finds it closed

    @property
    def client(self) -> Client:
        """
        What callers ask of the open database.

        Raises:
            StoreClosed: The app is not open.
        """
        if self._client is None:
            problem = "The app is not open: use `async with app:` or `async with app.connected():`."
            raise StoreClosed(problem)
        return self._client

    @property
    def hub(self) -> Hub:
        """
        The streams of the open database; `stream` and `stream_server` are what to use.

        Raises:
            StoreClosed: The app is not open.
        """
        client = self.client
        if self._hub is None or self._hub.store is not client.store:
            from perdure.stream.hub import Hub  # noqa: PLC0415 - `import perdure` need not wait for it

            self._hub = Hub(client.store, client.store.clock, client.payloads, self.limits)
        return self._hub

    @overload
    def stream(self, name: str, of: type[A], *, media_type: str | None = None) -> Stream[A]: ...
    @overload
    def stream(self, name: str, *, media_type: str | None = None) -> Stream[Any]: ...
    def stream(self, name: str, of: Any = Any, *, media_type: str | None = None) -> Stream[Any]:
        """
        A stream of the open database: messages in their order, kept, and followed by any number of readers.

        Args:
            name: 1 to 200 characters; slashes are as good as any.
            of: What its messages are; bytes for a stream that is not JSON.
            media_type: application/json, or application/octet-stream for bytes, when left out.

        Raises:
            StoreClosed: The app is not open.
        """
        return self.hub.handle(name, of, media_type)

    def stream_server(self, **options: Any) -> StreamServer:
        """
        The runs and streams of this app as an ASGI app.

        Args:
            options: As for `StreamServer`. Without ``authorize``, everybody who can reach it reads every run and writes
                every stream.
        """
        from perdure.stream.server import StreamServer  # noqa: PLC0415 - `import perdure` need not wait for it

        return StreamServer(self, **options)

    @property
    def worker(self) -> Worker | None:
        """The worker of this process, while there is one."""
        return self._worker

    def inside(self, connection: object) -> Inside:
        """
        Start runs and send signals in a transaction of yours, from code without an event loop.

        The app need not be open. What is done is there when the transaction commits, and never was if it does not.

        Args:
            connection: Of yours, to the same database, or a session of SQLAlchemy.

        Raises:
            InvalidOption: It is no connection, answers on an event loop only, or has no transaction open.
        """
        from perdure.client.guest import Guest, Inside  # noqa: PLC0415 - as above
        from perdure.store.caller import check_plain  # noqa: PLC0415 - as above

        check_plain(connection)
        store = self._store() if self._client is None else self._client.store
        joined = store.joined(connection)
        return Inside(
            Guest(
                joined, given=lambda run_id, _: run_id, clock=joined.clock, payloads=self._payloads,
                registry=self.registry, limits=self.limits, observer=self._observer,
            )
        )  # fmt: skip
