"""Arguments survive storage by name, so that a function may change its defaults and parameters' order."""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from typing import Any, NoReturn, Unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from typing_extensions import TypedDict

from perdure.codec.call import CallCodec
from perdure.codec.value import ANY
from perdure.errors import InvalidInput, NotSerializable


class Order(BaseModel):
    id: str


class Colours(TypedDict, total=False):
    red: int


async def checkout(ctx: Nowhere, order: Order, *, notes: list[str] | None = None) -> Order: ...  # noqa: F821


def every(first: int, /, second: str = "s", *rest: float, flag: bool = False, **extra: bytes) -> None: ...


def rewritten(first: int, added: str = "new", /, second: str = "changed", *rest: float, **extra: Any) -> None: ...


def test_arguments_are_stored_by_name():
    """Input at rest would be read by position, and change its meaning with the signature."""
    codec = CallCodec(checkout, skip=1)
    text = codec.encode((), {"order": {"id": "1"}})
    assert text == '{"order":{"id":"1"}}'
    assert codec.encode((Order(id="1"),), {}) == text
    assert codec.decode(text) == ((Order(id="1"),), {"notes": None})
    assert codec.returns.decode('{"id":"2"}', "It") == Order(id="2")


def test_every_kind_of_parameter():
    """A kind of parameter would be lost, or come back under another name."""
    codec = CallCodec(every)
    text = codec.encode((1, "b", 2.5, 3), {"flag": True, "y": b"\xff", "x": b""})
    assert text == '{"first":1,"second":"b","*rest":[2.5,3.0],"flag":true,"**extra":{"x":"","y":"_w=="}}'
    assert codec.decode(text) == ((1, "b", 2.5, 3.0), {"flag": True, "x": b"", "y": b"\xff"})
    assert codec.encode((1,), {}) == '{"first":1}'
    assert codec.decode('{"first":1}') == ((1, "s"), {"flag": False})


def test_defaults_are_todays():
    """A stored call would freeze the defaults of the day it was made."""
    args, kwargs = CallCodec(rewritten).decode(CallCodec(every).encode((1,), {"x": b""}))
    assert (args, kwargs) == ((1, "new", "changed"), {"x": ""})
    args, kwargs = CallCodec(rewritten).decode('{"first":1,"*rest":[2]}')
    assert (args, kwargs) == ((1, "new", "changed", 2.0), {})


@given(
    st.integers(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.floats(allow_nan=False)),
    st.dictionaries(st.from_regex(r"[a-e]{4}", fullmatch=True), st.binary()),
)
def test_calls_survive(first, second, rest, extra):
    """Arguments would come back as others."""
    codec = CallCodec(every)
    text = codec.encode((first, second, *rest), extra)
    assert codec.decode(text) == ((first, second, *rest), {"flag": False, **extra})
    assert codec.encode(*codec.decode(text)) == codec.encode((first, second, *rest), {"flag": False, **extra})


@pytest.mark.parametrize(
    ("args", "kwargs", "problem"),
    [
        ((), {}, r"The input of checkout\(\) .*: missing a required argument: 'order'"),
        (({"id": "1"}, 2), {}, r"The input of checkout\(\) .*: too many positional arguments"),
        ((), {"order": {"id": "1"}, "nots": 1}, r"checkout\(\) .*: got an unexpected keyword argument 'nots'"),
        (({"id": 1},), {}, r"Argument 'order' of checkout\(\) .*: id: Input should be a valid string"),
        ((Order(id="1"),), {"notes": [1]}, r"Argument 'notes' of checkout\(\) .* 0: Input should be a valid string"),
    ],
)
def test_calls_that_do_not_fit_name_function_and_parameter(args, kwargs, problem):
    """The caller would have to guess which argument was wrong."""
    with pytest.raises(InvalidInput, match=problem):
        CallCodec(checkout, skip=1).encode(args, kwargs)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1]", "not a JSON object"),
        ("{", "not JSON"),
        ('{"a":"\\ud800"}', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "the required parameter 'order' is missing"),
        ('{"order":{"id":"1"},"colour":1}', "there is no parameter 'colour'"),
        ('{"order":{"id":"1"},"ctx":1}', "there is no parameter 'ctx'"),
        ('{"order":{}}', "Argument 'order' of checkout.*: id: Field required"),
    ],
)
def test_input_that_does_not_fit_is_refused(text, problem):
    """Input from HTTP, or from before the function changed, would fail inside the workflow."""
    with pytest.raises(InvalidInput, match=problem):
        CallCodec(checkout, skip=1).decode(text)


