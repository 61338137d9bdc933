"""A function's parameters and result as JSON text."""

from __future__ import annotations

import inspect
import json
import sys
import typing
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import cached_property, partial
from inspect import BoundArguments, Parameter, Signature
from types import GenericAlias, SimpleNamespace
from typing import Any, NamedTuple

from perdure.codec.value import ANY, TypeCodec, codec_for, dump_plain
from perdure.errors import InvalidInput

_STARS: dict[Any, str] = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}
_NEVER = (typing.NoReturn, typing.Never)
_UNTOLD = Signature([Parameter("args", Parameter.VAR_POSITIONAL), Parameter("kwargs", Parameter.VAR_KEYWORD)])


class _Slot(NamedTuple):
    """One parameter: its name, the codec of all that it holds, how errors name it."""

    name: str
    codec: TypeCodec
    required: bool
    what: str


class CallCodec:
    """
    Write a call's arguments as one JSON object and read them back.

    The object has a key for each argument that was passed, by its parameter's name: `*args` under "*args" as
    an array, `**kwargs` under "**kwargs" as an object. Defaults are not stored, so they may change later.
    Annotations are resolved when first needed, each for itself: an unresolvable one among the first `skip`
    parameters does no harm.

    Args:
        fn: The function.
        skip: How many leading parameters are not part of the input, such as a workflow's context.
    """

    def __init__(self, fn: Callable[..., Any], *, skip: int = 0) -> None:
        self.fn = fn
        self.skip = skip
        self.name: str = getattr(fn, "__qualname__", None) or type(fn).__qualname__
        self._input = f"The input of {self.name}()"

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """
        Write the arguments of a call, coerced to their declared types.

        Raises:
            InvalidInput: They do not fit the signature, or one does not fit its annotation.
            NotSerializable: One of them has no JSON form.
        """
        arguments = self._bound(args, kwargs)
        parts = []
        for key, slot in self._slots.items():
            if slot.name in arguments:
                value = arguments[slot.name]
                if key.startswith("**"):
                    value = dict(sorted(value.items()))
                parts.append(f'"{key}":{slot.codec.encode(value, slot.what)}')  # an identifier needs no escapes
        return f"{{{','.join(parts)}}}"

    def from_json(self, values: Sequence[Any], named: Mapping[str, Any]) -> str:
        """
        Write the arguments of a call that is itself given as JSON data, as on a command line.

        Raises:
            InvalidInput, NotSerializable: As for `encode`.
        """
        arguments = self._bound(values, named)
        parts = []
        for key, slot in self._slots.items():
            if slot.name in arguments:
                given = ANY.encode(arguments[slot.name], slot.what)
                parts.append(f'"{key}":{slot.codec.encode(slot.codec.decode(given, slot.what), slot.what)}')
        return f"{{{','.join(parts)}}}"

    def decode(self, text: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """
        Read arguments, complete with today's defaults, ready for `fn(*args, **kwargs)`.

        Raises:
            InvalidInput: The text is no JSON object, names an unknown parameter, lacks a required one, or
                an argument does not fit its annotation.
        """
        stored = self._stored(text)
        arguments = {
            slot.name: slot.codec.decode(stored[key], slot.what) for key, slot in self._slots.items() if key in stored
        }
        if self._in_order is not None and len(arguments) == len(self._in_order):
            return tuple(arguments.values()), {}
        bound = BoundArguments(self._signature, arguments)
        bound.apply_defaults()
        return bound.args, bound.kwargs

    @cached_property
    def returns(self) -> TypeCodec:
        """The codec of the result: of T for `-> T`, and for a plain function's `-> Awaitable[T]` too."""
        annotation = self._resolve("return", _signature(self.fn).return_annotation)
        if not inspect.iscoroutinefunction(self.fn):
            if typing.get_origin(annotation) is Awaitable:
                (annotation,) = typing.get_args(annotation)
            elif typing.get_origin(annotation) is Coroutine:
                annotation = typing.get_args(annotation)[2]
        return ANY if annotation in _NEVER else codec_for(annotation)

    @cached_property
    def _signature(self) -> Signature:
        whole = _signature(self.fn)
        return whole.replace(parameters=list(whole.parameters.values())[self.skip :])

    @cached_property
    def _slots(self) -> dict[str, _Slot]:
        """What may be stored, by its key."""
        slots = {}
        for name, parameter in self._signature.parameters.items():
            annotation = self._resolve(name, parameter.annotation)
            if parameter.kind in _STARS:
                annotation = _starred(parameter.kind, annotation)
            key = _STARS.get(parameter.kind, "") + name
            required = parameter.default is Parameter.empty and key == name
            slots[key] = _Slot(name, codec_for(annotation), required, self._what(key))
        return slots

    @cached_property
    def _in_order(self) -> tuple[str, ...] | None:
        """The parameters' names if each may be passed by its position; the common case, for which `inspect` is slow."""
        parameters = self._signature.parameters.values()
        if all(parameter.kind is Parameter.POSITIONAL_OR_KEYWORD for parameter in parameters):
            return tuple(parameter.name for parameter in parameters)
        return None

    def _bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by their parameters' names, without defaults."""
        names = self._in_order
        if names is not None and not kwargs and len(args) == len(names):
            return dict(zip(names, args, strict=True))
        try:
            return self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise InvalidInput(self._input, str(error)) from error

    def _stored(self, text: str) -> dict[str, str]:
        """The stored arguments, each as JSON text of its own."""
        try:
            # Not by pydantic, which takes one level of nesting less than each argument may have.
            stored = json.loads(text)
            if not isinstance(stored, dict):
                problem = "it is not a JSON object keyed by parameter"
                raise InvalidInput(self._input, problem)
            parts = {key: dump_plain(value).decode() for key, value in stored.items()}
        except (ValueError, RecursionError) as error:
            raise InvalidInput(self._input, f"it is not JSON ({error})") from error
        unknown = [key for key in parts if key not in self._slots]
        missing = [key for key, slot in self._slots.items() if slot.required and key not in parts]
        if unknown or missing:
            problem = "; ".join(
                [f"there is no parameter {key!r}" for key in unknown]
                + [f"the required parameter {key!r} is missing" for key in missing]
            )
            raise InvalidInput(self._input, problem)
        return parts

    def _resolve(self, name: str, annotation: Any) -> Any:
        if annotation is Parameter.empty:
            return Any
        holder = SimpleNamespace(__annotations__={name: annotation})
        try:
            return typing.get_type_hints(holder, globalns=_globals(self.fn), include_extras=True)[name]
        except Exception as error:
            problem = (
                f"its annotation {annotation!r} cannot be resolved ({type(error).__name__}: {error}). Import or "
                "define what it names at the top of the module, not under TYPE_CHECKING or inside a function"
            )
            raise InvalidInput(self._what(name), problem) from error

    def _what(self, key: str) -> str:
        return f"The result of {self.name}()" if key == "return" else f"Argument {key!r} of {self.name}()"


def _signature(fn: Callable[..., Any]) -> Signature:
    try:
        return inspect.signature(fn)
    except ValueError:  # a builtin may not tell
        return _UNTOLD


def _starred(kind: Any, annotation: Any) -> Any:
    """The type of all the arguments that a starred parameter collects."""
    if typing.get_origin(annotation) is typing.Unpack:
        return typing.get_args(annotation)[0]
    if getattr(annotation, "__unpacked__", False):
        return GenericAlias(tuple, typing.get_args(annotation))
    return tuple[annotation, ...] if kind is Parameter.VAR_POSITIONAL else dict[str, annotation]


def _globals(fn: Any) -> dict[str, Any]:
    """The names that a function's annotations may use."""
    while isinstance(fn, partial):
        fn = fn.func
    fn = inspect.unwrap(fn)
    module = sys.modules.get(getattr(fn, "__module__", None) or type(fn).__module__)
    return getattr(fn, "__globals__", None) or vars(module or typing)
