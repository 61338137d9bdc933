"""Values as JSON text, by the type that their receiver declares."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, timedelta
from functools import cache, lru_cache, partial
from types import ModuleType
from typing import Any, NamedTuple, NewType, cast

from perdure.codec.plain import plain_schema
from perdure.errors import InvalidInput, InvalidOption, NotSerializable

ATOMS: frozenset[type] = frozenset({type(None), bool, int, float, str, bytes, date, datetime, timedelta})
"""Types whose values hold no other value."""
TEXT: frozenset[type] = frozenset({str})
"""Types of keys that JSON keeps."""

# Schemas that pydantic rebuilds on validation, so that what comes out of it serialises without a warning
# and has no names that could be aliased. Everything else takes the careful way, 2 µs longer.
_REBUILT = frozenset(
    {"any", "none", "bool", "int", "float", "str", "bytes", "date", "time", "datetime", "timedelta", "decimal"}
    | {"uuid", "literal", "list", "tuple", "set", "frozenset", "dict", "nullable", "union"}
)
_MAY_HOLD_SETS = frozenset({"any", "set", "frozenset"})
_CONFIG = {"ser_json_inf_nan": "constants", "ser_json_bytes": "base64", "val_json_bytes": "base64"}
_ITERATOR = "there is an iterator in it, whose items come only once; make a list of it"
_SAME_KEYS = "keys of a dict in it are the same text in JSON, as 1 and '1' are; keys come back as texts"
_SHOWN_PROBLEMS = 3
_SHOWN_LENGTH = 500


@cache
def _core() -> ModuleType:
    import pydantic_core  # noqa: PLC0415 - takes 20 ms, as below

    return pydantic_core


@cache
def _pydantic() -> ModuleType:
    import pydantic  # noqa: PLC0415 - takes 100 ms, which `import perdure` and `perdure --help` need not wait

    return pydantic


class _Tool(NamedTuple):
    """One annotation's validator and serialiser, ready to call."""

    check: Callable[[Any], Any]
    load: Callable[[str | bytes], Any]
    forms: tuple[tuple[Callable[[Any], bytes], Callable[..., Any]], ...]  # (to JSON, to Python), best first
    sets: bool


