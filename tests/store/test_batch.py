"""Batches: many operations in one transaction, each of them whole or not at all, whatever the others do."""

import asyncio

import apsw
import pytest
from storekit.database import entry, line, start
from storekit.kinds import NOW

from perdure.errors import OperationRefused, StoreFull
from perdure.store.operation import Operation


def send(run_id, data="1"):
    return line("send", run_id=run_id, topic="signal:go", key=None, data=data, now=NOW)


def tagged(run_id, *names):
    return [line("add_tag", id=run_id, name=name) for name in names]


def tags(db):
    return sorted(db.run(db.store.select("select tag from perdure_tags")))


def test_everybody_gets_the_rows_of_his_own_operation(db):
    """A caller would take another one's answer for his."""
    outcomes = db.batch(*[[start(f"r{place}"), send(f"r{place}")] for place in range(30)])
    for place, (rows, error) in enumerate(outcomes):
        number = db.row(f"r{place}").number
        assert error is None
        assert rows == [("started", number), ("sent", number)]


def test_an_empty_operation_is_answered(db):
    """Somebody who had nothing to write would wait for ever."""
    assert db.batch([], [start("a")], []) == [([], None), ([("started", db.row("a").number)], None), ([], None)]


BAD = {
    "constraint": start("bad", owner=1, due_at=NOW),
    "trigger": start("bad", status="completed"),
    "no text": start("bad", input="\ud800"),
    "number too large": start("bad", seed=1 << 70),
    "no value": start("bad", input=object()),
    "wrong type": start("bad", seed="seven"),
    "missing": start("bad", input=None),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_bad_operation_is_refused_alone(db, bad, place):
    """One caller's mistake would cost others their writes, or stop the store for good."""
    operations = [[start("a"), send("a")], [start("b")]]
    operations.insert(place, [start("c"), bad, send("c")])
    outcomes = db.batch(*operations)
    rows, error = outcomes.pop(place)
    assert rows == []
    assert isinstance(error, OperationRefused)
    assert not error.retryable
    assert [error for _, error in outcomes] == [None, None]
    assert [len(rows) for rows, _ in outcomes] == [2, 1]
    assert db.count("runs") == 2, "the refused operation left nothing"
    assert db.batch([start("d")])[0][1] is None
    assert {db.row(run_id).status for run_id in "abd"} == {"queued"}


def test_a_bad_operation_leaves_nothing_of_itself(db):
    """Half of a commit would be stored (I4)."""
    db.worker()
    row = db.owned()
    db.write(row, ("entries", [entry(1)]))
    record = db.record(row)
    record.entries([entry(2), entry(3), entry(1)])
    record.park(None, [], NOW)
    ((rows, error),) = db.batch(record)
    assert rows == []
    assert isinstance(error, OperationRefused)
    assert [found.seq for found in db.journal("a")] == [1]
    assert db.row("a") == row


def test_several_bad_operations_are_each_refused(db):
    """The second mistake in a batch would hide behind the first."""
    outcomes = db.batch(*[[start(f"r{place}", status="failed" if place % 2 else "queued")] for place in range(8)])
    assert [type(error) for _, error in outcomes] == [type(None), OperationRefused] * 4
    assert db.count("runs") == 4


def test_nothing_is_stored_twice_when_another_process_comes_between(file_db):
    """While a bad operation is being isolated, the others would be written a second time."""
    outside = apsw.Connection(file_db.store.path)
    grabbed = []

    def probe(moment, _batch):
        if moment == "after_commit" and not grabbed:
            grabbed.append(outside.execute("begin immediate"))

    store = file_db.another(probe=probe)
    file_db.queued()
    operations = [Operation([send("a", "1")]), Operation([BAD["constraint"]]), Operation([send("a", "2")])]

    async def main():
        answers = []
        for operation in operations:
            store.submit(operation, lambda rows, error: answers.append((rows, error)))
        await store.apply(Operation())
        return answers

    file_db.run(release_when_stuck(main(), outside))
    outside.close()
    assert [message.data for message in file_db.mail("a")] == ["1", "2"]


async def release_when_stuck(main, outside):
    """Let go of the file as soon as the loop turns, which a writer that waits in a thread lets it do."""
    task = asyncio.ensure_future(main)
    for _ in range(20):
        await asyncio.sleep(0)
    if outside.in_transaction:
        outside.execute("rollback")
    return await task


def test_a_failure_of_the_disk_stores_nothing_of_the_batch_and_says_so(db):
    """A caller would believe that what the disk refused is stored, or would not try again."""
    failing = [StoreFull("full")]

    def probe(moment, _batch):
        if moment == "before_commit" and failing:
            raise failing.pop()

    store = db.another(probe=probe)
    before = db.count("runs")
    outcomes = db.batch([start("a")], [start("b")], store=store)
    assert [type(error) for _, error in outcomes] == [StoreFull, StoreFull]
    assert db.count("runs") == before
    outcomes = db.batch([start("a")], [start("b")], store=store)
    assert [error for _, error in outcomes] == [None, None]


# ------------------------------------------------------------------------------------------ user code
def inside(lines, *sql, then=(), fail=None):
    """An operation with a user's function, which executes SQL in the same transaction."""

    def body(transaction):
        for text in sql:
            transaction.execute(text)
        if fail:
            raise fail
        return list(then)

    return Operation(lines, body=body)


def test_a_users_rows_commit_with_the_operation(db):
    """A transactional step's rows and its outcome could part (I4)."""
    db.sql("create table orders (id integer primary key, note text)")
    rows, error = db.batch(
        inside([start("a")], "insert into orders values (1, 'x')", then=tagged("a", "t")), [start("b")]
    )[0]
    assert error is None
    assert rows == [("started", db.row("a").number)]
    assert db.sql("select * from orders") == [(1, "x")]
    assert tags(db) == [("t",)]


def test_a_users_failure_undoes_his_operation_only(db):
    """One transactional step's failure would undo others, or leave its own rows."""
    db.sql("create table orders (id integer primary key, note text)")
    problem = ZeroDivisionError("mine")
    outcomes = db.batch(
        [start("a")],
        inside([start("b")], "insert into orders values (1, 'x')", fail=problem),
        inside([start("c")], "insert into orders values (2, 'y')"),
        inside([start("d")], "insert into orders values (2, 'z')"),
        [start("e")],
    )
    # On Postgres either of the two that want one row may be the first.
    kept, lost = ("c", "d") if outcomes[2][1] is None else ("d", "c")
    errors = dict(zip("abcde", [type(error) for _, error in outcomes], strict=True))
    assert errors == dict.fromkeys("ae" + kept, type(None)) | {"b": ZeroDivisionError, lost: OperationRefused}
    assert outcomes[1] == ([], problem)
    assert db.sql("select * from orders") == [(2, {"c": "y", "d": "z"}[kept])]
    assert sorted(db.run(db.store.select("select id from perdure_runs"))) == [("a",), (kept,), ("e",)]


def test_a_users_function_does_not_run_for_a_lost_run(db):
    """A worker that was presumed dead would write a user's rows (I1)."""
    db.worker()
    row = db.owned()
    ran = []
    record = db.record(row, epoch=row.epoch - 1)
    record.body = lambda _transaction: ran.append("ran") or []
    assert db.batch(record) == [([("stale",)], None)]
    assert ran == []


def test_users_functions_do_not_lose_each_others_rows(db):
    """Of two transactional steps at once, in one commit or beside each other, one would not see the other's rows."""
    db.sql("create table tally (n integer)")
    db.sql("insert into tally values (0)")
    ran = []

    def body(transaction):
        ran.append(transaction.execute("select n from tally")[0][0])
        transaction.execute(f"update tally set n = n + {db.kind.mark}", (1,))
        return []

    outcomes = db.batch(*[Operation(body=body) for _ in range(5)])
    assert [error for _, error in outcomes] == [None] * 5
    assert db.sql("select n from tally") == [(5,)]
    # On Postgres a function runs again when another one has changed what it read.
    assert ran == [0, 1, 2, 3, 4] if db.store.dialect == "sqlite" else sorted(set(ran)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "control",
    ["commit", "rollback", " /* now */ Rollback", "-- x\nend", "begin", "savepoint s", "release perdure_alone",
     "select 1; commit", ";commit", "rollback to perdure_alone"],
)  # fmt: skip
def test_a_users_function_cannot_end_the_transaction(db, control):
    """A user's "commit" would store half of other people's batch, or undo it."""
    db.sql("create table orders (id integer primary key, note text)")
    outcomes = db.batch(
        [start("a")],
        inside([start("b")], "insert into orders values (1, 'x')", control, "insert into orders values (2, 'x')"),
        [start("c")],
        inside([start("d")], "insert into orders values (3, 'x')"),
    )
    assert [error is None for _, error in outcomes] == [True, False, True, True]
    assert db.sql("select id from orders") == [(3,)]
    assert sorted(db.run(db.store.select("select id from perdure_runs"))) == [("a",), ("c",), ("d",)]


def test_bad_and_transactional_operations_in_one_batch(db):
    """Isolating a bad operation would run a user's function twice, or take its rows along."""
    db.sql("create table orders (id integer)")
    outcomes = db.batch(
        inside([start("a")], "insert into orders values (1)"),
        [BAD["constraint"]],
        inside([start("b")], "insert into orders values (2)"),
        [start("c")],
    )
    assert [error is None for _, error in outcomes] == [True, False, True, True]
    assert sorted(db.sql("select id from orders")) == [(1,), (2,)]
