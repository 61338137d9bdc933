"""Queues: what each limit counts, whose turn it is, and what becomes of slots."""

import json

import pytest
from queuekit import MARKS, claim, finish, held, make, names, put, starting
from storekit.database import line
from storekit.kinds import NOW

from perdure.clock import SECOND
from perdure.model.queue import Queue, Rate
from perdure.model.status import Status

MINUTE = 60 * SECOND
WINDOW = NOW // MINUTE * MINUTE
"""Where the minute of NOW begins."""


def test_concurrency_counts_the_slots_of_all_workers(db):
    """Two workers would run twice as many as the resource bears."""
    make(db, Queue("q", concurrency=3))
    put(db, *"abcde")
    assert names(claim(db, 1, most=2)) == ["a", "b"]
    assert names(claim(db, 2)) == ["c"]
    assert claim(db, 2) == []
    finish(db, "a")
    assert names(claim(db, 2)) == ["d"]


def test_several_limits_hold_at_once(db):
    """The narrowest would not win."""
    make(db, Queue("q", concurrency=4, per_key=2, per_worker=3))
    put(db, "a1", "a2", "a3", key="a")
    put(db, "b1", "b2", "b3", key="b")
    assert names(claim(db, 1)) == ["a1", "b1", "a2"]
    assert names(claim(db, 2)) == ["b2"]
    assert claim(db, 2) == []
    finish(db, "a1")
    assert names(claim(db, 2)) == ["a3"]


def test_a_worker_takes_no_more_than_it_has_room_for(db):
    """A worker would be given more runs than its own concurrency."""
    make(db, Queue("q"))
    put(db, *"abc")
    assert len(claim(db, 1, top=2)) == 2
    assert claim(db, 1, top=2) == []
    assert names(claim(db, 2, top=2)) == ["c"]


def test_only_runs_of_workflows_that_the_worker_has_are_claimed(db):
    """A run of a newer version would fail on an old worker, or keep everything behind it waiting."""
    make(db, Queue("q"))
    put(db, "new", workflow="v")
    put(db, "old")
    assert names(claim(db)) == ["old"]
    assert db.row("new").rank is not None


def test_keys_take_turns_whatever_their_lengths(db):
    """A flood of one tenant would starve the others."""
    make(db, Queue("q", concurrency=1))
    put(db, *(f"flood{n}" for n in range(9)), key="m")
    put(db, "z1", "z2", key="z")
    put(db, "a1", "a2", key="a")
    order = []
    for _ in range(7):
        (run,) = claim(db)
        order.append(run.id)
        finish(db, run.id)
    assert order == ["a1", "flood0", "z1", "a2", "flood1", "z2", "flood2"]


def test_a_large_claim_takes_one_of_each_key_before_a_second_of_any(db):
    """One worker's first claim would be filled by whoever came first."""
    make(db, Queue("q"))
    put(db, "a1", "a2", "a3", key="a")
    put(db, "b1", key="b")
    put(db, "c1", "c2", key="c")
    assert names(claim(db, most=5)) == ["a1", "b1", "c1", "a2", "c2"]


def test_the_next_claim_goes_on_behind_the_key_that_was_served_last(db):
    """The keys at the front of the alphabet would be served first by every claim."""
    make(db, Queue("q"))
    for key in "abcd":
        put(db, f"{key}1", f"{key}2", key=key)
    assert names(claim(db, most=3)) == ["a1", "b1", "c1"]
    assert names(claim(db, most=3)) == ["d1", "a2", "b2"]
    assert names(claim(db, most=3)) == ["c2", "d2"]


def test_full_keys_do_not_hide_those_behind_them(db):
    """A few keys at their limit would stop the queue."""
    make(db, Queue("q", per_key=1))
    for key in "abcdef":
        put(db, f"{key}1", f"{key}2", key=key)
    assert len(claim(db, most=5)) == 5
    assert names(claim(db, most=1)) == ["f1"]
    assert claim(db) == []
    finish(db, "e1")
    assert names(claim(db, most=1)) == ["e2"]


def test_a_level_of_priority_is_worth_its_time_of_waiting(db):
    """The urgent would wait behind the rest, or the rest for ever behind the urgent."""
    make(db, Queue("q", ageing=10))
    put(db, "old")
    put(db, "urgent", priority=1, now=NOW + 9 * SECOND)
    put(db, "late", priority=1, now=NOW + 11 * SECOND)
    put(db, "idle", priority=-1, now=NOW)
    assert names(claim(db, now=NOW + 12 * SECOND)) == ["urgent", "old", "late", "idle"]


