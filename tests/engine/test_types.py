"""I5 and I6: values and errors are what decoding their stored form gives, live and replayed."""

import asyncio
import gc
import sqlite3
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from pydantic import BaseModel, BeforeValidator, Field, computed_field
from typing_extensions import TypedDict

from perdure import Compressed, Context, current_step
from perdure.errors import ChildFailed, InvalidInput, NotSerializable, RecordedError


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Line(BaseModel):
    sku: str
    cents: int = Field(gt=0)


class Order(BaseModel):
    id: UUID
    at: datetime
    lines: list[Line]
    note: str | None = None

    @computed_field
    @property
    def total(self) -> int:
        return sum(line.cents for line in self.lines)


@dataclass
class Point:
    x: float
    y: float = 0.0
    tags: set[str] = field(default_factory=set)


class Pair(NamedTuple):
    left: int
    right: str


class Options(TypedDict, total=False):
    deep: bool
    name: str


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


ORDER = Order(
    id=UUID(int=7),
    at=datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    lines=[Line(sku="a", cents=5), Line(sku="b", cents=7)],
)
VALUES = [
    (Order, ORDER),
    (Point, Point(1.5, float("inf"), {"b", "a"})),
    (list[Point], [Point(1.0), Point(2.0)]),
    (datetime, datetime(2030, 5, 6, 7, 8, 9, 10, tzinfo=UTC)),
    (date, date(2030, 5, 6)),
    (timedelta, timedelta(days=3, microseconds=7)),
    (Decimal, Decimal("1.2300")),
    (bytes, b"\x00\xff raw"),
    (set[int], {3, 1, 2}),
    (frozenset[str], frozenset({"x"})),
    (tuple[int, ...], (1, 2, 3)),
    (tuple[int, str], (1, "x")),
    (dict[int, str], {1: "a", 2: "b"}),
    (dict[UUID, Colour], {UUID(int=1): Colour.BLUE}),
    (Colour, Colour.RED),
    (Pair, Pair(1, "x")),
    (Options, {"deep": True}),
    (Cat | Dog, Dog(name="rex")),
    (int | str, "7"),
    (int | None, None),
    (Literal["a", "b"], "b"),
    (PurePosixPath, PurePosixPath("/a/b")),
    (float, float("nan")),
    (complex, 1 + 2j),
]


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=[str(kind).replace("typing.", "") for kind, _ in VALUES])
def test_typed_values_live_and_replayed(lab, kind, value):
    """I5: a typed result or input would be one thing live and another on replay."""
    seen = []

    async def child(ctx: Context, got):
        return got

    child.__annotations__ |= {"got": kind, "return": kind}

    async def flow(ctx: Context, given):
        seen.append(given)
        seen.append(await ctx.step("step", lambda: value, returns=kind))
        seen.append(await ctx.call("child", given))
        await ctx.sleep(60)
        return given

    flow.__annotations__ |= {"given": kind, "return": kind}
    ended = lab.finish(flow, value, others=[child])
    assert ended.status == "completed", ended.error
    assert len(seen) > 5
    for each in [*seen, ended.value]:
        assert type(each) is type(value)
        assert each == value or each != each  # noqa: PLR0124 - only NaN differs from itself


def test_untyped_values_are_plain_data_at_once(lab):
    """I5: without a declared type a tuple would be a tuple live and a list on replay."""
    seen = []

    async def flow(ctx: Context) -> None:
        got = await ctx.step(
            "mixed", lambda: {"t": (1, 2), 3: {"x"}, "d": date(2030, 1, 1), "p": Point(1.0), "m": ORDER}
        )
        seen.append(repr({**got, "m": got["m"]["id"]}))
        await ctx.sleep(60)

    lab.finish(flow)
    assert len(set(seen)) == 1
    assert seen[0] == (
        "{'t': [1, 2], '3': ['x'], 'd': '2030-01-01', 'p': {'x': 1.0, 'y': 0.0, 'tags': []}, "
        "'m': '00000000-0000-0000-0000-000000000007'}"
    )


