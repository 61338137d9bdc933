"""Show a flow: as data, as a Mermaid diagram, and with the state of a run painted on it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from perdure.declared.standing import (
    COLOURS,
    MEANING,
    PENDING,
    UNDOING,
    Event,
    Standing,
    chart,
    name_of,
    span_text,
    standing_events,
    text_in,
    worst,
)
from perdure.engine.saga import SUFFIX
from perdure.flow.builder import Flow
from perdure.flow.node import LoopNode, Node, ParallelNode, RouteNode, SignalNode, SleepNode, StepNode, Task
from perdure.model.entry import Kind
from perdure.model.status import TERMINAL, Status

_SEPARATOR = re.compile(r"[#/]")


# --------------------------------------------------------------------------------------------- as data
def as_data(flow: Flow, standings: Mapping[str, Standing] | None = None) -> dict[str, Any]:
    """A flow as plain data, to be written as JSON; with `standings` each node has its status."""
    return {"flow": flow.name, "nodes": [_node_data(node, standings) for node in flow.nodes]}


def _node_data(node: Node, standings: Mapping[str, Standing] | None) -> dict[str, Any]:
    data: dict[str, Any] = {"kind": node.kind, "name": node.name}
    if node.when is not None:
        data["when"] = name_of(node.when)
    data |= _details(node)
    if standings is not None:
        data |= standings.get(node.name, PENDING).document
        if isinstance(node, ParallelNode):
            for entry in node.entries:
                data["entries"][entry.name] |= standings.get(entry.name, PENDING).document
    return data


def _details(node: Node) -> dict[str, Any]:
    """What only nodes of its kind have."""
    if isinstance(node, LoopNode | StepNode):
        bound = {"max_iterations": node.max_iterations} if isinstance(node, LoopNode) else {}
        return _task_data(node.task) | bound
    if isinstance(node, ParallelNode):
        return {"entries": {entry.name: _task_data(entry) for entry in node.entries}}
    if isinstance(node, RouteNode):
        branches = {name: _task_data(branch) for name, branch in node.branches.items()}
        other = {} if node.otherwise is None else {"otherwise": _task_data(node.otherwise)}
        return {"by": node.choose.target, "branches": branches, **other}
    if isinstance(node, SleepNode):
        return {"until": span_text(node.until)}
    if isinstance(node, SignalNode):
        return {"signal": node.signal, "timeout": None if node.timeout is None else span_text(node.timeout)}
    return {}


def _task_data(task: Task) -> dict[str, Any]:
    data: dict[str, Any] = {"run": task.target}
    if task.flow is not None:
        data["flow"] = as_data(task.flow)
    if task.undone_by is not None:
        data["compensate"] = name_of(task.undone_by)
    return data


# ------------------------------------------------------------------------------------------ the state
def standings(flow: Flow, events: Iterable[Event], status: str) -> dict[str, Standing]:
    """
    How far a run has come, by the names of nodes and of the entries of parallel ones.

    Args:
        events: The run's journal so far.
        status: The run's.
    """
    parts: dict[str, dict[str, Standing]] = {}
    for event in standing_events(events):
        undone = event.key.endswith(SUFFIX)
        meaning = (UNDOING if undone else MEANING).get(Kind(event.kind))
        if meaning is not None:
            if event.kind == Kind.STEP_RESOLVED and event.data["decision"] == "skip":
                meaning = "completed"  # what an operator left as it is stays done
            name, _, rest = _SEPARATOR.sub("#", event.key.removesuffix(SUFFIX)).partition("#")
            part = rest.partition("#")[0]
            # Each time a suspended step is entered again, it is the same step that waits or is done.
            part = "" if part.isdigit() or part == "resume" else part
            detail = str(event.data) if part == "route" else ""
            parts.setdefault(name, {})[part] = Standing(meaning, detail)
    found = {}
    last = max((place for place, node in enumerate(flow.nodes) if node.name in parts), default=-1)
    for place, node in enumerate(flow.nodes):
        mine = parts.get(node.name)
        found[node.name] = PENDING if mine is None else _summary(node, mine)
        if mine is None and (place < last or status == Status.COMPLETED):
            found[node.name] = Standing("skipped")
        if mine is not None and isinstance(node, ParallelNode):
            found |= {entry.name: mine.get(entry.name, Standing("running")) for entry in node.entries}
    ahead = next((node for node in flow.nodes[max(0, last) :] if found[node.name].status == "pending"), None)
    here = flow.nodes[last] if last >= 0 else None
    if ahead is not None and status == Status.RUNNING and (here is None or found[here.name].status == "completed"):
        found[ahead.name] = Standing("running")
    if status not in TERMINAL and isinstance(here, LoopNode) and found[here.name].status == "completed":
        found[here.name] = found[here.name]._replace(status="running")
    return found


def _summary(node: Node, parts: dict[str, Standing]) -> Standing:
    status = worst(parts)
    if isinstance(node, ParallelNode) and status == "completed" and len(parts) < len(node.entries):
        status = "running"
    if isinstance(node, LoopNode):
        return Standing(status, f"{len(parts)} of at most {node.max_iterations}")
    if isinstance(node, RouteNode):
        chosen = parts.get("route", PENDING).detail
        known = chosen in node.branches or node.otherwise is not None
        rest = {part: standing for part, standing in parts.items() if part != "route"}
        if rest:
            return Standing(worst(rest), chosen)
        return Standing("running" if known and status == "completed" else status, chosen)
    return Standing(status)


# ---------------------------------------------------------------------------------------- as Mermaid
def mermaid(flow: Flow, standings: Mapping[str, Standing] | None = None) -> str:
    """A flow as a Mermaid flowchart; with `standings` its nodes have the colours of their statuses."""
    drawn = _Chart(standings)
    last = drawn.flow(flow, ["start"], "n")
    return chart(drawn.lines, last, drawn.classes)


class _Chart:
    """The lines of a chart, and the statuses of its boxes."""

    def __init__(self, standings: Mapping[str, Standing] | None) -> None:
        self.lines: list[str] = []
        self.classes: dict[str, str] = {}
        self._standings = standings

    def flow(self, flow: Flow, before: list[str], prefix: str) -> list[str]:
        """Draw the nodes of a flow; returns the boxes that the next arrow comes from."""
        for place, node in enumerate(flow.nodes):
            before = self.node(node, before, f"{prefix}{place}")
        return before

    def node(self, node: Node, before: list[str], box: str) -> list[str]:
        """Draw one node."""
        label = f"{node.name}{'?' if node.when else ''}"
        if isinstance(node, ParallelNode | RouteNode):
            return self._fan(node, label, before, box)
        if isinstance(node, StepNode) and node.task.flow is not None:
            self._box(box, label, ('(["', '"])'), before, node.name)
            outer, self._standings = self._standings, None
            after = self.flow(node.task.flow, [box], f"{box}_")
            self._standings = outer
            return after
        if isinstance(node, LoopNode):
            self._box(box, f"{label}: {node.task.target}", ('["', '"]'), before, node.name)
            self.lines.append(f'    {box} -->|"at most {node.max_iterations} times"| {box}')
        elif isinstance(node, SleepNode):
            self._box(box, f"{label}: sleep {span_text(node.until)}", ('[/"', '"/]'), before, node.name)
        elif isinstance(node, SignalNode):
            limit = "" if node.timeout is None else f", at most {span_text(node.timeout)}"
            self._box(box, f"{label}: wait for {node.signal}{limit}", ('[/"', '"/]'), before, node.name)
        elif isinstance(node, StepNode):
            shape = ('["', '"]') if node.task.workflow is None else ('[["', '"]]')
            self._box(box, _labelled(label, node.task), shape, before, node.name)
        self._undo(box, node.tasks)
        return [box]

    def _fan(self, node: ParallelNode | RouteNode, label: str, before: list[str], box: str) -> list[str]:
        self._box(box, label, ('{{"', '"}}') if isinstance(node, ParallelNode) else ('{"', '"}'), before, node.name)
        after = []
        for place, (name, task) in enumerate(_branches(node)):
            part = f"{box}_{place}"
            arrow = f'-->|"{text_in(name)}"|' if isinstance(node, RouteNode) else "-->"
            text = task.target if isinstance(node, RouteNode) else _labelled(name, task)
            self.lines += [f'    {part}["{text_in(text)}"]', f"    {box} {arrow} {part}"]
            if isinstance(node, ParallelNode):
                self._paint(part, name)
            self._undo(part, (task,))
            after.append(part)
        if isinstance(node, RouteNode) and node.otherwise is None:
            after.append(box)
        return after

    def _box(self, box: str, label: str, shape: tuple[str, str], before: list[str], name: str) -> None:
        self.lines.append(f"    {box}{shape[0]}{text_in(label)}{shape[1]}")
        self.lines += [f"    {one} --> {box}" for one in before]
        self._paint(box, name)

    def _paint(self, box: str, name: str) -> None:
        status = (self._standings or {}).get(name, PENDING).status
        if status in COLOURS:
            self.classes[box] = status

    def _undo(self, box: str, tasks: tuple[Task, ...]) -> None:
        for task in tasks[:1]:
            if task.undone_by is not None:
                self.lines.append(f'    {box} -.-> {box}_undo(["{text_in(name_of(task.undone_by))}"])')


def _branches(node: ParallelNode | RouteNode) -> Iterator[tuple[str, Task]]:
    if isinstance(node, ParallelNode):
        yield from zip(node.names, node.entries, strict=True)
        return
    yield from node.branches.items()
    if node.otherwise is not None:
        yield "otherwise", node.otherwise


def _labelled(label: str, task: Task) -> str:
    return label if task.target in {label, task.name, "<lambda>"} else f"{label}: {task.target}"
