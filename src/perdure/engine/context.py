"""The context: everything durable that a workflow can ask for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, Unpack, overload

from perdure import ids
from perdure.clock import SECOND, from_datetime, micros, to_datetime
from perdure.codec.canonical import fingerprint
from perdure.codec.value import codec_for
from perdure.engine.child import CallOptions, Child, ChildOptions, Takes0, Takes1, Takes2, Takes3, start_child
from perdure.engine.current import current_step
from perdure.engine.definition import LONE, Registry, Step, Workflow, closure
from perdure.engine.ledger import RemarkOptions, remark
from perdure.engine.loop import Branch, RunTask
from perdure.engine.machine import MISSING, TIMED_OUT, Machine
from perdure.engine.request import ReceiveRequest, StepRequest, TimerRequest
from perdure.engine.runlog import RunLogger
from perdure.errors import ContinueAsNew, InvalidOption, NotInWorkflow, ReceiveTimedOut
from perdure.ids import Random
from perdure.model.entry import Kind

if TYPE_CHECKING:
    from uuid import UUID

    from perdure.engine.combine import MapResult
    from perdure.engine.saga import Saga

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
A_contra = TypeVar("A_contra", contravariant=True)
B_contra = TypeVar("B_contra", contravariant=True)
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
T = TypeVar("T")
D = TypeVar("D")


class Context:
    """
    A run, as its workflow function sees it.

    Plain asyncio works around it: gather, TaskGroup, wait, as_completed, timeout and sleep replay in the
    same order, and timers of asyncio are durable. Code between the calls runs again on every replay, so
    whatever has an effect or differs from time to time belongs into a step.
    """

    def __init__(self, machine: Machine, registry: Registry, saga: Saga) -> None:
        self._machine = machine
        self._registry = registry
        self._saga = saga
        self.log = RunLogger(machine)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._machine.run.id

    @property
    def attempt(self) -> int:
        """The running attempt of the step whose body asks, from 1."""
        return current_step().attempt

    @property
    def cancel_reason(self) -> str | None:
        """Why the run was asked to end, for code that catches the cancellation; None when nobody has asked."""
        return self._machine.cancel_reason

    def uncancel(self) -> None:
        """As in asyncio: the cancellation is dealt with. The run goes on, without its grace, and may be cancelled."""
        machine = self._machine
        machine.check()
        machine.cancelled_at, machine.cancel_reason, machine.cancel_compensates = None, None, False

    def recorded(self) -> frozenset[str]:
        """The keys in the part of the journal that this replay has still before it, without the current branch."""
        self._machine.check()
        prefix = self._prefix()
        return frozenset(key.removeprefix(prefix) for key in self._machine.keys_ahead() if key.startswith(prefix))

    def withdraw(self, step: str) -> None:
        """Forget how to undo a step of this name in the current branch: it has ended, but is not done yet."""
        self._machine.check()
        self._saga.withdraw(self._prefix() + step)

    def _prefix(self) -> str:
        """What the keys of the current branch begin with."""
        task = asyncio.current_task(self._machine.loop)
        return task.branch.prefix if isinstance(task, RunTask) else ""

    # ------------------------------------------------------------------------------------- steps
    @overload
    async def step(self, fn: Step[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def step(self, name: str, fn: Callable[[], Any], /, *, returns: type[R], **options: Any) -> R: ...
    @overload
    async def step(self, name: str, fn: Callable[[], Awaitable[R]], /, **options: Any) -> R: ...
    @overload
    async def step(self, name: str, fn: Callable[[], R], /, **options: Any) -> R: ...
    @overload
    async def step(self, fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def step(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def step(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """
        Run a function once and keep its result for ever.

        ``ctx.step(fn, *args, **kwargs)`` takes a step or any function; options go through
        ``fn.options(…)``. ``ctx.step("name", closure, **options)`` takes a function without parameters
        under a name, with the fields of `StepOptions` and ``returns=`` for the result's type.

        The body begins after everything it can depend on is durable, and runs at least once; when this
        returns on a later replay, its recorded result is the value and the body does not run.

        Raises:
            Exception: What the last attempt raised, with the same class, message and fields on replay.
            StepTimedOut: An attempt, or all of them, took too long.
            StepInterrupted: The worker died in an attempt that may run at most once.
        """
        self._machine.check()
        if isinstance(fn, str):
            fn, returns = closure(fn, args, kwargs)
            args, kwargs = (), {}
        else:
            fn = fn if type(fn) is Step else self._registry.step_of(fn)
            returns = fn.returns
            if kwargs:
                fn.check_named(kwargs)
        return await self.want(fn, args, kwargs, returns, transactional=False)

    def want(
        self, step: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], returns: Any, *, transactional: bool
    ) -> asyncio.Future[Any]:
        """As `step` and `transaction`, for those who need what these await."""
        machine, stand_in = self._machine, self._registry.stand_in
        future = machine.loop.create_future()
        request = StepRequest(
            machine.key(step.name), future, step if stand_in is None else stand_in(step), args, kwargs,
            returns=returns, transactional=transactional,
            fingerprint=fingerprint(args, kwargs) if step.settings.fingerprint and (args or kwargs) else None,
        )  # fmt: skip
        machine.request(request)
        if step.settings.compensate is not None:
            return self._saga.step(request, step.settings.compensate)
        return future

    @overload
    async def transaction(self, fn: Callable[..., Coroutine[Any, Any, R]], /, *args: Any) -> R: ...
    @overload
    async def transaction(self, fn: Callable[..., R], /, *args: Any) -> R: ...
    async def transaction(self, fn: Any, /, *args: Any) -> Any:
        """
        Run a step whose rows commit together with its outcome.

        It should be short. On SQLite it keeps all other commits waiting; on Postgres those who want its rows.

        Args:
            fn: A plain function of an open `Transaction` of perdure's own database, then `args`; or a coroutine
                function of an `AsyncTransaction`, which on SQLite may await nothing else. It may run again when
                others have changed what it read. If it raises, its rows are rolled back and the step fails or is
                retried.

        Returns:
            What `fn` returned. Its rows and this outcome are durable together.
        """
        self._machine.check()
        step = self._registry.step_of(fn)
        return await self.want(step, args, {}, step.returns, transactional=True)

    # ------------------------------------------------------------------------------------- waiting
    async def sleep(self, until: float | timedelta | datetime) -> None:
        """
        Sleep durably: for seconds or a timedelta, or until an aware datetime.

        A run that sleeps longer than a moment gives up its worker and its memory.
        """
        machine = self._machine
        machine.check()
        if isinstance(until, datetime):
            # Written as a date, so that a rerun or a fork does not take it for a span and put it off.
            at = from_datetime(until)
            data = json.dumps(to_datetime(at).isoformat())
        else:
            at = machine.now() + micros(until)
            data = str(at)
        key = machine.key("sleep")
        recorded = machine.note(Kind.TIMER_SET, key, data)
        if recorded is not None and recorded.data:
            at = _moment(json.loads(recorded.data))
        request = TimerRequest(key, machine.loop.create_future(), at)
        machine.request(request)
        await request.future

    def timeout(self, duration: float | timedelta) -> asyncio.Timeout:
        """``async with ctx.timeout(60):`` raises TimeoutError inside when the time is over, durably."""
        return asyncio.timeout(micros(duration) / SECOND)

    @overload
    async def receive(self, name: str, type: type[T], *, timeout: float | timedelta | None = None) -> T: ...
    @overload
    async def receive(
        self,
        name: str,
        type: type[T],
        *,
        timeout: float | timedelta | None = None,
        default: D,
    ) -> T | D: ...
    @overload
    async def receive(self, name: str, *, timeout: float | timedelta | None = None, default: Any = MISSING) -> Any: ...
    async def receive(
        self,
        name: str,
        type: Any = Any,
        *,
        timeout: float | timedelta | None = None,
        default: Any = MISSING,
    ) -> Any:
        """
        Wait for a signal, which may have come already.

        Args:
            name: What the sender calls it.
            type: What its payload must be; anything when left out.
            timeout: Seconds or timedelta to wait; None for ever.
            default: What to return when the time is over, instead of raising.

        Returns:
            The payload. Each signal is received once, in the order of sending.

        Raises:
            ReceiveTimedOut: No signal came in time, and there is no default.
            InvalidInput: The payload does not have the type; the signal is used up.
            InvalidOption: The type is none that pydantic understands.
        """
        machine, codec = self._machine, codec_for(type)
        machine.check()
        ids.check_name("signal name", name)
        codec.check_type("type")
        until = None if timeout is None else machine.now() + micros(timeout, "timeout")
        key = machine.key(name)
        recorded = machine.note(Kind.RECEIVE_STARTED, key, None if until is None else str(until))
        if recorded is not None:
            until = int(recorded.data) if recorded.data else None
        request = ReceiveRequest(key, machine.loop.create_future(), name, until)
        machine.request(request)
        text = await request.future
        if text is not TIMED_OUT:
            return None if text is None else codec.decode(text, f"The payload of signal {name!r}")
        if default is MISSING:
            raise ReceiveTimedOut(name, micros(timeout or 0) / SECOND)
        return default

    # ------------------------------------------------------------------------------------- children
    @overload
    async def call(self, workflow: Takes0[R], /, **options: Unpack[CallOptions]) -> R: ...
    @overload
    async def call(self, workflow: Takes1[A, R], a: A, /, **options: Unpack[CallOptions]) -> R: ...
    @overload
    async def call(self, workflow: Takes2[A, B, R], a: A, b: B, /, **options: Unpack[CallOptions]) -> R: ...
    @overload
    async def call(self, workflow: Takes3[A, B, C, R], a: A, b: B, c: C, /, **options: Unpack[CallOptions]) -> R: ...
    @overload
    async def call(self, workflow: str, /, *args: Any, **options: Unpack[CallOptions]) -> Any: ...
    async def call(self, workflow: Any, /, *args: Any, **options: Any) -> Any:
        """
        Run a workflow as a child and wait for its result. Giving up the wait cancels a child that is not detached.

        Args:
            workflow: A registered workflow, or its name.
            args: Its input.
            options: As for `start`; and ``compensate``, what undoes a child that has completed when this run does
                not end well: like the option of a step, called with the child's result, then its input.

        Raises:
            ChildFailed: It failed or was cancelled; its own error is in ``cause``.
            StartConflict: The id given belongs to another run, or to a child with other input.
        """
        compensate = options.pop("compensate", None)
        if compensate is not None and options.get("detached"):
            option = "compensate"
            raise InvalidOption(option, "a detached child goes on when its parent fails, so nothing would undo it")
        child = await self.start(workflow, *args, **options)
        child.bound = not options.get("detached")
        return await (child.result() if compensate is None else self._saga.child(child, compensate, args))

    @overload
    async def start(self, workflow: Takes0[R], /, **options: Unpack[ChildOptions]) -> Child[R]: ...
    @overload
    async def start(self, workflow: Takes1[A, R], a: A, /, **options: Unpack[ChildOptions]) -> Child[R]: ...
    @overload
    async def start(self, workflow: Takes2[A, B, R], a: A, b: B, /, **options: Unpack[ChildOptions]) -> Child[R]: ...
    @overload
    async def start(
        self, workflow: Takes3[A, B, C, R], a: A, b: B, c: C, /, **options: Unpack[ChildOptions]
    ) -> Child[R]: ...  # fmt: skip
    @overload
    async def start(self, workflow: str, /, *args: Any, **options: Unpack[ChildOptions]) -> Child[Any]: ...
    async def start(self, workflow: Any, /, *args: Any, **options: Any) -> Child[Any]:
        """
        Start a child run; it begins when this run's next commit is durable.

        Args:
            workflow: A registered workflow, or its name.
            args: Its input.
            options: ``id``, the child's id; by default this run's id and the place of the call, so that a replay finds
                the same child.
                ``tags``, to find it by; ``timeout``, seconds or timedelta from now to the child's deadline;
                ``detached``, to let it go on when this run fails or is cancelled; otherwise it is cancelled then;
                ``queue``, ``key``, ``priority``, ``version`` and ``annotations`` as for `Client.start`.
        """
        machine = self._machine
        machine.check()
        return start_child(machine, self._registry, workflow, args, options)

    # ------------------------------------------------------------------------------------ telling
    async def emit(self, name: str, data: Any = None) -> None:
        """
        Put an event into the run's journal, for whoever watches the run.

        It is durable, and visible, with the run's next commit, once.
        """
        self._tell(Kind.EMITTED, name, data)

    async def annotate(self, key: str, value: Any = None, **more: Unpack[RemarkOptions]) -> None:
        """Make a remark about the run, for people and reports, durable with its next commit; see `Client.annotate`."""
        remark(self._machine, lambda: self._tell(Kind.ANNOTATED, key, value), key, value, more)

    def _tell(self, kind: Kind, name: str, data: Any) -> bool:
        machine = self._machine
        machine.check()
        key = machine.key(ids.check_name("event name", name))
        text = codec_for(Any).encode({"name": name, "data": data}, f"Event {name!r}")
        return machine.note(kind, key, machine.payloads.seal(text, f"Event {name!r}")) is None

    # --------------------------------------------------------------------- repeatable time and chance
    def now(self) -> datetime:
        """The time, as of the last outcome that reached the workflow; the same on every replay. Costs nothing."""
        self._machine.check()
        return to_datetime(self._machine.now())

    def uuid(self) -> UUID:
        """A UUID, the same on every replay and different from all others. Costs nothing."""
        return ids.uuid_from(self._stream("uuid"))

    def random(self) -> Random:
        """A source of chance, the same on every replay. Costs nothing. Not for secrets."""
        return self._stream("random")

    def _stream(self, name: str) -> Random:
        self._machine.check()
        return ids.stream(self._machine.run.seed, self._machine.key(name))

    # ----------------------------------------------------------------------------------- many at once
    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """
        Put a name before the keys of everything asked for inside.

        ``with ctx.scope("invoice"):`` around steps makes their keys "invoice/…", in this task and the
        tasks it starts meanwhile.
        """
        self._machine.check()
        ids.check_name("scope", name)
        key, task = self._machine.key(name), self._task()
        outer, task.branch = task.branch, Branch(f"{key}/")
        try:
            yield
        finally:
            task.branch = outer

    @overload
    async def map(
        self, fn: Step[[A], R] | Takes1[A, R], items: Iterable[A], /, *, concurrency: int | None = None,
        name: str | None = None,
    ) -> list[R]: ...  # fmt: skip
    @overload
    async def map(
        self, fn: Step[[A], R] | Takes1[A, R], items: Iterable[A], /, *, concurrency: int | None = None,
        name: str | None = None, min_success: int | None = None, tolerate: float | None = None,
    ) -> MapResult[R]: ...  # fmt: skip
    @overload
    async def map(
        self, fn: Callable[[A], Awaitable[R]], items: Iterable[A], /, *, concurrency: int | None = None,
        name: str | None = None,
    ) -> list[R]: ...  # fmt: skip
    @overload
    async def map(
        self, fn: Callable[[A], Awaitable[R]], items: Iterable[A], /, *, concurrency: int | None = None,
        name: str | None = None, min_success: int | None = None, tolerate: float | None = None,
    ) -> MapResult[R]: ...  # fmt: skip
    async def map(
        self,
        fn: Any,
        items: Iterable[Any],
        /,
        *,
        concurrency: int | None = None,
        name: str | None = None,
        min_success: int | None = None,
        tolerate: float | None = None,
    ) -> Any:
        """
        Do the same for many items.

        Args:
            fn: A step (each item is one), a workflow (each is a child run), or a coroutine function of
                the workflow's own, called with the item.
            items: Finite.
            concurrency: How many at a time; None for all.
            name: Scope of the keys: "name[0]/…"; the function's name when left out.
            min_success: Stop, satisfied, when this many have succeeded.
            tolerate: Stop when more have failed: a count, or below 1 a share of the items.

        Returns:
            Without `min_success` and `tolerate` the list of results in the items' order; the first failure
            cancels the rest and is raised. With one of them a `MapResult`, which does not raise by itself.
        """
        self._machine.check()
        if type(fn) is Step:
            step = fn

            async def run(item: Any) -> Any:
                return await self.step(step, item)
        elif isinstance(fn, Workflow):
            workflow = fn

            async def run(item: Any) -> Any:
                return await self.call(workflow, item)
        elif callable(fn):
            run = fn
        else:
            option = "ctx.map(fn, items)"
            raise InvalidOption(option, f"{fn!r} is neither a step nor a workflow nor a function")
        label = name or getattr(fn, "name", None) or getattr(fn, "__name__", "map")
        base = self._machine.key(ids.check_name("map", label))

        async def in_branch(place: int, item: Any) -> Any:
            self._task().branch = Branch(f"{base}[{place}]/")
            return await run(item)

        from perdure.engine.combine import map_items  # noqa: PLC0415 - most workflows need not wait for it

        return await map_items(in_branch, items, concurrency=concurrency, min_success=min_success, tolerate=tolerate)

    def _task(self) -> RunTask:
        """The task of the workflow that asks."""
        task = asyncio.current_task(self._machine.loop)
        if not isinstance(task, RunTask):
            problem = "it was called outside the tasks of the workflow"
            raise NotInWorkflow(problem)
        return task

    async def race(self, *awaitables: Awaitable[R]) -> tuple[int, R]:
        """
        Wait for the first of several to end, and cancel the others.

        Returns:
            The winner's place among the arguments, and its result. If it failed, its error is raised.
        """
        from perdure.engine.combine import race  # noqa: PLC0415 - as above

        self._machine.check()
        return await race(awaitables)

    # -------------------------------------------------------------------------------------- the run
    def patched(self, patch: str) -> bool:
        """
        Whether to take the new way at a place where the workflow was changed.

        True for runs that come here for the first time after the change, and for those that did so before;
        False for runs that passed this place with the old code.
        """
        self._machine.check()
        return self._machine.patched(ids.check_name("patch", patch))

    def continue_as_new(self, *args: Any) -> NoReturn:
        """
        End here and begin the run again with this input and an empty history. Does not return.

        The id, the tags and unreceived signals stay. For runs without end, whose history would grow.
        """
        self._machine.check()
        if self._machine.run.workflow == LONE and not args:
            raise ContinueAsNew(self._machine.run.input)  # the manifest, which makes it this run
        definition = self._registry.get(self._machine.run.workflow)
        text = definition.call.encode(args, {})
        raise ContinueAsNew(self._machine.payloads.seal(text, f"The input of {definition.name}"))


def _moment(recorded: int | str) -> int:
    return recorded if isinstance(recorded, int) else from_datetime(datetime.fromisoformat(recorded))