@pytest.mark.parametrize("sliding", [False, True])
def test_a_rate_gives_out_so_many_slots_in_a_window(db, sliding):
    """A provider's limit would be exceeded, or no slot given out again."""
    make(db, Queue("q", rate=Rate(2, per=60, sliding=sliding)))
    put(db, *"abcde")
    begun = WINDOW + 50 * SECOND
    assert names(claim(db, now=begun)) == ["a", "b"]
    assert claim(db, now=begun + SECOND) == []
    (_, (_, again, ready)) = db.rows("next_due", begun)
    assert again == (begun + 61 * SECOND if sliding else WINDOW + MINUTE)
    assert ready == 1
    assert claim(db, now=again - 1) == []
    finish(db, "a")
    assert names(claim(db, now=again)) == ["c", "d"]


def test_a_rate_counts_slots_not_claims(db):
    """A run that goes on would use up what others are to have; or one that was paused would pass the limit."""
    make(db, Queue("q", rate=Rate(2, per=60)))
    put(db, *"ab")
    (run,) = claim(db, most=1, now=WINDOW)
    db.write(run, ("park", WINDOW, [], WINDOW))
    assert names(claim(db, now=WINDOW)) == ["a", "b"]
    db.write(db.row("a"), ("pause", "{}"))
    assert db.apply(line("resume", id="a", epoch=db.row("a").epoch, now=WINDOW))
    assert claim(db, now=WINDOW + MINUTE - 1) == []
    assert names(claim(db, now=WINDOW + MINUTE)) == ["a"]


def test_per_worker_counts_the_runs_that_are_driven(db):
    """A few sleepers would keep a worker idle; or all would go on at once when they wake up."""
    make(db, Queue("q", per_worker=1))
    put(db, *"ab")
    (run,) = claim(db)
    db.write(run, ("park", NOW + 50, [], NOW))
    assert names(claim(db)) == ["b"]
    assert claim(db, now=NOW + 50) == []
    finish(db, "b")
    assert names(claim(db, now=NOW + 50)) == ["a"]


def test_a_rate_per_key_does_not_touch_the_other_keys(db):
    """One tenant's quota would be used up by another."""
    make(db, Queue("q", rate=(Rate(1, per=60, per_key=True), Rate(3, per=60))))
    put(db, "a1", "a2", key="a")
    put(db, "b1", "b2", key="b")
    put(db, "c1", key="c")
    put(db, "d1", key="d")
    assert names(claim(db, most=1, now=WINDOW)) == ["a1"]
    assert names(claim(db, now=WINDOW)) == ["b1", "c1"]
    assert names(claim(db, now=WINDOW + MINUTE)) == ["d1", "a2", "b2"]


def test_a_rate_counts_weights_and_keeps_the_order(db):
    """Heavy runs would count as light ones, or wait for ever behind light ones."""
    make(db, Queue("q", rate=Rate(10, per=60)))
    put(db, "six", weight=6)
    put(db, "five", weight=5)
    put(db, "one", weight=1)
    assert names(claim(db, now=WINDOW)) == ["six"]
    assert names(claim(db, now=WINDOW + MINUTE)) == ["five", "one"]


def test_a_run_heavier_than_the_rate_counts_as_all_of_it(db):
    """It could never begin, and nothing behind it either."""
    make(db, Queue("q", rate=(Rate(10, per=60), Rate(10, per=60, per_key=True))))
    put(db, "light", now=NOW)
    put(db, "heavy", weight=99, now=NOW + 1)
    assert names(claim(db, now=WINDOW)) == ["light"]
    assert names(claim(db, now=WINDOW + MINUTE)) == ["heavy"]
    assert held(db)[0] == 2


def test_a_delayed_run_stands_in_line_when_its_time_comes(db):
    """It would begin at once, or keep its place while it was not to run."""
    make(db, Queue("q"))
    put(db, "later", due_at=NOW + 50)
    put(db, "now", now=NOW + 40)
    assert db.rows("next_due", NOW)[1:] == [("q", NOW + 50, 1)]
    assert names(claim(db, now=NOW + 49)) == ["now"]
    assert db.rows("next_due", NOW + 50)[1:] == [("q", None, 1)]
    assert names(claim(db, now=NOW + 50)) == ["later"]


def test_a_paused_queue_gives_out_no_slots_and_those_who_hold_one_go_on(db):
    """Pausing would stop nothing, or what is half done."""
    make(db, Queue("q"))
    put(db, *"ab")
    (run,) = claim(db, most=1)
    assert db.apply(line("set_queue_state", name="q", state="paused"))
    db.write(run, ("park", NOW, [], NOW))
    assert names(claim(db)) == ["a"]
    assert db.rows("next_due", NOW)[1:] == [("q", None, 0)]
    db.apply(line("set_queue_state", name="q", state="open"))
    assert names(claim(db)) == ["b"]


