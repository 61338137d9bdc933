"""The only source of chance: identifiers, seeds, jitter."""

from __future__ import annotations

import hashlib
import os
import random
import re
import socket
from collections.abc import Iterable
from random import Random as Random  # noqa: PLC0414 - also for those who name the type
from typing import TYPE_CHECKING, Any

from perdure.errors import InvalidName

if TYPE_CHECKING:
    from uuid import UUID

_HEX_BITS = 48
_ID = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,200}")
_NAME = re.compile(r"(?!~)[^\x00-\x1f\x7f\ud800-\udfff/]{1,200}(?<!#)")
_REPEAT = re.compile(r"#(?:\d+|compensate)$")
MAX_ID = 200


def run_id(now: int) -> str:
    """
    A new run id: 12 hex digits of milliseconds, then 16 of chance.

    Ids made later sort later, so that the index on ids grows at its right edge only.

    Args:
        now: Microseconds since 1970.
    """
    return f"{now // 1000 & (1 << _HEX_BITS) - 1:012x}{os.urandom(8).hex()}"


def seed() -> int:
    """A new run's seed: 62 bits of chance, from which ctx.uuid() and ctx.random() follow."""
    return int.from_bytes(os.urandom(8), "big") >> 2


def joined_id(*parts: object) -> str:
    """
    One id made of several parts: ``joined_id("chat", tenant, session, turn)`` is "chat:acme:s-1:7".

    Other parts give another id, also where they contain colons themselves.

    Raises:
        InvalidName: There are none, or one has control characters.
    """
    made = ":".join(str(part).replace("%", "%25").replace(":", "%3A") for part in parts)
    if len(made) > MAX_ID:
        made = f"{made[:100]}:{stream(made).getrandbits(128):032x}"
    return check_id("id", made)


def child_run_id(parent: str, generation: int, key: str) -> str:
    """The id of a child run that was given none: the same on every replay, another in each generation of its parent."""
    made = f"{parent}/{key}" if generation == 1 else f"{parent}/{key}@{generation}"
    # Deep trees of runs would outgrow the limit of ids; chance from the same parts is as good a name.
    return made if len(made) <= MAX_ID else f"{parent[:100]}/{stream(made).getrandbits(128):032x}"


def child_seed(parent: int, child_id: str) -> int:
    """A child run's seed: it follows from its parent's, so that a commit done again after a crash gives the same."""
    digest = hashlib.blake2b(f"{parent}\0{child_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2


def worker_id() -> str:
    """A new worker's identity: host, process and chance, so that no two workers share one."""
    return f"{socket.gethostname()[:60]}:{os.getpid()}:{os.urandom(4).hex()}"


def process() -> tuple[str, int]:
    """This process: host name and process id."""
    return socket.gethostname(), os.getpid()


def process_place() -> str:
    """
    What tells whether another process's id means anything here: host, boot and namespace of process ids.

    Two processes of one place can see from the process id whether the other is alive.
    """
    parts = [socket.gethostname()]
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(os.readlink(file) if file.endswith("pid") else _read(file))  # noqa: PTH115 - no import of pathlib
        except OSError:
            parts.append("")
    return ":".join(parts)


def process_gone(pid: int) -> bool:
    """Whether no process of this place is known to have this id any more."""
    if os.name != "posix":
        return False  # on Windows, os.kill ends the process that it is to look for
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    try:
        return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0] in "ZX"
    except (OSError, IndexError):
        return False


def _read(file: str) -> str:
    with open(file, encoding="ascii", errors="replace") as opened:  # noqa: PTH123 - a file of the kernel
        return opened.read().strip()


def stream(*parts: object) -> Random:
    """A reproducible source of chance, determined by its parts."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return Random(int.from_bytes(digest, "big"))  # noqa: S311 - reproducible, not secret, on purpose


def uuid_from(source: Random) -> UUID:
    """A version 4 UUID drawn from a reproducible source."""
    from uuid import UUID  # noqa: PLC0415 - it asks which platform this is, for which `import perdure` need not wait

    return UUID(int=source.getrandbits(128), version=4)


def jitter() -> float:
    """A number from 0 up to 1, for spreading retries."""
    return random.random()  # noqa: S311 - spreads load, keeps no secret


def check_id(what: str, value: Any) -> str:
    """
    Return an id given by a user.

    Raises:
        InvalidName: Not a string of 1 to 200 printable characters.
    """
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise InvalidName(what, value, "it must be a string of 1 to 200 characters without control characters")
    return value


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """
    Return tags given by a user.

    Raises:
        InvalidName: One is no id, or they are one string instead of several.
    """
    given: Any = tags
    if isinstance(given, str) or not isinstance(given, Iterable):
        what = "list of tags"
        raise InvalidName(what, given, f"write [{str(given)!r}]")
    return tuple(check_id("tag", tag) for tag in tags)


def check_name(what: str, value: Any) -> str:
    """
    Return a name that may become part of a journal key.

    Raises:
        InvalidName: Empty, too long, with a slash, or with an ending that perdure gives to repeats.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value) or _REPEAT.search(value):
        raise InvalidName(
            what,
            value,
            "it must have 1 to 200 characters, no '/' or control characters, not begin with '~' "
            "and not end in '#', '#' and digits or '#compensate' (perdure names repeats and compensations so)",
        )
    return value
