"""kill -9 at named points: before and after each kind of commit, again and again, until the work is done."""

import pytest
from crashkit import roles
from crashkit.check import NOTHING, check, check_all_ended, check_deeds, check_nothing_runs_ahead, recorded, shape
from crashkit.harness import Place

pytestmark = pytest.mark.crash

POINTS = (
    "add_blob", "add_blob_ref", "add_tag", "append", "ask_child", "ask_children", "cancel", "cancel_child",
    "cancel_children", "claim", "fence", "finish", "forget", "forget_refs", "leave", "notify_parent", "park",
    "register_worker", "release", "renew", "send", "start", "start_child", "take", "take_keyed", "transaction", "wake",
    "wake_id",
)  # fmt: skip
DEATH, DEATH_AT_ONCE = ("after_commit", "append", 4), ("before_commit", "append", 1)
AFTER_DEATHS = {
    "bury": [DEATH], "declare_dead": [DEATH], "expire_runs": [DEATH], "clear_suspicion": [DEATH_AT_ONCE, DEATH_AT_ONCE],
}  # fmt: skip
"""Committed only when workers have died before, which is how they have to die."""
STEERING = (
    "ask_pause", "cancel_paused", "clear_doomed", "copy_artifacts", "copy_entry", "doom", "drop_annotations",
    "drop_artifacts", "drop_blob_refs", "drop_blobs", "drop_chunks", "drop_control", "drop_inbox", "drop_journal", "drop_keyed",
    "drop_names", "drop_orphans", "drop_outbox", "drop_runs", "drop_streams", "drop_tags", "drop_taken",
    "drop_traces", "drop_usage", "forget_commands", "forget_names", "forget_workers", "fork_child", "guard",
    "guard_there", "guard_vacant", "note", "pause_idle", "pause_own", "recall", "rerun", "restore", "resume",
    "tell_end",
)  # fmt: skip
"""What operators add to them."""
KINDS = ("ask_pause", "copy_entry", "doom", "drop_orphans", "pause_idle", "pause_own", "rerun", "resume")
"""One statement for each kind of commit of an operator's; the others come with these."""
MOST_DEATHS = 3
GATE = ["open", "left", "right", "WATCH", "CLOSED"]
ORDER = ["ORDER 1", ["A", "b", "c"], 7, "BILLPAID", "yes", 40_000, "y", 36]
STEERED = [[GATE] * 3, [ORDER] * 3, "1 go 2"]
"""What the operators' runs return: as they were, rerun, and forked."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the family does when nothing happens to it: its ends, its shape, and the statements that it committed."""
    with Place(tmp_path_factory.mktemp("undisturbed")) as place:
        child = place.start(roles.family)
        ends, seen = child.expect("ended")
        assert child.join() == 0, str(child)
        with place.read() as database:
            check_all_ended(database)
            check_deeds(database, place.deeds(), most=1)
            return ends, shape(database), seen


def test_the_named_points_are_all_that_the_family_passes(undisturbed):
    """A kind of commit that the tests below do not kill at would be left unproven."""
    *_, seen = undisturbed
    assert seen == set(POINTS)


@pytest.mark.parametrize("moment", ["before_commit", "after_commit"])
@pytest.mark.parametrize("statement", [*POINTS, *AFTER_DEATHS])
def test_kill_at_a_commit_leaves_the_same_end(place, undisturbed, statement, moment):
    """A death at this point would lose or repeat something, or change what a run returns."""
    ends, expected, _ = undisturbed
    first = AFTER_DEATHS.get(statement, [])
    # Each process lives one such commit longer than the one before, so that they do not go round in a circle.
    kills = [*first, *((moment, statement, 1 if first else nth) for nth in range(1, MOST_DEATHS + 1))]
    deaths, begun, known, code = 0, 0, NOTHING, -9
    while code:
        child = place.start(roles.family, **({"kill": kills[deaths]} if deaths < len(kills) else {}))
        code = child.join()
        known.check_not_again(place.deeds()[begun:])
        with place.scene() as scene:
            check(scene)
            check_nothing_runs_ahead(scene, place.deeds())
            known, begun = recorded(scene), len(place.deeds())
        assert code in {0, -9}, str(child)
        deaths += code != 0
    assert deaths > len(first), f"{statement} was never committed"
    assert child.expect("ended")[0] == ends
    with place.read() as database:
        check_all_ended(database)
        check_deeds(database, place.deeds(), most=deaths + 1)
        assert shape(database) == expected


def test_the_named_points_of_operators_are_all_that_they_pass(place):
    """A kind of commit that the test below does not kill at would be left unproven."""
    child = place.start(roles.operator)
    ends, seen = child.expect("ended")
    assert ends == STEERED
    assert seen - set(POINTS) == set(STEERING)


@pytest.mark.parametrize("moment", ["before_commit", "after_commit"])
@pytest.mark.parametrize("statement", KINDS)
def test_kill_at_an_operators_commit_leaves_the_same_end(place, statement, moment):
    """A death at this point would leave an operator's work half done, or a run that cannot be steered any more."""
    deaths, code = 0, -9
    while code:
        kill = {"kill": (moment, statement, deaths + 1)} if deaths < MOST_DEATHS else {}
        child = place.start(roles.operator, **kill)
        code = child.join()
        with place.scene() as scene:
            check(scene)
        assert code in {0, -9}, str(child)
        deaths += code != 0
    assert deaths > 0, f"{statement} was never committed"
    assert child.expect("ended")[0] == STEERED
    with place.read() as database:
        check_all_ended(database)
        assert database.execute("select count(*) from perdure_runs where id in ('pruned', 'gate-fork')").get == 1
