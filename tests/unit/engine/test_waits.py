"""What a run waits for: times in their order, messages for the first who asked for them."""

from types import SimpleNamespace

import pytest

from perdure.engine.request import ChildRequest, ChildStart, ReceiveRequest, StepRequest, TimerRequest
from perdure.engine.waits import CANCEL, PAUSE, Waits
from perdure.model.run import Message


class Run:
    """The requests that a workflow has open, as its machine keeps them, and its waits."""

    def __init__(self):
        self.machine = SimpleNamespace(wanted={}, children=[])
        self.starting = []
        self.waits = Waits()

    def want(self, request):
        self.machine.wanted[request.key] = request
        self.waits.add(request)
        return request

    def timer(self, key, at):
        return self.want(TimerRequest(key, None, at))

    def receive(self, key, name="go", until=None):
        return self.want(ReceiveRequest(key, None, name, until))

    def child(self, key, child_id):
        return self.want(ChildRequest(key, None, child_id, "w"))

    def settle(self, request):
        del self.machine.wanted[request.key]

    def next(self):
        found = self.waits.next_message(self.machine, self.starting)
        return found and (found[0].id, *found[1])


@pytest.fixture
def run():
    return Run()


def message(number, topic="signal:go", key=None, child_id=None):
    return Message(1, number, topic, key, None, 0, None, None, None, child_id)


def start(key, child_id):
    return ChildStart(key, child_id, "w", "", None, detached=False, tags=(), chosen=True)


def test_times_come_due_earliest_first(run):
    """Timers would fire in another order than they are due (I7)."""
    late, early, same = run.timer("late", 30), run.timer("early", 10), run.timer("same", 10)
    assert run.waits.first_time(run.machine) == 10
    assert run.waits.due(run.machine, 9) == []
    assert run.waits.due(run.machine, 10) == [early, same]
    assert run.waits.due(run.machine, 10) == [], "once"
    assert run.waits.due(run.machine, 100) == [late]
    assert run.waits.first_time(run.machine) is None


def test_what_was_settled_otherwise_is_not_waited_for(run):
    """A run would be woken for a timer that it has cancelled."""
    gone, kept = run.timer("gone", 10), run.receive("kept", until=20)
    run.settle(gone)
    assert run.waits.first_time(run.machine) == 20
    assert run.waits.due(run.machine, 50) == [kept]


def test_a_steps_next_attempt_is_a_time(run):
    """A parked run would not wake for its retry."""
    now = StepRequest("now", None, None, (), {}, returns=None, fingerprint=None, transactional=False)
    later = StepRequest("later", None, None, (), {}, returns=None, fingerprint=None, transactional=False)
    later.retry_at = 40
    run.want(now)
    run.want(later)
    assert run.waits.first_time(run.machine) == 40
    assert run.waits.topics(run.machine) == []
    assert run.waits.due(run.machine, 40) == [later]


def test_topics_are_those_of_open_requests(run):
    """A message that is waited for would not wake the run, or one that is not would."""
    receive, _, _ = run.receive("r"), run.child("c", "p/c"), run.timer("t", 5)
    assert run.waits.topics(run.machine) == ["signal:go", "child:p/c"]
    run.settle(receive)
    assert run.waits.topics(run.machine) == ["child:p/c"]


def test_a_message_goes_to_the_first_who_asked(run):
    """Two receives of one name would get each other's signals on replay (I7)."""
    first, second = run.receive("1"), run.receive("2")
    run.waits.deliver([message(7), message(8), message(9)])
    assert run.next() == (7, first)
    assert run.next() == (8, second)
    assert run.next() is None
    assert [found.id for found in run.waits.mailbox] == [9]


def test_a_message_that_nobody_asked_for_waits_and_stops_nobody(run):
    """A signal that comes early would be lost (I9), or hide the ones behind it."""
    child = run.child("c", "p/c")
    run.waits.deliver([message(1, "signal:early"), message(2, "child:p/c")])
    assert run.next() == (2, child)
    assert run.next() is None
    late = run.receive("r", "early")
    assert run.next() == (1, late)


