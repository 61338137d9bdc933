"""The doctor: a healthy database gives nothing but its size, and each way to break one is found and explained."""

import asyncio
import json

import apsw
import pytest

from perdure import App, Context, Limits, WorkerOptions
from perdure.store.doctor import CHECKS
from perdure.testing.time import START, run_virtual

DAY = 86_400 * 1_000_000
WORKER = "insert into perdure_workers values ({}, '{}', 'h', 'p', 1, '[\"flow\"]', '{}', 0, 0, {})"
LIVE = WORKER.format(91, "live", "alive", 9 * 10**15)
DEAD = WORKER.format(90, "dead", "dead", 5)
SILENT = WORKER.format(90, "silent", "alive", 5)
OWNED = "update perdure_runs set owner = 90, status = 'running' where id = 'waiter'"
DUE = "update perdure_runs set due_at = {} where id = 'sleeper'"
QUEUE = "insert into perdure_queues (name, per_key, ageing, mark) values ('q', 1, 0, '')"
HELD = "update perdure_runs set queue = 'q', queue_key = 'k', slot = 2 where id in ('waiter', 'sleeper')"
IN_LINE = (
    "update perdure_runs set status = 'queued', queue = 'q', slot = 1, rank = 1, due_at = null where id = 'sleeper'"
)
REASON = "update perdure_runs set reason = '{}' where id = 'held'"
ADOPTED = "update perdure_runs set (parent, root) = (select number, number from perdure_runs where id = '{}') "
ADOPTED += "where id = '{}'"
MAIL = "insert into perdure_inbox (run, topic, sent_at) select number, '{}', 0 from perdure_runs where id = '{}'"
ENTRY = "insert into perdure_journal (run, seq, kind, key, at) select {} from perdure_runs where id = '{}'"
DIVERGED = json.dumps({"code": "divergence", "at": START - 2 * DAY, "seq": 1, "message": "differs"})


async def flow(ctx: Context, what: str) -> str:
    match what:
        case "sleep":
            await ctx.sleep(100 * 86_400)
        case "wait":
            await ctx.receive("go", str)
        case "call":
            return await ctx.call("flow", "wait")
        case "fail":
            raise ValueError(what)
    return await ctx.step("last", lambda: "x" * 200)


def make(path) -> None:
    """A database with runs of every sort, and no worker any more."""

    async def main(clock):
        app = App(f"sqlite:///{path}", clock=clock, limits=Limits(inline_bytes=100), synchronous="NORMAL")
        app.workflow(flow)
        async with app:
            kinds = {"done": "", "failed": "fail", "sleeper": "sleep", "parent": "call"}
            kinds |= dict.fromkeys(("waiter", "held", "cancelled"), "wait")
            for run_id, what in kinds.items():
                await app.start("flow", what, id=run_id, tags=["t"])
            await asyncio.sleep(1)
            await app.cancel("cancelled")
            await app.client.pause("held", "until monday")
            await app.signal("held", "go", "unread")
            await asyncio.sleep(1)

    run_virtual(main)


def examine(path, *, after=10.0):
    """The doctor's findings without the one on sizes, some time after `make`."""

    async def main(clock):
        await asyncio.sleep(after)
        app = App(f"sqlite:///{path}", clock=clock)
        async with app.connected():
            return [finding for finding in await app.client.doctor() if finding.code != "size"]

    return run_virtual(main)


def damage(path, *statements) -> None:
    """Change the database behind perdure's back; its triggers would not let us."""
    connection = apsw.Connection(str(path))
    for trigger in ("perdure_runs_move", "perdure_runs_final", "perdure_runs_first"):
        connection.execute(f"drop trigger {trigger}")
    for statement in statements:
        connection.execute(statement)
    connection.close()


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("doctor") / "original.db"
    make(path)
    connection = apsw.Connection(str(path))
    connection.execute("pragma journal_mode = delete")
    connection.close()
    return path.read_bytes()


@pytest.fixture
def path(original, tmp_path):
    copy = tmp_path / "copy.db"
    copy.write_bytes(original)
    return copy


