"""`perdure tick`: one round of due work, for cron."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from perdure.cli.command import Session
from perdure.cli.values import duration
from perdure.errors import InvalidOption
from perdure.oneshot import tick as one_round


async def tick(
    session: Session,
    *,
    within: Annotated[str, typer.Option(metavar="SPAN", help="Begin nothing after this time.")] = "20s",
) -> None:
    """
    Do one bounded round of what is due, and end: for cron and the like. Needs --app.

    Due runs are driven until they end or wait, those of dead workers taken over, events delivered, old runs removed.
    """
    if session.app is None:
        option = "--app"
        raise InvalidOption(option, "name the app whose workflows are to be driven: --app module:attribute")
    done = await one_round(session.app.variant(url=session.url), seconds=duration(within, "--within"))
    text = (
        f"{done.claimed} run(s) taken up: {done.ended} ended, {done.waiting} wait; {done.taken_over} taken over; "
        f"{done.delivered} event(s) delivered, {done.undelivered} not; {done.pruned} old run(s) removed; "
        f"{'more is due' if done.more else 'nothing more is due'}."
    )
    session.out.result(asdict(done), text)
