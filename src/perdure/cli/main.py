"""The command `perdure`."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

import perdure.cli.artifact
import perdure.cli.steer  # noqa: F401 - its commands join those of run
from perdure.cli import db, doctor, flow, ledger, pipeline, queue, run, serve, sink, tick, worker
from perdure.cli.command import Session, command
from perdure.cli.exits import INTERRUPTED, UNEXPECTED, USAGE, table
from perdure.cli.output import plain, visible
from perdure.errors import PerdureError, UsageError

# What typer raises when the command line cannot be read; its own or click's, depending on its version.
_BadCommandLine: type[Exception] = typer.BadParameter.__mro__[2]


_ORDER = (
    "run",
    "flow",
    "pipeline",
    "queue",
    "sink",
    "usage",
    "worker",
    "workers",
    "tick",
    "serve",
    "db",
    "doctor",
    "exit-codes",
)


class Root(TyperGroup):
    """Ends every command, and every mistake in a command line, with its exit code and a readable error."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands in the order in which people meet them; typer puts groups last."""
        return sorted(super().list_commands(ctx), key=_ORDER.index)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Run a command line and leave by SystemExit."""
        words = list(sys.argv[1:] if args is None else args)
        flags = words[: words.index("--")] if "--" in words else words
        options["standalone_mode"] = False
        debug = "--debug" in flags or bool(os.environ.get("PERDURE_DEBUG"))
        try:
            code = super().main(words, *rest, **options)
        except (KeyboardInterrupt, typer.Abort):
            code = INTERRUPTED
        except Exception as error:  # noqa: BLE001 - the last one to see it
            code = _report(error, as_json="--json" in flags, debug=debug)
        sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception, *, as_json: bool, debug: bool) -> int:
    """Print an error on standard error; returns the exit code."""
    if isinstance(error, PerdureError):
        code, name, message = error.exit_code, error.code, str(error)
    elif isinstance(error, _BadCommandLine):
        code, name, message = USAGE, UsageError.code, error.format_message()  # type: ignore[attr-defined]
    else:
        code, name = UNEXPECTED, "unexpected"
        message = f"{type(error).__name__}: {error}\nThis is a bug, of perdure or of the app; --debug shows where."
    if debug:
        traceback.print_exception(error)
    if as_json:
        problem = {key: _shown(value) for key, value in vars(error).items()} if isinstance(error, PerdureError) else {}
        problem |= {"code": name, "message": message, "exit_code": code}
        sys.stderr.write(json.dumps(problem) + "\n")
        return code
    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    if message.startswith("Usage: "):  # a group of commands that was called without one: its help
        console.print(message, soft_wrap=True)
        return code
    context = getattr(error, "ctx", None)
    if context is not None and message:
        console.print(f"{context.get_usage()}\nTry `{context.command_path} --help`.", soft_wrap=True)
    if message:
        console.print("Error: ", style="bold red", end="")
        console.print(visible(message), style="red", soft_wrap=True)
    return code


def _shown(value: Any) -> Any:
    """A field of an error as JSON takes it."""
    if isinstance(value, BaseException):
        cls = type(value)
        return {"type": f"{cls.__module__}:{cls.__qualname__}", "message": str(value)}
    return plain(value)


app = typer.Typer(
    cls=Root,
    name="perdure",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: it takes half the time, and reads well anywhere
    pretty_exceptions_enable=False,
    help="Durable execution: start, watch and steer runs, drive them, and look after their database.",
    epilog="`perdure exit-codes` lists what the exit codes mean. NO_COLOR takes the colours away.",
)
app.add_typer(run.group, name="run")
app.add_typer(flow.group, name="flow")
app.add_typer(pipeline.group, name="pipeline")
app.add_typer(queue.group, name="queue")
app.add_typer(sink.group, name="sink")
command(app, "usage")(ledger.usage)
command(app, "worker", database=False)(worker.work)
command(app, "tick")(tick.tick)
command(app, "workers")(worker.workers)
command(app, "serve")(serve.serve)
app.add_typer(db.group, name="db")
command(app, "doctor")(doctor.doctor)


def _print_version(value: bool) -> None:  # noqa: FBT001 - typer calls it so
    if value:
        # Only here: importing it takes as long as half of the rest.
        version = import_module("importlib.metadata").version("perdure")
        sys.stdout.write(f"perdure {version}\n")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Durable execution: start, watch and steer runs, drive them, and look after their database."""


@command(app, "exit-codes", database=False)
def exit_codes(session: Session) -> None:
    """List the exit codes and their errors."""
    rows = table()
    listed = [{"exit_code": code, "meaning": meaning, "errors": errors} for code, meaning, errors in rows]
    cells = [(str(code), meaning, ", ".join(errors)) for code, meaning, errors in rows]
    session.out.listing({"exit_codes": listed}, ("CODE", "MEANING", "ERRORS"), cells)


def main() -> None:
    """What the installed command calls, once all this is loaded."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character is no reason to fail.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # text files of Python have it
    app()
