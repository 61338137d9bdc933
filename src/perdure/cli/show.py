"""One run on the screen: its facts, its children, its journal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.table import Column
from rich.text import Text

from perdure.cli.output import Output, brief, plain, status_text, took, visible, when
from perdure.client.client import Client
from perdure.client.view import RunEvent, RunInfo, entry_data
from perdure.clock import to_datetime
from perdure.model.entry import Kind
from perdure.model.run import RunFilter
from perdure.model.status import Status

RECENT = 100
CHILDREN = 20
_DIFF_STYLES = {"-": "red", "+": "green"}


@dataclass(frozen=True, slots=True)
class Picture:
    """
    All that is told about a run.

    Attributes:
        stored: Its input, output, error and tags, as plain data.
        parent: Id of the run that started it.
        worker: Id of the worker that drives it.
        more_children: Where the list of children goes on.
        journal: Its last entries.
        earlier: How many came before them.
        why: Why it could go on, and does not.
    """

    info: RunInfo
    stored: dict[str, Any]
    parent: str | None
    worker: str | None
    children: list[RunInfo]
    more_children: int | None
    journal: list[RunEvent]
    earlier: int
    why: str = ""

    def document(self) -> dict[str, Any]:
        """The same as plain data."""
        told = {field: self.stored[field] for field in ("tags", "input", "output", "error")}
        return {
            "run": {**plain(self.info), "parent_id": self.parent, "worker_id": self.worker, "why": self.why, **told},
            "children": {"runs": self.children, "next": self.more_children},
            "journal": self.journal,
            "earlier_entries": self.earlier,
        }


async def picture_of(client: Client, run_id: str, *, whole: bool) -> Picture:
    """
    Read all that is told about a run.

    Args:
        whole: The whole journal instead of its last entries.

    Raises:
        RunNotFound: There is no such run.
    """
    exported = await client.export(run_id)
    info = await client.handle(run_id).info()
    entries = exported["journal"]
    journal = [_event(entry) for entry in (entries if whole else entries[-RECENT:])]
    children, more = await client.runs(RunFilter(parent=run_id, limit=CHILDREN, oldest_first=True))
    parents = [] if info.parent is None else (await client.runs(RunFilter(after=info.parent + 1, limit=1)))[0]
    workers = [] if info.owner is None else await client.workers()
    return Picture(
        info=info,
        stored=exported["run"],
        parent=next((run.id for run in parents if run.number == info.parent), None),
        worker=next((worker.id for worker in workers if worker.number == info.owner), None),
        children=children,
        more_children=more,
        journal=journal,
        earlier=len(entries) - len(journal),
        why=await client.why(run_id),
    )


def _event(entry: dict[str, Any]) -> RunEvent:
    started = entry.get("started_at")
    return RunEvent(
        entry["seq"], str(entry["kind"]), entry["key"], to_datetime(entry["at"]),
        entry_data(entry["kind"], entry.get("data")),
        None if started is None else to_datetime(started), entry.get("attempt"),
    )  # fmt: skip


def remark(run: RunInfo) -> str:
    """Why a run does not go on just now, in a few words; empty when there is nothing to say."""
    if run.stuck:
        return run.stuck
    if run.reason:
        message = str(run.reason.get("message", "")).partition("\n")[0]
        return f"{run.reason.get('code', '')}: {message}" if message else str(run.reason.get("code", ""))
    if run.in_line:
        return f"in line of queue {run.queue}"
    parts = [f"for {', '.join(run.waiting_for)}"] if run.waiting_for else []
    if run.due_at is not None and run.status != Status.QUEUED:
        parts.append(f"until {when(run.due_at)}")
    elif run.due_at is not None and run.due_at > run.created_at and run.started_at is None:
        parts.append(f"due {when(run.due_at)}")
    return " ".join(parts)


def workflow_of(run: RunInfo) -> str:
    """Its workflow, and the version if it has one."""
    return f"{run.workflow} {run.version}" if run.version else run.workflow


def show(out: Output, picture: Picture, *, full: bool) -> None:
    """Print a run for people."""
    info = picture.info
    out.text(Text.assemble((visible(info.id), "bold"), "  ", status_text(info.status)))
    for name, value in _facts(picture, out, full=full):
        out.text(f"  {name:<11} {value}")
    if info.reason:
        _show_reason(out, info.reason)
    if picture.children:
        out.text("\nChildren", "bold")
        columns: list[str | Column] = [Column("RUN", overflow="fold"), "WORKFLOW", "STATUS", "TOOK", ""]
        out.table(columns, [
            (run.id, workflow_of(run), status_text(run.status), took(run.started_at, run.finished_at), remark(run))
            for run in picture.children
        ])  # fmt: skip
        if picture.more_children is not None:
            out.note(f"There are more: perdure run list --parent {info.id}")
    out.text(f"\nJournal{f' (after {picture.earlier} earlier entries)' if picture.earlier else ''}", "bold")
    if full:
        for event in picture.journal:
            print_event(out, event, full=True)
    else:
        _show_journal(out, picture)


def _facts(picture: Picture, out: Output, *, full: bool) -> list[tuple[str, str]]:
    info, stored = picture.info, picture.stored

    def value(data: Any) -> str:
        if full:
            return json.dumps(data, indent=2, ensure_ascii=False).replace("\n", "\n" + " " * 14)
        return brief(data, out.room - 14)

    ended = f"{when(info.finished_at)}, {took(info.started_at or info.created_at, info.finished_at)} after its start"
    facts = [
        ("workflow", info.workflow),
        ("version", info.version),
        ("stuck", info.stuck),
        ("waits", _waits(picture)),
        ("queue", _place(info)),
        ("created", f"{when(info.created_at)} {info.created_at.astimezone():%Z}"),
        ("started", when(info.started_at)),
        ("ended", ended if info.finished_at else ""),
        ("deadline", when(info.deadline_at)),
        ("generation", str(info.generation) if info.generation > 1 else ""),
        ("parent", picture.parent or ""),
        ("forked from", info.forked_from or ""),
        ("worker", picture.worker or ""),
        ("take-overs", str(info.takeovers) if info.takeovers else ""),
        ("tags", ", ".join(stored["tags"])),
        ("input", value(stored["input"])),
        ("result", value(stored["output"]) if info.status == Status.COMPLETED else ""),
        ("error", _error(stored["error"], full=full) if stored["error"] else ""),
    ]
    return [(name, text) for name, text in facts if text]


def _waits(picture: Picture) -> str:
    """What it waits for, if that is not said elsewhere."""
    info = picture.info
    if info.reason or (info.stuck and not info.in_line):
        return ""
    return picture.why.removeprefix("waits ") or remark(info)


def _place(info: RunInfo) -> str:
    """On what terms a run goes through a queue."""
    parts = [info.queue or "", f"key {info.queue_key}" if info.queue_key else ""]
    return ", ".join([part for part in parts if part] + ([f"priority {info.priority}"] if info.priority else []))


def _show_reason(out: Output, reason: dict[str, Any]) -> None:
    """Why a run is paused; the lines of a divergence in colours."""
    out.text(f"\nPaused: {reason.get('code', 'no reason given')}", "bold yellow")
    for line in str(reason.get("message", "")).splitlines():
        out.text(f"  {line}", _DIFF_STYLES.get(line.strip()[:1], "") if line.startswith("    ") else "")


def _show_journal(out: Output, picture: Picture) -> None:
    if not picture.journal:
        out.text("Nothing yet.")
        return
    begun = picture.info.created_at
    taken = 62 + min(40, max(len(event.key) for event in picture.journal))
    room = max(20, out.room - taken) if out.console.is_terminal else out.room
    texts = [_short(event, room) for event in picture.journal]
    columns: list[str | Column] = [
        Column("SEQ", justify="right"), Column("AFTER", no_wrap=True), Column("KIND", no_wrap=True),
        Column("KEY", overflow="fold"), Column("TRY", justify="right"), Column("TOOK", no_wrap=True),
        Column("DATA", overflow="fold"),
    ]  # fmt: skip
    out.table(columns, [
        (str(event.seq), took(begun, event.at), event.kind, event.key, str(event.attempt or ""),
         took(event.started_at, event.at), text)
        for event, text in zip(picture.journal, texts, strict=True)
    ])  # fmt: skip
    if picture.earlier or any(text.endswith("…") for text in texts):
        out.note("Not all is shown: --full shows it.")


def print_event(out: Output, event: RunEvent, *, full: bool) -> None:
    """Print one journal entry: on one line or, in full, with its data below."""
    at = f"{event.at.astimezone():%Y-%m-%d %H:%M:%S.%f}"[:-3]
    head = f"{at}  {event.seq:>4}  {event.kind:<16}  {event.key}".rstrip()
    if full:
        out.text(head)
        if event.data is not None:
            text = _in_words(event, full=True) or json.dumps(plain(event.data), indent=2, ensure_ascii=False)
            out.text("\n".join(f"    {line}" for line in text.splitlines()))
    else:
        out.text(f"{head}  {_short(event, max(20, out.room - len(head)))}".rstrip())
    out.console.file.flush()


def _short(event: RunEvent, room: int) -> str:
    """An entry's data on one line."""
    if event.data is None:
        return ""
    text = _in_words(event, full=False)
    return brief(event.data, room) if text is None else text[: room - 1] + "…" if len(text) > room else text


def _in_words(event: RunEvent, *, full: bool) -> str | None:
    """An entry's data for people: an error as Python would show it, a time as such; None for what is best as JSON."""
    data = event.data
    if isinstance(data, datetime):
        return f"until {when(data)}"
    if event.kind == Kind.ATTEMPT_FAILED and "next_at" in data:
        error = _error(data["error"], full=full)
        return f"next attempt {when(data['next_at'])}" + ("\n" if full else " after ") + str(error)
    if event.kind == Kind.COMPENSATING and not full:
        return f"undoes {', '.join(data['steps'])} after {data['error']}"
    if event.kind == Kind.PAUSED and not full:
        return " ".join(f"{data['code']}: {data['message'] or ''}".split()).removesuffix(":")
    return _error(data, full=full)


def _error(data: Any, *, full: bool) -> str | None:
    """A stored error as Python would show it; None for other data."""
    if not isinstance(data, dict) or not {"type", "message"} <= data.keys():
        return None
    name = str(data["type"]).rpartition(":")[2]
    text = f"{name}: {data['message']}"
    if full and data.get("traceback"):
        return f"{text}\n{data['traceback']}"
    return text if full else " ".join(text.split())
