"""`perdure run annotate` and `annotations`, and `perdure usage`: remarks about runs, and what they have used."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Column

from perdure.cli.command import Session, command
from perdure.cli.output import compact, when
from perdure.cli.run import RunId, group
from perdure.cli.values import data
from perdure.client.view import Used
from perdure.model.ledger import Actor
from perdure.model.run import MAX_PAGE


@command(group, "annotate")
async def annotate(
    session: Session,
    run_id: RunId,
    key: Annotated[str, typer.Argument(help="What it is about, such as approval.outcome.")],
    value: Annotated[str, typer.Argument(help="JSON, or a text.")],
    *,
    actor: Annotated[str | None, typer.Option(help="Who says so.", show_default=False)] = None,
    actor_kind: Annotated[str, typer.Option(metavar="KIND", help="What that is, such as human.")] = "",
    scope: Annotated[str, typer.Option(help="What of the run it is about.")] = "run",
    scope_id: Annotated[str | None, typer.Option(metavar="ID", help="Which one of these.", show_default=False)] = None,
    dedupe: Annotated[str | None, typer.Option(help="The first under this counts.", show_default=False)] = None,
) -> None:
    """Make a remark about a run, whether it has ended or not."""
    async with session.connected() as app:
        stored = await app.client.annotate(
            run_id, key, data(value, "value"), actor=None if actor is None else Actor(actor, actor_kind), scope=scope,
            scope_id=scope_id, dedupe=dedupe,
        )  # fmt: skip
    done = "Noted." if stored else "There is such a remark already; nothing was changed."
    session.out.result({"run": run_id, "stored": stored}, done)


@command(group, "annotations")
async def list_annotations(
    session: Session,
    run_id: RunId,
    *,
    key: Annotated[str | None, typer.Option(help="Only this key.", show_default=False)] = None,
    prefix: Annotated[str | None, typer.Option(help="Only keys that begin so.", show_default=False)] = None,
    actor: Annotated[str | None, typer.Option(help="Only this author's.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_PAGE, help="Most remarks to list.")] = 100,
) -> None:
    """List the remarks about a run, oldest first."""
    async with session.connected() as app:
        found = await app.client.annotations(run_id, key=key, prefix=prefix, actor=actor, limit=limit)
    columns: list[str | Column] = ["WHEN", Column("KEY", overflow="fold"), "VALUE", "WHO", "ABOUT"]
    rows = [
        (when(each.at), each.key, compact(each.value), each.actor.id if each.actor else "",
         f"{each.scope} {each.scope_id}" if each.scope_id else each.scope)
        for each in found
    ]  # fmt: skip
    session.out.listing({"annotations": found}, columns, rows, none="No remarks.")


async def usage(
    session: Session,
    *,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Of this run and its children.", show_default=False)
    ] = None,
    topic: Annotated[str | None, typer.Option(help="Of this topic and those below it.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="Of this model.", show_default=False)] = None,
) -> None:
    """Sum up what runs have used: calls, tokens, money, time."""
    async with session.connected() as app:
        found = await app.client.usage(run, topic=topic, model=model)
    document = {
        "total": _document(found.total), "models": {name: _document(used) for name, used in found.models.items()},
        "kinds": {name: _document(used) for name, used in found.kinds.items()},
    }  # fmt: skip
    columns: list[str | Column] = [
        Column("MODEL", overflow="fold"), *(Column(name, justify="right") for name in _COLUMNS),
    ]  # fmt: skip
    rows = [(name, *_cells(used)) for name, used in found.models.items()]
    session.out.listing(document, columns, [*rows, ("all", *_cells(found.total))])


_COLUMNS = ("CALLS", "INPUT", "CACHED", "OUTPUT", "COST", "SECONDS")


def _cells(used: Used) -> tuple[str, ...]:
    counts = (used.calls, used.input_tokens, used.cached_tokens, used.output_tokens)
    return (*(f"{count:,}" for count in counts), f"{used.cost.normalize():f}", f"{used.seconds:.1f}")


def _document(used: Used) -> dict[str, Any]:
    """As JSON; the cost stays exact as a text."""
    return {
        "calls": used.calls, "input_tokens": used.input_tokens, "output_tokens": used.output_tokens,
        "cached_tokens": used.cached_tokens, "cost": f"{used.cost.normalize():f}", "seconds": used.seconds,
    }  # fmt: skip
