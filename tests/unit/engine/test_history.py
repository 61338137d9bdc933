"""From a journal to what is replayed: reruns, forks, skips and new beginnings."""

import json

import pytest

from perdure.engine.history import base_time, cut, cut_before, cut_before_end, key_prefix, present
from perdure.errors import StepNotFound
from perdure.model.entry import Entry, Kind

NOW = 1_000


def journal(*kinds, **data):
    """Entries of these kinds, `kind` or `kind:key`, one per tick; `s3=…` gives the third one's data."""
    found = []
    for seq, word in enumerate(kinds, 1):
        kind, _, key = word.partition(":")
        value = data.get(f"s{seq}")
        text = value if value is None or isinstance(value, str) else json.dumps(value)
        found.append(Entry(seq, Kind(kind), key, NOW + seq, text))
    return found


def seqs(entries):
    return [entry.seq for entry in entries]


def test_without_marks_everything_is_replayed():
    """A plain run would forget something on replay."""
    entries = journal("timer_set:t", "step_completed:a", "timer_fired:t")
    assert present(entries) == entries
    assert present([]) == []


@pytest.mark.parametrize("mark", ["paused", "resumed", "completed", "failed", "cancelled"])
def test_marks_are_not_replayed(mark):
    """A workflow would be given an outcome that it never asked for."""
    assert seqs(present(journal("step_completed:a", mark, "step_completed:b"))) == [1, 3]


def test_a_rerun_keeps_what_it_says_and_goes_on():
    """A rerun would repeat what it should keep, or keep what it should repeat."""
    entries = journal(
        "step_completed:a", "step_completed:b", "completed", "rerun", "step_completed:b", s4={"keep": 1}
    )  # fmt: skip
    assert seqs(present(entries)) == [1, 4, 5]


def test_a_rerun_that_drops_nothing_leaves_no_trace_in_the_replay():
    """A whole history would be replayed as if time had stood still."""
    entries = journal("step_completed:a", "completed", "rerun", s3={"keep": 1})
    assert seqs(present(entries)) == [1]


def test_a_rerun_from_the_beginning_keeps_nothing():
    """An old outcome would be delivered to a run that begins anew."""
    entries = journal("step_completed:a", "failed", "rerun", "step_completed:a", s3={"keep": 0})
    assert seqs(present(entries)) == [3, 4]


def test_reruns_follow_each_other():
    """The second rerun would bring back what the first had dropped."""
    entries = journal(
        "step_completed:a", "step_completed:b", "failed", "rerun", "step_completed:c", "failed", "rerun",
        s4={"keep": 1}, s7={"keep": 2},
    )  # fmt: skip
    assert 2 not in seqs(present(entries))
    assert seqs(present(entries))[0] == 1


def test_a_new_beginning_forgets_what_was_before():
    """A run would replay outcomes of its life before continue_as_new."""
    assert seqs(present(journal("step_completed:a", "continued", "step_completed:a"))) == [3]
    assert present(journal("continued")) == []


def test_a_skip_leaves_one_entry_out():
    """An operator could not get a diverged run past an entry."""
    entries = journal("step_completed:a", "step_completed:gone", "paused", "resumed", "skipped", s5={"seq": 2})
    assert seqs(present(entries)) == [1]


@pytest.mark.parametrize(("whole", "expected"), [(True, [1]), (False, [1, 2])])
def test_a_fork_shows_where_time_was_cut(whole, expected):
    """A fork of half a history would count the time between as passed."""
    entries = journal("step_completed:a", "forked", s2={"whole": whole, "base": 5})
    assert seqs(present(entries)) == expected


def test_time_begins_where_the_present_history_does():
    """ctx.now() would be another time on replay (I5)."""
    assert base_time(journal("step_completed:a"), 7) == 7
    assert base_time(journal("step_completed:a", "continued", "step_completed:b"), 7) == NOW + 2
    assert base_time(journal("forked", "step_completed:b", s1={"base": 42}), 7) == 42
    assert base_time(journal("continued", "forked", s2={"base": 42}), 7) == 42