def test_a_settled_request_takes_no_message(run):
    """A signal would be given to a receive that has timed out, and be lost."""
    gone, there = run.receive("gone"), run.receive("there")
    run.settle(gone)
    run.waits.deliver([message(1)])
    assert run.next() == (1, there)


def test_a_new_request_under_an_old_key_is_another_one(run):
    """A request that was replaced would take the message of its successor."""
    run.receive("r")
    again = run.receive("r")
    run.waits.deliver([message(1)])
    assert run.next() == (1, again)


def test_a_childs_end_is_for_all_who_wait_for_it(run):
    """The second of two calls with one id would wait for ever (I8)."""
    first, gone, third, _ = run.child("1", "c"), run.child("2", "c"), run.child("3", "c"), run.child("4", "d")
    run.settle(gone)
    run.waits.deliver([message(5, "child:c")])
    assert run.next() == (5, first, third)
    assert run.next() is None


def test_what_is_said_to_one_call_is_for_it_alone(run):
    """The refusal of one call would be told to another that waits for the same id."""
    run.child("1", "c")
    run.waits.deliver([message(0, "child:c", "2")])
    assert run.next() is None
    second = run.child("2", "c")
    assert run.next() == (0, second)


def test_a_childs_end_waits_until_it_is_known_whose_it_is(run):
    """A call whose start is refused would get the end of a child that is another's."""
    first, second = run.child("1", "c"), run.child("2", "c")
    assert run.waits.ask(start("2", "c"))
    assert not run.waits.ask(start("2", "c")), "once"
    run.waits.deliver([message(5, "child:c")])
    assert run.next() is None
    run.waits.answered("2", message(0, "child:c", "2"))
    assert run.next() == (0, second)
    run.settle(second)
    assert run.next() == (5, first)


def test_a_childs_end_waits_until_the_start_of_another_call_is_answered(run):
    """The other call would get the end of a child whose id it must not have."""
    second = run.child("2", "c")
    run.machine.children.append(start("2", "c"))
    run.waits.deliver([message(5, "child:c")])
    assert run.next() is None
    run.starting, run.machine.children = run.machine.children, []
    assert run.next() is None
    run.starting = []
    assert run.next() == (5, second)


@pytest.mark.parametrize("told", [True, False])
def test_an_end_that_was_found_is_told_unless_a_message_tells_it(run, told):
    """The message of a child's end would stay in the inbox, as what was found was told instead (I9)."""
    first = run.child("1", "c")
    run.waits.ask(start("1", "c"))
    if told:
        run.waits.deliver([message(5, "child:c", child_id="c")])
    run.waits.answered("1", message(0, "child:c", "1", child_id="c"))
    assert run.next() == (5 if told else 0, first)
    run.settle(first)
    assert run.waits.mailbox == []


@pytest.mark.parametrize("topic", [CANCEL, PAUSE])
def test_requests_to_stop_need_nobody_who_asks(run, topic):
    """A run that waits for something else could not be cancelled or paused."""
    run.waits.deliver([message(1, "signal:other"), message(2, topic)])
    assert run.next() == (2,)
    assert [found.id for found in run.waits.mailbox] == [1]


def test_a_message_that_is_told_twice_is_observed_once(run):
    """A signal would be received twice because two wake-ups told of it (I9)."""
    first = run.receive("1")
    run.receive("2")
    run.waits.deliver([message(5)])
    assert run.next() == (5, first)
    run.waits.deliver([message(5), message(5)])
    assert run.next() is None


def test_messages_that_are_in_no_inbox_are_all_told(run):
    """Of two children that had ended before they were started again, the second would never be heard of."""
    one, other = run.child("1", "a"), run.child("2", "b")
    run.waits.deliver([message(0, "child:a"), message(0, "child:b")])
    assert [run.next(), run.next()] == [(0, one), (0, other)]


def test_after_a_clear_the_database_tells_again(run):
    """A run that is claimed again would miss what it had heard but not taken."""
    run.waits.deliver([message(5)])
    run.waits.clear()
    assert run.waits.mailbox == []
    run.waits.deliver([message(5)])
    assert [found.id for found in run.waits.mailbox] == [5]