def test_a_draining_queue_takes_no_run_and_works_off_those_it_has(db):
    """It would never be empty, or never be emptied."""
    make(db, Queue("q"))
    put(db, "a")
    db.apply(line("set_queue_state", name="q", state="draining"))
    assert db.apply(starting("b")) == []
    assert db.apply(line("remove_queue", name="q")) == []
    assert names(claim(db)) == ["a"]
    finish(db, "a")
    assert db.apply(line("remove_queue", name="q")) == [("dropped", "q")]


def test_a_queue_that_is_not_there_takes_no_run(db):
    """A slip of the pen would make runs that nobody ever looks at."""
    assert db.apply(starting("a", "nowhere")) == []
    assert db.count("runs") == 0


def test_changed_limits_hold_from_the_next_slot_on(db):
    """Changing a queue would need a restart, or take runs off their workers."""
    make(db, Queue("q", concurrency=3))
    put(db, *"abcdef")
    assert len(claim(db)) == 3
    make(db, Queue("q", concurrency=1))
    finish(db, "a")
    assert claim(db) == []
    make(db, Queue("q", concurrency=4, rate=Rate(1, per=60)))
    assert names(claim(db, now=WINDOW)) == ["d"]


def test_what_was_counted_still_counts_under_a_rate_of_the_same_window(db):
    """Changing a limit would give all of it again; or a count of another window would hold up the queue."""
    make(db, Queue("q", rate=Rate(2, per=60)))
    put(db, *"abcde")
    assert len(claim(db, now=WINDOW)) == 2
    make(db, Queue("q", rate=Rate(3, per=60)))
    assert names(claim(db, now=WINDOW)) == ["c"]
    make(db, Queue("q", rate=Rate(1, per=90)))
    assert names(claim(db, now=WINDOW)) == ["d"]


def test_what_code_declares_overrules_operators_only_when_the_code_has_changed(db):
    """Every deploy would undo what somebody set in an emergency, or a deploy could change nothing."""

    def declare(concurrency, declared):
        db.apply(
            line(
                "declare_queue", name="q", concurrency=concurrency, per_worker=None, per_key=None, frees=0, ageing=1,
                declared=declared, mark=str(next(MARKS)),
            )
        )  # fmt: skip
        return db.rows("queues")[0][2]

    assert declare(5, "five") == 5
    make(db, Queue("q", concurrency=1))
    assert declare(5, "five") == 1
    assert declare(None, None) == 1
    assert declare(6, "six") == 6


def test_a_run_that_waits_holds_its_slot(db):
    """A second run of the key would begin in the middle of the first."""
    make(db, Queue("q", concurrency=1))
    put(db, *"ab")
    (run,) = claim(db)
    db.write(run, ("park", NOW + 50, ["signal:x"], NOW))
    assert claim(db, now=NOW + 10) == []
    assert db.rows("next_due", NOW)[1:] == [("q", NOW + 50, 1)]
    assert names(claim(db, 2, now=NOW + 50)) == ["a"]


def test_a_run_that_waits_gives_its_slot_back_where_the_queue_says_so(db):
    """A thousand sleepers would keep everybody else from a queue that is to bound work, not waiting."""
    make(db, Queue("q", concurrency=1, while_waiting="free"))
    put(db, "a")
    put(db, "b", now=NOW + 5)
    (run,) = claim(db)
    db.write(run, ("park", NOW + 50, ["signal:x"], NOW))
    assert held(db)[0] == 0
    assert names(claim(db, now=NOW + 10)) == ["b"]
    put(db, "c", now=NOW + 20)
    assert claim(db, now=NOW + 60) == []
    assert db.row("a").rank is not None
    finish(db, "b")
    assert names(claim(db, now=NOW + 60)) == ["a"], "what has begun comes before what has not"


def test_a_message_for_a_run_in_line_neither_breaks_the_line_nor_is_lost(db):
    """A wake-up would take it out of its line, or be refused (I8, I9)."""
    make(db, Queue("q", concurrency=1, while_waiting="free"))
    put(db, *"ab")
    (run,) = claim(db, most=1)
    db.write(run, ("park", NOW, ["signal:x"], NOW))
    assert names(claim(db)) == ["a"]
    db.write(db.row("a"), ("park", NOW, ["signal:x"], NOW))
    put(db, "c", priority=9)
    assert names(claim(db, most=1)) == ["c"]
    db.apply(
        line("send", run_id="a", topic="signal:x", key=None, data="1", now=NOW),
        line("wake_id", id="a", topic="signal:x", now=NOW),
    )
    finish(db, "c")
    assert names(claim(db, most=1)) == ["a"]
    assert len(db.mail("a")) == 1