def test_keys_of_a_new_history_are_its_own():
    """A run would find the children of its life before continue_as_new."""
    assert key_prefix(journal("step_completed:a")) == ""
    assert key_prefix(journal("step_completed:a", "continued")) == "~from2/"
    assert key_prefix(journal("continued", "continued")) == "~from2/"
    assert key_prefix(journal("forked", s1={"prefix": "~from9/", "base": 1})) == "~from9/"


def test_a_cut_is_before_the_outcome_of_an_operation():
    """A rerun would keep what depends on the step that is done again."""
    entries = journal("timer_set:t", "step_completed:a", "attempt_failed:b", "step_failed:b", "timer_fired:t")
    assert cut_before("r", entries, "") == 0
    assert cut_before("r", entries, "a") == 1
    assert cut_before("r", entries, "b") == 3
    assert cut_before("r", entries, "t") == 4
    assert cut_before("r", entries[1:], "a") == 0


@pytest.mark.parametrize("key", ["nobody", "c"])
def test_a_step_without_outcome_cannot_be_cut_before(key):
    """A typing mistake would run everything again."""
    with pytest.raises(StepNotFound) as problem:
        cut_before("r", journal("step_completed:a", "attempt_started:c"), key)
    assert (problem.value.run_id, problem.value.key) == ("r", key)


@pytest.mark.parametrize("end", ["cancel_requested", "deadline_reached"])
def test_what_ended_a_run_from_outside_is_cut_off(end):
    """A rerun of a cancelled run would be cancelled again at once."""
    entries = journal("step_completed:a", end, "step_completed:cleanup")
    assert cut_before_end(entries, completed=False) == 1
    assert cut_before_end(entries[1:], completed=False) == 0
    assert cut_before_end(entries, completed=True) == 3
    assert cut_before_end(entries[:1], completed=False) == 1
    assert cut_before_end([], completed=False) == 0


def test_a_cut_keeps_what_is_before_it():
    """A rerun would keep too much of a history, or too little."""
    entries = journal("timer_set:t", "receive_started:r", "step_completed:a", "timer_fired:t", s1="5000")
    assert cut(entries, 3) == entries[:3]
    assert cut(entries, 4) == entries
    assert cut(entries, 0) == []
    assert cut([], 5) == []


def test_time_stood_still_before_a_rerun():
    """A sleep that had an hour left would be over at once when its run is taken up a day later."""
    entries = journal(
        "timer_set:t", "receive_started:r", "timer_set:date", "step_completed:a", "step_completed:b", "failed", "rerun",
        s1="5000", s2="6000", s3='"2025"', s7={"keep": 4},
    )  # fmt: skip
    entries[-1] = entries[-1]._replace(at=entries[3].at + 100)
    assert [entry.data for entry in present(entries)[:3]] == ["5100", "6100", '"2025"']
    entries[-1] = entries[-1]._replace(at=NOW - 50)
    assert present(entries)[0].data == "5000", "a clock that went back takes nothing away"
    assert entries[0].data == "5000", "the journal itself stays as it was written"


def test_a_timer_that_has_fired_stays_as_it_was():
    """The time of something that has happened would change."""
    entries = journal("timer_set:t", "timer_fired:t", "step_completed:a", "failed", "rerun", s1="5000", s5={"keep": 2})
    entries[-1] = entries[-1]._replace(at=NOW + 10**6)
    assert present(entries)[0].data == "5000"


def test_steps_that_had_not_ended_begin_with_their_first_attempt():
    """A rerun would find the attempts of a step used up."""
    entries = journal(
        "attempt_started:a", "attempt_failed:a", "attempt_started:a", "step_completed:b", "step_completed:a"
    )
    assert seqs(cut(entries, 4)) == [4]
    assert seqs(cut(entries, 5)) == [1, 2, 3, 4, 5]


def test_an_attempt_of_which_nothing_is_known_stays_begun():
    """A step that may run at most once would run twice."""
    entries = journal("attempt_failed:a", "attempt_started:a", "step_completed:b", "step_completed:c")
    assert seqs(cut(entries, 3)) == [2, 3]
