"""Run a flow: its nodes, one after another, as operations of the engine's context."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from types import MappingProxyType
from typing import Any

from perdure.declared.part import enter, left_to_do, prefix_here
from perdure.engine.context import Context
from perdure.engine.definition import Workflow, WorkflowOptions
from perdure.engine.machine import MISSING
from perdure.flow.builder import Flow
from perdure.flow.node import (
    LoopNode,
    Node,
    ParallelNode,
    RouteNode,
    SignalNode,
    SleepNode,
    StepNode,
    Task,
)
from perdure.flow.state import State

SUSPENDED = "suspended"


class Play:
    """
    One run of a flow, or of a sub-flow inside one.

    Attributes:
        results: What the nodes have given.
    """

    __slots__ = ("_ctx", "_flow", "_input", "_view", "results")

    def __init__(self, flow: Flow, ctx: Context, input: Any) -> None:
        self._flow = flow
        self._ctx = ctx
        self._input = input
        self.results: dict[str, Any] = {}
        self._view = MappingProxyType(self.results)

    async def run(self) -> Any:
        """Do all nodes; returns the flow's output."""
        for node in left_to_do(self._flow.nodes, self._ctx):
            state = self._state(node.name)
            if node.when is not None and not node.when(state):
                continue
            if isinstance(node, StepNode):  # here, as each call less is time less for the most common kind
                task = node.task
                value = await self._begin(task, state)
                if task.step is not None and is_suspended(value):
                    value = await self._resumed(task, value)
                self.results[node.name] = value
            else:
                await self._do(node, state)
        if self._flow.output is not None:
            return self._flow.output(self._state(""))
        return self.results

    def _state(self, name: str, resumption: Any = None) -> State[Any]:
        return State(self._input, self._view, self._ctx.run_id, name, resumption)

    async def _do(self, node: Node, state: State[Any]) -> None:
        if isinstance(node, ParallelNode):
            await self._parallel(node, state)
        elif isinstance(node, RouteNode):
            await self._route(node, state)
        elif isinstance(node, LoopNode):
            await self._loop(node, state)
        elif isinstance(node, SleepNode):
            with self._ctx.scope(node.name):
                await self._ctx.sleep(node.until(state) if callable(node.until) else node.until)
        elif isinstance(node, SignalNode):
            await self._signal(node)

    async def _resumed(self, task: Task, value: Any) -> Any:
        """The result of a step that has suspended itself, and may do so again."""
        while is_suspended(value):
            self.results[task.name] = value
            self._ctx.withdraw(task.name)
            with self._ctx.scope(f"{task.name}#resume"):
                resumption = await self._ctx.receive(task.name)
            value = await self._begin(task, self._state(task.name, resumption))
        return value

    def _begin(self, task: Task, state: State[Any]) -> Coroutine[Any, Any, Any]:
        """What a task is to be awaited by."""
        step = task.step
        if step is None:
            return self._run_inside(task, state)
        if task.given is None:
            return self._ctx.step(step, state) if task.takes else self._ctx.step(step)
        given = task.given(state)
        if isinstance(given, tuple):
            return self._ctx.step(step, *given)
        return self._ctx.step(step, **given) if isinstance(given, dict) else self._ctx.step(step, given)

    async def _run_inside(self, task: Task, state: State[Any]) -> Any:
        """A child run or a sub-flow."""
        ctx = self._ctx
        given = state.input if task.given is None else task.given(state)
        with ctx.scope(task.name):
            if task.flow is not None:
                return await Play(task.flow, ctx, given).run()
            workflow: Any = task.workflow
            args = given if task.given is not None and isinstance(given, tuple) else (given,)
            return await ctx.call(workflow, *args, compensate=task.compensate)

    async def _parallel(self, node: ParallelNode, state: State[Any]) -> None:
        prefix = prefix_here()

        async def entry(task: Task) -> Any:
            enter(prefix if task.step is not None else f"{prefix}{node.name}#")
            return await self._begin(task, state)

        ended = await asyncio.gather(*(entry(task) for task in node.entries), return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, BaseException):
                raise outcome
        self.results.update(zip(node.names, ended, strict=True))

    async def _route(self, node: RouteNode, state: State[Any]) -> None:
        chosen = await self._begin(node.choose, state)
        task = node.branches.get(chosen, node.otherwise) if isinstance(chosen, str) else node.otherwise
        if task is not None:
            self.results[node.name] = await self._begin(task, state)

    async def _loop(self, node: LoopNode, state: State[Any]) -> None:
        value = state.input if node.first is None else node.first(state)
        step = node.task.step
        if step is None:
            return
        for iteration in range(node.max_iterations):
            offered = (value, state)[: node.task.takes]
            result = await self._ctx.step(step.options(name=f"{node.name}#iter{iteration}"), *offered)
            self.results[node.name] = result
            if node.until is not None and node.until[0](*(result, iteration + 1)[: node.until[1]]):
                break
            if node.feedback is not None:
                value = node.feedback(result)

    async def _signal(self, node: SignalNode) -> None:
        ctx = self._ctx
        with ctx.scope(node.name):
            value = await ctx.receive(node.signal, node.type, timeout=node.timeout, default=node.default)
        self.results[node.name] = value


def is_suspended(value: Any) -> bool:
    """Whether a step's result is an agent that was suspended before calls of tools: it says so, by its shape."""
    if type(value) is dict and value.get("status") != SUSPENDED:
        return False

    def has(field: str) -> Any:
        return value.get(field, MISSING) if isinstance(value, Mapping) else getattr(value, field, MISSING)

    if has("status") != SUSPENDED or has("state") is MISSING:
        return False
    return has("pending_tool_calls") is not MISSING or has("pendingToolCalls") is not MISSING


def compiled(flow: Flow, options: WorkflowOptions) -> Workflow[..., Any]:
    """The workflow that runs a flow."""

    async def run(ctx: Context, input: Any = None) -> Any:
        return await Play(flow, ctx, input).run()

    run.__name__ = run.__qualname__ = flow.name
    run.__doc__ = f"The flow {flow.name}."
    run.__annotations__ = {"ctx": Context, "input": flow.input, "return": Any}
    if flow.input is not Any:
        run.__defaults__ = None
    workflow: Workflow[..., Any] = Workflow(run, options)
    workflow.declared = flow
    workflow.parts = {
        name: frozenset({node.name, *node.names}) for node in flow.nodes for name in (node.name, *node.names)
    }
    return workflow


def children_of(flow: Flow) -> set[str]:
    """The names of all workflows that a flow, and the flows inside it, may start."""
    found = set()
    for task in (task for node in flow.nodes for task in node.tasks):
        if task.flow is not None:
            found |= children_of(task.flow)
        elif task.workflow is not None:
            found.add(task.target)
    return found
