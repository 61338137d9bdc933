"""The store that a URL names."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Literal

from perdure.clock import Clock
from perdure.errors import InvalidOption
from perdure.model.limits import Limits

if TYPE_CHECKING:
    from perdure.store.batch import Probe
    from perdure.store.changes import Changes
    from perdure.store.store import Store

_POSTGRES = ("postgresql", "postgres")
_KNOWN = "write sqlite:///file.db or postgresql://user@host/database"


def store_at(
    url: str,
    *,
    clock: Clock,
    limits: Limits,
    synchronous: Literal["FULL", "NORMAL"] = "FULL",
    inline_only: bool = False,
    changes: Changes | None = None,
    probe: Probe | None = None,
) -> Store:
    """
    A store, not connected yet.

    Args:
        synchronous, inline_only: SQLite's, see `SqliteStore`. Postgres has `synchronous_commit` for each role and
            database.

    Raises:
        InvalidOption: The URL is of no database that perdure knows, or its driver is not installed.
    """
    if is_postgres(url):
        _check_driver()
        from perdure.store.pg.store import PostgresStore  # noqa: PLC0415 - only those who use it have its driver

        return PostgresStore(url, clock=clock, limits=limits, changes=changes, probe=probe)
    from perdure.store.sqlite import SqliteStore  # noqa: PLC0415 - `import perdure` need not wait for it

    return SqliteStore(
        sqlite_path(url), clock=clock, limits=limits, synchronous=synchronous, inline_only=inline_only,
        changes=changes, probe=probe,
    )  # fmt: skip


def is_postgres(url: str) -> bool:
    """
    Whether a URL is of a Postgres database.

    Raises:
        InvalidOption: It is no text.
    """
    given: object = url
    if not isinstance(given, str):
        option = "url"
        raise InvalidOption(option, f"{given!r} is no text; {_KNOWN}")
    return url.partition("://")[0] in _POSTGRES


def sqlite_path(url: str) -> str:
    """
    The file that a URL names; ":memory:" for none.

    Raises:
        InvalidOption: Not a URL of SQLite, or it has no name of a file in it, or more than that.
    """
    scheme, found, rest = url.partition("://")
    if not found or scheme != "sqlite":
        option = "url"
        raise InvalidOption(option, f"{shown(url)!r} is none that perdure knows; {_KNOWN}")
    path = rest.removeprefix("/")
    problem = ""
    if rest == "/":
        problem = f"it names no file; {_KNOWN}, or sqlite:// for a database in memory"
    elif "?" in path:
        problem = (
            "perdure has no options for SQLite's URLs: what stands behind the question mark would be part of the name"
        )
    elif "\0" in path:
        problem = "no file has a NUL in its name"
    if problem:
        option = "url"
        raise InvalidOption(option, f"{shown(url)!r}: {problem}")
    return path or ":memory:"


def is_new(url: str) -> bool:
    """Whether there is no file yet, so that making the database cannot spoil anything; a server's are never made so."""
    if is_postgres(url):
        return False
    path = sqlite_path(url)
    return not os.path.exists(path) or os.path.getsize(path) == 0  # noqa: PTH110, PTH202 - no import of pathlib


def in_memory(url: str) -> bool:
    """Whether other processes cannot reach it."""
    return not is_postgres(url) and sqlite_path(url) == ":memory:"


def shown(url: str) -> str:
    """A URL without its password, which may stand behind the user or in a parameter."""
    hidden = re.sub(r"(?<=://)([^/@:?]*):[^?]*@", r"\1:***@", url)
    return re.sub(r"([?&](?:ssl)?password=)[^&]*", r"\1***", hidden)


def schema_sql(url: str, now: int, have: int = 0) -> str:
    """
    What makes an empty database into one of perdure's, for those who must review or run it themselves.

    Args:
        now: When it was made, microseconds since 1970.
        have: The version of its schema, if it is to be brought up to date.

    Raises:
        InvalidOption: There is no such version.
    """
    from perdure.store.migrate import migrations  # noqa: PLC0415 - as above

    known = migrations("postgres" if is_postgres(url) else "sqlite")
    if not 0 <= have <= known[-1].version:
        option = "from"
        raise InvalidOption(option, f"{have} is no version from 0, for a new database, to {known[-1].version}")
    parts = [
        f"{migration.sql.rstrip()}\n\ninsert into perdure_schema (version, name, applied_at)\n"
        f"values ({migration.version}, '{migration.name}', {now});\n"
        for migration in known[have:]
    ]
    if not is_postgres(url):
        return "begin immediate;\n" + "\n".join(parts) + "commit;\n"
    _check_driver()
    from perdure.store.pg.address import address  # noqa: PLC0415 - as above
    from perdure.store.pg.migrate import whole_sql  # noqa: PLC0415 - as above

    return whole_sql(address(url).schema, "\n".join(parts), have)


async def behind(url: str) -> int | None:
    """
    The version that a database would be migrated from, 0 for a new one; None if nothing is to be done.

    Raises:
        SchemaTooNew: A newer perdure migrated it.
        StoreError: The database cannot be asked.
    """
    if is_postgres(url):
        _check_driver()
        from perdure.store.pg import migrate as schemas  # noqa: PLC0415 - as above
        from perdure.store.pg.address import address  # noqa: PLC0415 - as above

        return await schemas.behind(address(url))
    if in_memory(url) or is_new(url):
        return 0
    from perdure.store import migrate as files  # noqa: PLC0415 - as above

    return files.behind(sqlite_path(url))


def _check_driver() -> None:
    """
    Whether the driver of Postgres is there.

    Raises:
        InvalidOption: It is not.
    """
    from importlib.util import find_spec  # noqa: PLC0415 - as above

    if find_spec("asyncpg") is None:
        option = "url"
        problem = "a Postgres database needs the driver asyncpg: pip install 'perdure[postgres]'"
        raise InvalidOption(option, problem)
