"""Examine a database: whether its invariants hold, what is stuck, and what somebody should know."""

from __future__ import annotations

from typing import NamedTuple

from perdure.clock import SECOND
from perdure.errors import StoreCorrupt
from perdure.model.finding import Finding, Severity
from perdure.model.status import MOVES
from perdure.store.migrate import migrations
from perdure.store.store import Store

EXAMPLES = 5
OVERDUE = 60 * SECOND
"""A run that has been due for longer than this, with workers that know it, is reported."""
LATE = 3_600 * SECOND
"""Events that have been due for longer than this are pointed out."""
LONG = 86_400 * SECOND
"""A diverged run that has been paused for longer than this is pointed out."""
_BY_HAND = "perdure never writes this, so somebody or something else did. Restore a backup, or put it right in SQL: "
_ORDER = {"error": 0, "warning": 1, "note": 2}


class Check(NamedTuple):
    """
    One question to the database.

    Attributes:
        statement: Gives the number of all finds and the name of one, in each row.
        needs: Its parameters before `most`: "now", "overdue", "late", "long".
        message: With {count} in it.
    """

    code: str
    severity: Severity
    statement: str
    message: str
    what_to_do: str
    needs: tuple[str, ...] = ()


CHECKS = (
    # I8: who moves each unfinished run
    Check("running_unowned", "error", "ill_unowned_running",
          "{count} run(s) count as running, but no worker owns them: nobody will go on with them (I8).",
          _BY_HAND + "status 'queued', due_at 0."),
    Check("owned_at_rest", "error", "ill_owned_idle",
          "{count} run(s) are owned by a worker, although their status says that they are at rest.",
          _BY_HAND + "owner null, and due_at 0 unless paused."),
    Check("owner_unknown", "error", "ill_owner_unknown",
          "{count} run(s) are owned by a worker that is not registered, so nobody takes them over (I8).",
          _BY_HAND + "owner null, epoch + 1, status 'queued', due_at 0."),
    Check("owner_gone", "warning", "ill_owner_gone",
          "{count} run(s) are owned by workers whose lease has ended.",
          "The next live worker takes them over within a second or so. Start one if there is none.", ("now",)),
    Check("never_due", "error", "ill_never_due",
          "{count} unfinished run(s) wait for nothing that could come (I8).",
          _BY_HAND + "due_at 0; a worker finds out then what they wait for."),
    Check("topics_unreadable", "error", "ill_topics",
          "{count} waiting run(s) have a list of topics that is none, so no message wakes them (I8).",
          _BY_HAND + "due_at 0; a worker writes the list anew."),
    Check("child_untold", "error", "ill_child_untold",
          "{count} wait(s) for a child that has ended, without a message that says so (I4, I8).",
          "Pause the waiting run and rerun it with before=None: it is told then. Please report it as a bug."),
    Check("child_strange", "error", "ill_child_strange",
          "{count} wait(s) for a run that is not there, or is no child of the one that waits (I8).",
          "Cancel the waiting run, or pause it and rerun it from an earlier step."),
    Check("message_unread", "error", "ill_unread",
          "{count} run(s) have a message that they wait for, and are not due (I8, I9).",
          "Send them any signal that they wait for, or pause and resume them. Please report it as a bug.", ("now",)),
    Check("paused_without_reason", "error", "ill_reason",
          "{count} paused run(s) do not say why (I8).", "Resume or cancel them."),
    Check("paused_and_due", "error", "ill_paused_due",
          "{count} paused run(s) are due: a worker will go on with them.", _BY_HAND + "due_at null."),
    Check("no_worker", "warning", "ill_no_worker",
          "{count} run(s) are due, and no worker is alive.", "Start one: perdure worker module:app.", ("now",)),
    Check("no_compatible_worker", "warning", "ill_unknown_workflow",
          "{count} run(s) are due, and no live worker knows their workflow.",
          "Start a worker with an app in which these workflows are registered.", ("now",)),
    Check("lone", "note", "ill_lone",
          "{count} run(s) of run_durable could go on, and only their callers can see to that.",
          "Call run_durable again with their ids, or cancel them.", ("now",)),
    Check("queue_missing", "error", "ill_queue_missing",
          "{count} run(s) go through a queue that is not there, so no worker looks for them (I8).",
          "Declare it in the app (app.queue(name)), or make it: perdure queue set NAME."),
    Check("slot_wrong", "error", "ill_slot",
          "{count} run(s) are driven without the slot that they need, or stand in a line where they have no business.",
          "Pause and resume them; then they line up anew. Please report it as a bug."),
    Check("queue_over_limit", "note", "ill_over_limit",
          "{count} limit(s) are exceeded: more slots are held than the queue allows.",
          "Nothing, if a limit was lowered: no more slots are given out until enough runs have ended. Otherwise "
          "please report it as a bug."),
    Check("queue_paused", "note", "ill_queue_paused", "{count} run(s) stand in line of queues that are paused.",
          "perdure queue resume QUEUE, when it is time."),
    Check("queue_stuck", "warning", "ill_queue_stuck",
          "In {count} queue(s) all slots are held by runs that wait, some of them for children in the same line.",
          "Raise the limit, give the children another queue, or let waiting runs free their slots: "
          "perdure queue set QUEUE --while-waiting free."),
    Check("overdue", "warning", "ill_overdue",
          "{count} run(s) have been due for more than a minute, and there are live workers for them.",
          "The workers are full or blocked: look at their logs, raise WorkerOptions(concurrency=…) or start more.",
          ("now", "overdue")),
    Check("poison", "warning", "ill_poison",
          "{count} run(s) are paused because their worker died again and again.",
          "Look for what kills the process (memory, a crash in native code), then resume them."),
    Check("stopped", "warning", "ill_stopped",
          "{count} run(s) are paused because of an error, and wait for an operator.",
          "Look at them: perdure run show RUN. After compensation_failed decide with perdure run compensate; after "
          "another error resume them when its cause is gone."),
    Check("diverged", "note", "ill_diverged",
          "{count} run(s) have been paused for more than a day because their code does not match their journal (I12).",
          "Restore the old behaviour or guard it with ctx.patched(…), then resume; or rerun them from an earlier step.",
          ("long",)),
    # I3: what the end of a run consists of
    Check("status_unknown", "error", "ill_status", "{count} run(s) have a status that does not exist.",
          _BY_HAND + "one of the statuses in perdure_moves."),
    Check("end_incomplete", "error", "ill_end",
          "{count} finished run(s) lack their end or result, have a result and an error, or are due or owned.",
          "Rerun them, or restore a backup."),
    Check("end_too_early", "error", "ill_not_ended",
          "{count} unfinished run(s) have a result, an error or an end already.", _BY_HAND + "these columns null."),
    # the journal
    Check("journal_gaps", "error", "ill_gaps", "{count} journal(s) do not count from 1 without gaps.",
          "These runs cannot be replayed with certainty. Restore a backup, or start them anew."),
    Check("journal_end", "error", "ill_last_entry",
          "{count} journal(s) end otherwise than their run: a finished run's last entry is its end, and only its.",
          "Rerun these runs, or restore a backup."),
    # events for sinks
    Check("events_dead", "warning", "ill_dead_events",
          "{count} run(s) have events that a sink could not be given, and that wait for an operator.",
          "perdure sink dead SINK tells why; perdure sink replay SINK tries again, in order."),
    Check("events_undelivered", "warning", "ill_undelivered",
          "{count} run(s) have had events for a sink for more than an hour, and nobody delivers them.",
          "Start a worker with the app that declares the sink; or remove the sink: perdure sink remove SINK.",
          ("late",)),
    # what belongs together
    Check("orphan_rows", "error", "ill_orphans", "{count} run(s) that are not there have left rows behind.",
          _BY_HAND + "delete them."),
    Check("parent_missing", "error", "ill_parent",
          "{count} run(s) have a parent that is not there, or another first run of their tree than their parent.",
          _BY_HAND + "parent and root null, to make them runs of their own."),
    Check("child_left_behind", "warning", "ill_left_behind",
          "{count} run(s) go on although their parent has failed or was cancelled, and they are not detached.",
          "Cancel them. Please report it as a bug."),
    Check("blob_missing", "error", "ill_blob_missing",
          "{count} large payload(s) or their references are missing: the runs that need them cannot be replayed.",
          "Restore a backup."),
    Check("blob_unused", "note", "ill_blob_unused", "{count} large payload(s) belong to no run.",
          "perdure db prune removes them."),
)  # fmt: skip


