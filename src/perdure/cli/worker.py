"""`perdure worker` drives runs until it is told to stop; `perdure workers` lists who does."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.table import Column

from perdure.app import App
from perdure.cli.command import Session, Url
from perdure.cli.logs import Level, configure
from perdure.cli.output import Output, in_words, when
from perdure.cli.target import database_url, load_app
from perdure.cli.values import duration
from perdure.client.view import WorkerInfo
from perdure.clock import SystemClock, to_datetime
from perdure.worker.stop import StopSignals

LEAVE_S = 2.0
"""How long, once it has drained, the process waits for threads of its app that do not end."""
log = logging.getLogger("perdure.cli")


def work(
    session: Session,
    app: Annotated[
        str, typer.Argument(metavar="MODULE:APP", envvar="PERDURE_APP", help="The app, such as orders:app.")
    ],
    *,
    url: Url = None,
    concurrency: Annotated[
        int | None, typer.Option(envvar="PERDURE_CONCURRENCY", help="Runs that it drives at a time.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(envvar="PERDURE_THREADS", help="Threads for steps that are plain functions.")
    ] = None,
    lease: Annotated[
        str | None, typer.Option(envvar="PERDURE_LEASE", metavar="SPAN", help="How long it counts as alive unheard.")
    ] = None,
    drain: Annotated[
        str | None, typer.Option(metavar="SPAN", help="How long running steps may take when it is told to stop.")
    ] = None,
    worker_id: Annotated[str, typer.Option("--id", help="Its identity; made up when left out.")] = "",
    log_level: Annotated[Level, typer.Option(help="Least important log lines to print.")] = Level.INFO,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log lines as JSON objects.")] = False,
) -> None:
    """
    Drive runs until SIGTERM or Ctrl-C.

    At the first signal it takes no more runs, lets running steps end or gives them up when --drain is over, gives
    all runs back and leaves. At the second it stops at once; others run again what was running. Options that are
    left out are the app's own. Log lines go to standard error.
    """
    configure(log_level, as_json=log_json)
    named = load_app(app, "APP")
    given: dict[str, Any] = {
        "concurrency": concurrency,
        "threads": threads,
        "lease": None if lease is None else duration(lease, "--lease"),
        "drain": None if drain is None else duration(drain, "--drain"),
        "id": worker_id or None,
    }
    options = replace(named.worker_options, **{name: value for name, value in given.items() if value is not None})
    database = database_url(url, named)
    serving = named.variant(url=database, worker=options)
    asyncio.run(_serve(session.out, named, serving))
    _leave_anyway()


async def _serve(out: Output, named: App, serving: App) -> None:
    """Drive runs until a signal comes; calls on the app that the user named go to the one that is open."""
    with StopSignals() as stop:
        async with serving:
            with named.lent(serving):
                _say_ready(out, serving)
                await stop.told.wait()
                driven = serving.worker.statistics["driven"] if serving.worker else 0
                _say(out, "draining", f"Draining: {driven} runs are being driven.", signal=stop.by, driven=driven)
        _say(out, "stopped", "Stopped. All runs are stored as they stand.")


def _say_ready(out: Output, app: App) -> None:
    worker = app.worker
    if worker is None:
        return
    names = app.registry.names()
    if not names:
        log.warning("the app has no workflows; import the modules that define them where the app is made")
    _say(
        out, "ready", f"Worker {worker.id} is ready: {', '.join(names)} on {app.url}. Ctrl-C lets it drain.",
        worker_id=worker.id, pid=os.getpid(), url=app.url, workflows=names,
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
        known = await app.client.workers()
    shown = [worker for worker in known if everyone or worker.state == "alive" or worker.owned]
    if session.out.as_json:
        session.out.document({"workers": shown})
        return
    now = SystemClock().now()
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
    session.out.table(columns, rows)
    if not shown:
        session.out.note("No workers are alive. Start one: perdure worker module:app")


def _state(worker: WorkerInfo, now: int) -> str:
    """Its state; "silent" for one whose lease is over and that nobody has declared dead yet."""
    return "silent" if worker.state == "alive" and worker.lease_until < to_datetime(now) else worker.state