class TypeCodec:
    """
    Write values of one declared type as JSON text and read them back.

    The type is anything pydantic understands; it is looked at when the first value comes. A model that
    configures its own JSON form keeps it. Elsewhere bytes are base64, NaN and Infinity stay what they are,
    and sets are sorted, so that equal values give the same text in every process.

    Under `Any` a value comes back as the plain data that its JSON is: tuples and sets as lists, keys of
    dicts as strings, dataclasses and models as dicts, dates as strings.
    """

    __slots__ = ("_tool", "annotation")

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        self._tool: _Tool | None = None

    def settle(self, value: Any, what: str) -> tuple[str, Any]:
        """
        Write a value, and give with its text what decoding that text gives (I5).

        Args:
            value: What to write; coerced to the declared type where pydantic does so.
            what: How errors name the value, such as "The result of step 'charge'".

        Raises:
            InvalidInput: The value does not fit the declared type.
            NotSerializable: It has no JSON form, or one that does not fit the declared type.
        """
        tool = self._tool or self._build(what)
        try:
            fit = tool.check(value)
        except Exception as error:
            raise _unawaited(what, value) or _misfit(what, error) from error
        failed = None
        for dump, plain in tool.forms:
            try:
                data = dump(fit)
                if tool.sets and _needs_a_look(fit):
                    data = _any_json()(_in_order(plain(fit), plain(fit, mode="json")))
            except Exception as error:
                raise _unawaited(what, value) or NotSerializable(what, _explain(error)) from error
            try:
                return data.decode(), tool.load(data)
            except Exception as error:  # noqa: BLE001 - validators are user code, and another form may do
                failed = failed or error
        problem = f"what its JSON gives back does not fit its type: {_explain(failed)}"
        raise NotSerializable(what, problem) from failed

    def encode(self, value: Any, what: str) -> str:
        """Write a value as compact JSON text; `settle` says what may go wrong."""
        return self.settle(value, what)[0]

    def decode(self, text: str, what: str) -> Any:
        """
        Read a value, a new one at each call.

        Raises:
            InvalidInput: The text is not JSON, or does not fit the declared type.
        """
        tool = self._tool or self._build(what)
        try:
            return tool.load(text)
        except Exception as error:
            raise InvalidInput(what, _explain(error)) from error

    def check_type(self, option: str) -> None:
        """
        Look at the type now, and not when the first value comes.

        Raises:
            InvalidOption: It is none that pydantic understands.
        """
        if self._tool is None:
            try:
                self._build("A value")
            except NotSerializable as error:
                raise InvalidOption(option, f"{self.annotation!r} is no type that pydantic understands") from error

    def _build(self, what: str) -> _Tool:
        try:
            schema, validator, serializer = _looked_at(self.annotation)
            load, dump, plain = validator.validate_json, serializer.to_json, serializer.to_python
            kinds = set(_kinds(schema))
        except Exception as error:
            problem = f"pydantic has no form for its annotation {self.annotation!r} ({_summary(error)})"
            raise NotSerializable(what, problem) from error
        forms = [(dump, plain)]
        if not kinds <= _REBUILT:
            # Fields go by their names, which always read back; by alias only where a model insists on it,
            # as a tagged union whose tag has an alias does.
            careful = {"round_trip": True, "warnings": "error"}
            load = partial(load, by_alias=True, by_name=True)
            forms = [
                (partial(dump, by_alias=alias, **careful), partial(plain, by_alias=alias, **careful))
                for alias in (False, True)
            ]
        self._tool = _Tool(validator.validate_python, load, tuple(forms), bool(kinds & _MAY_HOLD_SETS))
        return self._tool


def _looked_at(annotation: Any) -> tuple[Any, Any, Any]:
    """The core schema of an annotation, its validator and its serializer; raises whatever pydantic raises."""
    schema = plain_schema(annotation)
    if schema is not None:
        core = _core()
        return schema, core.SchemaValidator(schema, _CONFIG), core.SchemaSerializer(schema, _CONFIG)
    # pydantic refuses a config beside a bare dataclass or TypedDict; behind a NewType it takes it.
    hidden = cast("Any", NewType)("Value", annotation)
    adapter = _pydantic().TypeAdapter(hidden, config=_CONFIG)
    return adapter.core_schema, adapter.validator, adapter.serializer


def _unawaited(what: str, value: Any) -> NotSerializable | None:
    """What is wrong with a value that is a coroutine: an `await` was forgotten."""
    if not inspect.iscoroutine(value):
        return None
    value.close()  # otherwise Python warns of the same, later and elsewhere
    return NotSerializable(what, f"it is the coroutine {value.__qualname__}(): an `await` is missing before it")


ANY = TypeCodec(Any)


def codec_for(annotation: Any) -> TypeCodec:
    """
    The codec of an annotation; the same one for the same annotation.

    Args:
        annotation: A type as pydantic understands it, already resolved: not a string.
    """
    if annotation is Any:
        return ANY
    try:
        # int | str equals str | int, and Annotated[int, 1] equals Annotated[int, True]; their reprs differ.
        return _codec(annotation, repr(annotation))
    except TypeError:  # not hashable, as Annotated[int, {}]
        return TypeCodec(annotation)


@lru_cache(maxsize=1024)
def _codec(annotation: Any, _spelling: str) -> TypeCodec:
    return TypeCodec(annotation)


@cache
def _any_json() -> Callable[[Any], bytes]:
    return (ANY._tool or ANY._build("A value")).forms[0][0]  # noqa: SLF001 - of this module's own class


def dump_plain(value: Any) -> bytes:
    """Write plain data as compact JSON in UTF-8; raises whatever pydantic raises."""
    return _any_json()(value)


