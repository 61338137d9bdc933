"""Values survive storage, come back alike in every process, and fail with errors that say what is wrong."""

import json
import os
import subprocess
import sys
from collections import namedtuple
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PlainSerializer, field_serializer, model_serializer
from typing_extensions import TypedDict

from perdure.codec.value import ANY, TypeCodec, codec_for
from perdure.errors import InvalidInput, NotSerializable

T = TypeVar("T")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1


@dataclass
class Point:
    x: int
    tags: set[str] = field(default_factory=set)
    raw: bytes = b""
    weight: float = 0.0


class Movie(TypedDict):
    title: str
    raw: bytes


class Pair(NamedTuple):
    left: int
    right: str


class Line(BaseModel):
    sku: str
    cents: int = Field(gt=0)


class Order(BaseModel):
    id: str
    lines: list[Line] = []
    note: str | None = None


class Page(BaseModel, Generic[T]):
    items: list[T]


class Card(BaseModel):
    kind: Literal["card"] = Field("card", alias="@kind")
    number: str


class Cash(BaseModel):
    kind: Literal["cash"] = Field("cash", alias="@kind")


Payment = Annotated[Card | Cash, Field(discriminator="kind")]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


def there_and_back(annotation, value):
    codec = codec_for(annotation)
    text, settled = codec.settle(value, "It")
    assert codec.encode(value, "It") == text
    again = codec.decode(text, "It")
    assert again == settled
    assert codec.encode(again, "It") == text
    return again


@given(json_values)
def test_plain_data_survives(value):
    """Without annotations, JSON data would not come back as it was."""
    again = there_and_back(Any, value)
    assert again == value
    assert repr(again) == repr(value)  # 1, 1.0 and True compare equal


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.integers())))
def test_typed_data_survives(value):
    """An annotated container would not come back as it was."""
    assert there_and_back(dict[str, list[int]], value) == value


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (None, None),
        (int, 2**100),
        (float, float("inf")),
        (bytes, b"\xff\x00"),
        (list[bytes], [b"\xff"]),
        (set[str], {"b", "a"}),
        (frozenset[int], frozenset({3, 1})),
        (tuple[int, str], (1, "a")),
        (tuple[int, ...], (1, 2)),
        (dict[int, str], {1: "a"}),
        (dict[Colour, int], {Colour.RED: 1}),
        (datetime, datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
        (date, date(2026, 1, 2)),
        (timedelta, timedelta(days=3, microseconds=7)),
        (Decimal, Decimal("1.10")),
        (UUID, UUID(int=7)),
        (Path, Path("/a/b")),
        (Colour, Colour.BLUE),
        (Level, Level.LOW),
        (Point, Point(1, {"b", "a"}, b"\xff", 0.5)),
        (list[Point], [Point(1, {"b"}, b"\xff")]),
        (Movie, {"title": "Alien", "raw": b"\xff"}),
        (Pair, Pair(1, "a")),
        (Order, Order(id="1", lines=[Line(sku="a", cents=3)])),
        (Page[Line], Page[Line](items=[Line(sku="a", cents=3)])),
        (list[Payment], [Card(**{"@kind": "card", "number": "7"}), Cash()]),
        (int | None, None),
        (int | str, "5"),
        (Order | Line, Line(sku="a", cents=1)),
        (Literal["a", 3], 3),
        (Annotated[int, Field(gt=0)], 4),
        (Any, None),
    ],
)
def test_types_survive(annotation, value):
    """A supported type would come back as another type or value."""
    again = there_and_back(annotation, value)
    assert again == value
    assert type(again) is type(value)


def test_what_is_not_a_number_survives():
    """NaN and the infinities would become null, which is another value."""
    text, settled = codec_for(list[float]).settle([float("nan"), float("-inf")], "It")
    assert text == "[NaN,-Infinity]"
    assert repr(settled) == "[nan, -inf]"
    assert repr(there_and_back(Any, {"x": float("inf")})) == "{'x': inf}"
    assert "NaN" in codec_for(Point).encode(Point(1, weight=float("nan")), "It")


def test_a_model_that_writes_nan_as_null_is_refused():
    """A model whose own JSON form loses a value would be stored and fail at replay."""

    class Reading(BaseModel):
        celsius: float

    class Lenient(Reading):
        model_config = ConfigDict(ser_json_inf_nan="constants")

    with pytest.raises(NotSerializable, match="does not fit its type: celsius: Input should be a valid number"):
        codec_for(Reading).encode(Reading(celsius=float("nan")), "The result of step 'read'")
    assert repr(there_and_back(Any, Lenient(celsius=float("inf")))) == "{'celsius': inf}"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ((1, 2), [1, 2]),
        ({1: "a", 2.5: "b", None: "c"}, {"1": "a", "2.5": "b", "None": "c"}),
        ({"b", "a"}, ["a", "b"]),
        (Point(1, {"b", "a"}), {"x": 1, "tags": ["a", "b"], "raw": "", "weight": 0.0}),
        (Order(id="1"), {"id": "1", "lines": [], "note": None}),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
        (b"\xff", "_w=="),
        (namedtuple("N", "a")(1), [1]),  # noqa: PYI024 - the untyped one, on purpose
        (Colour.RED, "red"),
    ],
)
def test_without_annotation_things_come_back_as_plain_data(value, plain):
    """The documented form of values without annotation would change, and with it stored histories."""
    assert there_and_back(Any, value) == plain


