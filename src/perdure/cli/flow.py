"""`perdure flow`: show flows, and how far a run of one has come."""

from __future__ import annotations

from typing import Annotated

import typer

from perdure.app import App
from perdure.cli.command import Session, command
from perdure.engine.definition import Workflow
from perdure.errors import InvalidOption, UnknownWorkflow
from perdure.flow.builder import Flow
from perdure.flow.draw import as_data, mermaid, standings
from perdure.flow.play import flow_of

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show flows as diagrams or as JSON.")


@command(group, "show")
async def show(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="FLOW", help="The flow's name.")],
    *,
    run_id: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Paint on it how far this run has come.")
    ] = None,
) -> None:
    """
    Show a flow as a Mermaid diagram, or with --json as data. Needs --app.

    GitHub and many editors draw Mermaid; so does https://mermaid.live.
    """
    if session.app is None:
        option = "--app"
        raise InvalidOption(option, "it says where the flow is defined, such as shop:app")
    if run_id is None:
        flow, painted = _flow(session.app, name), None
    else:
        async with session.connected() as app:
            handle = app.handle(run_id)
            info = await handle.info()
            if info.workflow != name:
                option = "--run"
                raise InvalidOption(option, f"{run_id!r} is a run of {info.workflow!r}")
            flow = _flow(app, name, info.version)
            painted = standings(flow, [event async for event in handle.events(follow=False)], info.status)
    if session.out.as_json:
        session.out.document(as_data(flow, painted))
    else:
        session.out.text(mermaid(flow, painted).rstrip())


def _flow(app: App, name: str, version: str | None = None) -> Flow:
    """
    A flow of the app.

    Args:
        version: The newest when left out.

    Raises:
        UnknownWorkflow: It has no such flow.
    """
    found: Workflow[..., object] = app.registry.pick(name, version)
    flow = flow_of(found)
    if flow is None:
        raise UnknownWorkflow(name, [other for other in app.registry.names() if other != name])
    return flow