def test_a_dead_workers_runs_keep_their_slots_until_somebody_goes_on_with_them(db):
    """Each death would let more runs in than the limit allows, or leak slots for ever."""
    worker, other = db.worker("one", lease_until=NOW + 5), db.worker("two", lease_until=NOW + 900)
    make(db, Queue("q", concurrency=2, per_worker=1))
    put(db, *"abc")
    assert len(claim(db, worker)) == 1
    assert len(claim(db, other)) == 1
    expired = db.apply(
        line("bury", now=NOW + 10), line("expire_runs", now=NOW + 10, most_takeovers=10, reason="{}")
    )  # fmt: skip
    assert len(expired) == 1
    assert held(db)[0] == 2
    assert claim(db, other, now=NOW + 10) == [], "per_worker holds for runs that are taken over, too"
    finish(db, "b")
    assert names(claim(db, other, now=NOW + 10)) == ["a"]


def test_of_suspects_a_worker_takes_one_at_a_time_from_a_queue_as_well(db):
    """A run that kills its workers could not be told from the innocent ones beside it."""
    make(db, Queue("q"))
    put(db, *"abc")
    claim(db)
    for run_id in "abc":
        row = db.row(run_id)
        db.apply(line("release", run=row.number, epoch=row.epoch, now=NOW))
    db.sql("update perdure_runs set takeovers = 2 where id <> 'c'")
    assert sorted(names(claim(db, 2))) == ["a", "c"]
    assert claim(db, 2) == []


@pytest.mark.parametrize("way", ["its driver", "an operator", "poison"])
def test_a_paused_run_holds_no_slot_and_lines_up_again_when_it_is_resumed(db, way):
    """One broken run would stop its queue until somebody comes."""
    make(db, Queue("q", concurrency=1))
    put(db, "a")
    put(db, "b", now=NOW + 1)
    (run,) = claim(db, db.worker(lease_until=NOW))
    if way == "its driver":
        db.write(run, ("pause", json.dumps({"code": "divergence"})))
    elif way == "an operator":
        db.write(run, ("park", None, ["signal:x"], NOW))
        assert db.apply(line("pause_idle", id="a", epoch=run.epoch, reason="{}"))
    else:
        db.sql("update perdure_runs set takeovers = 9 where id = 'a'")
        db.apply(line("expire_runs", now=NOW + 1, most_takeovers=10, reason="{}"))
    row = db.row("a")
    assert (row.status, row.slot, held(db)[0]) == ("paused", 1, 0)
    assert names(claim(db, 2, now=NOW + 5)) == ["b"]
    assert db.apply(line("resume", id="a", epoch=row.epoch, now=NOW + 6))
    assert claim(db, 2, now=NOW + 6) == []
    finish(db, "b")
    assert names(claim(db, 2, now=NOW + 7)) == ["a"]


def test_a_paused_run_in_line_leaves_it(db):
    """An operator's pause would be overrun by the next slot."""
    make(db, Queue("q"))
    put(db, *"ab")
    assert db.apply(line("pause_idle", id="a", epoch=0, reason="{}"))
    assert names(claim(db)) == ["b"]


@pytest.mark.parametrize("delay", [0, 500])
def test_a_cancelled_run_needs_no_slot_to_end(db, delay):
    """Cancelling a full queue's backlog would take as long as working it off."""
    worker = db.worker()
    make(db, Queue("q", concurrency=1))
    put(db, "a")
    claim(db)
    put(db, "b", due_at=NOW + delay)
    db.apply(line("cancel", id="b", now=NOW))
    ((_, *columns),) = db.apply(line("claim", worker=worker, now=NOW, most=9, workflows='["w"]'))
    assert (columns[1], db.row("b").slot, held(db)[0]) == ("b", 0, 1)


def test_a_cancelled_run_that_holds_a_slot_holds_it_while_it_cleans_up(db):
    """Its clean-up would go on beside the run that took its slot."""
    make(db, Queue("q", concurrency=1, while_waiting="free"))
    put(db, *"ab")
    (run,) = claim(db, most=1)
    db.apply(line("cancel", id="a", now=NOW))
    db.write(run, ("park", NOW + 5, [], NOW))
    assert claim(db) == []
    assert names(claim(db, now=NOW + 5)) == ["a"]


