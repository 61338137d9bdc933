"""Steps and workflows as they are defined: functions with a name and options."""

from __future__ import annotations

import inspect
import sys
from asyncio import events
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property, reduce, update_wrapper
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from perdure.clock import micros, some_micros
from perdure.codec.call import CallCodec
from perdure.codec.value import TypeCodec, codec_for
from perdure.engine.loop import PrivateLoop
from perdure.errors import BlockingCall, DuplicateName, InvalidOption, UnknownWorkflow
from perdure.ids import check_name
from perdure.model.check import check_known
from perdure.model.queue import NO_TERMS, Queue, Terms, name_of
from perdure.model.retry import NO_RETRY, Retry
from perdure.model.version import check_version, check_workflow_name, pin, recency

if TYPE_CHECKING:
    from perdure.model.sink import Sink

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class StepOptions:
    """
    How a step is run.

    Attributes:
        name: What the journal calls it; the function's name when empty.
        retry: When a failed attempt is made again; by default never.
        timeout: Seconds or timedelta for one attempt. A coroutine is cancelled then; a thread cannot be
            stopped and its result is ignored.
        total_timeout: The same for all attempts and the waits between them.
        at_most_once: Record the beginning of each attempt first. If the worker dies during it, the attempt
            counts as failed with `StepInterrupted` instead of being run again.
        fingerprint: Whether the arguments are hashed and compared on replay.
        compensate: A step or function that undoes the step when the run does not end well. It is called with the
            step's result, then the step's arguments: with as many of them as it has parameters. It is a step
            of its own, with its own options; without a retry policy it is tried as ``Retry()`` says.
    """

    name: str = ""
    retry: Retry = NO_RETRY
    timeout: float | timedelta | None = None
    total_timeout: float | timedelta | None = None
    at_most_once: bool = False
    fingerprint: bool = True
    compensate: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if self.name:
            check_name("step name", self.name)
        for option in ("timeout", "total_timeout"):
            value = getattr(self, option)
            if value is not None:
                some_micros(value, option)
        retry: object = self.retry
        if not isinstance(retry, Retry):
            option, problem = "retry", f"{retry!r} is not a Retry(…)"
            raise InvalidOption(option, problem)
        undo: object = self.compensate
        if not (undo is None or callable(undo)):
            option, problem = "compensate", f"{undo!r} is neither a step nor a function"
            raise InvalidOption(option, problem)

    def changed(self, **options: Any) -> StepOptions:
        """
        A copy with other options.

        Raises:
            InvalidOption: There is no such option, or it is wrong.
        """
        check_known("step options", options, StepOptions.__dataclass_fields__)
        return replace(self, **options)


DEFAULT_OPTIONS = StepOptions()


