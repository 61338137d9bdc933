"""What must hold for the rows of any database of perdure, whenever its processes died; from SQL alone."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import apsw

from crashkit.diary import Deed
from perdure.clock import SystemClock
from perdure.model.finding import Finding
from perdure.model.limits import Limits
from perdure.store.doctor import examine
from perdure.store.sqlite import SqliteStore

SETUP = """
create table ledger (run text not null, label text not null);
create table witness (run integer not null, seq integer not null, kind text not null, key text not null,
  attempt integer, epoch integer not null, id text not null, generation integer not null);
create trigger witness_journal after insert on perdure_journal begin
  insert into witness
  select new.run, new.seq, new.kind, new.key, new.attempt, r.epoch, r.id, r.generation
  from perdure_runs r where r.number = new.run;
end;
create table held (queue text not null, in_all integer not null, of_key integer not null, of_worker integer not null);
create trigger witness_slot after update on perdure_runs when old.slot <> 2 and new.slot = 2 begin
  insert into held
  select new.queue, count(*), count(*) filter (where r.queue_key = new.queue_key), count(*) filter (where r.owner = new.owner)
  from perdure_runs r where r.queue = new.queue and r.slot = 2 and r.finished_at is null;
end;
"""
"""
In the transactions of those who write: the user's own table, a copy of the journal that keeps what continue_as_new
drops, and how many slots of a queue were held whenever one was given out.
"""

RULES = {
    # I8: nothing is lost.
    "unfinished, but neither owned, nor due, nor in line, nor waiting, nor paused": """
        select id from perdure_runs
        where status not in ('completed', 'failed', 'cancelled') and owner is null and due_at is null
          and rank is null and coalesce(waiting_for, '[]') = '[]' and (status <> 'paused' or reason is null)""",
    "owned by nobody that was ever registered": """
        select id from perdure_runs where owner is not null and owner not in (select number from perdure_workers)""",
    "waits for a message that has come": """
        select r.id from perdure_runs r join perdure_inbox i on i.run = r.number
        where r.owner is null and r.due_at is null and i.taken_seq is null
          and r.status in ('waiting', 'cancelling', 'compensating')
          and (i.topic glob 'control:*' or i.topic in (select value from json_each(r.waiting_for)))""",
    "waits for a child that has ended, of which no message tells": """
        select r.id from perdure_runs r, json_each(r.waiting_for) t join perdure_runs c on 'child:' || c.id = t.value
        where r.owner is null and r.due_at is null and c.parent = r.number
          and c.status in ('completed', 'failed', 'cancelled')""",
    # I3, I4: an end is whole.
    "ended, but not quite": """
        select id from perdure_runs
        where (status in ('completed', 'failed', 'cancelled')) <> (finished_at is not null)
          or finished_at is not null and (owner is not null or due_at is not null)""",
    "ended otherwise than its journal says": """
        select id from perdure_runs r
        where finished_at is not null
          and status is not (select kind from perdure_journal where run = r.number order by seq desc limit 1)""",
    "is paused, and its journal does not end with that": """
        select id from perdure_runs r
        where status = 'paused'
          and 'paused' is not (select kind from perdure_journal where run = r.number order by seq desc limit 1)""",
    "did something after its end": """
        select r.id from perdure_runs r join perdure_journal j on j.run = r.number
        where r.generation = 1 and j.kind in ('completed', 'failed', 'cancelled')
          and j.seq < (select max(seq) from perdure_journal where run = r.number)""",
    # The journal
    "has a gap in its journal": """
        select r.id from perdure_journal j join perdure_runs r on r.number = j.run group by j.run
        having max(seq) - min(seq) + 1 <> count(*)""",
    "has a journal without its beginning": """
        select r.id from perdure_journal j join perdure_runs r on r.number = j.run
        where j.seq > 1 and j.kind <> 'continued'
          and j.seq = (select min(seq) from perdure_journal where run = j.run)""",
    "recorded an outcome twice": """
        select id || ' ' || key from witness
        where kind in ('step_completed', 'step_failed', 'child_completed', 'child_failed', 'timer_fired')
          or kind = 'signal_received'
        group by run, key, generation having count(*) > 1""",
    "wrote a place of its journal twice": "select id || ' ' || seq from witness group by run, seq having count(*) > 1",
    "wrote with an older epoch after a newer one": """
        select a.id from witness a join witness b on b.run = a.run and b.seq = a.seq + 1 where b.epoch < a.epoch""",
    # Messages and children
    "has a journal that names a child which is not there": """
        select r.id || ' ' || j.key from perdure_journal j join perdure_runs r on r.number = j.run
        where j.kind = 'child_started' and not exists (
          select 1 from perdure_runs c where c.id = json_extract(j.data, '$.id') and c.parent = j.run)""",
    "goes on though its parent was cancelled or has failed": """
        select c.id from perdure_runs c join perdure_runs p on p.number = c.parent
        where p.status in ('failed', 'cancelled') and c.detached = 0
          and c.status not in ('completed', 'failed', 'cancelled', 'cancelling')""",
    # Payloads
    "refers to a blob that is not there": """
        select r.id from perdure_runs r left join perdure_journal j on j.run = r.number
        where r.output glob '@*' and substr(r.output, 2) not in (select hash from perdure_blobs)
          or j.data glob '@*' and substr(j.data, 2) not in (select hash from perdure_blobs)""",
    "has an entry in the user's table more than once": """
        select run || ' ' || label from ledger group by run, label having count(*) > 1""",
}  # fmt: skip


def check(database: apsw.Connection) -> None:
    """Every rule, and what the doctor finds, at any moment: between two commits, or after a crash."""
    findings = asyncio.run(_doctor(database.db_filename("main")))
    assert not [finding for finding in findings if finding.severity == "error"], findings
    with database:  # one transaction, so that all rules see the same moment
        assert database.execute("pragma integrity_check").get == "ok"
        for what, sql in RULES.items():
            found = [row[0] for row in database.execute(sql)]
            assert not found, f"{what}: {found[:10]}"


async def _doctor(file: str) -> list[Finding]:
    store = SqliteStore(file, clock=SystemClock(), limits=Limits())
    store.open(migrating=False)
    try:
        return await examine(store, SystemClock().now())
    finally:
        store.abandon()


def check_all_ended(database: apsw.Connection) -> None:
    """Every rule, and no run is left."""
    check(database)
    left = list(database.execute("select id, status, reason from perdure_runs where finished_at is null limit 10"))
    assert not left, left


class Recorded(NamedTuple):
    """
    What a database knew at some moment.

    Attributes:
        ended: Run and key of each step with an outcome.
        failed: Run, key and number of each attempt that is known to have failed.
    """

    ended: set[tuple[str, str]]
    failed: set[tuple[str, str, int]]

    def check_not_again(self, later: Iterable[Deed]) -> None:
        """No body that was begun later belongs to what was recorded then."""
        for deed in later:
            assert (deed.run, deed.key) not in self.ended, f"its outcome was recorded, and yet it ran again: {deed}"
            assert deed[1:] not in self.failed, f"this attempt was known to have failed, and yet it ran again: {deed}"


NOTHING = Recorded(set(), set())


def recorded(database: apsw.Connection) -> Recorded:
    """What the journal tells about steps, that which continue_as_new dropped included."""
    rows = list(database.execute("select id, key, kind, attempt from witness"))
    return Recorded(
        {(run, key) for run, key, kind, _ in rows if kind in {"step_completed", "step_failed"}},
        {(run, key, attempt) for run, key, kind, attempt in rows if kind == "attempt_failed"},
    )


def check_nothing_runs_ahead(database: apsw.Connection, deeds: list[Deed]) -> None:
    """I2: where one step follows another, a body has begun only after all earlier outcomes were recorded."""
    ended = recorded(database).ended
    of_one_step_at_a_time = {
        run
        for (run,) in database.execute("select id from perdure_runs where workflow in ('invoice', 'plain', 'rounds')")
    }
    begun = Counter(run for run, _ in {deed[1:3] for deed in deeds} - ended if run in of_one_step_at_a_time)
    ahead = {run: steps for run, steps in begun.items() if steps > 1}
    assert not ahead, f"has begun more than one step whose outcomes are not recorded: {ahead}"


def check_deeds(database: apsw.Connection, deeds: list[Deed], *, most: int) -> None:
    """
    The diary against the journal.

    Args:
        most: How often one attempt may have been begun: once, and once more for each death.
    """
    check_diary(recorded(database).ended, deeds, most=most)


def check_diary(ended: set[tuple[str, str]], deeds: list[Deed], *, most: int) -> None:
    """As `check_deeds`, with the steps that have an outcome."""
    done = {(deed.run, deed.key) for deed in deeds}
    assert ended <= done, f"recorded, but never done: {sorted(ended - done)[:10]}"
    again = {deed: times for deed, times in Counter(deed[1:] for deed in deeds).items() if times > most}
    assert not again, f"begun more often than {most} times: {again}"
    twice = {deed for deed, times in Counter(deed[1:] for deed in deeds).items() if times > 1 and "once" in deed[1]}
    assert not twice, f"may run at most once, but did again: {twice}"


def shape(database: apsw.Connection) -> dict[str, list[str]]:
    """
    What each run is and did, in a form that deaths do not change.

    Returns:
        By run id: status, output or error, then kind and key of each entry, sorted; without the attempts,
        of which deaths add some.
    """
    found: dict[str, list[str]] = {}
    for number, run, *end in list(
        database.execute("select number, id, status, output, error from perdure_runs order by number")
    ):
        entries = database.execute(
            "select kind, key from witness where run = ? and kind not in ('attempt_started', 'attempt_failed')",
            (number,),
        )
        found[run] = [json.dumps(end), *sorted(f"{kind} {key}" for kind, key in entries)]
    return found
