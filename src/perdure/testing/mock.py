"""What runs in place of a step's body, and what it was called with."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from perdure.engine.current import StepInfo, current_step
from perdure.engine.definition import Step, Workflow
from perdure.errors import InvalidOption

NOTHING: Any = object()
Watch = Callable[[StepInfo], None]


class Call(NamedTuple):
    """
    One attempt of a mocked step.

    Attributes:
        step: The run, the step's key in its journal, and the number of the attempt.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    step: StepInfo


class StepMock:
    """
    Stands in for the body of a step, wherever a workflow runs it.

    Everything else stays as it is: the result is checked against the declared type and recorded, an error
    is retried by the step's own policy, arguments are compared on replay.

    Args:
        target: A step or a plain function that workflows run as a step, with whatever options; or a name, as
            of a closure.
        returns: What the step returns.
        raises: What each attempt raises: an exception, or a class of them.
        side_effect: Called instead of the body, with its arguments; may be a coroutine function, or a
            `unittest.mock.Mock`.

    Attributes:
        calls: One for each attempt that was begun, oldest first.
    """

    def __init__(
        self,
        target: Step[..., Any] | Callable[..., Any] | str,
        *,
        returns: Any = NOTHING,
        raises: BaseException | type[BaseException] | None = None,
        side_effect: Callable[..., Any] | None = None,
    ) -> None:
        option = "mock"
        if isinstance(target, Workflow) or not (isinstance(target, str) or callable(target)):
            raise InvalidOption(option, f"{target!r} is neither a step, nor a function, nor the name of a step")
        if (returns is not NOTHING) + (raises is not None) + (side_effect is not None) > 1:
            raise InvalidOption(option, "returns=, raises= and side_effect= exclude each other")
        self.calls: list[Call] = []
        self._target = target.fn if isinstance(target, Step) else target
        self._returns = None if returns is NOTHING else returns
        self._raises = raises
        self._side_effect = side_effect

    @property
    def count(self) -> int:
        """How many attempts were begun."""
        return len(self.calls)

    def matches(self, step: Step[..., Any]) -> bool:
        """Whether it stands in for this step."""
        return step.name == self._target if isinstance(self._target, str) else bool(step.fn == self._target)

    def body(self, *args: Any, **kwargs: Any) -> Any:
        """What runs instead."""
        self.calls.append(Call(args, kwargs, current_step()))
        if self._raises is not None:
            raise self._raises
        if self._side_effect is not None:
            return self._side_effect(*args, **kwargs)
        return self._returns


class StandIns:
    """
    Decides what runs in a step's place; a registry's `stand_in`.

    Attributes:
        mocks: The last one that matches wins.
        watch: Asked whenever a workflow wants a step; what it gives is called when an attempt begins, mocked or not.
    """

    def __init__(self) -> None:
        self.mocks: list[StepMock] = []
        self.watch: Callable[[], Watch] | None = None

    def __call__(self, step: Step[..., Any]) -> Step[..., Any]:
        """The step itself, or a copy with another body."""
        mock = next((mock for mock in reversed(self.mocks) if mock.matches(step)), None)
        if mock is None and self.watch is None:
            return step
        other = copy.copy(step)
        body = step.fn if mock is None else mock.body
        # Sync stays sync: a transaction cannot wait, and a step's thread waits for what it gets by itself.
        other.fn = partial(_awaited if step.is_async else _called, body, self.watch and self.watch())
        return other


def _called(body: Callable[..., Any], watch: Watch | None, *args: Any, **kwargs: Any) -> Any:
    if watch is not None:
        watch(current_step())
    return body(*args, **kwargs)


async def _awaited(body: Callable[..., Any], watch: Watch | None, *args: Any, **kwargs: Any) -> Any:
    value = _called(body, watch, *args, **kwargs)
    return await value if inspect.isawaitable(value) else value
