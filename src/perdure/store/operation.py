"""
An operation is data: named statements with their parameters, which commit together.

One runner can therefore execute a whole batch of them, statement by statement, and never needs Python
in between. What is expected to conflict comes back as rows, not as exceptions.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from typing import Any, NamedTuple

from perdure.model.run import End

Line = tuple[str, tuple[Any, ...]]
"""A statement's name and its parameters, without the tag."""

DROPS = (
    "drop_journal",
    "drop_inbox",
    "drop_keyed",
    "drop_tags",
    "drop_traces",
    "drop_artifacts",
    "drop_outbox",
    "drop_annotations",
    "drop_usage",
    "drop_names",
    "drop_blobs",
    "drop_blob_refs",
    "drop_runs",
    "clear_doomed",
)
"""What removes the runs that `doom` has chosen, with all that is theirs."""

ORDER = (
    "touch_sinks",
    "tell_entries",
    "tell_starts",
    "add_kind",
    "remove_kind",
    "fill_entries",
    "fill_starts",
    "add_blob",
    "declare_dead",
    "free_id",
    "register_worker",
    "learn",
    "heartbeat",
    "leave",
    "bury",
    "expire_runs",
    "expire_deliveries",
    "note_poison",
    "fence",
    "guard",
    "guard_there",
    "guard_vacant",
    "guard_blob",
    "guard_open",
    "guard_queue",
    "guard_command",
    "guard_last_sink",
    "acquire_command",
    "free_name",
    "free_open",
    "ask_named",
    "cancel_named",
    "lose_name",
    "take_name",
    "start",
    "enqueue",
    "start_child",
    "fork_child",
    "enter_queue",
    "debounce",
    "add_item",
    "refer_named",
    "copy_entry",
    "add_tag",
    "start_trace",
    "trace_run",
    "save_artifact",
    "remove_artifact",
    "copy_artifacts",
    "append",
    "forget",
    "add_blob_ref",
    "attach_first",
    "annotate_child",
    "annotate",
    "add_usage",
    "attach",
    "take",
    "take_keyed",
    "send",
    "ask_pause",
    "ask_children",
    "cancel_children",
    "ask_child",
    "cancel_child",
    "clear_suspicion",
    "compensate",
    "park",
    "finish",
    "renew",
    "forget_refs",
    "release",
    "pause_own",
    "note_pause",
    "cancel_paused",
    "notify_parent",
    "wake",
    "wake_id",
    "cancel",
    "pause_idle",
    "resume",
    "rerun",
    "move_version",
    "drop_control",
    "drop_taken",
    "restore",
    "recall",
    "tell_end",
    "note",
    "resolve",
    "declare_queue",
    "set_queue",
    "clear_rates",
    "add_rate",
    "clear_spent",
    "set_queue_state",
    "remove_queue",
    "remove_sink",
    "remove_deliveries",
    "hush_entries",
    "hush_starts",
    "advance_delivery",
    "end_delivery",
    "leave_delivery",
    "fail_delivery",
    "release_deliveries",
    "replay_dead",
    "replay_one",
    "skip_last",
    "skip_event",
    "claim_deliveries",
    "due_now",
    "claim",
    "claim_lone",
    "forget_spent",
    "line_up",
    "claim_held",
    "claim_line",
    "take_chore",
    "forget_workers",
    "forget_names",
    "settle_command",
    "free_command",
    "forget_commands",
    "doom",
    *DROPS,
    "drop_orphans",
    "delete_stream",
    "free_stream",
    "create_stream",
    "first_chunk",
    "append_chunk",
    "close_stream",
    "touch_stream",
    "drop_chunks",
    "drop_streams",
)
"""
The order in which the statements of one batch run, whichever operations they come from.

It makes any mix of operations right in one transaction: what checks ownership comes before what changes
it, messages come before parking (which looks for them), wake-ups come after parking.
"""
PLACE = {name: place for place, name in enumerate(ORDER)}
ASKING = frozenset({"claim", "claim_line"})
"""Statements that ask for runs, those without a queue and those of one."""
CLAIMS = ASKING | {"forget_spent", "line_up", "claim_held"}
"""With what goes with them: an operation of these alone for which no run is ready need not be a transaction."""


class Guarded(NamedTuple):
    """
    Lines that follow in the same transaction when no guard among the operation's own has given a row "stale".

    It comes after everything that commits with it, in order.
    """

    lines: list[Line]


class Odd(Exception):
    """What a function in a transaction has raised that is no `Exception`, on its way to whoever gave the function."""

    def __init__(self, raised: BaseException) -> None:
        super().__init__(f"{type(raised).__name__}: {raised}")
        self.raised = raised


class AsyncBody(NamedTuple):
    """
    A coroutine function that runs inside a transaction.

    Attributes:
        call: Gets an `AsyncTransaction`, and returns more lines.
        context: What it runs in.
    """

    call: Callable[[Any], Coroutine[Any, Any, list[Line]]]
    context: Context


class Operation:
    """
    What commits together.

    Attributes:
        lines: Statements with parameters; order within one statement is kept.
        changed: Numbers of runs whose watchers must look again after the commit; those of streams are negative.
        end: How its one run has ended by it, if it has.
        makes_due: Whether a run may have become due, so that workers look for it.
        body: What follows in the same transaction: lines behind guards, or a function for a user's own rows, which
            returns more lines.
    """

    __slots__ = ("body", "changed", "end", "lines", "makes_due")

    def __init__(
        self,
        lines: Iterable[Line] = (),
        *,
        changed: Iterable[int] = (),
        makes_due: bool = False,
        body: Callable[[Any], list[Line]] | AsyncBody | Guarded | None = None,
    ) -> None:
        self.lines: list[Line] = list(lines)
        self.changed = set(changed)
        self.end: End | None = None
        self.makes_due = makes_due
        self.body = body

    def add(self, statement: str, *parameters: Any) -> None:
        """Append one statement."""
        self.lines.append((statement, parameters))


def is_lone_entry(operation: Operation) -> bool:
    """Whether it is what a sequential step commits: stores have a short way for that."""
    match operation.lines:
        case [("fence", _), ("append", _)]:
            return operation.body is None
    return False


def place_of(line: Line) -> int:
    """Sorts the lines of an operation as `ORDER` has them."""
    return PLACE[line[0]]


Row = tuple[Any, ...]
"""A row that came back: its label ("started", "stale", …), then its columns."""


def is_stale(rows: list[Row]) -> bool:
    """Whether a fence or a guard has said that what was to be changed is no longer what it was."""
    return any(row[0] == "stale" for row in rows)


Outcome = tuple[list[Row], "Exception | None"]
"""What became of an operation: its rows, or the error that kept it from being stored."""

Done = Callable[[list[Row], "Exception | None"], None]
"""Called on the event loop after the commit, with the operation's rows or with the error."""
