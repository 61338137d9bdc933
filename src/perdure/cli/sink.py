"""`perdure sink`: look at sinks, and try again what they could not be told."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Column

from perdure.cli.command import Session, command
from perdure.cli.output import when
from perdure.model.run import MAX_PAGE

group = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Look at sinks, try again what they could not be told."
)
Name = Annotated[str, typer.Argument(metavar="SINK", help="The sink's name.")]


@command(group, "list")
async def list_sinks(session: Session) -> None:
    """List the sinks, with how many runs have events that they have not got."""
    async with session.connected() as app:
        found = await app.client.sinks()
    columns: list[str | Column] = [
        Column("SINK", overflow="fold"), "EVENTS", Column("RUNS WAITING", justify="right"),
        Column("GIVEN UP", justify="right"), "OLDEST",
    ]  # fmt: skip
    rows = [
        (info.name, ", ".join(info.events), str(info.waiting), str(info.dead), when(info.oldest_at)) for info in found
    ]
    session.out.listing({"sinks": found}, columns, rows, none="No sinks. An app declares them: app.sink(name, target)")


@command(group, "dead")
async def dead(
    session: Session,
    name: Name,
    *,
    limit: Annotated[int, typer.Option(min=1, max=MAX_PAGE, help="Most events to list.")] = 50,
) -> None:
    """List the events that a sink was given up for, the longest ago first; those behind them wait."""
    async with session.connected() as app:
        found = await app.client.dead_events(name, limit=limit)
    columns: list[str | Column] = [
        Column("RUN", overflow="fold"), Column("EVENT", justify="right"), Column("ATTEMPTS", justify="right"),
        "GIVEN UP", "ERROR",
    ]  # fmt: skip
    rows = [(event.run_id, str(event.seq), str(event.attempts), when(event.dead_at), event.error) for event in found]
    more = "There may be more: --limit" if len(found) == limit else ""
    session.out.listing({"dead": found}, columns, rows, none="No events were given up.", more=more)


@command(group, "replay")
async def replay(
    session: Session,
    name: Name,
    *,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Of this run only.", show_default=False)
    ] = None,
) -> None:
    """Try again what a sink was given up for: each run's events go on in order, from the one that failed."""
    async with session.connected() as app:
        with session.out.working(f"{name} …"):
            count = await app.client.replay_events(name, run)
    session.out.result({"sink": name, "replayed": count}, f"Sink {name} is told again of {count} run(s).")


@command(group, "skip")
async def skip(session: Session, name: Name, run: Annotated[str, typer.Argument(metavar="RUN")]) -> None:
    """Leave out the event of a run that a sink was given up for; those behind it are delivered."""
    async with session.connected() as app:
        seq = await app.client.skip_event(name, run)
    session.out.result(
        {"sink": name, "run": run, "skipped": seq}, f"Sink {name} will not get event {seq} of run {run}."
    )


@command(group, "remove")
async def remove(session: Session, name: Name) -> None:
    """Forget a sink and what it has not got. An app that still declares it makes it anew."""
    async with session.connected() as app:
        await app.client.remove_sink(name)
    session.out.result({"removed": name}, f"Sink {name} is removed.")