def test_the_deepest_argument_is_read_back():
    """An argument would be stored at a depth at which the whole input can no longer be read."""

    def take(value): ...

    value: Any = 1
    for _ in range(200):
        value = [value]
    assert CallCodec(take).decode(CallCodec(take).encode((value,), {})) == ((value,), {})


def test_an_annotation_that_cannot_be_resolved_is_named():
    """A misspelt annotation would be a NameError somewhere in the engine."""
    with pytest.raises(InvalidInput, match=r"Argument 'ctx' of checkout\(\) .* 'Nowhere' cannot be resolved"):
        CallCodec(checkout).encode((1, 2), {})

    def late() -> Nowhere: ...  # noqa: F821

    with pytest.raises(InvalidInput, match=r"The result of .*late\(\) .* 'Nowhere' cannot be resolved"):
        assert CallCodec(late).returns


def test_results_are_of_the_declared_type():
    """A result would come back as plain data although the function declares its type."""

    def later() -> Awaitable[Order]: ...

    def latest() -> Coroutine[Any, Any, Order]: ...

    async def nested() -> Awaitable[Order]: ...

    def never() -> NoReturn: ...

    for fn in (later, latest, functools.partial(checkout, notes=[])):
        assert CallCodec(fn).returns.decode('{"id":"2"}', "It") == Order(id="2")
    assert CallCodec(never).returns is ANY
    assert CallCodec(lambda: 1).returns is ANY
    with pytest.raises(NotSerializable):
        CallCodec(nested).returns.encode(1, "It")


def test_every_kind_of_function():
    """A method, a partial, a callable object, a wrapped function or a builtin could not be a step."""

    class Shop:
        def sell(self, order: Order) -> int: ...

        def __call__(self, order: Order) -> int: ...

    @functools.wraps(every)
    def wrapper(*args, **kwargs): ...

    for fn in (Shop().sell, Shop(), functools.partial(checkout, None)):
        codec = CallCodec(fn)
        assert codec.decode(codec.encode(({"id": "1"},), {}))[0] == (Order(id="1"),)
    assert CallCodec(wrapper).encode(("1",), {}) == '{"first":1}'
    assert CallCodec(max).decode(CallCodec(max).encode((1, 2), {}))[0] == (1, 2)


def test_unpacked_annotations():
    """PEP 646 and 692 annotations would be read as the type of each argument."""

    def paint(*sizes: *tuple[int, str], **colours: Unpack[Colours]) -> None: ...

    codec = CallCodec(paint)
    text = codec.encode(("1", "a"), {"red": "3"})
    assert codec.decode(text) == ((1, "a"), {"red": 3})
    with pytest.raises(InvalidInput, match=r"Argument '\*\*colours' .* red: Input"):
        codec.encode((1, "a"), {"red": "three"})


@given(st.text() | st.recursive(st.none() | st.text(), lambda x: st.dictionaries(st.text(), x)).map(json.dumps))
def test_any_text_is_read_or_refused(text):
    """Text from outside would raise something that no caller expects."""
    for codec in (CallCodec(checkout, skip=1), CallCodec(every), CallCodec(max)):
        with suppress(InvalidInput):
            codec.decode(text)
