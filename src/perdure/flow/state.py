"""What the functions of a flow are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from perdure.engine.current import current_step

I_co = TypeVar("I_co", covariant=True)


class State(Generic[I_co]):
    """
    A run of a flow, as the functions of its nodes see it.

    Attributes:
        input: What the run was started with, or what a sub-flow was given.
        results: What the nodes so far gave, by their names; read only.
        run_id: The run's id.
        node: Name of the node that asks.
        resumption: What a suspended step was resumed with; None before.
    """

    __slots__ = ("input", "node", "results", "resumption", "run_id")

    def __init__(self, input: I_co, results: Mapping[str, Any], run_id: str, node: str, resumption: Any = None) -> None:
        self.input = input
        self.results = results
        self.run_id = run_id
        self.node = node
        self.resumption = resumption

    @property
    def attempt(self) -> int:
        """The running attempt of the step that asks, from 1; known in its body only."""
        return current_step().attempt

    def __getitem__(self, name: str) -> Any:
        """What a node gave."""
        return self.results[name]

    def __repr__(self) -> str:
        return f"<state of {self.run_id!r} at {self.node!r}, with {', '.join(self.results) or 'no results'}>"
