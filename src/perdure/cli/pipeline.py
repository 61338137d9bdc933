"""`perdure pipeline`: show pipelines, and how far a run of one has come."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Column

from perdure.cli.command import Session, command
from perdure.cli.flow import declared
from perdure.pipeline.builder import Pipeline
from perdure.pipeline.draw import mermaid, plan, standings

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show pipelines, with how far a run has come.")


@command(group, "show")
async def show(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="PIPELINE", help="The pipeline's name.")],
    *,
    run_id: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Show how far this run has come.")] = None,
    diagram: Annotated[bool, typer.Option("--mermaid", help="As a Mermaid diagram.")] = False,
) -> None:
    """
    Show a pipeline's groups and stages, or with --json all about them as data. Needs --app.

    With --run each stage has its status: pending, running, waiting, retrying, completed, failed, ….
    """
    pipeline, run = await declared(session, name, run_id, Pipeline)
    painted = None if run is None else standings(pipeline, *run)
    if session.out.as_json:
        session.out.document(plan(pipeline, painted))
        return
    if diagram:
        session.out.text(mermaid(pipeline, painted).rstrip())
        return
    columns: list[str | Column] = [
        "GROUP",
        Column("STAGE", overflow="fold"),
        "KIND",
        "STATUS" if painted else "DEFAULTS",
    ]
    defaults, rows = pipeline.default_config, []
    for made in pipeline.groups:
        for work in made.works:
            kind = f"{work.stage.kind}, distributed" if made.distribute else work.stage.kind
            last = (
                " ".join(painted[work.id])
                if painted
                else ", ".join(f"{k}={v}" for k, v in defaults.get(work.id, {}).items())
            )
            rows.append((str(made.number), work.id, kind, last.strip()))
    session.out.table(columns, rows)
