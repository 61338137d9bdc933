"""The table of legal moves."""

from perdure.model.status import MOVES, TERMINAL, Status


def reachable(status):
    found, frontier = {status}, {status}
    while frontier:
        frontier = {new for old in frontier for new in MOVES[old]} - found
        found |= frontier
    return found


def test_every_status_has_its_moves():
    """A status would be added and no run could leave it."""
    assert set(MOVES) == set(Status)


def test_an_end_is_final():
    """A finished run could be moved on (I3)."""
    assert {status for status in Status if not MOVES[status]} == TERMINAL


def test_every_unfinished_run_can_come_to_each_end():
    """A run could get into a status that it never leaves."""
    for status in set(Status) - TERMINAL:
        assert reachable(status) >= TERMINAL, status


def test_every_status_can_be_reached():
    """A status would stand in the table that no run ever has."""
    assert reachable(Status.QUEUED) == set(Status)


def test_every_unfinished_run_can_be_cancelled():
    """An operator could not stop a run."""
    for status in set(Status) - TERMINAL - {Status.CANCELLING}:
        assert Status.CANCELLING in MOVES[status]


def test_no_move_leads_nowhere():
    """A move to the same status would count as a change."""
    assert all(status not in moves for status, moves in MOVES.items())