def test_a_result_is_a_copy_from_the_beginning(lab):
    """I5: changing what a step returned, or what it was given, would change what others see, until the first replay."""
    shared = {"n": 1}
    seen = []

    async def flow(ctx: Context) -> None:
        got = await ctx.step("same", lambda: shared)
        shared["n"] = 99
        seen.append(got["n"])
        got["n"] = 5
        seen.append((await ctx.step("other", lambda: {"n": 1}))["n"])
        await ctx.sleep(60)
        shared["n"] = 1

    lab.finish(flow)
    assert set(seen) == {1}


def test_values_are_coerced_to_their_types(lab):
    """I5: what the declared type would make of a stored value on replay would not be made of it live."""

    def loose() -> int:
        return "42"

    async def flow(ctx: Context, n: int, when: datetime) -> list:
        got = await ctx.step(loose)
        await ctx.sleep(60)
        return [got, type(n).__name__, when.isoformat()]

    assert lab.finish(flow, "7", "2030-01-01T00:00:00Z").value == [42, "int", "2030-01-01T00:00:00+00:00"]


def test_defaults_and_keywords_of_a_workflow(lab):
    """Input left out would not be filled with the default, or extra input be accepted."""

    async def flow(ctx: Context, a: int, b: int = 5, *rest: int) -> list[int]:
        return [a, b, *rest]

    assert lab.finish(flow, 1, id="a").value == [1, 5]
    assert lab.finish(flow, 1, 2, 3, 4, id="b").value == [1, 2, 3, 4]


def test_a_codec_for_everything_at_rest(lab):
    """Payloads would lie in the file unsealed, or not come back through their codec."""
    secret = "the secret that must not be readable " * 50

    async def child(ctx: Context, text: str) -> str:
        return text

    async def flow(ctx: Context, text: str) -> str:
        await ctx.emit("said", text)
        got = await ctx.step("step", lambda: text)
        got = await ctx.call("child", got)
        try:
            await ctx.step("fails", lambda: (_ for _ in ()).throw(ValueError(text)))
        except ValueError as error:
            assert str(error) == text
        return await ctx.receive("more", str, timeout=60, default=got)

    ended = lab.finish(flow, secret, others=[child], settings={"codec": Compressed()})
    assert ended.value == secret
    with sqlite3.connect(lab.path) as raw:
        dump = "\n".join(raw.iterdump())
    raw.close()
    assert "the secret that" not in dump


# ----------------------------------------------------------------------------------------------- errors
class Fields(Exception):
    def __init__(self, text: str, *, code: int, when: datetime, parts: list) -> None:
        super().__init__(text)
        self.code, self.when, self.parts = code, when, parts


class NoArguments(Exception):
    def __init__(self) -> None:
        super().__init__("always the same")


class ManyNeeded(Exception):
    def __init__(self, a, b, c, *, d) -> None:
        self.sum = a + b + c + d

    def __str__(self) -> str:
        return f"sum {self.sum}"


class Slotted(Exception):
    __slots__ = ("detail",)

    def __init__(self, detail) -> None:
        super().__init__("slotted")
        self.detail = detail


class BrokenText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Refusing(Exception):
    def __init__(self, *args) -> None:
        raise TypeError("this class is never made by its constructor")


def refusing() -> Exception:
    error = Refusing.__new__(Refusing)
    error.args = ("made otherwise",)
    error.extra = 7
    return error


def caused() -> Exception:
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer") from inner
    except ValueError as error:
        error.add_note("look here")
        return error


ERRORS = [
    lambda: ValueError("plain"),
    lambda: KeyError("key"),
    lambda: OSError(2, "No such file", "x.txt"),
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    lambda: Fields("text", code=7, when=datetime(2030, 1, 1, tzinfo=UTC), parts=[1, {"a": None}]),
    NoArguments,
    lambda: ManyNeeded(1, 2, 3, d=4),
    lambda: Slotted([1, 2]),
    refusing,
    caused,
    lambda: ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
    lambda: StopIteration(5),
    lambda: asyncio.CancelledError("from inside"),
    lambda: KeyboardInterrupt() if False else SystemExit(3),
    lambda: GeneratorExit("odd"),
    BrokenText,
    lambda: type("Local", (Exception,), {})("of a class that nobody can import"),
    lambda: ValueError("x" * 3_000_000),
    lambda: ValueError(object(), b"\xff", {1: {2}}),
]