def test_a_healthy_database(path):
    """The doctor would see ghosts: every sort of run, and a stopped system, is reported as broken."""

    async def main(clock):
        app = App(f"sqlite:///{path}", clock=clock)
        async with app.connected():
            return await app.client.doctor()

    (finding,) = run_virtual(main)
    assert (finding.code, finding.severity, finding.count) == ("size", "note", 8)
    assert finding.message.startswith("The database holds 8 runs, ")


def test_one_is_no_number_of_many(tmp_path):
    """The first look at a new database says "1 runs"."""

    async def main(clock):
        app = App(f"sqlite:///{tmp_path / 'new.db'}", clock=clock)
        app.workflow(flow)
        async with app.connected():
            await app.start("flow", "")
            return [finding for finding in await app.client.doctor() if finding.code == "size"]

    (finding,) = run_virtual(main)
    assert finding.message.startswith("The database holds 1 run, 0 journal entries, ")


OUTBOX = (
    "insert into perdure_outbox (run, sink, root, next, last, since, due_at, dead_at) "
    "select number, 's', number, 1, 1, 1, {} from perdure_runs where id = 'sleeper'"
)
CASES = [
    ("running_unowned", "sleeper", ["update perdure_runs set status = 'running' where id = 'sleeper'"]),
    ("owned_at_rest", "waiter", [LIVE, "update perdure_runs set owner = 91 where id = 'waiter'"]),
    ("owner_unknown", "waiter", [OWNED]),
    ("owner_gone", "waiter", [DEAD, OWNED]),
    ("owner_gone", "waiter", [SILENT, OWNED]),
    ("never_due", "waiter", ["update perdure_runs set waiting_for = null where id = 'waiter'"]),
    ("never_due", "waiter", ["update perdure_runs set waiting_for = '[]' where id = 'waiter'"]),
    ("never_due", "waiter", ["update perdure_runs set status = 'queued' where id = 'waiter'"]),
    ("never_due", "waiter", ["update perdure_runs set waiting_for = null, status = 'cancelling' where id = 'waiter'"]),
    ("topics_unreadable", "waiter", ["update perdure_runs set waiting_for = 'signal:go' where id = 'waiter'"]),
    ("topics_unreadable", "waiter", ["update perdure_runs set waiting_for = '\"signal:go\"' where id = 'waiter'"]),
    ("child_untold", "parent waits for done", [
        "update perdure_runs set waiting_for = '[\"child:done\"]' where id = 'parent'",
        ADOPTED.format("parent", "done"),
    ]),
    ("child_strange", "parent waits for waiter", [
        "update perdure_runs set waiting_for = '[\"child:waiter\"]' where id = 'parent'",
    ]),
    ("child_strange", "parent waits for ghost", [
        "update perdure_runs set waiting_for = '[\"child:ghost\"]' where id = 'parent'",
    ]),
    ("message_unread", "waiter", [MAIL.format("signal:go", "waiter")]),
    ("message_unread", "sleeper", [MAIL.format("control:cancel", "sleeper")]),
    ("paused_without_reason", "held", ["update perdure_runs set reason = null where id = 'held'"]),
    ("paused_without_reason", "held", ["update perdure_runs set reason = 'lunch' where id = 'held'"]),
    ("paused_without_reason", "held", ["update perdure_runs set reason = '{}' where id = 'held'"]),
    ("paused_and_due", "held", ["update perdure_runs set due_at = 9000000000000000 where id = 'held'"]),
    ("no_worker", "sleeper", [DUE.format(START)]),
    ("no_compatible_worker", "other (1)", [
        LIVE, DUE.format(START), "update perdure_runs set workflow = 'other' where id = 'sleeper'",
    ]),
    ("lone", "sleeper", [DUE.format(START), "update perdure_runs set workflow = '~durable' where id = 'sleeper'"]),
    ("overdue", "sleeper", [LIVE, DUE.format(START - DAY)]),
    ("events_dead", "s (1 run(s))", [OUTBOX.format(f"null, {START}")]),
    ("events_undelivered", "s (1 run(s))", [OUTBOX.format(f"{START - DAY}, null")]),
    ("queue_missing", "sleeper (q)", ["update perdure_runs set queue = 'q', slot = 1 where id = 'sleeper'"]),
    ("slot_wrong", "waiter", [
        QUEUE, LIVE,
        "update perdure_runs set owner = 91, status = 'running', queue = 'q', slot = 1 where id = 'waiter'",
    ]),
    ("slot_wrong", "sleeper", ["update perdure_runs set slot = 2 where id = 'sleeper'"]),
    ("queue_over_limit", "q, key k: 2 of 1", [QUEUE, HELD]),
    ("queue_paused", "q (1)", [QUEUE, LIVE, IN_LINE, "update perdure_queues set state = 'paused'"]),
    ("no_compatible_worker", "other (1)", [
        QUEUE, LIVE, IN_LINE, "update perdure_runs set workflow = 'other' where id = 'sleeper'",
    ]),
    ("queue_stuck", "q", [
        QUEUE, LIVE, "update perdure_queues set per_key = null, concurrency = 1", IN_LINE,
        "update perdure_runs set queue = 'q', slot = 2 where id = 'waiter'", ADOPTED.format("waiter", "sleeper"),
    ]),
    ("poison", "held", ["update perdure_runs set reason = '{\"code\": \"poison\", \"at\": 0}' where id = 'held'"]),
    ("stopped", "held: compensation_failed", [REASON.format('{"code": "compensation_failed", "at": 0}')]),
    ("stopped", "held: internal_error", [REASON.format('{"code": "internal_error", "at": 0}')]),
    ("diverged", "held", [REASON.format(DIVERGED)]),
    ("status_unknown", "waiter (lost)", ["update perdure_runs set status = 'lost' where id = 'waiter'"]),
    ("end_incomplete", "done", ["update perdure_runs set finished_at = null where id = 'done'"]),
    ("end_incomplete", "done", ["update perdure_runs set output = null where id = 'done'"]),
    ("end_incomplete", "done", ["update perdure_runs set error = '{}' where id = 'done'"]),
    ("end_incomplete", "failed", ["update perdure_runs set error = null where id = 'failed'"]),
    ("end_incomplete", "cancelled", ["update perdure_runs set output = '1' where id = 'cancelled'"]),
    ("end_incomplete", "done", ["update perdure_runs set due_at = 9000000000000000 where id = 'done'"]),
    ("end_incomplete", "done", [LIVE, "update perdure_runs set owner = 91 where id = 'done'"]),
    ("end_too_early", "waiter", ["update perdure_runs set output = '1' where id = 'waiter'"]),
    ("end_too_early", "waiter", ["update perdure_runs set finished_at = 1 where id = 'waiter'"]),
    ("journal_gaps", "done", ["update perdure_journal set seq = 9 where kind = 'completed'"]),
    ("journal_gaps", "done", ["delete from perdure_journal where kind = 'step_completed'"]),
    ("journal_end", "done", ["delete from perdure_journal where kind in ('step_completed', 'completed')"]),
    ("journal_end", "done", ["update perdure_journal set kind = 'failed' where kind = 'completed'"]),
    ("journal_end", "waiter", [ENTRY.format("number, 2, 'failed', '', 0", "waiter")]),
    ("orphan_rows", "journal of run number 70", [ENTRY.format("70, 1, 'x', '', 0", "waiter")]),
    ("orphan_rows", "inbox of run number 70", ["insert into perdure_inbox (run, topic, sent_at) values (70, 'x', 0)"]),
    ("orphan_rows", "tags of run number 70", ["insert into perdure_tags (tag, run) values ('x', 70)"]),
    ("orphan_rows", "artifacts of run number 70", [
        "insert into perdure_artifacts values (70, 'a', 's', 'json', 't', 1, '1', 0)",
    ]),
    ("orphan_rows", "blob references of run number 70", [
        "insert into perdure_blob_refs (run, hash) select 70, hash from perdure_blobs",
    ]),
    ("parent_missing", "waiter", ["update perdure_runs set parent = 70, root = 70 where id = 'waiter'"]),
    ("parent_missing", "parent/flow", ["update perdure_runs set root = null where id = 'parent/flow'"]),
    ("child_left_behind", "waiter", [ADOPTED.format("failed", "waiter")]),
    ("blob_missing", "done refers to", ["delete from perdure_blobs"]),
    ("blob_missing", "done holds @", ["delete from perdure_blob_refs", "delete from perdure_blobs"]),
    ("blob_missing", "waiter holds @none", ["update perdure_runs set input = '@none' where id = 'waiter'"]),
    ("blob_missing", "waiter holds @none", ["update perdure_runs set first_input = '@none' where id = 'waiter'"]),
    ("blob_unused", "orphan", ["insert into perdure_blobs (hash, size, data) values ('orphan', 1, '1')"]),
    ("moves_differ", "completed to queued", ["insert into perdure_moves (old, new) values ('completed', 'queued')"]),
    ("moves_differ", "queued to running", ["delete from perdure_moves where new = 'running'"]),
]  # fmt: skip


