"""`perdure tick`: one round of due work, for cron."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from perdure.cli.command import Session
from perdure.cli.values import duration
from perdure.errors import InvalidOption
from perdure.oneshot import Tick
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
    session.out.result(asdict(done), _in_words(done))


def _in_words(done: Tick) -> str:
    """What a round has done, without what it had no occasion to do."""
    counts = (
        ("taken over from dead workers", done.taken_over), ("taken up", done.claimed), ("ended", done.ended),
        ("waiting", done.waiting), ("paused", done.paused), ("old ones removed", done.pruned),
        ("events delivered", done.delivered), ("deliveries failed", done.undelivered),
    )  # fmt: skip
    told = ", ".join(f"{count:,} {what}" for what, count in counts if count)
    more = "More is due." if done.more else "Nothing more is due." if told else "Nothing was due."
    return f"Runs: {told}. {more}" if told else more