@pytest.mark.parametrize("number", range(len(ERRORS)), ids=lambda number: f"error{number}")
def test_errors_live_and_replayed(lab, number):
    """I6: an error caught in a workflow would have another class, message or fields after a restart."""
    seen, ran = [], []

    def body() -> None:
        ran.append(1)
        error = ERRORS[number]()
        raise error

    async def async_body() -> None:
        body()

    async def flow(ctx: Context) -> str:
        gc.collect()  # at a replay, a class that nothing held would be gone
        for name, fn in (("sync", body), ("async", async_body)):
            try:
                await ctx.step(name, fn)
            except BaseException as error:  # noqa: BLE001 - also exits are outcomes of a body
                seen.append((name, described(error)))
        await ctx.sleep(60)
        return "alive"

    ended = lab.finish(flow)
    assert (ended.value, len(ran)) == ("alive", 2)
    assert len(seen) >= 6
    assert len({repr(each) for each in seen if each[0] == "sync"}) == 1
    assert len({repr(each) for each in seen if each[0] == "async"}) == 1


def interrupted(*_) -> None:
    raise KeyboardInterrupt("from inside")


async def interrupted_coroutine(*_) -> None:
    interrupted()


def interrupted_workflow(ctx) -> None:
    interrupted()


@pytest.mark.parametrize("where", ["step", "transaction", "coroutine", "workflow"])
def test_an_interrupt_raised_in_a_thread_is_an_outcome(lab, where):
    """Nobody has pressed a key, as that reaches the main thread only; the whole process would go down."""

    async def flow(ctx: Context) -> str:
        ways = {
            "step": lambda: ctx.step(interrupted),
            "transaction": lambda: ctx.transaction(interrupted),
            "coroutine": lambda: ctx.transaction(interrupted_coroutine),
            "workflow": lambda: ctx.call("interrupted_workflow"),
        }
        try:
            return await ways[where]()
        except (RecordedError, ChildFailed) as error:
            return (error.cause if isinstance(error, ChildFailed) else error).type_name

    assert lab.finish(flow, others=[interrupted_workflow]).value == "builtins:KeyboardInterrupt"


def described(error: BaseException) -> Any:
    """All that a workflow may look at."""
    try:
        text = str(error)
    except RuntimeError:
        text = "unreadable"
    fields = {name: repr(value) for name, value in vars(error).items()}
    more = [described(each) for each in getattr(error, "exceptions", ())]
    return (
        type(error).__module__, type(error).__qualname__, text, repr(error.args), fields, more,
        error.__cause__ and described(error.__cause__), getattr(error, "detail", None),
    )  # fmt: skip


def test_an_error_of_a_known_class_keeps_class_and_fields(lab):
    """I6: an error with an odd constructor would come back as another class."""

    def body(which) -> None:
        raise which()

    async def flow(ctx: Context) -> list:
        out = []
        for which in (ERRORS[4], NoArguments, ERRORS[6], ERRORS[7], refusing):
            try:
                await ctx.step("body", lambda which=which: body(which))
            except Exception as error:  # noqa: BLE001 - compared below
                out.append([type(error).__name__, str(error)])
        return out

    assert lab.finish(flow).value == [
        ["Fields", "text"], ["NoArguments", "always the same"], ["ManyNeeded", "sum 10"], ["Slotted", "slotted"],
        ["Refusing", "made otherwise"],
    ]  # fmt: skip


