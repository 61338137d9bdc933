"""`perdure run`, the part that changes runs: cancel, pause, resume, fork, rerun, signal."""

from __future__ import annotations

from typing import Annotated

import typer

from perdure.app import App
from perdure.cli.command import Session, command
from perdure.cli.output import compact
from perdure.cli.run import RunId, group
from perdure.cli.values import data
from perdure.client.steer import DECISIONS
from perdure.errors import InvalidOption
from perdure.model.status import Status

Reason = Annotated[str, typer.Option(help="Why; shown to whoever looks at the run.")]
Key = Annotated[
    str | None,
    typer.Option(
        "--before",
        metavar="KEY",
        help="Do this again, with all that came after it: the key of a step, timer, signal or child, as "
        "`perdure run show` lists them.",
    ),
]


Stage = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="STAGE",
        help="Do this stage of a pipeline, or node of a flow, again, with its group and all behind it. Needs --app.",
    ),
]


async def _tell(session: Session, app: App, run_id: str, done: str) -> None:
    """Print how the run stands after what was done to it."""
    info = await app.handle(run_id).info()
    session.out.result({"run": info}, f"{done} Run {run_id} is {info.status}.")


@command(group, "cancel")
async def cancel(
    session: Session,
    run_id: RunId,
    *,
    reason: Reason = "",
    compensate: Annotated[
        bool, typer.Option("--compensate", help="Undo what it did, by the compensations of its steps.")
    ] = False,
) -> None:
    """
    Ask a run to end.

    Its workflow sees that as a cancellation, may clean up, and then ends.
    """
    async with session.connected() as app:
        await app.cancel(run_id, reason, compensate=compensate)
        await _tell(session, app, run_id, "Cancellation requested.")


@command(group, "pause")
async def pause(session: Session, run_id: RunId, *, reason: Reason = "") -> None:
    """
    Put a run aside until it is resumed.

    Steps that are being run may end; nothing new is begun.
    """
    async with session.connected() as app:
        await app.client.pause(run_id, reason)
        paused = (await app.handle(run_id).info()).status == Status.PAUSED
        await _tell(session, app, run_id, "Paused." if paused else "Pause requested; its worker pauses it soon.")


@command(group, "resume")
async def resume(
    session: Session,
    run_id: RunId,
    *,
    skip: Annotated[
        bool, typer.Option("--skip", help="Leave out the journal entry that the run's code disagreed with.")
    ] = False,
) -> None:
    """Let a paused run go on."""
    async with session.connected() as app:
        await app.client.resume(run_id, skip=skip)
        await _tell(session, app, run_id, "Resumed.")


@command(group, "compensate")
async def compensate(
    session: Session,
    run_id: RunId,
    step: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="Make sure that it is this one, by its key.")
    ] = None,
    *,
    retry: Annotated[bool, typer.Option("--retry", help="Try it again, with all its attempts.")] = False,
    skip: Annotated[bool, typer.Option("--skip", help="Leave it out: what it would undo stays done.")] = False,
    done: Annotated[bool, typer.Option("--done", help="It was undone by other means.")] = False,
    remark: Annotated[str, typer.Option(help="Kept in the journal with the decision.")] = "",
) -> None:
    """
    Decide what becomes of a compensation that failed.

    A run whose compensation keeps failing is paused with the reason compensation_failed; this lets it go on.
    """
    chosen = [decision for decision, given in zip(DECISIONS, (retry, skip, done), strict=True) if given]
    if len(chosen) != 1:
        option = "--retry, --skip, --done"
        raise InvalidOption(option, "give exactly one of them")
    async with session.connected() as app:
        await app.client.compensate(run_id, chosen[0], step=step, remark=remark)
        await _tell(session, app, run_id, "Decided.")


@command(group, "fork")
async def fork(
    session: Session,
    run_id: RunId,
    *,
    before: Key = None,
    stage: Stage = None,
    fork_id: Annotated[str | None, typer.Option("--id", help="The new run's id; made up when left out.")] = None,
) -> None:
    """
    Start a new run from another one's history.

    Prints the new run's id. Without --before it keeps all of the history; --before "" keeps none of it.
    """
    async with session.connected() as app:
        handle = await app.client.fork(run_id, before=before, stage=stage, id=fork_id)
        if session.out.as_json:
            session.out.document({"run": await handle.info()})
        else:
            session.out.text(handle.id)


@command(group, "rerun")
async def rerun(
    session: Session,
    run_id: RunId,
    *,
    before: Key = None,
    stage: Stage = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep all outcomes, as when only the workflow's own code was at fault.")
    ] = False,
) -> None:
    """
    Do a run again in place.

    It begins at the beginning, unless --before, --from or --keep says otherwise, as a new generation of the same run;
    the journal of the old one is kept.
    """
    if keep and (before is not None or stage is not None):
        option = "--keep"
        raise InvalidOption(option, "it keeps everything, and --before and --from do not; use one of them")
    async with session.connected() as app:
        await app.client.rerun(run_id, before=None if keep else before or "", stage=stage)
        await _tell(session, app, run_id, "To be run again.")


@command(group, "move")
async def move(
    session: Session,
    run_ids: Annotated[list[str], typer.Argument(metavar="RUN...", help="The runs' ids.")],
    *,
    to: Annotated[str, typer.Option("--to", metavar="VERSION", help="The version; '' for the code without one.")],
) -> None:
    """
    Let runs go on with the code of another version of their workflow.

    The app named by --app, or a live worker, must have that version. A run that a worker drives just now is to be
    paused before. Ends at the first run that cannot be moved.
    """
    async with session.connected() as app:
        for run_id in run_ids:
            await app.move_version(run_id, to)
            await _tell(session, app, run_id, f"Moved to version {to!r}.")


@command(group, "signal")
async def signal(
    session: Session,
    run_id: RunId,
    name: Annotated[str, typer.Argument(help="What the run receives it as.")],
    value: Annotated[
        str, typer.Argument(metavar="[JSON]", help="What to send: JSON, a plain word, @file or -.")
    ] = "null",
    *,
    key: Annotated[
        str | None, typer.Option(help="Of several signals with this name and key only the first counts.")
    ] = None,
) -> None:
    """
    Send a signal to a run.

    It is kept until the run receives it, whether the run waits for it yet or not.
    """
    payload = data(value, "JSON")
    async with session.connected() as app:
        accepted = await app.signal(run_id, name, payload, key=key)
    if session.out.as_json:
        session.out.document({"run_id": run_id, "name": name, "accepted": accepted})
    elif accepted:
        session.out.text(f"Sent {name} {compact(payload)}.")
    else:
        session.out.text(f"Not sent: a signal {name} with the key {key} came before, and the first one counts.")
