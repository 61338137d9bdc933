"""`perdure run`: start runs, list them, look at one, follow one."""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.table import Column

from perdure.cli.command import Session, command
from perdure.cli.output import onward, plain, status_text, took, when
from perdure.cli.show import picture_of, print_event, remark, workflow_of
from perdure.cli.show import show as show_picture
from perdure.cli.start import newest_known, raw_input, stand_in
from perdure.cli.values import data, duration, fields, moment
from perdure.client.handle import RunHandle
from perdure.client.view import RunInfo
from perdure.clock import SystemClock
from perdure.engine.definition import Registry, WorkflowOptions
from perdure.model.entry import Kind
from perdure.model.run import MAX_PAGE, RunFilter
from perdure.model.status import Status

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Start, list, watch and steer runs.")
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]


@command(group, "start")
async def start(
    session: Session,
    workflow: Annotated[str, typer.Argument(help="Name of the workflow.")],
    values: Annotated[
        list[str] | None,
        typer.Argument(help="Its input in order, each as JSON, a plain word, @file or - (needs --app)."),
    ] = None,
    *,
    named: Annotated[
        str | None, typer.Option("--input", "-i", help="Its input by name: a JSON object, @file or -.", metavar="JSON")
    ] = None,
    run_id: Annotated[str | None, typer.Option("--id", help="The run's id; the same id again is the same run.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="To find it by; may be repeated.")] = None,
    timeout: Annotated[str | None, typer.Option(help="Until its deadline: 30s, 5m, 2h, 7d.", metavar="SPAN")] = None,
    delay: Annotated[str, typer.Option(help="Before it begins.", metavar="SPAN")] = "0",
    queue: Annotated[str | None, typer.Option(help="The queue that it goes through.", show_default=False)] = None,
    key: Annotated[str, typer.Option(help="Whose line of the queue it stands in.", show_default=False)] = "",
    priority: Annotated[int, typer.Option(help="Levels before others of its key in line.")] = 0,
    version: Annotated[
        str | None, typer.Option(help="Of the workflow, the newest when left out.", show_default=False)
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end and print its result.")] = False,
) -> None:
    """
    Start a run and print its id.

    With --app the input is checked by the workflow's types. Without it, the workflow must be one that a worker
    of this database has or had, and the input is stored as given.
    """
    given = [data(value, "values") for value in values or ()]
    by_name = fields(named, "--input") if named is not None else {}
    if session.app:
        definition = session.app.registry.pick(workflow, version)
        workflow, options = definition.name, definition.settings
        text = definition.call.from_json(given, by_name)
    else:
        text, options = raw_input(given, by_name), WorkflowOptions()
    registry = Registry()
    async with session.connected(making=session.app is not None, registry=registry) as app:
        workers = await app.client.workers()
        if not session.app:
            options = replace(options, version=newest_known(workflow, version, workers))
        registry.add(stand_in(workflow, text, options))
        handle = await app.start(
            workflow, version=version, id=run_id, tags=tag or (), delay=duration(delay, "--delay"),
            timeout=None if timeout is None else duration(timeout, "--timeout"), queue=queue, key=key,
            priority=priority,
        )  # fmt: skip
        stuck = (await handle.info()).stuck
        if stuck:
            session.out.note(f"The run begins when a worker that has it is started: {stuck}.")
        if wait:
            await _await(session, handle)
        elif session.out.as_json:
            session.out.document({"run": await handle.info()})
        else:
            session.out.text(handle.id)


async def _await(session: Session, handle: RunHandle[Any]) -> None:
    """Wait for a run, showing how it goes on, and print its result."""
    out = session.out
    out.note(f"Run {handle.id}")
    if not out.as_json:
        with out.working(f"{handle.id} …") as status:
            async with aclosing(handle.events()) as events:
                async for event in events:
                    if event.kind == Kind.PAUSED:
                        out.note(f"It is paused: {event.data['message']}")
                    if status:
                        status.update(f"{handle.id}  {event.seq} {event.kind} {event.key}")
    result = await handle.result()
    out.document({"run": await handle.info(), "result": result} if out.as_json else result)


@command(group, "list")
async def list_runs(
    session: Session,
    *,
    status: Annotated[
        list[Status] | None,
        typer.Option(metavar="STATUS", help=f"Any of {', '.join(Status)}; may be repeated."),
    ] = None,
    workflow: Annotated[str | None, typer.Option(help="Of this workflow.")] = None,
    version: Annotated[str | None, typer.Option(help="Of this version of it; '' for none.")] = None,
    parent: Annotated[str | None, typer.Option(help="Children of the run with this id.")] = None,
    tag: Annotated[str | None, typer.Option(help="With this tag.")] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Created at this time or later: 2026-08-01, 2026-08-01T09:30, or 2h for 2 hours ago."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Created before this time.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_PAGE, help="Most runs to list.")] = 50,
    after: Annotated[int | None, typer.Option(help="Go on behind this run; the end of a page says where.")] = None,
) -> None:
    """List runs, newest first."""
    clock = SystemClock()
    wanted = RunFilter(
        status=tuple(status or ()), workflow=workflow, version=version, parent=parent, tag=tag, limit=limit,
        after=after, created_from=None if since is None else moment(since, "--since", clock),
        created_to=None if until is None else moment(until, "--until", clock),
    )  # fmt: skip
    async with session.connected() as app:
        runs, more = await app.client.runs(wanted)
    columns: list[str | Column] = [
        Column("RUN", overflow="fold"), "WORKFLOW", Column("STATUS", no_wrap=True), Column("CREATED", no_wrap=True),
        Column("TOOK", no_wrap=True), "",
    ]  # fmt: skip
    session.out.listing({"runs": runs, "next": more}, columns, map(_row, runs), none="No runs.", more=onward(more))


def _row(run: RunInfo) -> list[Any]:
    return [
        run.id, workflow_of(run), status_text(run.status), when(run.created_at), took(run.started_at, run.finished_at),
        remark(run),
    ]  # fmt: skip


@command(group, "show")
async def show(
    session: Session,
    run_id: RunId,
    *,
    full: Annotated[bool, typer.Option("--full", help="The whole journal, and all data uncut.")] = False,
) -> None:
    """Show a run, its children and its journal."""
    async with session.connected() as app:
        picture = await picture_of(app.client, run_id, whole=full)
    if session.out.as_json:
        session.out.document(picture.document())
    else:
        show_picture(session.out, picture, full=full)


@command(group, "tail")
async def tail(
    session: Session,
    run_id: RunId,
    *,
    after: Annotated[int, typer.Option(min=0, metavar="SEQ", help="Begin behind this journal entry.")] = 0,
    no_follow: Annotated[bool, typer.Option("--no-follow", help="Stop at the last entry there is.")] = False,
    full: Annotated[bool, typer.Option("--full", help="All data uncut.")] = False,
) -> None:
    """
    Follow a run's journal until the run has ended.

    With --json each entry is a line of JSON; the last one's seq, given to --after, goes on from there.
    """
    async with (
        session.connected() as app,
        aclosing(app.handle(run_id).events(after=after, follow=not no_follow)) as events,
    ):
        async for event in events:
            if session.out.as_json:
                session.out.line(event)
            else:
                print_event(session.out, event, full=full)


@command(group, "export")
async def export(session: Session, run_id: RunId) -> None:
    """
    Print all that is stored about a run, as JSON.

    `perdure.testing` replays it against other code. Times are microseconds since 1970.
    """
    async with session.connected() as app:
        # Read by perdure again, so all values stay what they are at rest, also those that JSON elsewhere has not.
        session.out.raw(json.dumps(plain(await app.client.export(run_id)), indent=2) + "\n")
