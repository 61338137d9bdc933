"""`perdure queue`: look at queues, change their limits, pause and drain them, run again what failed."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Column

from perdure.app import App
from perdure.cli.command import Session, command
from perdure.cli.output import in_words, onward, plain, when
from perdure.cli.values import duration
from perdure.client.queue import QueueInfo
from perdure.client.view import RunInfo
from perdure.clock import SECOND, micros
from perdure.errors import InvalidOption, UnknownQueue
from perdure.model.queue import Queue, Rate
from perdure.model.run import MAX_PAGE

group = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Look at queues, change their limits, run again what failed."
)
Name = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue's name.")]
Limit = Annotated[str | None, typer.Option(metavar="N|none", show_default=False)]


@command(group, "list")
async def list_queues(session: Session) -> None:
    """List the queues, with how many runs stand in line and hold slots."""
    async with session.connected() as app:
        found = await app.client.queues()
    columns: list[str | Column] = [
        Column("QUEUE", overflow="fold"), "STATE", *(Column(name, justify="right") for name in _COUNTS), "LIMITS",
    ]  # fmt: skip
    rows = [
        (info.queue.name, info.state, str(info.in_line), str(info.delayed), str(info.holding), str(info.dead),
         _limits(info.queue))
        for info in found
    ]  # fmt: skip
    none = "No queues. An app declares them, or: perdure queue set NAME --concurrency 10"
    session.out.listing({"queues": [_document(info) for info in found]}, columns, rows, none=none)


_COUNTS = ("IN LINE", "DELAYED", "SLOTS HELD", "FAILED")


@command(group, "show")
async def show(session: Session, name: Name) -> None:
    """Show a queue: its limits, and how many runs it has."""
    async with session.connected() as app:
        await _tell(session, app, name)


@command(group, "set")
async def set_queue(  # one option for each limit
    session: Session,
    name: Name,
    *,
    concurrency: Limit = None,
    per_key: Limit = None,
    per_worker: Limit = None,
    rate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N/SPAN",
            help="How often slots are given out: 100/1m; 100/1m:sliding, 10/1s:per-key, or both. May be repeated; "
            "all rates are replaced; none removes them.",
        ),
    ] = None,
    while_waiting: Annotated[
        str | None, typer.Option(metavar="hold|free", help="What a run does with its slot while it only waits.")
    ] = None,
    ageing: Annotated[
        str | None, typer.Option(metavar="SPAN", help="The time of waiting that one level of priority is worth.")
    ] = None,
) -> None:
    """
    Change a queue's limits, or make a queue.

    --concurrency counts the slots held at a time, --per-key those of each key, --per-worker the runs that one worker
    drives; none takes a limit away. What is not named stays. New limits hold from the next slot on; runs that hold
    one keep it. The app's own declaration counts again only when it changes.
    """
    fields: dict[str, Any] = {
        option: _limit(value, f"--{option.replace('_', '-')}")
        for option, value in (("concurrency", concurrency), ("per_key", per_key), ("per_worker", per_worker))
        if value is not None
    }
    if rate:
        fields["rate"] = () if rate == ["none"] else tuple(_rate(text) for text in rate)
    if while_waiting is not None:
        fields["while_waiting"] = while_waiting
    if ageing is not None:
        fields["ageing"] = duration(ageing, "--ageing")
    async with session.connected() as app:
        try:
            queue = (await app.client.queue(name)).queue
        except UnknownQueue:
            queue = Queue(name)
        await app.client.set_queue(queue.changed(**fields))
        await _tell(session, app, name)


@command(group, "pause")
async def pause(session: Session, name: Name) -> None:
    """Give out no more slots. Runs that hold one go on; new ones still stand in line."""
    async with session.connected() as app:
        await app.client.pause_queue(name)
        await _tell(session, app, name)


@command(group, "drain")
async def drain(session: Session, name: Name) -> None:
    """Take no more runs, and work off those that are there."""
    async with session.connected() as app:
        await app.client.drain_queue(name)
        await _tell(session, app, name)


@command(group, "resume")
async def resume(session: Session, name: Name) -> None:
    """Open a paused or draining queue again."""
    async with session.connected() as app:
        await app.client.resume_queue(name)
        await _tell(session, app, name)


@command(group, "remove")
async def remove(session: Session, name: Name) -> None:
    """Remove a queue that no unfinished run goes through."""
    async with session.connected() as app:
        await app.client.drop_queue(name)
    session.out.result({"removed": name}, f"Queue {name} is removed.")


@command(group, "dead")
async def dead(
    session: Session,
    name: Name,
    *,
    limit: Annotated[int, typer.Option(min=1, max=MAX_PAGE, help="Most runs to list.")] = 50,
    after: Annotated[int, typer.Option(help="Go on behind this run; the end of a page says where.")] = 0,
) -> None:
    """List a queue's failed runs, oldest first, with their errors."""
    async with session.connected() as app:
        page, more = await app.client.dead_letters(name, after=after, limit=limit)
        errors = [(await app.client.export(run.id))["run"]["error"] or {} for run in page]
    runs = [{**plain(run), "error": error} for run, error in zip(page, errors, strict=True)]
    columns: list[str | Column] = [Column("RUN", overflow="fold"), "WORKFLOW", "KEY", "FAILED", "ERROR"]
    session.out.listing(
        {"runs": runs, "next": more}, columns, map(_dead_row, page, errors), none="No failed runs.", more=onward(more)
    )


