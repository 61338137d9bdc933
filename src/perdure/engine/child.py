"""Child runs as the parent's workflow sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from typing import Generic, Protocol, TypedDict, TypeVar

from perdure.engine.definition import Workflow
from perdure.engine.machine import Machine

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
        bound: Whether giving up the wait for it cancels it, as with ctx.call.
    """

    def __init__(self, machine: Machine, key: str, child_id: str, workflow: Workflow[..., R]) -> None:
        self.id = child_id
        self.bound = False
        self._machine = machine
        self._key = key
        self._workflow = workflow
        self._end: asyncio.Future[str] | None = None

    async def result(self) -> R:
        """
        Wait for the child to end. A wait that is given up, say at a timeout, may be begun again.

        Raises:
            ChildFailed: It failed or was cancelled; its own error is in ``cause``.
            StartConflict: A run with its id existed, and another one.
        """
        if self._end is None:
            self._end = self._machine.wait_for_child(self._key, self.id, self._workflow.name)
        text = await (self._end if self.bound else asyncio.shield(self._end))
        result: R = self._workflow.call.returns.decode(text, f"The result of child run {self.id!r}")
        return result
