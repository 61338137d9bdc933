"""
Errors as JSON text, and back: same class, message and fields (I6).

    {"type": "module:qualname", "message": …, "args": […], "fields": {…}, "notes": […], "traceback": …,
     "cause": 1, "context": 2, "suppress": true, "group": …, "members": [3, 4], "others": [{…}, …]}

Keys without a value are left out, and so are args that are just the message. Other errors that belong to this
one, as causes, members or fields, are numbered: 1 is the first of `others`. A number only ever refers forward,
so what is read has no cycles. `field` tells how fields are written.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from perdure.codec.field import CUT, FieldWriter, Shown, read
from perdure.codec.loaded import blank, fields_of, find, name_of, set_fields
from perdure.codec.payload import Payloads
from perdure.errors import EngineSignal, NotSerializable, RecordedError, StoreCorrupt

TOTAL_CHARS = 64 * 1024
"""Most characters of a stored error, its own name and message aside."""
MESSAGE_CHARS = 1024 * 1024
"""Where even a message is cut."""
_TRACEBACK_CHARS = 8 * 1024
_ENVELOPE_CHARS = 250  # of each error: keys, numbers, punctuation
_DEPTH = 5
_base = BaseException.__dict__


def message_of(exc: BaseException) -> str:
    """The text of an error, also of one whose `__str__` fails."""
    try:
        return str(exc)
    except Exception:  # noqa: BLE001 - user code
        return f"<{type(exc).__name__} without a readable message>"


def encode_error(exc: BaseException) -> str:
    """
    Write an error, and those that belong to it down to depth 5, as JSON in ASCII.

    Its class and message are kept whole; fields, notes, traceback and other errors are cut, visibly, to
    TOTAL_CHARS altogether.

    Raises:
        TypeError: It is control flow of the engine, or a group with such a member: never to be stored.
    """
    _refuse_signal(exc)
    records = list(_Writer(exc).records())
    if records[1:]:
        records[0]["others"] = records[1:]
    return json.dumps(records[0], separators=(",", ":"))


def seal_error(exc: BaseException, payloads: Payloads, what: str, next_at: int | None = None) -> tuple[str, str]:
    """
    Write an error and seal it; an error can be stored in any case, so that its run never hangs on it.

    Args:
        next_at: When the next attempt is due, to be stored beside it.

    Returns:
        The error's JSON text, and what to store. If the codec fails, both tell of that instead, in plain text
        and without anything of the error itself.
    """
    text = encode_error(exc)
    form = "%s" if next_at is None else f'{{"next_at":{next_at},"error":%s}}'
    try:
        return text, payloads.seal(form % text, what, limited=False)
    except NotSerializable as failed:
        text = encode_error(NotSerializable(what, failed.__dict__["problem"]))
        return text, form % text


def decode_error(text: str) -> BaseException:
    """
    Make the error again, without calling a constructor or importing anything.

    Returns:
        An instance of the class it had, where that is loaded and can be made; else a RecordedError. A field
        that was not JSON comes back as plain data, or as a string that shows it.

    Raises:
        StoreCorrupt: encode_error did not write this text.
    """
    head = _parse(text)
    try:
        records = [head, *head.get("others", ())]
        made: list[BaseException] = []
        for number in reversed(range(len(records))):
            made.insert(0, _made(records[number], _forward(number, made)))
        return made[0]
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        problem = f"A stored error cannot be read: {type(error).__name__}: {error}"
        raise StoreCorrupt(problem) from error


def _parse(text: str) -> dict[str, Any]:
    try:
        head = json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = f"A stored error is not JSON: {error}"
        raise StoreCorrupt(problem) from error
    if not isinstance(head, dict):
        problem = "A stored error is not a JSON object."
        raise StoreCorrupt(problem)
    return head


def _refuse_signal(exc: BaseException) -> None:
    if isinstance(exc, EngineSignal):
        problem = f"{type(exc).__name__} is control flow of the engine and must not be stored"
        raise TypeError(problem)


class _Writer:
    """Writes one error and those that belong to it, breadth first, until the room is used up."""

    def __init__(self, exc: BaseException) -> None:
        self.fields = FieldWriter(TOTAL_CHARS - 2 * _ENVELOPE_CHARS, self.number_of)
        self.errors = [exc]
        self.depths = [0]
        self.numbers = {id(exc): 0}
        self.current = 0

    def records(self) -> Iterator[dict[str, Any]]:
        for number, exc in enumerate(self.errors):  # grows meanwhile
            self.current = number
            record = self.record(exc)
            yield {key: part for key, part in record.items() if part or key in {"message", "args", "group"}}

    def record(self, exc: BaseException) -> dict[str, Any]:
        write, message, args = self.fields, message_of(exc), exc.args
        record: dict[str, Any] = {"type": name_of(type(exc))}
        if self.current == 0:
            record["message"] = message if len(message) <= MESSAGE_CHARS else message[:MESSAGE_CHARS] + CUT
            record["traceback"] = write.string(_traceback(exc, message))
        else:
            record["message"] = write.string(message)
        spare = write.left // 4
        write.left -= spare
        if isinstance(exc, BaseExceptionGroup):
            record |= self.members(exc)
        elif not (len(args) == 1 and type(args[0]) is str and args[0] == message):
            record["args"] = write.items(args)
        record["fields"] = write.mapping(fields_of(exc))
        notes = getattr(exc, "__notes__", None)
        record["notes"] = write.items(notes) if isinstance(notes, list) else None
        write.left += spare  # so that large fields leave something to the causes
        record["cause"] = self.number_of(exc.__cause__)
        record["suppress"] = exc.__suppress_context__
        record["context"] = None if exc.__suppress_context__ else self.number_of(exc.__context__)
        return record

    def members(self, group: BaseExceptionGroup[Any]) -> dict[str, Any]:
        text = self.fields.string(group.message)
        reserve = self.fields.left // 2  # for what the members have to say
        numbers = []
        for member in group.exceptions:
            _refuse_signal(member)
            number = self.number_of(member) if self.fields.left > reserve else None
            if number is not None:
                numbers.append(number)
        return {"group": text, "members": numbers, "cut": len(group.exceptions) - len(numbers)}

    def number_of(self, exc: BaseException | None) -> int | None:
        """The number of an error; None where it is left out: too deep, a way back, no room, the engine's."""
        if exc is None or isinstance(exc, EngineSignal):
            return None
        number = self.numbers.get(id(exc))
        if number is not None:
            return number if number > self.current else None
        depth = self.depths[self.current] + 1
        cost = _ENVELOPE_CHARS + len(name_of(type(exc)))
        if depth > _DEPTH or self.fields.left < cost:
            return None
        self.fields.left -= cost
        self.numbers[id(exc)] = number = len(self.errors)
        self.errors.append(exc)
        self.depths.append(depth)
        return number


