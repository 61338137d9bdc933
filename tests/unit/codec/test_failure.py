"""Failures replay as failures: same class, message and fields, and nothing of anybody's runs (I6)."""

import asyncio
import gc
import json
import pickle
import urllib.error
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from perdure import errors
from perdure.codec.failure import TOTAL_CHARS, decode_error, encode_error, message_of
from perdure.engine.machine import Halt
from perdure.errors import ChildFailed, PerdureError, RecordedError, RetryAfter, RunFailed, StoreCorrupt

texts = st.text(max_size=8)
data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.sampled_from(["__error__", "__map__", "__tuple__"]), inner, max_size=3)
        | st.dictionaries(st.integers() | st.tuples(st.text()), inner, max_size=3)
    ),
    max_leaves=10,
)


class Boom(Exception):
    """A class as users write them."""


class Declined(Exception):
    """Its constructor cannot be called with its args."""

    calls = 0

    def __init__(self, *, card: str, cents: int) -> None:
        super().__init__(f"card {card} declined")
        self.card = card
        self.cents = cents
        Declined.calls += 1


class Stern(Exception):
    """Nothing of it may run."""

    armed = False

    def __new__(cls, code: int) -> Self:
        assert not cls.armed, "__new__ ran"
        return super().__new__(cls, code)

    def __init__(self, code: int) -> None:
        assert not self.armed, "__init__ ran"
        super().__init__(f"code {code}")
        self.code = code

    def __setattr__(self, name, value):
        assert not self.armed, "__setattr__ ran"
        super().__setattr__(name, value)


class Slotted(ValueError):
    __slots__ = ("reason", "unset")

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Mute(Exception):
    def __str__(self) -> str:
        raise KeyError("no text")


class Told(Exception):
    """Its message is made from a field."""

    def __init__(self, at: datetime) -> None:
        super().__init__()
        self.at = at

    def __str__(self) -> str:
        return f"told at {self.at}"


class Several(ExceptionGroup):
    def __new__(cls, message, members, extra):
        return super().__new__(cls, message, members)

    def __init__(self, message, members, extra):
        super().__init__(message, members)
        self.extra = extra

    def derive(self, members):
        return Several(self.message, members, self.extra)


class Colour(Enum):
    RED = "red"


@dataclass
class Card:
    number: str


class Opaque:
    def __repr__(self) -> str:
        return "<the opaque one>"


def there_and_back(exc):
    """What replay would raise; encoding it again must give the same."""
    text = encode_error(exc)
    again = decode_error(text)
    assert type(again) is type(exc)
    assert str(again) == message_of(exc)
    once_more = decode_error(encode_error(again))
    assert type(once_more) is type(again)
    assert str(once_more) == str(again)
    return again


def caught(exc):
    try:
        raise exc
    except BaseException as error:  # noqa: BLE001 - whatever it is
        return error


def from_api(call):
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError


@given(st.lists(data, max_size=3), st.dictionaries(texts, data, max_size=3))
def test_plain_fields_come_back_as_they_were(args, fields):
    """A handler would see other fields at replay than it saw live."""
    exc = Boom(*args)
    vars(exc).update(fields)
    again = there_and_back(exc)
    assert again.args == exc.args
    assert repr(again.args) == repr(exc.args)
    assert vars(again) == fields


