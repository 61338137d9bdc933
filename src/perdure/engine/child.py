"""Child runs as the parent's workflow sees them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Generic, Protocol, TypedDict, TypeVar

from perdure import ids
from perdure.clock import some_micros
from perdure.engine.definition import Registry, Workflow
from perdure.engine.ledger import Rider, first_remarks, ride
from perdure.engine.loop import RunFuture
from perdure.engine.machine import ChildStart, Machine
from perdure.engine.request import ChildRequest
from perdure.errors import InvalidOption, PerdureError
from perdure.model.entry import Kind
from perdure.model.ledger import Remarks
from perdure.model.queue import Queue

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
A_contra = TypeVar("A_contra", contravariant=True)
B_contra = TypeVar("B_contra", contravariant=True)
C_contra = TypeVar("C_contra", contravariant=True)


class ChildOptions(TypedDict, total=False):
    """The options of starting a child; see `Context.start`."""

    id: str | None
    tags: Iterable[str]
    timeout: float | timedelta | None
    detached: bool
    queue: str | Queue | None
    key: str
    priority: int
    version: str | None
    annotations: Remarks


class CallOptions(ChildOptions, total=False):
    """The options of calling a child; see `Context.call`."""

    compensate: Callable[..., Any] | None


class Takes0(Protocol[R_co]):
    """A workflow without input."""

    def _types(self) -> R_co: ...


class Takes1(Protocol[A_contra, R_co]):
    """A workflow of one input."""

    def _types(self, a: A_contra, /) -> R_co: ...


class Takes2(Protocol[A_contra, B_contra, R_co]):
    """A workflow of two inputs."""

    def _types(self, a: A_contra, b: B_contra, /) -> R_co: ...


class Takes3(Protocol[A_contra, B_contra, C_contra, R_co]):
    """A workflow of three inputs."""

    def _types(self, a: A_contra, b: B_contra, c: C_contra, /) -> R_co: ...


class Child(Generic[R]):
    """
    A child run that this workflow started.

    Attributes:
        id: The child's.
        key: Where in the parent it was started.
        bound: Whether giving up the wait for it cancels it, as with ctx.call.
    """

    def __init__(self, machine: Machine, key: str, child_id: str, workflow: Workflow[..., R]) -> None:
        self.id = child_id
        self.bound = False
        self._machine = machine
        self.key = key
        self._workflow = workflow
        self._end: RunFuture | None = None

    async def result(self) -> R:
        """
        Wait for the child to end. A wait that is given up, say at a timeout, may be begun again.

        Raises:
            ChildFailed: It failed or was cancelled; its own error is in ``cause``.
            StartConflict: A run with its id existed, and another one.
        """
        end = self.wait()
        text = await (end if self.bound else asyncio.shield(end))
        result: R = self._workflow.call.returns.decode(text, f"The result of child run {self.id!r}")
        return result

    def wait(self, *, again: bool = False) -> RunFuture:
        """The child's end, as stored; `again` when the wait for it was given up."""
        if self._end is None or again:
            self._end = self._machine.wait_for_child(self.key, self.id, self._workflow.name)
        return self._end

    def decoded(self, text: str) -> Any:
        """A result as its compensation gets it: also one that does not have the workflow's type any more."""
        try:
            return self._workflow.call.returns.decode(text, f"The result of child run {self.id!r}")
        except PerdureError:
            return json.loads(text)


def start_child(machine: Machine, registry: Registry, workflow: Any, args: tuple[Any, ...], options: Any) -> Child[Any]:
    """Ask for a child, which is inserted with the next commit; see `Context.start`."""
    unknown = options.keys() - ChildOptions.__annotations__.keys()
    if unknown:
        option = ", ".join(sorted(unknown))
        raise InvalidOption(option, "a child has no such option; its input is positional")
    definition = registry.pick(workflow, options.get("version"))
    key = machine.key(definition.name)
    coming = machine.coming
    if coming is not None and (coming.kind, coming.key) == (Kind.CHILD_STARTED, key) and coming.data:
        # A newer version may be there by now; the child has the one that was the newest then.
        definition = registry.known(json.loads(coming.data)["workflow"]) or definition
    run, own_id, timeout = machine.run, options.get("id"), options.get("timeout")
    child_id = ids.child_run_id(run.id, run.generation, key) if own_id is None else ids.check_id("run id", own_id)
    limit = timeout if timeout is not None else definition.settings.timeout
    # Made before the start is noted, on replay too: input that is refused must leave no entry.
    start = ChildStart(
        key,
        child_id,
        definition.stored_as,
        machine.payloads.seal(definition.call.encode(args, {}), f"The input of {definition.name}"),
        None if limit is None else machine.now() + some_micros(limit, "timeout"),
        options.get("detached", False),
        ids.check_tags(options.get("tags", ())),
        own_id is not None,
        definition.terms(options.get("queue"), options.get("key", ""), options.get("priority", 0)),
    )
    remarks = first_remarks(machine.payloads, options.get("annotations", ()))
    data = json.dumps({"id": child_id, "workflow": definition.stored_as})
    recorded = machine.note(Kind.CHILD_STARTED, key, data)
    if recorded is None:
        machine.children.append(start)
        for remark in remarks:
            ride(machine, Rider("annotate_child", (child_id, *remark, machine.time), None))
    else:
        child_id = json.loads(recorded.data or data)["id"]
    return Child(machine, key, child_id, definition)


def doubtful(machine: Machine) -> list[ChildStart]:
    """After a replay: awaited children with chosen ids, which may be others', or have ended before and untold."""
    own, new = machine.run.id, {child.child_id for child in machine.children}
    return [
        ChildStart(request.key, request.child_id, request.workflow, "", None, detached=False, tags=(), chosen=True)
        for request in machine.wanted.values()
        if isinstance(request, ChildRequest) and request.child_id not in new and not _made_up(own, request)
    ]


def _made_up(parent: str, request: ChildRequest) -> bool:
    """Whether the id is one that `ids.child_run_id` gives, in whichever generation; of a long one nobody can tell."""
    made = f"{parent}/{request.key}"
    return request.child_id == made or request.child_id.startswith(f"{made}@")