def _kinds(schema: Any) -> Iterable[str]:
    """Every `type` in a pydantic core schema."""
    if isinstance(schema, dict):
        kind = schema.get("type")
        if isinstance(kind, str):
            yield kind
        for key, part in schema.items():
            if key != "metadata":
                yield from _kinds(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            yield from _kinds(part)


def _needs_a_look(value: Any) -> bool:
    """Whether a set may be in there, or a key that is no text; cheap for plain data. It is known to have no cycles."""
    kind = type(value)
    if kind is dict:
        if not TEXT.issuperset(map(type, value)):
            return True
        parts: Iterable[Any] = value.values()
    elif kind is list or kind is tuple:
        parts = value
    else:
        return kind not in ATOMS
    return not ATOMS.issuperset(map(type, parts)) and any(map(_needs_a_look, parts))


def _in_order(value: Any, plain: Any) -> Any:
    """
    The JSON form of a value, with each list in it that stands for a set sorted.

    Raises:
        PydanticSerializationError: There is an iterator in it, such as a generator or an open file, or a dict with
            keys that are the same text.
    """
    if isinstance(value, Iterator):
        # Whoever looks at it takes its items away; kept would be what was left.
        raise _core().PydanticSerializationError(_ITERATOR)
    if isinstance(value, set | frozenset) and isinstance(plain, list):
        return sorted(plain, key=_any_json())
    if isinstance(value, dict) and isinstance(plain, dict) and len(value) > len(plain):
        if not TEXT.issuperset(map(type, value)):
            raise _core().PydanticSerializationError(_SAME_KEYS)
    elif isinstance(value, dict) and isinstance(plain, dict) and len(value) == len(plain):
        parts = zip(plain, value.values(), plain.values(), strict=True)
        return {key: _in_order(part, form) for key, part, form in parts}
    if isinstance(value, list | tuple) and isinstance(plain, list) and len(value) == len(plain):
        return [_in_order(part, form) for part, form in zip(value, plain, strict=True)]
    return plain


def _misfit(what: str, error: Exception) -> InvalidInput | NotSerializable:
    if isinstance(error, _core().ValidationError):
        broken = [each for each in error.errors(include_url=False) if each["type"] == "string_unicode"]
        if broken:
            return NotSerializable(what, "it has a string with half of a surrogate pair, which UTF-8 lacks")
    return InvalidInput(what, _explain(error))


def _explain(error: Exception | None) -> str:
    """The first few problems, each as `field.path: problem`."""
    if not isinstance(error, _core().ValidationError):
        return _summary(error)
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    shown = []
    for problem in problems[:_SHOWN_PROBLEMS]:
        path = ".".join(map(str, problem["loc"]))
        shown.append(f"{path}: {problem['msg']}" if path else problem["msg"])
    if len(problems) > _SHOWN_PROBLEMS:
        shown.append(f"and {len(problems) - _SHOWN_PROBLEMS} more")
    return "; ".join(shown)[:_SHOWN_LENGTH]


def schema_of(annotation: Any) -> dict[str, Any]:
    """The JSON schema of a type, for those who are to write a value of it."""
    found: dict[str, Any] = _pydantic().TypeAdapter(annotation).json_schema()
    return found


def problems_of(error: BaseException) -> list[tuple[str, str]]:
    """All that is wrong with a value that was refused: the path of each field and its problem."""
    cause = error.__cause__
    if not isinstance(cause, _core().ValidationError):
        return [("", str(error))]
    problems = cause.errors(include_url=False, include_context=False, include_input=False)
    return [(".".join(map(str, problem["loc"])), problem["msg"]) for problem in problems]


def _summary(error: Exception | None) -> str:
    name = type(error).__name__
    text = " ".join(str(error).partition("\n\n")[0].split())
    own = name.startswith("Pydantic")
    return (text.removeprefix("Error serializing to JSON: ") if own else f"{name}: {text}")[:_SHOWN_LENGTH]