@pytest.mark.parametrize(
    ("exc", "fields"),
    [
        (ValueError(), []),
        (ValueError("a", 1, (2, [3])), []),
        (KeyError("k"), []),
        (KeyError((1, "a")), []),
        (FileNotFoundError(2, "No such file", "/a"), ["errno", "strerror", "filename"]),
        (OSError("odd"), ["errno"]),
        (from_api(lambda: open("/no/such/file")), ["errno", "strerror", "filename"]),  # noqa: PTH123, SIM115
        (from_api(lambda: Path("/no/such").stat()), ["errno", "strerror"]),
        (from_api(b"ab\xff".decode), ["encoding", "object", "start", "end", "reason"]),
        (from_api("\ud800".encode), ["encoding", "object", "start", "end", "reason"]),
        (from_api(lambda: compile("a b", "f", "exec")), ["msg", "filename", "lineno", "offset", "text"]),
        (ImportError("no", name="m", path="p"), ["name", "path", "msg"]),
        (from_api(lambda: Card("1").colour), ["name"]),
        (StopIteration(7), ["value"]),
        (SystemExit(3), ["code"]),
        (KeyboardInterrupt(), []),
        (asyncio.CancelledError("bye"), []),
        (TimeoutError("late"), []),
        (asyncio.IncompleteReadError(b"\xff", 9), ["partial", "expected"]),
        (json.JSONDecodeError("bad", "{", 1), ["msg", "doc", "pos", "lineno", "colno"]),
        (urllib.error.HTTPError("http://a", 404, "gone", {}, None), ["code", "msg", "filename"]),
        (Slotted("why"), ["reason"]),
        (Declined(card="x", cents=5), ["card", "cents"]),
        (RetryAfter(timedelta(seconds=3), "busy"), ["delay_s"]),
        (errors.Terminal("no"), []),
        (RunFailed("r", ValueError("x")), ["run_id"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_class_message_and_fields_come_back(exc, fields):
    """`except FileNotFoundError as e: e.filename` would work live and fail at replay."""
    again = there_and_back(exc)
    for name in fields:
        assert getattr(again, name) == getattr(exc, name)


def test_fields_that_are_not_json_come_back_as_data_or_text():
    """An error would be unstorable because of one field, or its text would change."""
    exc = Boom("at", datetime(2026, 1, 2, tzinfo=UTC), Opaque())
    exc.card, exc.price, exc.colour, exc.opaque = Card("7"), Decimal("1.5"), Colour.RED, Opaque()
    exc.both = [Opaque(), {1: Opaque()}]
    exc.lines = (n for n in range(3))
    again = there_and_back(exc)
    assert (again.card, again.price, again.colour) == ({"number": "7"}, "1.5", "red")
    assert (again.opaque, again.both) == ("<the opaque one>", ["<the opaque one>", {1: "<the opaque one>"}])
    assert again.lines.startswith("<generator")
    assert list(exc.lines) == [0, 1, 2]
    assert repr(again.price) == "Decimal('1.5')"


@pytest.mark.parametrize(
    "exc",
    [
        ValueError(datetime(2026, 1, 2, tzinfo=UTC)),
        ValueError("a", Opaque(), Card("1")),
        KeyError(Colour.RED),
        KeyError(frozenset({1})),
        FileNotFoundError(2, "No such file", Path("/a")),
        ValueError(2**20_000),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_the_message_stays_even_when_args_are_not_json(exc):
    """The text shown after a replay would differ from what was shown live."""
    if type(exc) is ValueError and type(exc.args[0]) is int:
        assert message_of(exc).startswith("<ValueError")  # Python refuses to write such a number
        assert type(decode_error(encode_error(exc))) is ValueError
    else:
        there_and_back(exc)


def test_nothing_of_the_class_runs():
    """Reading a database would run constructors with whatever is stored there."""
    text = encode_error(Stern(7))
    calls, Stern.armed = Declined.calls, True
    try:
        again = decode_error(text)
    finally:
        Stern.armed = False
    assert (type(again), str(again), again.code) == (Stern, "code 7", 7)
    decode_error(encode_error(Declined.__new__(Declined)))
    assert Declined.calls == calls


def test_nothing_is_imported_by_a_stored_name():
    """Whoever can write to the database could run code."""
    for name in ("this:Anything", "antigravity:fly", "os:system", "builtins:eval", "builtins:int", "x", ":", ""):
        again = decode_error(json.dumps({"type": name, "message": "m", "fields": {"a": 1}}))
        assert type(again) is RecordedError
        assert (again.type_name, again.message, again.fields) == (name, "m", {"a": 1})
        assert str(again) == f"{name}: m"


def test_classes_that_cannot_be_filled_are_recorded():
    """An extension's exception would come back half made, and crash the process when printed."""
    exc = from_api(lambda: TypeAdapter(int).validate_python("x"))
    again = decode_error(encode_error(exc))
    assert type(again) is RecordedError
    assert again.type_name == "pydantic_core._pydantic_core:ValidationError"
    assert again.message == str(exc)
    assert str(decode_error(encode_error(again))) == str(again)


def test_local_classes_and_redefined_ones():
    """After a notebook cell is run again, `except Boom` would no longer catch what was stored before."""

    def define():
        class Parent(Exception):
            pass

        class Child(Parent):
            pass

        return Child

    first = define()
    text = encode_error(first("x"))
    assert type(decode_error(text)) is first
    second = define()
    assert type(decode_error(text)) is second
    assert type(decode_error(encode_error(second.__mro__[1]("y")))) is second.__mro__[1]


def test_a_class_that_was_found_is_kept():
    """I6: the replay of an error whose class was made on the fly would show another class once that is collected."""
    text = encode_error(type("Fleeting", (Exception,), {})("x"))
    gc.collect()
    assert type(decode_error(text)) is RecordedError
    error = type("Kept", (Exception,), {})("x")
    text = encode_error(error)
    assert type(decode_error(text)) is type(error)
    del error
    gc.collect()
    assert type(decode_error(text)).__name__ == "Kept"


def test_an_error_whose_text_fails_is_stored():
    """A bug in a user's __str__ would make the run impossible to finish."""
    again = decode_error(encode_error(caught(Mute(1))))
    assert type(again) is Mute
    assert again.args == (1,)
    assert message_of(again) == message_of(Mute()) == "<Mute without a readable message>"


def test_a_text_made_from_a_field_that_is_not_json_keeps_the_class():
    """A wrong text is bad; a handler that no longer catches its class is worse."""
    again = decode_error(encode_error(Told(datetime(2026, 1, 2, tzinfo=UTC))))
    assert type(again) is Told
    assert again.args == ()
    assert again.at == "2026-01-02T00:00:00Z"


def test_causes_contexts_and_notes_come_back():
    """The story of a failure would be lost at the first replay."""
    try:
        try:
            raise KeyError("k")
        except KeyError as key:
            try:
                raise Boom("mid")
            except Boom:
                raise ValueError("out") from key
    except ValueError as exc:
        exc.add_note("look here")
        again = there_and_back(exc)
    assert repr(again.__cause__) == "KeyError('k')"
    assert again.__suppress_context__
    assert again.__context__ is None
    assert again.__notes__ == ["look here"]
    try:
        try:
            raise Boom("mid")
        except Boom:
            raise ValueError("out")  # noqa: B904
    except ValueError as exc:
        again = there_and_back(exc)
    assert (repr(again.__context__), again.__cause__) == ("Boom('mid')", None)
    assert not again.__suppress_context__
    hidden = ValueError("out")
    hidden.__context__, hidden.__suppress_context__ = Boom("mid"), True
    assert there_and_back(hidden).__context__ is None


def test_errors_in_fields_come_back_as_errors():
    """`except RunFailed as e: raise e.cause` would raise a string."""
    inner = ChildFailed("c", "failed", Declined(card="x", cents=5))
    again = there_and_back(RunFailed("r", inner))
    assert type(again.cause) is ChildFailed
    assert again.cause is again.__cause__
    assert (type(again.cause.cause), again.cause.cause.cents) == (Declined, 5)
    listed = Boom("several")
    listed.errors = [ValueError("a"), {"k": KeyError("b")}]
    assert repr(there_and_back(listed).errors) == "[ValueError('a'), {'k': KeyError('b')}]"


def test_chains_are_cut_and_cycles_too():
    """A long or circular chain would fill the journal or hang the worker."""
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__cause__, second.me = second, first, second
    again = there_and_back(first)
    assert repr(again.__context__) == "ValueError('b')"
    assert again.__context__.__cause__ is None
    assert again.__context__.me == "b" or "ValueError" in again.__context__.me
    chain = None
    for level in range(20):
        link = ValueError(level)
        link.__cause__, chain = chain, link
    depth, link = 0, there_and_back(chain)
    while link := link.__cause__:
        depth += 1
    assert depth == 5


def test_groups_come_back_with_their_members():
    """`except*` would match live and not at replay."""
    group = ExceptionGroup("g", [ValueError("a"), ExceptionGroup("h", [KeyError("b")])])
    again = there_and_back(group)
    assert repr(again) == repr(group)
    several = Several("s", [Boom("x")], extra=3)
    again = there_and_back(several)
    assert (again.extra, again.message, repr(again.exceptions)) == (3, "s", "(Boom('x'),)")
    odd = BaseExceptionGroup("b", [SystemExit(3), Boom("x")])
    assert repr(there_and_back(odd)) == repr(odd)


def test_control_flow_of_the_engine_is_never_stored():
    """The engine letting go of a run would become the outcome of a step."""
    for exc in (Halt("x"), BaseExceptionGroup("g", [BaseExceptionGroup("h", [Halt()])])):
        with pytest.raises(TypeError, match="control flow of the engine"):
            encode_error(exc)
    beside = ValueError("x")
    beside.__context__, beside.signal = Halt(), Halt()
    again = there_and_back(beside)
    assert again.__context__ is None
    assert again.signal == "Halt()"
    forged = decode_error(json.dumps({"type": "perdure.engine.machine:Halt", "message": ""}))
    assert type(forged) is RecordedError


def large_errors():
    wide = Boom("wide")
    for number in range(10_000):
        setattr(wide, f"field{number}", "x" * 100)
    deep = Boom("deep")
    deep.data = []
    for _ in range(1000):
        deep.data = [deep.data, deep.data]
    long = Boom("long", "é" * 100_000, b"\xff" * 100_000, 2**10_000)
    long.__cause__ = Boom("the cause of it")
    noted = Boom("noted")
    for _ in range(1000):
        noted.add_note("n" * 1000)
    caused = Boom("caused")
    caused.__cause__ = Boom("y" * 1_000_000)
    many = ExceptionGroup("many", [ValueError(f"member {n}") for n in range(5000)])
    nested = many
    for _ in range(10):
        nested = ExceptionGroup("nested", [nested, ValueError("x" * 10_000)])
    return [wide, deep, long, noted, caused, many, nested]


@pytest.mark.parametrize("exc", large_errors(), ids=lambda exc: message_of(exc)[:10])
def test_stored_errors_are_bounded(exc):
    """One failing step could fill the database (I10)."""
    text = encode_error(exc)
    size = len(text) - len(json.dumps(str(exc)))
    assert TOTAL_CHARS // 20 < size <= TOTAL_CHARS
    assert text.isascii()
    assert "\\u2026 [cut]" in text or '"cut":' in text
    again = decode_error(text)
    assert type(again) is type(exc)
    if isinstance(exc, ExceptionGroup):
        assert "more errors were not kept" in str(again.exceptions[-1]) or "nested" in str(exc)
    else:
        assert str(again) == str(exc)
        assert (again.__cause__ is None) == (exc.__cause__ is None)


def test_a_long_message_is_kept_whole():
    """The answer of a service, quoted in a message, would be lost although it is what explains the failure."""
    message = "é" * 200_000
    text = encode_error(caught(Boom(message)))
    again = decode_error(text)
    assert str(again) == message
    assert again.args == (message,)
    assert len(text) <= TOTAL_CHARS + len(json.dumps(message))
    assert "raise exc" in json.loads(text)["traceback"]
    assert len(str(decode_error(encode_error(Boom("x" * 5_000_000))))) < 2_000_000


def test_tracebacks_are_kept_as_text():
    """The dashboard could not show where a step failed."""
    try:
        try:
            raise KeyError("k")
        except KeyError as key:
            raise Boom("out") from key
    except Boom as exc:
        text = encode_error(exc)
    shown = json.loads(text)["traceback"]
    assert shown.index("KeyError: 'k'") < shown.index('raise Boom("out") from key') < shown.index("Boom: out")
    assert "traceback" not in json.loads(encode_error(Boom("never raised")))

    by_hand = from_api(lambda: exec("\n".join(f"def f{n}(): f{n + 1}()" for n in range(300)) + "\nf0()", {}))  # noqa: S102
    assert 8000 < len(json.loads(encode_error(by_hand))["traceback"]) < 8300
    assert json.loads(encode_error(caught(Mute())))["traceback"] != ""


def every_subclass(cls):
    for each in cls.__subclasses__():
        if each.__module__ == "perdure.errors":
            yield each
            yield from every_subclass(each)


SAMPLES = {
    "what": "step", "name": "n", "problem": "it is odd", "option": "o", "run_id": "r", "status": "failed",
    "known": ["a"], "size": 2, "limit": 1, "wanted": "go on", "key": "k", "seq": 3, "recorded": "a",
    "requested": ["b"], "cause": ValueError("x"), "reason": "why", "succeeded": 1, "failed": 2, "total": 3,
    "seconds": 1.5, "scope": "total", "attempt": 2, "type_name": "m:C", "message": "text", "fields": {"a": 1},
    "delay": 3, "doing": "a", "wait_s": 1.5, "host": "h", "stage": "s", "pipeline": "p", "problems": ["s: odd"], "there": ["a"],
    "given": "b", "holder": "w", "until": "2026-01-01", "offset": "7", "producer": "p", "epoch": 2,
    "expected": 4, "received": 6, "source": "s",
}  # fmt: skip


def sample(cls):
    names = cls.__init__.__code__.co_varnames[1 : cls.__init__.__code__.co_argcount]
    return cls(*(SAMPLES[name] for name in names))


ALL = sorted({PerdureError, *every_subclass(PerdureError)}, key=lambda cls: cls.__name__)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_error_of_perdure_survives(cls):
    """An error of ours would lose its fields on the way to another process."""
    exc = sample(cls)
    for again in (there_and_back(exc), pickle.loads(pickle.dumps(exc))):  # noqa: S301 - ours
        assert str(again) == str(exc)
        assert type(again) is cls
        assert repr(vars(again)) == repr(vars(exc))  # ValueError("x") != ValueError("x")
        assert (again.code, again.http_status, again.exit_code) == (cls.code, cls.http_status, cls.exit_code)
    assert cls.code.isidentifier()
    assert cls.code == cls.code.lower()
    assert 400 <= cls.http_status < 600
    assert 0 < cls.exit_code < 126


def test_codes_of_errors_are_unique():
    """Two errors could not be told apart in HTTP answers and stored records."""
    assert len({cls.code for cls in ALL}) == len(ALL)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"type":1,"message":""}',
        '{"type":"a","message":1}',
        '{"type":"a","message":"","others":1}',
        '{"type":"a","message":"","others":[1]}',
        '{"type":"a","message":"","cause":0}',
        '{"type":"a","message":"","cause":1}',
        '{"type":"a","message":"","cause":-1,"others":[{"type":"a","message":""}]}',
        '{"type":"a","message":"","fields":{"a":{"__error__":true}},"others":[{"type":"a","message":""}]}',
        '{"type":"a","message":"","fields":{"a":{"__shown__":1}}}',
        '{"type":"a","message":"","fields":{"a":{"__bytes__":"é"}}}',
        '{"type":"a","message":"","fields":[1]}',
        '{"type":"a","message":"","fields":' + "[" * 500 + "]" * 500 + "}",
        "[" * 100_000,
        '{"type":"a","message":"","notes":1}',
    ],
)
def test_damaged_text_is_refused(text):
    """A damaged row would raise something that no caller expects."""
    with pytest.raises(StoreCorrupt, match="A stored error"):
        decode_error(text)


def test_fields_of_the_wrong_type_are_harmless():
    """A damaged row could make CPython read beyond a buffer, or break the exception's own machinery."""
    fields = {"object": {"__bytes__": "YQ=="}, "start": -(2**40), "end": -(2**40) + 1, "encoding": 3, "reason": "r"}
    for fields_ in (fields, fields | {"object": "a", "start": 2**80}):
        again = decode_error(json.dumps({"type": "builtins:UnicodeDecodeError", "message": "m", "fields": fields_}))
        assert type(again) is UnicodeDecodeError
        message_of(again)
    fields = {"__dict__": {"a": 1}, "__class__": "x", "args": 3, "__cause__": 4, "__traceback__": 5}
    again = decode_error(json.dumps({"type": "builtins:ValueError", "message": "m", "fields": fields}))
    assert (type(again), again.args, again.__cause__, again.__traceback__) == (ValueError, ("m",), None, None)


records = st.fixed_dictionaries(
    {"type": st.sampled_from(["builtins:OSError", "builtins:ExceptionGroup", "a:b"]) | st.text(), "message": texts},
    optional={
        "args": st.lists(data.filter(lambda value: "b'" not in repr(value) and "(" not in repr(value)), max_size=2),
        "group": texts,
        "members": st.lists(st.integers(-1, 3), max_size=3),
        "cause": st.integers(-1, 3),
        "context": st.integers(-1, 3) | st.text(),
        "notes": st.lists(texts),
        "fields": st.dictionaries(
            st.sampled_from(["errno", "filename", "a"]),
            st.none() | st.integers() | st.dictionaries(st.sampled_from(["__error__", "__map__"]), st.integers()),
        ),
        "suppress": st.booleans() | st.text(),
    },
)


@given(st.tuples(records, st.lists(records, max_size=3)).map(lambda parts: {**parts[0], "others": parts[1]}))
def test_any_record_is_read_or_refused(record):
    """A damaged or forged row would raise something that no caller expects."""
    try:
        text = json.dumps(record)
    except TypeError:
        return
    with suppress(StoreCorrupt):
        assert isinstance(decode_error(text), BaseException)


@given(st.text() | st.recursive(st.none() | st.text(), lambda x: st.dictionaries(st.text(), x)).map(json.dumps))
def test_any_text_is_read_or_refused(text):
    """As above, for text that is nothing like a record."""
    with suppress(StoreCorrupt):
        decode_error(text)