async def examine(store: Store, now: int) -> list[Finding]:
    """
    Look for everything that is wrong with a database or its runs, without changing anything.

    Each question is one query, so it sees one moment of a database that is in use. It reads all of the
    database; on a large one that takes a while, and the event loop stands still during each question.

    Args:
        now: Microseconds since 1970.

    Returns:
        Errors first, then warnings, then notes. A healthy database gives notes at most.
    """
    damage = await _damage(store)
    if damage:
        return damage
    moments = {"now": now, "overdue": now - OVERDUE, "late": now - LATE, "long": now - LONG}
    findings = await _schema(store)
    for check in CHECKS:
        rows = await store.rows(check.statement, *(moments[need] for need in check.needs), EXAMPLES)
        if rows:
            count = int(rows[0][0])
            findings.append(
                Finding(
                    check.code, check.severity, check.message.format(count=count), check.what_to_do, count,
                    [str(name) for _, name in rows],
                )
            )  # fmt: skip
    findings.append(await _sizes(store))
    return sorted(findings, key=lambda finding: _ORDER[finding.severity])


async def _damage(store: Store) -> list[Finding]:
    try:
        problems = [str(problem) for (problem,) in await store.rows("ill_file")]
    except StoreCorrupt as error:
        problems = [str(error)]
    if problems == ["ok"]:
        return []
    message = "The file is damaged; nothing else was examined."
    what_to_do = "Stop all workers, keep a copy of the file, and restore a backup, or try `sqlite3 FILE .recover`."
    return [Finding("file_damaged", "error", message, what_to_do, len(problems), problems[:EXAMPLES])]


