"""Identifiers, seeds and names."""

import os
import subprocess
import sys

import pytest

from perdure import ids
from perdure.errors import InvalidName

NOW = 1_750_000_000_000_000


def test_run_ids_are_unique_and_sort_by_time():
    """Two runs would share an id, or each insert would land in the middle of the index."""
    made = [ids.run_id(NOW + step * 1_000) for step in range(500)]
    assert len(set(made)) == 500
    assert made == sorted(made)
    assert {len(run_id) for run_id in made} == {28}
    assert len({ids.run_id(NOW) for _ in range(500)}) == 500


def test_every_made_id_is_one_that_users_could_give():
    """perdure would make ids that it refuses."""
    for made in (ids.run_id(NOW), ids.worker_id(), ids.child_run_id("p", 2, "~1/c#2")):
        assert ids.check_id("id", made) == made


def test_seeds_fit_into_a_column():
    """A run could not be stored, once in a while."""
    assert all(0 <= ids.seed() < 1 << 62 for _ in range(200))
    assert all(0 <= ids.child_seed(n, "c") < 1 << 62 for n in range(200))


def test_a_childs_seed_follows_from_its_parent_and_id():
    """A commit that is made again would start another child (I5)."""
    assert ids.child_seed(7, "c") == ids.child_seed(7, "c")
    assert len({ids.child_seed(seed, child) for seed in (7, 8) for child in ("c", "d")}) == 4


def test_a_childs_id_is_its_own_in_each_generation():
    """A rerun would find the child of the generation before it."""
    assert ids.child_run_id("p", 1, "c") == "p/c"
    assert len({ids.child_run_id(p, g, k) for p in "pq" for g in (1, 2, 3) for k in ("c", "c#2")}) == 12


def test_deep_children_stay_within_the_limit_of_ids():
    """The tenth level of a tree of runs could not be started."""
    found, seen = "p" * 150, set()
    for _ in range(30):
        found = ids.child_run_id(found, 1, "a child with a long name")
        assert len(found) <= ids.MAX_ID
        seen.add(found)
    assert len(seen) == 30


def test_joined_ids_tell_their_parts_apart():
    """Two tenants whose names hold colons would share a run."""
    assert ids.joined_id("chat", "acme", "s-1", 7) == "chat:acme:s-1:7"
    parts = [("a", "b:c"), ("a:b", "c"), ("a%3Ab", "c"), ("a", "b", "c"), ("a", "b", "c", ""), ("a", "", "b", "c")]
    assert len({ids.joined_id(*each) for each in parts}) == len(parts)


def test_long_joined_ids_are_shortened_and_still_differ():
    """A long session's name could not be stored, or would be taken for another one."""
    made = {ids.joined_id("chat", "s" * 300, turn) for turn in range(50)}
    assert len(made) == 50
    assert all(ids.check_id("id", each) == each for each in made)
    with pytest.raises(InvalidName):
        ids.joined_id()


def test_chance_is_the_same_in_every_process():
    """ctx.random() and ctx.uuid() would differ on replay (I7)."""
    script = "from perdure import ids; r = ids.stream(7, 'a'); print(r.random(), ids.uuid_from(r))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert ids.stream(7, "a").random() != ids.stream(7, "b").random()
    assert ids.stream("ab", "c").random() != ids.stream("a", "bc").random()


def test_made_up_uuids_are_version_four():
    """A library that checks a UUID's version would refuse ours."""
    made = [ids.uuid_from(ids.stream(seed)) for seed in range(50)]
    assert {found.version for found in made} == {4}
    assert len(set(made)) == 50


def test_jitter_is_a_share():
    """A retry would wait longer than its cap, or less than no time."""
    drawn = {ids.jitter() for _ in range(200)}
    assert all(0 <= chance < 1 for chance in drawn)
    assert len(drawn) > 100


GOOD = ["a", "order-42", "größe", "with space", "x" * 200, "a:b", "a.b", "日本"]


@pytest.mark.parametrize("value", [*GOOD, "a/b", "~a", "a#2", "a#"])
def test_ids_may_be_nearly_anything(value):
    """A user's own order number could not be a run's id."""
    assert ids.check_id("run id", value) is value


@pytest.mark.parametrize("value", ["", "x" * 201, "a\nb", "\x00", "\x7f", "\ud800", None, 7, b"a"])
def test_what_cannot_be_stored_or_shown_is_no_id(value):
    """A run would be started that nobody can name, or the database would refuse it with a strange error."""
    with pytest.raises(InvalidName, match="run id"):
        ids.check_id("run id", value)


@pytest.mark.parametrize("value", [*GOOD, "a#b", "a#2b", "a~"])
def test_names_may_be_nearly_anything(value):
    """A step could not be called what it does."""
    assert ids.check_name("step name", value) is value


@pytest.mark.parametrize(
    "value", ["", "x" * 201, "a/b", "~a", "a#", "a#2", "#1", "a\tb", "\udfff", None, 7, b"a"]
)  # fmt: skip
def test_a_name_that_makes_keys_ambiguous_is_refused(value):
    """Two operations of a workflow would have the same key in the journal (I7)."""
    with pytest.raises(InvalidName, match="step name"):
        ids.check_name("step name", value)


def test_a_process_that_lives_is_not_gone_and_one_that_ended_is():
    """A live worker would be robbed (I1), or a dead one's runs would wait for the end of its lease."""
    assert not ids.process_gone(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert not ids.process_gone(child.pid)
    child.communicate(b"\n")
    assert ids.process_gone(child.pid)


def test_a_zombie_counts_as_gone():
    """A killed worker whose parent does not look would count as alive."""
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    child.stdout.read()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert ids.process_gone(child.pid)
    child.wait()
    child.stdout.close()


def test_a_place_is_the_same_for_processes_that_see_each_other():
    """Process ids of another machine or container would be taken for ours."""
    script = "from perdure import ids; print(ids.process_place(), end='')"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert other.stdout == ids.process_place()
    assert ids.process()[1] == os.getpid()
    assert ids.process()[0] in ids.process_place()


def test_workers_have_identities_of_their_own():
    """Two workers of one process would keep each other's leases alive."""
    assert len({ids.worker_id() for _ in range(50)}) == 50


def test_looking_for_a_process_does_not_end_it_on_windows(monkeypatch):
    """Where signal 0 is an order to end, a worker would kill every other one on its machine by looking at it."""

    def kill(pid, number):
        raise AssertionError(f"process {pid} got signal {number}")

    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", kill)
        patch.setattr(os, "name", "nt")
        gone = ids.process_gone(os.getpid())
    assert not gone
