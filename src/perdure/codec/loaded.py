"""
Exception classes that are loaded now, by their stored name, and blank instances of them.

Nothing is imported and no constructor of anybody's runs: a stored name is only compared with the names of
classes that the program has loaded already.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from perdure.errors import EngineSignal

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: absent from the classes that C defines for good
_NOT_FIELDS: dict[type, tuple[str, ...]] = {
    AttributeError: ("obj",),  # the live object that lacked the attribute: not data of the error
    BaseExceptionGroup: ("message", "exceptions"),
}

# A class that was found is kept: one made on the fly could be collected, and a replay would show its error as another.
_index: dict[str, type[BaseException]] = {}


def name_of(cls: type) -> str:
    """The name that a class is stored by, module:qualname."""
    return f"{cls.__module__}:{cls.__qualname__}"


def find(name: str) -> type[BaseException] | None:
    """
    The exception class of this name, defined last if there are several; None when none is loaded.

    The engine's control flow is not found: a stored error must not be able to steer it.
    """
    cls = _index.get(name) or next((each for each in _walk(BaseException, set()) if name_of(each) == name), None)
    if cls is None:
        return None
    _index[name] = newest = _newest(cls)
    return newest


def blank(cls: type[BaseException], group: tuple[str, list[BaseException]] | None) -> BaseException | None:
    """
    An instance on which neither the class's `__new__` nor its `__init__` ran.

    Args:
        cls: The class.
        group: Message and members, for an exception group.

    Returns:
        The instance, or None where the class's own memory layout (an extension's) or the members forbid it.
    """
    builtin = next(base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE)
    if not issubclass(builtin, BaseException) or (group is not None) != issubclass(cls, BaseExceptionGroup):
        return None
    try:
        made = builtin.__new__(cls, *(group or ()))
    except (TypeError, ValueError):
        return None
    return made if isinstance(made, cls) else None


def fields_of(exc: BaseException) -> dict[str, Any]:
    """The fields of an error: its `__dict__`, its slots, and what builtin classes keep in C."""
    fields = {}
    for owner, name, descriptor in _descriptors(type(exc)):
        if name not in fields:
            try:
                value = descriptor.__get__(exc, type(exc))
            except (AttributeError, TypeError):  # not set
                continue
            if value is not None or owner.__module__ != "builtins":
                fields[name] = value
    fields.update({name: value for name, value in vars(exc).items() if name != "__notes__"})
    return fields


def set_fields(exc: BaseException, fields: dict[str, Any]) -> None:
    """Give an error its fields back, past any property or `__setattr__` of its class."""
    slots = {name: descriptor for _, name, descriptor in reversed(list(_descriptors(type(exc))))}
    for name, value in fields.items():
        if name not in slots:
            vars(exc)[name] = value
            continue
        if isinstance(exc, UnicodeError) and type(value) is int and value < 0:
            continue  # str() of it would read memory outside its object
        try:
            slots[name].__set__(exc, value)
        except (AttributeError, TypeError, ValueError, OverflowError):
            continue  # read-only, or C wants another type than JSON kept


def _descriptors(cls: type) -> Iterator[tuple[type, str, Any]]:
    for owner in cls.__mro__:
        if owner is BaseException:
            return
        for name, entry in vars(owner).items():
            if isinstance(entry, MemberDescriptorType | GetSetDescriptorType) and (
                name not in {"__dict__", "__weakref__", *_NOT_FIELDS.get(owner, ())}
            ):
                yield owner, name, entry


def _walk(cls: type[BaseException], seen: set[int]) -> Iterator[type[BaseException]]:
    if id(cls) in seen or cls is EngineSignal:
        return
    seen.add(id(cls))
    yield cls
    for each in type.__subclasses__(cls):
        yield from _walk(each, seen)


def _newest(cls: type[BaseException]) -> type[BaseException]:
    """The class of the same name and place that was defined last: a notebook's cell, a reloaded module."""
    base = cls.__base__
    if base is None or not cls.__flags__ & _HEAP_TYPE:
        return cls
    for each in reversed(type.__subclasses__(_newest(base))):
        if each.__qualname__ == cls.__qualname__ and each.__module__ == cls.__module__:
            return each
    return cls