@pytest.mark.parametrize(("code", "example", "statements"), CASES)
def test_what_is_broken_is_found(path, code, example, statements):
    """A broken invariant would go unseen, be called by another name, or hide behind false alarms."""
    damage(path, *statements)
    found = examine(path)
    assert [finding.code for finding in found] == [code]
    (finding,) = found
    assert finding.count >= 1
    assert any(name.startswith(example) for name in finding.examples), finding.examples
    assert finding.what_to_do
    assert "{" not in finding.message


def test_a_schema_that_changes_while_it_is_in_use(path):
    """A newer perdure that migrates the database under a running app would go unseen."""

    async def main(clock):
        app = App(f"sqlite:///{path}", clock=clock)
        async with app.connected():
            damage(
                path, "update perdure_schema set version = 99 where version = (select max(version) from perdure_schema)"
            )
            return await app.client.doctor()

    first = run_virtual(main)[0]
    assert (first.code, first.severity) == ("schema_version", "error")
    assert "99" in first.message


def test_every_check_has_a_case():
    """A check that finds nothing, ever, would not be noticed."""
    assert {check.code for check in CHECKS} <= {code for code, _, _ in CASES}


def test_many_finds_are_counted_and_a_few_are_named(path):
    """A thousand broken runs would be listed one by one, or count as five."""
    damage(path, "update perdure_runs set parent = 70, root = 70")
    (finding,) = [finding for finding in examine(path) if finding.code == "parent_missing"]
    assert (finding.count, len(finding.examples)) == (8, 5)