class Step(Generic[P, R]):
    """
    A function that a workflow may run as a step. Called as such, outside of workflows, it is just the function.

    R is what the workflow gets: what the function returns or, for a coroutine function, what it awaits to.

    Attributes:
        name: What the journal calls it.
        settings: The options in force.
        limited: Whether it has a timeout.
    """

    def __init__(self, fn: Any, options: StepOptions = DEFAULT_OPTIONS) -> None:
        problem = "" if callable(fn) else f"{fn!r} is not a function"
        if not (problem or options.name or hasattr(fn, "__name__")):
            problem = (
                f'{fn!r} has no name for the journal; give it one: ctx.step("name", fn), or app.step(name="name")(fn)'
            )
        if problem:
            option = "step"
            raise InvalidOption(option, problem)
        update_wrapper(self, fn)
        self.fn: Callable[..., Any] = fn
        self.name = options.name or check_name("step name", fn.__name__)
        self.settings = options
        self.is_async = inspect.iscoroutinefunction(fn)
        self.limited = options.timeout is not None or options.total_timeout is not None

    def options(self, **options: Any) -> Step[P, R]:
        """
        The same step with other options, for one call: ``ctx.step(charge.options(timeout=5), card)``.

        Args:
            options: Fields of `StepOptions`.
        """
        other: Step[P, R] = Step(self.fn, self.settings.changed(**options))
        other.__dict__["returns"] = self.returns
        return other

    def check_named(self, arguments: Mapping[str, Any]) -> None:
        """
        Look at the arguments that were given by name.

        Raises:
            InvalidOption: One is an option of steps, and none that the function takes.
        """
        for option in arguments:
            if option in StepOptions.__dataclass_fields__ and not _takes(self.fn, option):
                right = f"ctx.step({self.name}.options({option}=…), …)"
                raise InvalidOption(option, f"it is an option of the step, and no argument of {self.name}(): {right}")

    @cached_property
    def returns(self) -> TypeCodec:
        """How its result is stored."""
        return _returns_of(self.fn)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """
        Call the function itself, without durability.

        Raises:
            BlockingCall: A workflow does so, where nothing would be recorded: it means ``await ctx.step(…)``.
        """
        if isinstance(events._get_running_loop(), PrivateLoop):  # noqa: SLF001 - get_running_loop() raises where there is none
            what = f"Calling {self.name}(…), which is a step,"
            raise BlockingCall(what)
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<step {self.name}>"


if TYPE_CHECKING:

    class AsyncStep(Step[P, R]):
        """A step of a coroutine function, as type checkers see it."""

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
            """Call the function itself."""

    class SyncStep(Step[P, R]):
        """A step of a plain function, as type checkers see it."""

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
            """Call the function itself."""

else:
    AsyncStep = SyncStep = Step


_returns: WeakKeyDictionary[FunctionType, TypeCodec] = WeakKeyDictionary()


def _returns_of(fn: Any) -> TypeCodec:
    """How the result of a function or a bound method is stored; looked for once, as that takes 70 µs."""
    own = fn.__func__ if isinstance(fn, MethodType) else fn
    if not isinstance(own, FunctionType):
        return CallCodec(fn).returns
    found = _returns.get(own)
    if found is None:
        found = _returns[own] = CallCodec(own).returns
    return found


def _takes(fn: Any, name: str) -> bool:
    """Whether a function may have a parameter of this name."""
    try:
        parameters = inspect.signature(fn).parameters
    except (TypeError, ValueError):  # some of those that are written in C do not tell
        return True
    return name in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def _of_module(fn: Any) -> bool:
    """Whether a module has it, under its own name, so that it lasts as long as the process."""
    path = getattr(fn, "__qualname__", "").split(".")
    found: Any = sys.modules.get(getattr(fn, "__module__", None) or "")
    return reduce(lambda holder, name: getattr(holder, name, None), path, found) is fn


def closure(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Step[..., Any], TypeCodec]:
    """
    The step that ``ctx.step("name", fn, **options)`` asks for, and how its result is kept.

    Raises:
        InvalidOption: It was given anything but one function, or an option that steps do not have, or that is wrong.
        InvalidName: A step cannot have this name.
    """
    if len(args) != 1 or not callable(args[0]) or "name" in options:
        option = "ctx.step(name, fn)"
        raise InvalidOption(option, "a name, given once, is followed by exactly one function without parameters")
    check_name("step name", name)
    returns = codec_for(options.pop("returns", Any))
    returns.check_type("returns")
    return Step(args[0], StepOptions().changed(name=name, **options)), returns