def test_an_error_whose_class_is_gone(lab):
    """I6: a stored error of a class that was removed would break the replay instead of being shown."""
    holder = {"Gone": type("Gone", (ValueError,), {"__module__": __name__})}
    globals().update(holder)

    def body() -> None:
        raise globals()["Gone"]("poof")

    async def flow(ctx: Context) -> str:
        try:
            await ctx.step(body)
        except (ValueError, RecordedError) as error:
            kind = type(error).__name__
        await ctx.sleep(60)
        return kind

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", id="r")
            await lab.until(app, "r", "waiting")
        holder.clear()
        del globals()["Gone"]
        gc.collect()
        async with lab.worker(flow) as app:
            ended = await lab.ended(app, "r")
            assert ended.status == "completed", ended.info.reason
            assert ended.value in {"Gone", "RecordedError"}

    lab.play(main)


# ------------------------------------------------------------------------------------- what has no form
def cyclic() -> list:
    loop: list = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize(
    "thing",
    [object, lambda: lambda: 1, cyclic, lambda: open, lambda: {"a": [object()]},
     lambda: "\ud800", lambda: type, lambda: float, lambda: asyncio.sleep],
    ids=["object", "function", "cycle", "builtin", "nested", "surrogate", "type", "float", "coroutine function"],
)  # fmt: skip
def test_results_that_cannot_be_stored(lab, thing):
    """A result without a JSON form would be lost silently, pickled, retried for ever, or take the worker down."""
    ran = []

    async def flow(ctx: Context) -> str:
        try:
            await ctx.step("odd", lambda: ran.append(current_step().key) or thing())
        except NotSerializable as error:
            assert "The result of step 'odd'" in str(error)
            return await ctx.step("next", lambda: "alive")

    assert lab.finish(flow).value == "alive"
    assert ran == ["odd"]


def test_results_of_another_type(lab):
    """A result that does not fit the declared type would be passed on unchecked."""
    ran = []

    def lies() -> int:
        ran.append(1)
        return "not a number"

    async def flow(ctx: Context) -> str:
        try:
            await ctx.step(lies)
        except InvalidInput as error:
            return str(error)

    ended = lab.finish(flow)
    assert "The result of step 'lies' does not have its declared type" in ended.value
    assert ran == [1]


@pytest.mark.parametrize(
    ("returned", "code"), [(object(), "not_serializable"), ("no number", "invalid_input"), (cyclic(), "invalid_input")]
)
def test_a_workflows_result_that_cannot_be_stored(lab, returned, code):
    """A run whose result has no form would hang, or complete with something else."""

    async def flow(ctx: Context):
        await ctx.step("work", lambda: 1)
        return returned

    flow.__annotations__["return"] = Any if code == "not_serializable" else int

    ended = lab.finish(flow)
    assert (ended.status, ended.error.code) == ("failed", code)


def strict(value: Any) -> Any:
    if value == "forbidden":
        raise ValueError("never this")
    return value


@pytest.mark.parametrize("args", [(), ("x", "y"), ("forbidden",), ({},)])
def test_input_that_does_not_fit(lab, args):
    """Wrong input would start a run that fails later, or be stored."""

    async def flow(ctx: Context, text: Annotated[str, BeforeValidator(strict)]) -> None:
        return None

    async def main():
        async with lab.worker(flow) as app:
            with pytest.raises(InvalidInput):
                await app.start("flow", *args)
            assert await lab.sql(app, "select count(*) from perdure_runs") == [(0,)]

    lab.play(main)


def test_input_that_no_longer_fits(lab):
    """A run whose stored input does not fit the changed workflow would break the worker instead of failing."""

    async def old(ctx: Context, n: str) -> None:
        await ctx.sleep(10)

    async def new(ctx: Context, n: int) -> None:
        await ctx.sleep(10)

    async def main():
        old.__name__ = new.__name__ = "flow"
        async with lab.app(old).connected() as app:
            await app.start("flow", "text", id="r")
        async with lab.worker(new) as app:
            ended = await lab.ended(app, "r")
            assert (ended.status, type(ended.error)) == ("failed", InvalidInput)

    lab.play(main)
