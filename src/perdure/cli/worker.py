"""`perdure worker` drives runs until it is told to stop; `perdure workers` lists who does."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import typer
from rich.table import Column

from perdure.app import App
from perdure.cli.command import Session, Url
from perdure.cli.logs import Format, Level, configure
from perdure.cli.metrics import with_metrics
from perdure.cli.output import Output, in_words, when
from perdure.cli.supervise import Supervisor, orphaned, worker_command
from perdure.cli.target import database_url, load_app
from perdure.cli.values import duration
from perdure.client.view import WorkerInfo
from perdure.clock import to_datetime
from perdure.store.choose import shown
from perdure.worker.options import WorkerOptions, retention_of
from perdure.worker.stop import StopSignals
from perdure.worker.worker import Worker

LEAVE_S = 2.0
"""How long, once it has drained, the process waits for threads of its app that do not end."""
log = logging.getLogger("perdure.cli")
Concurrency = Annotated[
    int | None, typer.Option(envvar="PERDURE_CONCURRENCY", help="Runs that each process drives at a time.")
]
Threads = Annotated[
    int | None, typer.Option(envvar="PERDURE_THREADS", help="Threads for steps that are plain functions.")
]
RetentionOption = Annotated[
    str | None,
    typer.Option(
        envvar="PERDURE_RETENTION", metavar="SPAN", help="Remove runs that ended longer ago; never: keep all."
    ),
]
_PORT_HELP = "Expose metrics for Prometheus here; of several processes, each has the next port."
MetricsPort = Annotated[int | None, typer.Option(envvar="PERDURE_METRICS_PORT", min=0, max=65_535, help=_PORT_HELP)]


def work(
    session: Session,
    app: Annotated[
        str, typer.Argument(metavar="MODULE:APP", envvar="PERDURE_APP", help="The app, such as orders:app.")
    ],
    *,
    url: Url = None,
    processes: Annotated[
        int, typer.Option(envvar="PERDURE_PROCESSES", min=1, help="Worker processes; more than one are supervised.")
    ] = 1,
    concurrency: Concurrency = None,
    threads: Threads = None,
    lease: Annotated[
        str | None, typer.Option(envvar="PERDURE_LEASE", metavar="SPAN", help="How long it counts as alive unheard.")
    ] = None,
    drain: Annotated[
        str | None, typer.Option(metavar="SPAN", help="How long running steps may take when it is told to stop.")
    ] = None,
    worker_id: Annotated[
        str, typer.Option("--id", help="Its identity, made up when left out; of several processes, its beginning.")
    ] = "",
    log_level: Annotated[Level, typer.Option(help="Least important log lines to print.")] = Level.INFO,
    log_format: Annotated[Format, typer.Option(help="Log lines for people, or as JSON objects.")] = Format.TEXT,
    retention: RetentionOption = None,
    metrics_port: MetricsPort = None,
    process: Annotated[str, typer.Option(hidden=True, help="The name of a supervised process.")] = "",
) -> None:
    """
    Drive runs until SIGTERM or Ctrl-C.

    At the first signal it takes no more runs, lets running steps end or gives them up when --drain is over, gives
    all runs back and leaves. At the second it stops at once; others run again what was running. Options that are
    left out are the app's own. Log lines go to standard error.

    With --processes, each is an interpreter of its own that is started again when it dies, and signals are passed
    on to all of them.
    """
    here: list[Worker] = []
    configure(log_level, log_format, lambda: here[0].id if here else "", process=process)
    if processes > 1:
        if url is not None:
            os.environ["PERDURE_URL"] = url  # not in their command lines, which everybody on the machine can read
        shared = {
            "--concurrency": concurrency, "--threads": threads, "--lease": lease, "--drain": drain,
            "--log-level": log_level.value, "--log-format": log_format.value, "--retention": retention,
        }  # fmt: skip
        flags = ["--json"] if session.out.as_json else []

        def command(number: int) -> list[str]:
            own = f"{worker_id}-{number}" if worker_id else None
            port = metrics_port + number - 1 if metrics_port else metrics_port
            return worker_command(app, str(number), {**shared, "--id": own, "--metrics-port": port}, flags)

        raise typer.Exit(asyncio.run(_supervise(session.out, command, processes)))
    named = load_app(app, "APP")
    spans = {"lease": (lease, duration), "drain": (drain, duration), "retention": (retention, retention_of)}
    options = _changed(named.worker_options, spans, concurrency=concurrency, threads=threads, id=worker_id or None)
    serving = named.variant(url=database_url(url, named), worker=options)
    if metrics_port is not None:
        serving = with_metrics(serving, metrics_port)
    asyncio.run(_serve(session.out, named, serving, process, here))
    _leave_anyway()


def _changed(
    options: WorkerOptions, spans: Mapping[str, tuple[str | None, Callable[[str, str], Any]]], **given: Any
) -> WorkerOptions:
    """
    The options with those that were given in place of the app's own.

    Args:
        spans: The texts that were given, and what reads them.
    """
    changed = {name: value for name, value in given.items() if value is not None}
    for name, (text, read) in spans.items():
        if text is not None:
            changed[name] = read(text, f"--{name}")
    return replace(options, **changed)


async def _supervise(out: Output, command: Callable[[int], list[str]], count: int) -> int:
    return await Supervisor(command, count, partial(_say, out)).run()


async def _serve(out: Output, named: App, serving: App, process: str, here: list[Worker]) -> None:
    """
    Drive runs until a signal comes; calls on the app that the user named go to the one that is open.

    Args:
        here: Gets the worker, for the log.
    """
    with StopSignals() as stop:
        if process:
            orphaned(partial(stop.tell, "supervisor gone"))
        async with serving:
            with named.lent(serving):
                here += [serving.worker] if serving.worker else []
                name = f"Worker {here[0].id}" if here else "The app"
                _say_ready(out, serving)
                await stop.told.wait()
                driven = serving.worker.statistics["driven"] if serving.worker else 0
                text = f"{name} is draining: it drives {driven} run{'' if driven == 1 else 's'}."
                _say(out, "draining", text, signal=stop.by, driven=driven)
        _say(out, "stopped", f"{name} has stopped. All runs are stored as they stand.")


def _say_ready(out: Output, app: App) -> None:
    worker = app.worker
    if worker is None:
        return
    names = app.registry.names()
    if not names:
        log.warning("the app has no workflows; import the modules that define them where the app is made")
    _say(
        out, "ready", f"Worker {worker.id} is ready: {', '.join(names)} on {shown(app.url)}. Ctrl-C lets it drain.",
        worker_id=worker.id, pid=os.getpid(), url=shown(app.url), workflows=names,
    )  # fmt: skip


def _say(out: Output, event: str, text: str, **fields: Any) -> None:
    """Print a line about the worker at once."""
    if out.as_json:
        out.line({"event": event, **fields})
    else:
        out.text(text)
        sys.stdout.flush()


def _leave_anyway() -> None:
    """
    End the process even if a thread of the app does not end.

    A step that is a plain function cannot be stopped, and Python waits for its thread.
    """

    def leave() -> None:
        threading.Event().wait(LEAVE_S)
        log.warning("a thread of the app does not end; the process leaves without it")
        sys.stdout.flush()
        os._exit(0)

    threading.Thread(target=leave, name="perdure-leave", daemon=True).start()


async def workers(
    session: Session,
    *,
    everyone: Annotated[bool, typer.Option("--all", help="Those that have left or died as well.")] = False,
) -> None:
    """List the workers of a database."""
    async with session.connected() as app:
        known, now = await app.client.workers(), app.client.store.clock.now()
    shown = [worker for worker in known if everyone or worker.state == "alive" or worker.owned]
    columns: list[str | Column] = [
        Column("WORKER", overflow="fold"), "STATE", Column("RUNS", justify="right"), "STARTED", "HEARD OF", "WORKFLOWS"
    ]  # fmt: skip
    rows = [
        (
            worker.id, _state(worker, now), str(worker.owned), when(worker.started_at),
            f"{in_words((to_datetime(now) - worker.heartbeat_at).total_seconds())} ago", ", ".join(worker.workflows),
        )
        for worker in shown
    ]  # fmt: skip
    none = "No workers are alive. Start one: perdure worker module:app"
    session.out.listing({"workers": shown}, columns, rows, none=none)


def _state(worker: WorkerInfo, now: int) -> str:
    """Its state; "silent" for one whose lease is over and that nobody has declared dead yet."""
    return "silent" if worker.state == "alive" and worker.lease_until < to_datetime(now) else worker.state
