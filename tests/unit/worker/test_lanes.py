"""Which queues a claim asks about."""

from perdure.worker.lanes import LINGER, MOST_LINGERING, Lanes


def test_without_queues_nothing_is_asked():
    """Workers without queues would pay for them."""
    lanes = Lanes()
    assert lanes.ask(5) == ()
    assert not lanes.found([], 5, ())


def test_a_queue_that_was_not_asked_about_is_told():
    """The first run of a queue would wait for the next event."""
    lanes = Lanes()
    lanes.ask(0)
    assert lanes.found(["b", "a"], 0, lanes.asked)
    assert lanes.ask(1) == ("a", "b")
    assert not lanes.found(["b"], 1, lanes.asked)


def test_a_queue_that_an_earlier_claim_asked_about_is_told():
    """A job on an idle queue would wait for ever if the last claim, long ago, had found nothing there."""
    lanes = Lanes()
    lanes.found(["a"], 0, ())
    assert lanes.ask(1) == ("a",)
    lanes.found([], 1, lanes.asked)
    assert lanes.found(["a"], 2, ())


def test_a_queue_is_asked_about_for_a_while_longer():
    """Each run of a queue that is empty in between would take two claims; or all queues would be asked for ever."""
    lanes = Lanes()
    lanes.found(["a"], 0, ())
    lanes.found([], 1, ())
    assert lanes.ask(LINGER) == ("a",)
    assert lanes.ask(LINGER + 1) == ()


def test_of_many_queues_without_runs_some_are_asked_about_and_those_with_runs_all():
    """Hundreds of idle queues would slow down every claim, or a busy one be left out."""
    lanes = Lanes()
    names = [f"q{n:03}" for n in range(100)]
    lanes.found(names, 0, ())
    assert lanes.ask(1) == tuple(names)
    lanes.found(["q000"], 2, ())
    assert len(lanes.ask(3)) == MOST_LINGERING
    assert "q000" in lanes.asked
