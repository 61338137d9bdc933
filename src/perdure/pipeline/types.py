"""The types that stages declare."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from types import UnionType
from typing import Any, Union

from perdure.codec.call import CallCodec
from perdure.codec.value import TypeCodec
from perdure.errors import InvalidInput, InvalidOption

NONE = type(None)
"""Declared where a stage takes no input, or has no config."""


def converted(value: Any, given: TypeCodec, wanted: TypeCodec, what: str) -> Any:
    """
    A value as another type, by way of its JSON.

    Raises:
        InvalidInput: It does not fit.
    """
    if wanted.annotation is Any or wanted.annotation == given.annotation:
        return value
    return wanted.decode(given.encode(value, what), what)


def declared_types(fn: Callable[..., Any], context: type, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """
    The input, the config and the output of a stage's function.

    Args:
        context: The class whose parameters are the first two.
        options: Types given by name, which are taken from it, instead of what the annotations say.

    Raises:
        InvalidOption: An annotation cannot be resolved.
    """
    given = {name: options.pop(name) for name in ("input", "config", "output") if name in options}
    first = next(iter(inspect.signature(fn).parameters.values()), None)
    inputs, config = (Any, NONE) if first is not None else (NONE, NONE)
    if first is not None and not {"input", "config"} <= given.keys():
        found = _resolved(fn, first.name)
        if typing.get_origin(found) is context:
            inputs, config = typing.get_args(found)
    output = given["output"] if "output" in given else _returns(fn)
    return _type(given.get("input", inputs)), _type(given.get("config", config)), output


def output_beside(check: Callable[..., Any], pending: type) -> Any:
    """The output that a batch's check returns, when it does not return `pending`."""
    found = _returns(check)
    if typing.get_origin(found) not in {Union, UnionType}:
        return found
    rest = [each for each in typing.get_args(found) if each is not pending]
    return Union[tuple(rest)] if rest else Any  # noqa: UP007 - of types that are known at run time only


def _type(annotation: Any) -> Any:
    return NONE if annotation is None else annotation


def _resolved(fn: Callable[..., Any], parameter: str) -> Any:
    try:
        return typing.get_type_hints(fn, include_extras=True).get(parameter)
    except Exception as error:
        raise _unresolved(fn, error) from error


def _returns(fn: Callable[..., Any]) -> Any:
    try:
        return CallCodec(fn).returns.annotation
    except InvalidInput as error:
        raise _unresolved(fn, error) from error


def _unresolved(fn: Callable[..., Any], error: Exception) -> InvalidOption:
    option = f"stage {getattr(fn, '__name__', fn)}"
    return InvalidOption(
        option,
        f"its annotations cannot be resolved ({error}). Define what they name at the top of the module, or give "
        "input=, output= and config= as options",
    )
