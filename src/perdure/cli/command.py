"""How a function becomes a command: the options that all of them share, and what they get."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from inspect import Parameter
from typing import Annotated, Any, TypeVar

import typer

from perdure.app import App
from perdure.cli.exits import PIPE_CLOSED
from perdure.cli.output import Output
from perdure.cli.target import check_there, database_url, load_app
from perdure.engine.definition import Registry
from perdure.store.choose import is_new

F = TypeVar("F", bound=Callable[..., Any])
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="PERDURE_URL",
        help="The database, such as sqlite:///orders.db. Without it: the app's, else perdure.db in this folder.",
        show_default=False,
    ),
]
AppName = Annotated[
    str | None,
    typer.Option(
        "--app",
        envvar="PERDURE_APP",
        metavar="MODULE:APP",
        help="The app, for its database, its codec and its workflows.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON: results on stdout, errors on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class Session:
    """
    What a command gets: where it prints, and which database it is about.

    Attributes:
        out: Where it prints.
        app: The user's app, if one was named.
    """

    def __init__(self, *, json: bool, url: str | None = None, app: str | None = None) -> None:
        self.out = Output(as_json=json)
        self.app = load_app(app, "--app") if app else None
        self._named_url = url

    @property
    def url(self) -> str:
        """
        The database.

        Raises:
            InvalidOption: None was named, and there is none to assume.
        """
        return database_url(self._named_url, self.app)

    @asynccontextmanager
    async def connected(self, *, making: bool = False, registry: Registry | None = None) -> AsyncIterator[App]:
        """
        The database, open, without a worker.

        Args:
            making: Make the database if there is none yet.
            registry: Workflows to know instead of the app's.

        Raises:
            StoreUnavailable: There is none.
            SchemaMissing, SchemaTooNew: It does not fit this perdure.
        """
        url = self.url
        making = making and is_new(url)
        if not making:
            check_there(url)
        opened = self.app.variant(url=url, migrate=making) if self.app else App(url, migrate=making)
        if registry is not None:
            opened.registry = registry
        async with opened.connected():
            yield opened


def command(group: typer.Typer, name: str, *, database: bool = True) -> Callable[[F], F]:
    """
    Make a function a command of a group: ``@command(runs, "show")``.

    The function takes a `Session` first; a coroutine function is run on a loop of its own. The options --json,
    --debug and, with a database, --url and --app are added to its own.
    """
    shared: dict[str, Any] = {"url": Url, "app": AppName} if database else {}
    flags: dict[str, Any] = {"json": Json, "debug": Debug}
    added = [Parameter(key, Parameter.KEYWORD_ONLY, default=None, annotation=kind) for key, kind in shared.items()]
    added += [Parameter(key, Parameter.KEYWORD_ONLY, default=False, annotation=kind) for key, kind in flags.items()]

    def register(fn: F) -> F:
        own = inspect.signature(fn, eval_str=True)
        parameters = [*list(own.parameters.values())[1:], *added]

        def run(**given: Any) -> None:
            given.pop("debug")  # read by `Root`, which sees errors of the command line as well
            try:
                # Imports the app, which must not happen while a loop is running.
                session = Session(json=given.pop("json"), **{key: given.pop(key) for key in shared})
                outcome = fn(session, **given)
                if inspect.iscoroutine(outcome):
                    asyncio.run(outcome)
                sys.stdout.flush()
            except BrokenPipeError:
                # Nobody reads on. What Python would still flush at its end goes nowhere.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(PIPE_CLOSED) from None

        run.__name__ = fn.__name__
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]  # inspect reads it
        group.command(name, help=_flowing(fn.__doc__ or ""))(run)
        return fn

    return register


def _flowing(text: str) -> str:
    """A docstring with its paragraphs on one line each, for the terminal to wrap."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))
