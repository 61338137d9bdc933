"""Errors: one stable code each, all fields and messages kept wherever they travel."""

import inspect
import pickle
import re
from datetime import timedelta

import pytest

from perdure import errors
from perdure.errors import (
    ChildFailed,
    ContinueAsNew,
    EngineSignal,
    InvalidOption,
    PerdureError,
    RetryAfter,
    RunFailed,
    RunTimedOut,
    StepTimedOut,
    StoreError,
    Terminal,
)

SAMPLES = {
    "bool": True,
    "str": "some text",
    "int": 3,
    "float": 1.5,
    "list[str]": ["a", "b"],
    "dict[str, Any]": {"x": 1},
}


def subclasses(cls):
    return {cls}.union(*[subclasses(child) for child in cls.__subclasses__()])


CLASSES = sorted(
    (cls for cls in subclasses(PerdureError) if cls.__module__ == errors.__name__), key=lambda c: c.__name__
)


def sample(cls):
    """An error of this class, with a value for each parameter."""
    values, named = [], {}
    for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        kind = parameter.annotation
        value = ValueError("inside") if kind == "BaseException" else SAMPLES[kind]
        if parameter.kind is parameter.KEYWORD_ONLY:
            named[parameter.name] = value
        else:
            values.append(value)
    return cls(*values, **named)


def plain(fields):
    """Fields by value; an exception among them by its text."""
    return {name: repr(value) if isinstance(value, BaseException) else value for name, value in fields.items()}


def test_codes_are_unique_and_stable_names():
    """Two errors could not be told apart in a record, an answer or a log."""
    codes = [cls.code for cls in CLASSES]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_code_is_the_classs_name(cls):
    """Whoever reads a code could not find its class."""
    assert re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower() == cls.code


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_has_an_answer_and_an_exit(cls):
    """The command line or a server would not know how to end."""
    assert 400 <= cls.http_status < 600
    assert 1 <= cls.exit_code < 64


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_survives_pickling(cls):
    """An error that crosses a process would lose its class, its message or a field."""
    error = sample(cls)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(again) is cls
    assert str(again) == str(error) != ""
    assert plain(vars(again)) == plain(vars(error))


@pytest.mark.parametrize("cls", CLASSES)
def test_what_an_error_was_made_of_are_its_fields(cls):
    """A caller would have to read the message to learn the run, the limit or the cause."""
    if cls in {PerdureError, *subclasses(StoreError)} or "__init__" not in vars(cls):
        return
    names = list(inspect.signature(cls.__init__).parameters)[1:]
    assert set(names) <= set(vars(sample(cls)))


def test_the_drawing_and_the_public_names_hold_every_error():
    """The tree at the top of the module would be out of date."""
    drawn = set(re.findall(r"\b[A-Z]\w+", errors.__doc__))
    assert {cls.__name__ for cls in CLASSES} <= drawn
    assert {cls.__name__ for cls in CLASSES} <= set(errors.__all__)
    assert {name for name in drawn if name in vars(errors)} == set(errors.__all__)


def test_every_error_stands_under_its_public_module():
    """A stored error would name a module that may move."""
    assert {getattr(errors, name).__module__ for name in errors.__all__} == {"perdure.errors"}


@pytest.mark.parametrize("cls", [RunFailed, ChildFailed])
def test_a_failure_shows_its_cause(cls):
    """A traceback would end at the waiter and not where it went wrong."""
    error = sample(cls)
    assert error.cause is error.__cause__
    assert "ValueError: inside" in str(error)


@pytest.mark.parametrize("cls", [RunTimedOut, StepTimedOut, errors.ReceiveTimedOut])
def test_a_timeout_is_pythons_timeout_too(cls):
    """`except TimeoutError` would not catch it."""
    assert issubclass(cls, TimeoutError)


def test_only_failures_that_can_pass_are_tried_again():
    """A driver would give up a run for a busy file, or try a refused write for ever."""
    retryable = {cls.__name__ for cls in subclasses(StoreError) if cls.retryable}
    assert retryable == {"StoreBusy", "StoreFull", "StoreReadOnly", "StoreUnavailable"}


@pytest.mark.parametrize("signal", [EngineSignal(), ContinueAsNew("1")])
def test_a_users_except_does_not_eat_the_engines_signals(signal):
    """A workflow with `except Exception` would swallow what lets go of it."""
    assert not isinstance(signal, Exception)
    assert not isinstance(signal, PerdureError)


def test_a_continuation_carries_its_input():
    """A run would begin again with nothing."""
    assert ContinueAsNew('{"n": 1}').payload == '{"n": 1}'


@pytest.mark.parametrize("delay", [90, 90.0, timedelta(minutes=1.5)])
def test_retry_after_takes_seconds_and_timedeltas(delay):
    """A user's delay would be read in another unit."""
    error = RetryAfter(delay)
    assert error.delay_s == 90.0
    assert "90" in str(error)
    assert str(RetryAfter(1, "busy")) == "busy"


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), timedelta(seconds=-1)])
def test_retry_after_refuses_what_is_no_delay(delay):
    """A step would be retried at once for ever, or never."""
    with pytest.raises(InvalidOption):
        RetryAfter(delay)


def test_users_errors_are_not_perdures():
    """`except PerdureError` around a step would catch the user's own verdict."""
    assert not issubclass(Terminal, PerdureError)
    assert not issubclass(RetryAfter, PerdureError)
