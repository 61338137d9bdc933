"""`perdure db`: migrate, back up and prune the database, and tell what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perdure.app import App
from perdure.cli.command import Session, command
from perdure.cli.output import status_text
from perdure.cli.values import duration
from perdure.clock import SystemClock
from perdure.errors import InvalidOption
from perdure.model.status import TERMINAL, Status
from perdure.store.choose import behind, schema_sql, shown
from perdure.store.migrate import migrations

PRUNED_AT_A_TIME = 5_000
group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look after the database.")


def _size(count: float) -> str:
    """A number of bytes in a unit that is easy to read."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:  # noqa: PLR2004 - the step from unit to unit
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


@command(group, "migrate")
async def migrate(
    session: Session,
    *,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL that would do so, and do nothing.")] = False,
    since: Annotated[
        int | None,
        typer.Option("--from", metavar="VERSION", help="With --sql: do not ask which schema there is; 0 is none."),
    ] = None,
) -> None:
    """
    Make the database, or bring its schema up to date.

    Several processes may do so at once; migrations go forward only.
    """
    url = session.url
    if sql:
        have = await behind(url) if since is None else since
        nothing = f"-- {shown(url)} has the newest schema. Nothing is to be done.\n"
        session.out.raw(nothing if have is None else schema_sql(url, SystemClock().now(), have))
        return
    if since is not None:
        option = "from"
        raise InvalidOption(option, "it goes with --sql; a migration itself begins where the database is")
    async with App(url).connected() as app:
        applied = app.client.store.migrated
        newest = migrations(app.client.store.dialect)[-1].version
    url = shown(url)
    found = applied[0].version - 1 if applied else newest
    if session.out.as_json:
        names = [{"version": migration.version, "name": migration.name} for migration in applied]
        session.out.document({"url": url, "from_version": found, "to_version": newest, "applied": names})
    elif applied:
        for migration in applied:
            session.out.text(f"Applied {migration.version:04} {migration.name}.")
        session.out.text(f"{url} went from schema version {found} to {newest}.")
    else:
        session.out.text(f"{url} has schema version {newest}, the newest. Nothing was to be done.")


@command(group, "backup")
async def backup(
    session: Session,
    target: Annotated[Path, typer.Argument(help="The file to make; it must not exist yet.")],
) -> None:
    """Copy the database, consistently, while it is in use."""
    async with session.connected() as app:
        with session.out.working(f"Copying to {target} …"):
            size = await app.client.backup(target)
    session.out.result({"target": str(target), "bytes": size}, f"Copied to {target}: {_size(size)}.")


@command(group, "prune")
async def prune(
    session: Session,
    *,
    older_than: Annotated[str, typer.Option(metavar="SPAN", help="Ended at least this long ago: 12h, 30d.")],
    status: Annotated[
        list[Status] | None,
        typer.Option(metavar="STATUS", help="Only those that are completed, failed or cancelled; may be repeated."),
    ] = None,
    trees: Annotated[int, typer.Option(min=1, help="Trees per transaction.")] = 500,
    undelivered: Annotated[
        bool, typer.Option("--undelivered", help="Also runs with events that a sink has not got; these are lost.")
    ] = False,
) -> None:
    """
    Remove runs that ended long ago, with all that belongs to them.

    Whole trees only: a run goes with its children, once all of them have ended.
    """
    age = duration(older_than, "--older-than")
    removed = 0
    async with session.connected() as app:
        with session.out.working("Pruning …") as shown:
            while count := await app.client.prune(
                older_than=age,
                statuses=tuple(status or TERMINAL),
                trees=trees,
                most=PRUNED_AT_A_TIME,
                undelivered=undelivered,
            ):
                removed += count
                if shown:
                    shown.update(f"Pruning … {removed:,} runs so far")
    session.out.result({"removed": removed}, f"Removed {removed:,} {'run' if removed == 1 else 'runs'}.")


@command(group, "info")
async def info(session: Session) -> None:
    """Tell how large the database is, and how many runs of each status it has."""
    async with session.connected() as app:
        counts = await app.client.counts()
        workers = await app.client.workers()
        url = shown(app.url)
        size = await app.client.size()
        version = migrations(app.client.store.dialect)[-1].version
    alive = sum(worker.state == "alive" for worker in workers)
    if session.out.as_json:
        statuses = {status.value: counts.get(status, 0) for status in Status}
        session.out.document(
            {"url": url, "bytes": size, "schema_version": version, "runs": statuses, "workers_alive": alive}
        )
        return
    session.out.text(f"{url}: {_size(size)}, schema version {version}, {alive} workers alive")
    rows = [(status_text(status), f"{counts[status]:,}") for status in Status if counts.get(status)]
    session.out.table(("STATUS", "RUNS"), rows)
