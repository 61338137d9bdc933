"""`perdure flow`: show flows, and how far a run of one has come."""

from __future__ import annotations

from typing import Annotated, TypeVar

import typer

from perdure.app import App
from perdure.cli.command import Session, command
from perdure.client.view import RunEvent
from perdure.errors import InvalidOption, UnknownWorkflow
from perdure.flow.builder import Flow
from perdure.flow.draw import as_data, mermaid, standings

T = TypeVar("T")
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
    flow, run = await declared(session, name, run_id, Flow)
    painted = None if run is None else standings(flow, *run)
    if session.out.as_json:
        session.out.document(as_data(flow, painted))
    else:
        session.out.text(mermaid(flow, painted).rstrip())


async def declared(
    session: Session, name: str, run_id: str | None, kind: type[T]
) -> tuple[T, tuple[list[RunEvent], str] | None]:
    """
    What a workflow of the app was compiled from; with a run, its journal and status.

    Raises:
        UnknownWorkflow: The app has nothing of this kind under this name.
        InvalidOption: There is no app, or it is a run of something else.
    """
    if session.app is None:
        option = "--app"
        raise InvalidOption(option, "it says where it is defined, such as shop:app")
    if run_id is None:
        return _found(session.app, name, None, kind), None
    async with session.connected() as app:
        handle = app.handle(run_id)
        info = await handle.info()
        if info.workflow != name:
            option = "--run"
            raise InvalidOption(option, f"{run_id!r} is a run of {info.workflow!r}")
        events = [event async for event in handle.events(follow=False)]
        return _found(app, name, info.version, kind), (events, info.status)


def _found(app: App, name: str, version: str | None, kind: type[T]) -> T:
    found = app.registry.pick(name, version).declared
    if not isinstance(found, kind):
        raise UnknownWorkflow(name, [other for other in app.registry.names() if other != name])
    return found