@command(group, "retry")
async def retry(
    session: Session,
    name: Name,
    *,
    anew: Annotated[
        bool, typer.Option("--anew", help="From the beginning, instead of from where each failed.")
    ] = False,
    most: Annotated[int | None, typer.Option(min=1, help="Stop after so many.", show_default=False)] = None,
) -> None:
    """Put a queue's failed runs in line again, oldest first."""
    async with session.connected() as app:
        with session.out.working(f"{name} …"):
            count = await app.client.retry_dead_letters(name, before="" if anew else None, most=most)
    session.out.result({"queue": name, "retried": count}, f"{count} run(s) of queue {name} are in line again.")


async def _tell(session: Session, app: App, name: str) -> None:
    """Print how the queue stands."""
    info, out = await app.client.queue(name), session.out
    if out.as_json:
        out.document(_document(info))
        return
    out.text(f"{info.queue.name}  {info.state}", "bold")
    for fact, value in (
        ("limits", _limits(info.queue)),
        ("waiting runs", f"{info.queue.while_waiting} their slots"),
        ("priority", f"one level is worth {in_words(micros(info.queue.ageing) / SECOND)}"),
        ("in line", str(info.in_line)),
        ("delayed", str(info.delayed)),
        ("slots held", f"{info.holding}, {info.driven} of them by runs that a worker drives now"),
        ("failed", f"{info.dead}{f' (perdure queue dead {info.queue.name})' if info.dead else ''}"),
        ("served", f"{info.served} since it was made"),
    ):
        out.text(f"  {fact:<13} {value}")


def _document(info: QueueInfo) -> dict[str, Any]:
    """A queue as JSON: its limits and its counts side by side."""
    found: dict[str, Any] = plain(info)
    limits: dict[str, Any] = found.pop("queue")
    return limits | found


def _limits(queue: Queue) -> str:
    """The limits in a few words."""
    parts = [
        f"{value} {words}"
        for value, words in (
            (queue.concurrency, "at a time"),
            (queue.per_key, "per key"),
            (queue.per_worker, "per worker"),
        )
        if value is not None
    ]
    return ", ".join([*parts, *(str(rate) for rate in queue.rates)]) or "none"


def _dead_row(run: RunInfo, error: dict[str, Any]) -> list[Any]:
    kind = str(error.get("type", "")).rpartition(":")[2]
    return [run.id, run.workflow, run.queue_key, when(run.finished_at), f"{kind}: {error.get('message', '')}"]


def _limit(text: str, option: str) -> int | None:
    if text == "none":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InvalidOption(option, f"{text!r} is neither a whole number of 1 or more nor none")
    return int(text)


def _rate(text: str) -> Rate:
    """A rate as people write it: 100/1m:sliding:per-key."""
    counted, *kinds = text.split(":")
    limit, slash, span = counted.partition("/")
    if not slash or not limit.isdecimal() or not set(kinds) <= {"sliding", "per-key"}:
        option = "--rate"
        raise InvalidOption(option, f"{text!r} is none; write 100/1m, 100/1m:sliding or 10/1s:per-key")
    return Rate(int(limit), duration(span, "--rate"), sliding="sliding" in kinds, per_key="per-key" in kinds)