def test_a_run_that_is_run_again_lines_up_again(db):
    """A retried dead letter would pass the limits."""
    make(db, Queue("q", concurrency=1))
    put(db, "a")
    (run,) = claim(db)
    db.write(run, ("finish", Status.FAILED, None, "{}", NOW))
    assert [row[1] for row in db.rows("dead_letters", "q", 0, 9)] == ["a"]
    put(db, "b")
    claim(db)
    assert db.apply(line("rerun", id="a", epoch=db.row("a").epoch, now=NOW))
    assert claim(db) == []
    finish(db, "b")
    assert names(claim(db)) == ["a"]
    assert db.rows("dead_count", "q") == [(0,)]


def test_queues_do_not_touch_each_other_or_the_runs_without_one(db):
    """A full queue would hold up everything else."""
    worker = db.worker()
    for name in ("q", "r"):
        make(db, Queue(name, concurrency=1))
        put(db, f"{name}1", f"{name}2", queue=name)
    db.queued("free")
    assert names(claim(db, worker)) == ["q1"]
    assert names(claim(db, worker, queue="r")) == ["r1"]
    rows = db.apply(line("claim", worker=worker, now=NOW, most=9, workflows='["w"]'))
    assert [row[2] for row in rows] == ["free"]
    assert db.rows("next_due", NOW) == [(None, None, 0), ("q", None, 1), ("r", None, 1)]


def test_children_and_forks_enter_the_queue_that_they_are_given(db):
    """Children would pass the limits of their workflow's queue."""
    make(db, Queue("q", concurrency=1))
    parent = db.owned("parent")
    db.child("child", parent)
    db.apply(line("enter_queue", id="child", queue="q", key="k", priority=2, weight=3, parent=parent.number))
    row = db.row("child")
    assert (row.queue, row.queue_key, row.priority, row.weight, row.slot) == ("q", "k", 2, 3, 1)
    assert db.apply(line("claim", worker=1, now=NOW, most=9, workflows='["w"]')) == []
    assert names(claim(db)) == ["child"]


def test_what_queues_have_is_counted_up_to_a_limit(db):
    """A scrape would read a million rows, or take a priority for a time that somebody has waited."""
    make(db, Queue("q", concurrency=2, ageing=60))
    make(db, Queue("r"))
    put(db, "a", "b")
    held = claim(db)
    end = {"status": "failed", "output": None, "error": '"e"', "now": NOW}
    db.apply(line("finish", run=held[0].number, epoch=held[0].epoch, **end))
    db.apply(line("set_queue_state", name="q", state="paused"))
    for nth in range(12):
        put(db, f"c{nth}", now=NOW + nth, priority=nth % 3)
    put(db, "later", due_at=NOW + 100)
    claim(db, now=NOW + 50)
    assert db.rows("queue_gauges", NOW + 50, 20, 9) == [("q", 12, 1, 1, NOW + 2), ("r", 0, 0, 0, None)]
    assert db.rows("queue_gauges", NOW + 50, 1_000, 1) == [("q", 12, 1, 1, NOW)]
    assert [row[1] for row in db.rows("queue_gauges", NOW + 50, 10, 9)] == [10, 0]
    assert db.rows("queue_gauges", NOW + 100, 9, 1)[0][4] == NOW + 100, "nobody has put it in line yet"


def test_a_claim_reads_as_little_of_a_long_line_as_of_a_short_one(file_db):
    """A backlog would slow down its own working off."""
    steps = {}
    for size in (10, 3_000):
        name = f"q{size}"
        make(file_db, Queue(name, concurrency=size, per_key=size))
        file_db.apply(*(starting(f"{name}-{n}", name, key=f"k{n % 5}") for n in range(size)))
        writer = file_db.store._writer
        spent = []
        writer.trace_v2(
            0x02, lambda event, spent=spent: spent.append(event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"])
        )
        assert len(claim(file_db, 1, queue=name, most=3)) == 3
        writer.trace_v2(0, None)
        steps[size] = sum(spent)
    assert 0 < steps[3_000] <= 1.1 * steps[10]


def test_a_claim_with_an_old_time_finds_what_was_spent(db):
    """A worker whose clock is a moment behind, or whose claim is sent again, would give out a window's slots twice."""
    make(db, Queue("q", rate=Rate(2, per=60)))
    put(db, *"abcdef", now=WINDOW)
    assert names(claim(db, 1, now=WINDOW + MINUTE - 1)) == ["a", "b"]
    assert names(claim(db, 1, now=WINDOW + MINUTE, most=1)) == ["c"]
    assert claim(db, 2, now=WINDOW + MINUTE - 1) == []