def test_values_are_coerced_to_their_type():
    """A dict given for a model, as HTTP and the command line do, would be refused or come back a dict."""
    text, order = codec_for(Order).settle({"id": "7", "lines": [{"sku": "a", "cents": "3"}]}, "The input")
    assert order == Order(id="7", lines=[Line(sku="a", cents=3)])
    assert json.loads(text)["lines"][0]["cents"] == 3


def test_a_misfit_says_where_and_what():
    """The user would have to read pydantic's essay to find the wrong field."""
    with pytest.raises(InvalidInput) as caught:
        codec_for(Order).encode({"id": "1", "lines": [{"sku": "a", "cents": -1}]}, "Argument 'order' of checkout()")
    assert str(caught.value) == (
        "Argument 'order' of checkout() does not have its declared type: lines.0.cents: Input should be greater than 0"
    )
    with pytest.raises(InvalidInput, match=r"0: Input .*; 1: Input .*; 2: Input .*; and 7 more$"):
        codec_for(list[int]).encode(["x"] * 10, "It")


class Changed(BaseModel):
    count: int = Field(gt=0)


def _cycle():
    value: list[Any] = []
    value.append(value)
    return value


def _deep(levels):
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def _changed(count):
    value = Changed(count=1)
    value.count = count
    return value


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Any, object()),
        (Any, _cycle()),
        (Any, _deep(205)),  # pydantic writes 255 levels and reads 200
        (Any, _deep(100_000)),
        (Any, 10**5000),
        (Any, "\ud800"),
        (Any, {"\ud800": 1}),
        (str, "\ud800"),
        (list[str], ["\ud800"]),
        (Order, Order.model_construct(id="\ud800")),
        (Changed, _changed(-1)),
        (Changed, _changed("many")),
        (Any, [lambda: 1]),
        (dict[str, Any], {"a": object()}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_could_not_be_read_back_is_not_stored(annotation, value):
    """A run would complete a step and then be unable to replay it."""
    with pytest.raises(NotSerializable, match="The result of step 'a' cannot be stored as JSON"):
        codec_for(annotation).encode(value, "The result of step 'a'")


@pytest.mark.parametrize("annotation", [Any, int])
def test_a_coroutine_in_place_of_a_value_is_a_forgotten_await(annotation):
    """A workflow that returns `ctx.step(…)` without `await` would be told of types, and Python would warn later."""

    async def charge() -> int:
        return 1

    with pytest.raises(NotSerializable, match=r"charge\(\): an `await` is missing"):
        codec_for(annotation).encode(charge(), "The result of flow")


@pytest.mark.parametrize(
    "value", [{1: "a", "1": "b"}, {True: 1, "true": 2}, [{"deep": {1.5: 1, "1.5": 2}}]], ids=["int", "bool", "deep"]
)
def test_keys_that_are_the_same_in_json_are_refused(value):
    """One of two entries would be gone, in silence."""
    with pytest.raises(NotSerializable, match="are the same text in JSON"):
        ANY.settle(value, "A value")


def test_a_model_may_have_fewer_fields_in_json():
    """A model with a JSON form of its own would be taken for a dict that has lost a key."""

    class Order(BaseModel):
        lines: set[int]
        remark: str

        @model_serializer(when_used="json")
        def told(self) -> dict[str, list[int]]:
            return {"lines": sorted(self.lines)}

    assert ANY.settle([Order(lines={2, 1}, remark="r")], "A value")[0] == '[{"lines":[1,2]}]'


def test_keys_that_are_no_texts_come_back_as_texts():
    """Every dict with numbers for keys would be refused."""
    assert ANY.settle({2: {3: [1]}, None: {4}}, "A value") == (
        '{"2":{"3":[1]},"None":[4]}',
        {"2": {"3": [1]}, "None": [4]},
    )


@pytest.mark.parametrize(
    "value",
    [(n for n in range(3)), map(str, [1]), [zip([1], [2], strict=True)], {"a": {"b": iter([1])}}, Point(iter([1]), 2)],
    ids=["generator", "map", "zip in a list", "deep", "in a dataclass"],
)
def test_an_iterator_is_not_stored_as_what_is_left_of_it(value):
    """A step that returns `map(…)`, a generator or an open file would have an empty list for its result, in silence."""
    with pytest.raises(NotSerializable, match="there is an iterator in it, whose items come only once; make a list"):
        ANY.encode(value, "The result of step 'a'")


def test_the_deepest_data_that_is_written_is_read():
    """The limits of writing and reading would differ."""
    assert there_and_back(Any, _deep(200)) == _deep(200)


def test_models_with_uneven_aliases_survive():
    """Models that read one name and write another, as those of web APIs do, could not be stored."""

    class Uneven(BaseModel):
        a: int = Field(serialization_alias="A")
        b: int = Field(default=0, serialization_alias="B")
        c: int = Field(default=0, validation_alias=AliasChoices("C", "sea"))

    value = Uneven(a=1, b=2, C=3)
    assert there_and_back(Uneven, value) == value
    assert codec_for(Uneven).decode('{"a":1,"sea":4}', "It").c == 4


def test_serialiser_warnings_are_errors():
    """A model assigned a wrong type would be stored with a mere warning."""
    with pytest.raises(NotSerializable, match="count"):
        codec_for(Changed).encode(_changed([1]), "It")


def test_failing_user_code_is_reported_as_such():
    """A serialiser or validator that raises KeyError would escape as a KeyError from the engine."""

    class Odd(BaseModel):
        x: int

        @field_serializer("x")
        def write(self, value: int) -> int:
            return {}[value]

    class Strange:
        @classmethod
        def __get_pydantic_core_schema__(cls, source, handler):
            raise RuntimeError("no schema today")

    with pytest.raises(NotSerializable, match="KeyError"):
        codec_for(Odd).encode(Odd(x=1), "It")
    with pytest.raises(NotSerializable, match=r"It cannot be stored .* no schema today"):
        codec_for(Strange).encode(1, "It")


@pytest.mark.parametrize(
    "annotation",
    [object(), type(os), list["Nowhere"]],  # noqa: F821
    ids=["an object", "a module", "an unknown name"],
)
def test_annotations_without_a_form_are_named(annotation):
    """The user would see pydantic's internals instead of the annotation at fault."""
    with pytest.raises(NotSerializable, match="The result cannot be stored as JSON: pydantic has no form for"):
        codec_for(annotation).encode(1, "The result")


def test_sets_inside_models_are_sorted_and_the_rest_is_not():
    """A model's own serialisers would be bypassed, or its lists reordered, where a set is near."""

    class Mixed(BaseModel):
        names: set[str]
        steps: list[int]
        loud: Annotated[str, PlainSerializer(str.upper, when_used="json")]

    text = codec_for(Mixed).encode(Mixed(names={"z", "a", "m"}, steps=[3, 1], loud="x"), "It")
    assert text == '{"names":["a","m","z"],"steps":[3,1],"loud":"X"}'


def test_every_process_writes_the_same_text():
    """Two processes would see different inputs in equal sets, and refuse a start as a conflict."""
    code = (
        "from typing import Any; from perdure.codec.value import codec_for; "
        "s = {str(i) for i in range(50)}; "
        "print(codec_for(set[str]).encode(s, ''), codec_for(Any).encode({'a': [s]}, ''))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(texts) == 1


def test_importing_perdure_does_not_import_pydantic():
    """`perdure --help` would take 100 ms longer."""
    code = "import sys, perdure.codec.call, perdure.codec.failure; assert 'pydantic_core' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_decoding_gives_a_new_object_each_time():
    """Two receivers of one stored value could change it for each other."""
    text, settled = ANY.settle({"a": [1]}, "It")
    first, second = ANY.decode(text, "It"), ANY.decode(text, "It")
    first["a"].append(2)
    assert second == settled == {"a": [1]}


def test_codecs_are_shared_but_not_between_lookalikes():
    """Every call would build a validator, or int | str would be decoded by the codec of str | int."""
    assert codec_for(list[int]) is codec_for(list[int])
    assert codec_for(Any) is ANY
    assert codec_for(int | str) is not codec_for(str | int)
    assert codec_for(Annotated[int, {}]).encode(5, "It") == "5"  # not hashable


@given(st.text())
def test_any_text_is_read_or_refused(text):
    """Text from outside would raise something that no caller expects."""
    for codec in (ANY, codec_for(Order), codec_for(int | None), TypeCodec(Point)):
        with suppress(InvalidInput):
            codec.decode(text, "It")


@given(json_values)
def test_any_json_is_read_or_refused(value):
    """JSON of another shape would raise something that no caller expects."""
    for annotation in (Order, Point, Pair, Movie, Payment, set[str], datetime | bytes):
        with suppress(InvalidInput):
            codec_for(annotation).decode(json.dumps(value), "It")
