"""Child runs as the parent's workflow sees them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Generic, Protocol, TypedDict, TypeVar

from perdure import ids
from perdure.clock import some_micros
from perdure.codec.canonical import input_fingerprint
from perdure.engine.definition import Registry, Workflow
from perdure.engine.ledger import Rider, first_remarks, ride
from perdure.engine.loop import RunFuture
from perdure.engine.machine import Machine
from perdure.engine.request import ChildRequest, ChildStart
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
    text = definition.call.encode(args, {})
    start = ChildStart(
        key,
        child_id,
        definition.stored_as,
        machine.payloads.seal(text, f"The input of {definition.name}"),
        None if limit is None else machine.now() + some_micros(limit, "timeout"),
        options.get("detached", False),
        ids.check_tags(options.get("tags", ())),
        own_id is not None,
        definition.terms(options.get("queue"), options.get("key", ""), options.get("priority", 0)),
        None if own_id is None else input_fingerprint(text),
    )
    remarks = first_remarks(machine.payloads, options.get("annotations", ()))
    data = json.dumps({"id": child_id, "workflow": definition.stored_as})
    recorded = machine.note(Kind.CHILD_STARTED, key, data, start.fingerprint)
    if recorded is None:
        machine.children.append(start)
        for remark in remarks:
            ride(machine, Rider("annotate_child", (child_id, *remark, machine.time), None))
    else:
        child_id = json.loads(recorded.data or data)["id"]
        if start.chosen:
            # What was found out about its id is not recorded before its end is.
            machine.doubted[key] = start._replace(child_id=child_id, fingerprint=recorded.fingerprint)
    return Child(machine, key, child_id, definition)


def to_look_at(machine: Machine, taken: list[ChildStart]) -> list[ChildStart]:
    """Of starts whose ids were taken, those to look at now: not chosen ones that nobody waits for yet."""
    machine.doubted |= {child.key: child for child in taken if child.chosen}
    return [child for child in taken if not child.chosen or child.key in machine.wanted]


def doubtful(machine: Machine, request: ChildRequest, starting: list[ChildStart]) -> list[ChildStart]:
    """
    The start of a child of which its parent may never hear, unless somebody looks who has its id; else nothing.

    It may be another's, or another of the parent's calls may have had the message of its end.

    Args:
        starting: Starts that are just being committed: the answer tells of these.
    """
    known = machine.doubted.get(request.key)
    if known is not None:
        return [known]
    if request.child_id not in machine.ended or any(
        child.key == request.key for child in (*machine.children, *starting)
    ):
        return []
    key, child_id, workflow = request.key, request.child_id, request.workflow
    return [ChildStart(key, child_id, workflow, "", None, detached=False, tags=(), chosen=True)]