def _traceback(exc: BaseException, message: str) -> str:
    if exc.__traceback__ is None:
        return ""
    try:
        text = "".join(traceback.format_exception(exc))
    except Exception:  # noqa: BLE001 - user code: the texts of causes, notes, members
        text = "".join(traceback.format_tb(exc.__traceback__))
    text = text.replace(message, message[:1000])  # which is stored already, and could leave no room for frames
    return text if len(text) <= _TRACEBACK_CHARS else CUT + "\n" + text[-_TRACEBACK_CHARS:]


def _forward(number: int, later: list[BaseException]) -> Callable[[Any], BaseException]:
    """What a number means inside record `number`: one of the errors after it."""
    rest = list(later)

    def refer(other: Any) -> BaseException:
        if type(other) is not int or other <= number:
            problem = f"error {number} refers to {other!r}"
            raise ValueError(problem)
        return rest[other - number - 1]

    return refer


def _made(record: dict[str, Any], refer: Callable[[Any], BaseException]) -> BaseException:
    name, message = record["type"], record["message"]
    if not isinstance(name, str) or not isinstance(message, str):
        problem = "type and message must be strings"
        raise TypeError(problem)
    fields = dict(read(record.get("fields", {}), refer))
    group = _group(record, refer) if "group" in record else None
    cls = find(name)
    exc = blank(cls, group) if cls else None
    if exc is None:
        exc = RecordedError(name, message, fields | ({"exceptions": group[1]} if group else {}))
    else:
        if group is None:
            _base["args"].__set__(exc, tuple(read(record.get("args", [message]), refer)))
        set_fields(exc, fields)
        _keep_message(exc, message)
    if "notes" in record:
        vars(exc)["__notes__"] = list(read(record["notes"], refer))
    for link in ("cause", "context"):
        if link in record:
            _base[f"__{link}__"].__set__(exc, refer(record[link]))
    _base["__suppress_context__"].__set__(exc, bool(record.get("suppress")))
    return exc


def _group(record: dict[str, Any], refer: Callable[[Any], BaseException]) -> tuple[str, list[BaseException]]:
    members = [refer(number) for number in record.get("members", ())]
    if record.get("cut"):
        members.append(RecordedError("more", f"{record['cut']} more errors were not kept", {}))
    return record["group"], members


def _keep_message(exc: BaseException, message: str) -> None:
    """Make str(exc) the stored message where a field that was not JSON has changed it."""
    if message_of(exc) != message:
        args = exc.args
        _base["args"].__set__(exc, (Shown(message, message),))
        if message_of(exc) != message:
            _base["args"].__set__(exc, args)