@dataclass(frozen=True, slots=True)
class WorkflowOptions:
    """
    How runs of a workflow go.

    Attributes:
        name: What it is registered as; the function's name when empty.
        version: Tells it from other versions of the same name, which the app may have beside it; "" for none. A run
            stays with the version that it began with.
        timeout: Seconds or timedelta from the start to the end of a run; None for no deadline.
        grace: How long the clean-up after a cancellation or the deadline may take, without the compensations.
        compensate_on_cancel: Whether a cancelled run is compensated. One that has failed, or passed its deadline, is.
        compensate_in_parallel: Run all compensations at once, instead of one after another, the last step's first.
        queue: The queue that its runs go through unless their start says otherwise.
    """

    name: str = ""
    version: str = ""
    timeout: float | timedelta | None = None
    grace: float | timedelta = field(default=30.0)
    compensate_on_cancel: bool = False
    compensate_in_parallel: bool = False
    queue: str | Queue = ""

    def __post_init__(self) -> None:
        if self.name:
            check_workflow_name(check_name("workflow name", self.name))
        if self.version != "":
            check_version(self.version)
        if self.timeout is not None:
            some_micros(self.timeout, "timeout")
        micros(self.grace, "grace")


class Workflow(Generic[P, R]):
    """
    A registered workflow function. Called as such it is just the function, context first.

    P are its parameters behind the context, R what a run returns.

    Attributes:
        version: "" for none.
        stored_as: What its runs are stored under, and workers know it by: name and version.
        declared: What it was compiled from, if it was declared as data.
        parts: By the name of a part of that, what the keys begin with of all that is done again with it.
    """

    _types: Callable[P, R]  # of no value: it carries the types to the signatures of start and call

    def __init__(self, fn: Callable[..., Any], options: WorkflowOptions) -> None:
        if not inspect.isfunction(fn):
            option = "workflow"
            raise InvalidOption(option, f"{fn!r} is not a function")
        positional = [
            p for p in inspect.signature(fn).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]  # fmt: skip
        if not positional:
            option = "workflow"
            raise InvalidOption(option, f"{fn.__name__} takes no context: def {fn.__name__}(ctx: Context, …)")
        update_wrapper(self, fn)
        self.fn = fn
        self.settings = options
        self.name = options.name or check_name("workflow name", fn.__name__)
        self.version = options.version
        self.stored_as = pin(self.name, self.version)
        self.is_async = inspect.iscoroutinefunction(fn)
        self.declared: Any = None
        self.parts: Mapping[str, frozenset[str]] = {}

    @cached_property
    def call(self) -> CallCodec:
        """How its input and its result are stored."""
        return CallCodec(self.fn, skip=1)

    def __call__(self, ctx: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the function itself, with whatever context is given."""
        return self.fn(ctx, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<workflow {self.stored_as}>"

    def terms(self, queue: str | Queue | None, key: str = "", priority: int = 0, weight: int = 1) -> Terms:
        """On what terms a run goes through a queue: the one given, else the workflow's own, unless it is ""."""
        name = name_of(self.settings.queue if queue is None else queue)
        none = NO_TERMS
        # By identity, as every run without a queue comes here: only what is not left out need be checked.
        if not name and key is none.key and priority is none.priority and weight is none.weight:
            return none
        return Terms(name, key, priority, weight).checked()


LONE = "~durable"
"""What the runs of `run_durable` are stored under: no name that a workflow could have."""


class LoneWorkflow(Workflow[P, R]):
    """
    A function that comes with a call of `run_durable`, and is registered nowhere: only that call can drive its run.

    Args:
        fn: Called with the context and the manifest.
        returns: How its result is stored.
    """

    def __init__(self, fn: Callable[..., Any], returns: TypeCodec) -> None:
        super().__init__(fn, WorkflowOptions())
        self.name = self.stored_as = LONE
        self.call.__dict__["returns"] = returns


class Registry:
    """
    The workflows of one app, by name and version.

    Attributes:
        stand_in: For tests: gives the step that is run in a step's place.
        queues: The queues that the app declares, by name.
        sinks: Its sinks.
    """

    def __init__(self) -> None:
        self.stand_in: Callable[[Step[..., Any]], Step[..., Any]] | None = None
        self.queues: dict[str, Queue] = {}
        self.sinks: dict[str, Sink] = {}
        self._workflows: dict[str, Workflow[..., Any]] = {}
        self._newest: dict[str, Workflow[..., Any]] = {}
        self._listeners: list[Callable[[], None]] = []
        self._steps: WeakKeyDictionary[Callable[..., Any], Step[..., Any]] = WeakKeyDictionary()

    def step_of(self, fn: Any) -> Step[..., Any]:
        """The step that stands for a plain function; made once for one that a module has."""
        if isinstance(fn, Step):
            return fn
        try:
            found = self._steps.get(fn)
        except TypeError:  # bound methods of C, partials: no weak reference, or not a function at all
            return Step(fn)
        if found is None:
            found = Step(fn)
            # A step holds its function: one that a run has made would stay for ever, with all that it closes over.
            if _of_module(fn):
                self._steps[fn] = found
        return found

    def add(self, workflow: Workflow[..., Any]) -> None:
        """
        Register a workflow.

        Raises:
            DuplicateName: Another one has its name and version.
        """
        if workflow.stored_as in self._workflows:
            what = "workflow"
            raise DuplicateName(what, workflow.stored_as)
        self._workflows[workflow.stored_as] = workflow
        newest = self._newest.setdefault(workflow.name, workflow)
        if recency(workflow.version) > recency(newest.version):
            self._newest[workflow.name] = workflow
        for tell in tuple(self._listeners):
            tell()

    def on_new(self, tell: Callable[[], None]) -> None:
        """Call it whenever a workflow has been registered, until `forget`; twice is once."""
        if tell not in self._listeners:
            self._listeners.append(tell)

    def forget(self, tell: Callable[[], None]) -> None:
        """Call it no more."""
        if tell in self._listeners:
            self._listeners.remove(tell)

    def get(self, workflow: object) -> Workflow[..., Any]:
        """
        One registered version of a workflow.

        Args:
            workflow: What its runs are stored under, or what the decorator returned.

        Raises:
            UnknownWorkflow: None is registered here under that name.
            InvalidOption: It is a function without the decorator.
        """
        if isinstance(workflow, LoneWorkflow):
            return workflow
        name = workflow.stored_as if isinstance(workflow, Workflow) else workflow
        found = self._workflows.get(name) if isinstance(name, str) else None
        if found is None:
            if inspect.isfunction(workflow):
                option = "workflow"
                raise InvalidOption(option, f"{workflow.__name__} is a plain function; put @app.workflow above it")
            raise UnknownWorkflow(str(name), self.names())
        return found

    def known(self, stored: str) -> Workflow[..., Any] | None:
        """What is registered here under this stored name, if anything is."""
        return self._workflows.get(stored)

    def pick(self, workflow: object, version: str | None = None) -> Workflow[..., Any]:
        """
        The version that a new run begins with.

        Args:
            workflow: A name, which means the newest version; or what the decorator returned, which means that one.
            version: Another one; "" for the one without a version.

        Raises:
            UnknownWorkflow: It is not registered here.
        """
        if version is not None:
            name = workflow.name if isinstance(workflow, Workflow) else workflow
            return self.get(pin(str(name), version))
        newest = self._newest.get(workflow) if isinstance(workflow, str) else None
        return newest or self.get(workflow)

    def names(self) -> list[str]:
        """All that runs may be stored under to be driven here, sorted."""
        return sorted(self._workflows)

    def add_queue(self, queue: Queue) -> None:
        """
        Declare a queue.

        Raises:
            DuplicateName: Another one has its name.
        """
        if self.queues.setdefault(queue.name, queue) != queue:
            what = "queue"
            raise DuplicateName(what, queue.name)

    def add_sink(self, sink: Sink) -> None:
        """
        Declare a sink.

        Raises:
            DuplicateName: Another one has its name.
        """
        if self.sinks.setdefault(sink.name, sink) is not sink:
            what = "sink"
            raise DuplicateName(what, sink.name)

    def queue_names(self) -> set[str]:
        """The queues that workflows go through by themselves."""
        return {name for known in self._workflows.values() if (name := name_of(known.settings.queue))}
