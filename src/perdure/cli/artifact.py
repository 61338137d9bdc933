"""`perdure run artifacts` and `artifact`: what runs keep under names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column

from perdure.cli.command import Session, command
from perdure.cli.output import plain, when
from perdure.cli.run import RunId, group
from perdure.errors import InvalidOption
from perdure.model.wire import wire_json


@command(group, "artifacts")
async def artifacts(session: Session, run_id: RunId) -> None:
    """List what a run's steps keep under names."""
    async with session.connected() as app:
        found = await app.client.artifacts(run_id)
    columns: list[str | Column] = [
        Column("NAME", overflow="fold"), "TYPE", Column("BYTES", justify="right"), "SAVED", "STEP",
    ]  # fmt: skip
    rows = [(one.name, one.media_type, f"{one.size:,}", when(one.saved_at), one.step) for one in found]
    session.out.listing({"artifacts": found}, columns, rows, none="No artifacts.")


@command(group, "artifact")
async def artifact(
    session: Session,
    run_id: RunId,
    name: Annotated[str, typer.Argument(help="The artifact's name.")],
    *,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Write it to a new file, as it is.")] = None,
) -> None:
    """
    Print what a run keeps under a name, or write it to a file.

    Bytes are written as they are, texts too, anything else as JSON.
    """
    if to is not None and to.exists():
        option = "--to"
        raise InvalidOption(option, f"{to} exists")
    async with session.connected() as app:
        value = await app.client.artifact(run_id, name)
    if to is not None:
        to.write_bytes(_as_bytes(value))
        session.out.result({"file": str(to)}, f"Wrote {to}.")
    elif isinstance(value, bytes):
        if session.out.as_json:
            option = "--json"
            raise InvalidOption(option, f"{name!r} is bytes; write them with --to FILE")
        sys.stdout.buffer.write(value)
    elif isinstance(value, str) and not session.out.as_json:
        session.out.raw(value)
    else:
        session.out.document(plain(value))


def _as_bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else wire_json(plain(value), ensure_ascii=False, indent=2) + "\n").encode()
