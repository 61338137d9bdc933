"""What the functions of a flow are given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Generic, TypeVar

from perdure.engine.current import current_step
from perdure.errors import InvalidOption

I_co = TypeVar("I_co", covariant=True)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


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


def takes(what: str, fn: Callable[..., Any], *offered: str) -> int:
    """
    How many of the arguments that are offered a function takes, in their order.

    Raises:
        InvalidOption: It cannot be called with these.
    """
    if not callable(fn):
        raise InvalidOption(what, f"{fn!r} is not a function")
    try:
        kinds = [parameter.kind for parameter in inspect.signature(fn).parameters.values()]
    except ValueError:  # a builtin may not tell
        return len(offered)
    positional = sum(kind in _POSITIONAL for kind in kinds)
    most = len(offered) if inspect.Parameter.VAR_POSITIONAL in kinds else min(positional, len(offered))
    must_take(what, fn, *offered[:most])
    return most


def must_take(what: str, fn: Callable[..., Any], *offered: str) -> None:
    """
    Check that a function can be called with these arguments.

    Raises:
        InvalidOption: It cannot.
    """
    if not callable(fn):
        raise InvalidOption(what, f"{fn!r} is not a function")
    with suppress(ValueError):  # a builtin may not tell
        signature = inspect.signature(fn)
        try:
            signature.bind(*offered)
        except TypeError as error:
            name = getattr(fn, "__name__", repr(fn))
            problem = f"{name} would be called with ({', '.join(offered)}), but {error}"
            raise InvalidOption(what, problem) from None