async def _schema(store: Store) -> list[Finding]:
    """Whether the schema, and the table of legal moves in it, are those of this perdure."""
    findings = []
    ((version,),) = await store.rows("ill_schema")
    newest = migrations(store.dialect)[-1].version
    if version != newest:
        message = f"The schema has version {version}, and this perdure has version {newest}."
        what_to_do = "Install the perdure that migrated it, or run `perdure db migrate`."
        findings.append(Finding("schema_version", "error", message, what_to_do, 1, []))
    legal = {(str(old), str(new)) for old, news in MOVES.items() for new in news}
    stored = {(old, new) for old, new in await store.rows("ill_moves")}
    if legal != stored:
        odd = [f"{old} to {new}" for old, new in sorted(legal ^ stored)]
        message = f"{len(odd)} move(s) of a run's status are legal in the database only, or in perdure only (I3)."
        what_to_do = _BY_HAND + "the rows of perdure_moves."
        findings.append(Finding("moves_differ", "error", message, what_to_do, len(odd), odd[:EXAMPLES]))
    return findings


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


async def _sizes(store: Store) -> Finding:
    ((runs, entries, messages, blobs),) = await store.rows("sizes")
    ((size,),) = await store.rows("file_size")
    parts = [
        _counted(runs, "run", "runs"),
        _counted(entries, "journal entry", "journal entries"),
        _counted(messages, "message", "messages"),
        f"{blobs:,} bytes of large payloads",
        f"{size:,} bytes of database",
        *store.sizes(),
    ]
    what_to_do = "Nothing. `perdure db prune` removes runs that ended long ago."
    return Finding("size", "note", f"The database holds {', '.join(parts)}.", what_to_do, runs, [])
