"""Declare a flow, node by node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from perdure.clock import from_datetime, micros
from perdure.declared.call import must_name, takes
from perdure.declared.part import DEFAULT_RETRY, check_part_name
from perdure.engine.definition import Step, StepOptions, Workflow
from perdure.engine.machine import MISSING
from perdure.errors import DuplicateName, InvalidOption
from perdure.flow.node import (
    ChildNode,
    FlowNode,
    Given,
    LoopNode,
    Node,
    ParallelNode,
    RouteNode,
    SignalNode,
    SleepNode,
    StepNode,
    Task,
)
from perdure.ids import check_name
from perdure.model.check import check_number, must_take
from perdure.model.retry import NO_RETRY

Target = Any
"""A function or a step, which becomes a step; a workflow, which becomes a child run; or a flow, which is run inside."""


@dataclass(frozen=True, slots=True)
class Entry:
    """
    An entry of a parallel node or a branch of a route, with options.

    Attributes:
        target: A function or step, a workflow, or a flow.
        given: As for `Flow.step`.
        options: Fields of `StepOptions`; of a workflow ``compensate`` only, of a flow none.
    """

    target: Target
    given: Given | None
    options: dict[str, Any]

    def __init__(self, target: Target, *, given: Given | None = None, **options: Any) -> None:
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "given", given)
        object.__setattr__(self, "options", options)


@dataclass(frozen=True, slots=True)
class Flow:
    """
    A workflow that is declared as data: nodes with names, done one after another.

    A flow does not change; each method returns a new one with one more node, so a beginning can be shared.
    Functions of nodes become steps: they run once, and their results are kept under the node's name. What is
    called `given`, `when`, `until`, `feedback`, `first`, and a function for `sleep`, decides how the flow goes on;
    these are pure functions that run again on every replay.

    Args:
        name: What it is registered as.
        input: The type of its input; anything when left out.
        output: Makes the run's result of the `State` at the end, a pure function; by default all results, by name.
    """

    name: str
    input: Any = Any
    output: Given | None = None
    nodes: tuple[Node, ...] = ()

    def __post_init__(self) -> None:
        check_name("flow name", self.name)
        if self.output is not None:
            must_take("output", self.output, "state")

    # --------------------------------------------------------------------------------------- nodes
    def step(
        self, name: str, target: Target, *, given: Given | None = None, when: Given | None = None, **options: Any
    ) -> Flow:
        """
        Run a function as a step. If what it returns is a suspended agent, the run waits to be resumed.

        Args:
            target: Called with the `State`, or with nothing if it has no parameters.
            given: Makes of the state what `target` is called with instead: a tuple of arguments, a dict of named
                ones, or one value.
            when: Decides by the state whether to do it.
            options: Fields of `StepOptions`: retry, timeout, compensate, …. Without a retry policy of its own it
                has three attempts. A compensation gets the result, then what `target` got. A workflow has no
                other option than ``compensate``, a flow none.
        """
        task = _task(name, name, target, given, options)
        if task.flow is not None:
            return self._with(FlowNode(name, when, task))
        return self._with((StepNode if task.step is not None else ChildNode)(name, when, task))

    def parallel(
        self, name: str, entries: Mapping[str, Target | Entry], *, when: Given | None = None, **options: Any
    ) -> Flow:
        """
        Run several at once. Each gives a result under its own name, there is none under the node's.

        All are waited for. If some fail, the first of them in the order of declaration fails the run, and those
        that succeeded are compensated.

        Args:
            entries: What to run, by name; an `Entry` where one has options of its own.
            options: For all entries; those for steps leave out workflows and flows.
        """
        must_name(f"parallel {name!r}", "entries", entries)
        made = tuple(_task(entry, f"{name}#{entry}", *_entry(target, options)) for entry, target in entries.items())
        return self._with(ParallelNode(name, when, made))

    def route(
        self,
        name: str,
        choose: Callable[..., Any],
        branches: Mapping[str, Target | Entry],
        *,
        otherwise: Target | Entry | None = None,
        when: Given | None = None,
        **options: Any,
    ) -> Flow:
        """
        Run one of several branches.

        Args:
            choose: Returns the name of a branch. It is a step: once it has chosen, that stays.
            branches: What to run, by the name of the branch; an `Entry` where one has options of its own.
            otherwise: What to run for any other name; without it nothing is run, and there is no result.
            options: For the choice and all branches.
        """
        must_name(f"route {name!r}", "branches", branches)
        made = {branch: _task(name, name, *_entry(target, options)) for branch, target in branches.items()}
        other = None if otherwise is None else _task(name, name, *_entry(otherwise, options))
        rest = {option: value for option, value in options.items() if option != "compensate"}
        chooser = _task(name, f"{name}#route", choose, None, rest)
        if chooser.step is None:
            what, problem = f"route {name!r}", "what chooses is a function"
            raise InvalidOption(what, problem)
        return self._with(RouteNode(name, when, chooser, made, other))

    def loop(
        self,
        name: str,
        target: Callable[..., Any],
        *,
        max_iterations: int,
        until: Given | None = None,
        feedback: Given | None = None,
        first: Given | None = None,
        when: Given | None = None,
        **options: Any,
    ) -> Flow:
        """
        Repeat a step. Its result is that of the last iteration; each has attempts of its own.

        Args:
            target: Called with the iteration's input, then the `State`: with as many as it takes.
            max_iterations: 0 or more; when they are used up, the loop ends as if it were done.
            until: Called with the result, then the number of the iteration from 1; true ends the loop.
            feedback: Makes the next input of a result; without it the input stays.
            first: Makes the first input of the state; without it it is the flow's input.
            options: Fields of `StepOptions`, for each iteration.
        """
        check_number(f"loop {name!r}: max_iterations", max_iterations, 0)
        task = _task(name, f"{name}#iter", target, None, options, offered=("input", "state"))
        if task.step is None:
            what, problem = f"loop {name!r}", "what is repeated is a function; let it start a run if it must"
            raise InvalidOption(what, problem)
        ends = None if until is None else (until, takes(f"loop {name!r}: until", until, "result", "iteration"))
        for option, fn in (("feedback", feedback), ("first", first)):
            if fn is not None:
                must_take(f"loop {name!r}: {option}", fn, "value")
        return self._with(LoopNode(name, when, task, max_iterations, first, ends, feedback))

    def sleep(self, name: str, until: float | timedelta | datetime | Given, *, when: Given | None = None) -> Flow:
        """Sleep durably: for seconds or a timedelta, until an aware datetime, or as a function of the state says."""
        if isinstance(until, datetime):
            from_datetime(until)
        elif callable(until):
            must_take(f"sleep {name!r}", until, "state")
        else:
            micros(until, f"sleep {name!r}")
        return self._with(SleepNode(name, when, until))

    def signal(
        self,
        name: str,
        signal: str | None = None,
        *,
        type: Any = Any,
        timeout: float | timedelta | None = None,
        default: Any = MISSING,
        when: Given | None = None,
    ) -> Flow:
        """
        Wait for a signal, which may have come already; its payload is the node's result.

        Args:
            signal: What the sender calls it; the node's name when left out.
            type: What its payload must be.
            timeout: Seconds or timedelta to wait; None for ever.
            default: The result when the time is over; without it the run fails with `ReceiveTimedOut`.
        """
        wanted = check_name("signal name", name if signal is None else signal)
        if timeout is not None:
            micros(timeout, f"signal {name!r}: timeout")
        elif default is not MISSING:
            what, problem = f"signal {name!r}", "its default is for a timeout, and it has none"
            raise InvalidOption(what, problem)
        return self._with(SignalNode(name, when, wanted, type, timeout, default))

    def child(
        self,
        name: str,
        workflow: Workflow[..., Any] | str,
        *,
        given: Given | None = None,
        compensate: Callable[..., Any] | None = None,
        when: Given | None = None,
    ) -> Flow:
        """
        Run a workflow as a child; its result is the node's.

        Args:
            workflow: A registered workflow or flow, or its name.
            given: Makes its input of the state: a tuple of arguments, or one value; the flow's own input without it.
            compensate: Undoes it when it has completed and this run fails: called with its result, then its input.
        """
        named: object = workflow
        if isinstance(named, str):
            check_name("workflow name", named)
        elif not isinstance(named, Workflow):
            what, problem = f"child {name!r}", f"{workflow!r} is neither a workflow nor the name of one"
            raise InvalidOption(what, problem)
        if given is not None:
            must_take(f"child {name!r}: given", given, "state")
        return self._with(ChildNode(name, when, _child(name, given, workflow, compensate)))

    def _with(self, node: Node) -> Flow:
        check_part_name("node of a flow", node.name)
        taken = {node.name for node in self.nodes} | {name for node in self.nodes for name in node.names}
        for name in _once((node.name, *node.names)):
            if name in taken:
                what = f"node of flow {self.name!r}"
                raise DuplicateName(what, name)
            taken.add(name)
        if node.when is not None:
            must_take(f"{node.name!r}: when", node.when, "state")
        return replace(self, nodes=(*self.nodes, node))


def _once(names: Iterable[str]) -> Iterable[str]:
    """The names of a node; its own may be that of its only result, but not of one of several."""
    own, *rest = names
    yield own
    if rest != [own]:
        yield from rest


def _entry(target: Target | Entry, options: dict[str, Any]) -> tuple[Target, Given | None, dict[str, Any]]:
    entry = target if isinstance(target, Entry) else Entry(target)
    if isinstance(entry.target, Workflow | Flow):
        StepOptions().changed(**options)  # a mistake is one, whether there is a step among the entries or not
        options = {option: value for option, value in options.items() if option == "compensate"}
    return entry.target, entry.given, options | entry.options


def _child(name: str, given: Given | None, workflow: Workflow[..., Any] | str, compensate: Any) -> Task:
    StepOptions(compensate=compensate)  # which checks it
    return Task(name, given=given, workflow=workflow, compensate=compensate)


def _task(  # noqa: PLR0917 - what a task is made of
    name: str,
    key: str,
    target: Target,
    given: Given | None,
    options: dict[str, Any],
    offered: tuple[str, ...] = ("state",),
) -> Task:
    """
    Make a task of whatever a flow was given to do.

    Raises:
        InvalidName: Its name cannot be part of a journal key.
        InvalidOption: It is nothing that can be done, or an option is wrong.
    """
    check_part_name("node of a flow", name)
    what = f"node {name!r}"
    if given is not None:
        must_take(f"{what}: given", given, "state")
    if isinstance(target, Workflow | Flow):
        compensate = options.get("compensate")
        if others := options.keys() - {"compensate"}:
            raise InvalidOption(what, f"a workflow or flow has no {', '.join(sorted(others))} here; its own steps may")
        if isinstance(target, Workflow):
            return _child(name, given, target, compensate)
        if compensate is not None:
            raise InvalidOption(what, "a flow that is run inside has compensations of its own nodes")
        return Task(name, given=given, flow=target)
    base = target.settings if isinstance(target, Step) else StepOptions()
    retry = DEFAULT_RETRY if base.retry is NO_RETRY else base.retry
    fn = target.fn if isinstance(target, Step) else target
    many = 0 if given is not None else takes(what, fn, *offered)
    settings = base.changed(**{"retry": retry, **options, "name": key, "fingerprint": False})
    return Task(name, Step(fn, settings), many, given)