def test_the_worst_comes_first(path):
    """An error would be buried under notes."""
    damage(
        path,
        "insert into perdure_blobs (hash, size, data) values ('orphan', 1, '1')",
        DUE.format(START),
        "update perdure_runs set reason = null where id = 'held'",
    )
    assert [finding.severity for finding in examine(path)] == ["error", "warning", "note"]


def test_a_damaged_file(path):
    """A file that SQLite itself cannot read would end the doctor, instead of being its finding."""
    connection = apsw.Connection(str(path))
    root = connection.execute("select rootpage from sqlite_schema where name = 'perdure_journal'").get
    connection.close()
    data = bytearray(path.read_bytes())
    data[(root - 1) * 4096 : root * 4096] = b"\xff" * 4096
    path.write_bytes(bytes(data))
    (finding,) = examine(path)
    assert (finding.code, finding.severity) == ("file_damaged", "error")
    assert finding.examples


def test_a_living_system(tmp_path):
    """Runs that go on while the doctor looks would be reported."""

    async def main(clock):
        app = App(f"sqlite:///{tmp_path / 'live.db'}", clock=clock, worker=WorkerOptions(cached_runs=0, lease=864_000))
        app.workflow(flow)
        async with app:
            runs = [await app.start("flow", what) for what in ("", "sleep", "wait", "call") * 5]
            await asyncio.sleep(1)
            for run in runs[2::4]:
                await run.signal("go", "on")
                assert {finding.code for finding in await app.client.doctor()} == {"size"}
            await asyncio.sleep(101 * 86_400)
            assert {finding.code for finding in await app.client.doctor()} == {"size"}

    run_virtual(main)
