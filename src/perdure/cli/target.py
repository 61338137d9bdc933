"""Which database and which app a command is about."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from perdure.app import App
from perdure.errors import InvalidOption, StoreUnavailable
from perdure.store.choose import in_memory, is_new, shown

DEFAULT_FILE = "perdure.db"
_HOW = (
    "write --url sqlite:///file.db or --url postgresql://…, set PERDURE_URL, or name the app that knows it: "
    "--app module:app"
)


def database_url(url: str | None, app: App | None) -> str:
    """
    The database to use: the one named, else the app's, else perdure.db in this folder.

    Raises:
        InvalidOption: There is none of these.
    """
    found = url or (app.url if app else None)
    if found is None and os.path.exists(DEFAULT_FILE):  # noqa: PTH110 - no import of pathlib
        found = f"sqlite:///{DEFAULT_FILE}"
    if found is None:
        option = "--url"
        raise InvalidOption(option, f"no database was named, and there is no {DEFAULT_FILE} in this folder; {_HOW}")
    if in_memory(found):
        option = "--url"
        raise InvalidOption(option, f"{found!r} is in memory, where other processes cannot reach it; {_HOW}")
    return found


def check_there(url: str) -> None:
    """
    Refuse a database that does not exist, instead of making an empty one by a slip of the pen.

    Raises:
        StoreUnavailable: There is no such file.
    """
    if is_new(url):
        problem = (
            f"There is no database {shown(url).removeprefix('sqlite:///')}. Check the name; `perdure db migrate` makes "
            "a new one, and so does `perdure worker`."
        )
        raise StoreUnavailable(problem)


def load_app(name: str, option: str) -> App:
    """
    Import an app, from this folder or from anywhere that Python finds modules.

    Args:
        name: module:attribute.
        option: What to name in errors.

    Raises:
        InvalidOption: There is no such module or attribute, importing it failed, or it is no App.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise InvalidOption(option, f"{name!r} names no app; write module:attribute, such as orders:app")
    here = os.getcwd()  # noqa: PTH109 - as above
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module_name}.".startswith(f"{error.name}."):
            problem = f"there is no module {error.name!r} in {here} or anywhere else that Python looks"
        else:
            problem = f"importing {module_name!r} failed ({type(error).__name__}: {error}); --debug shows where"
        raise InvalidOption(option, problem) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            apps = sorted(key for key, value in vars(found).items() if isinstance(value, App))
            known = f"; its apps are {', '.join(apps)}" if apps else ""
            raise InvalidOption(option, f"{module_name!r} has no {attribute!r}{known}")
        found = getattr(found, part)
    if not isinstance(found, App):
        raise InvalidOption(option, f"{name!r} is a {type(found).__name__}, not a perdure App")
    return found
