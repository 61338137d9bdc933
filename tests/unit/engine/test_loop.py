"""The private loop: nothing moves it but delivered outcomes, and everything in it comes in the same order (I7)."""

import asyncio
import contextvars
import logging

import pytest

from perdure.engine.loop import Branch, PrivateLoop
from perdure.engine.machine import Halt
from perdure.errors import BlockingCall


class Timers:
    """Keeps a loop's timers and its time."""

    def __init__(self):
        self.time = 5_000_000
        self.set = {}

    def now(self):
        return self.time

    def set_timer(self, handle, at):
        self.set[handle] = at

    def drop_timer(self, handle):
        self.set.pop(handle, None)


@pytest.fixture
def timers():
    return Timers()


@pytest.fixture
def loop(timers):
    made = PrivateLoop(timers, salt=7)
    yield made
    made.close()


def rest(loop, coroutine):
    """Run a workflow to its first rest; its task."""
    task = loop.create_main(coroutine)
    loop.run_to_rest()
    return task


def test_a_run_goes_on_until_it_rests_and_no_further(loop):
    """A workflow would stop before it has said all that it wants."""
    seen = []

    async def main():
        for place in range(5):
            await asyncio.sleep(0)
            seen.append(place)
        waiting.append(loop.create_future())
        return await waiting[0]

    waiting = []
    task = rest(loop, main())
    assert seen == [0, 1, 2, 3, 4]
    assert not task.done()
    waiting[0].set_result("go")
    loop.run_to_rest()
    assert task.result() == "go"


def test_the_outer_loop_is_back_afterwards(loop):
    """The process's own loop would be lost after one step of a workflow."""

    async def inner():
        return asyncio.get_running_loop()

    async def outer():
        task = rest(loop, inner())
        assert task.result() is loop
        return asyncio.get_running_loop()

    assert asyncio.run(outer()) is not loop
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


REFUSED = ("run_in_executor", "create_connection", "create_server", "add_reader", "subprocess_exec", "getaddrinfo",
           "call_soon_threadsafe", "add_signal_handler", "run_forever", "run_until_complete", "sock_recv",
           "set_task_factory", "set_default_executor", "stop")  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_reaches_outside_is_refused_by_name(loop, name):
    """A workflow would do something that is not the same on replay."""
    with pytest.raises(BlockingCall, match=name):
        getattr(loop, name)(None, None)


def test_every_method_of_a_loop_is_either_ours_or_refused():
    """A new Python's loop method would do nothing, silently."""
    for name, value in vars(asyncio.AbstractEventLoop).items():
        if callable(value) and not name.startswith("_"):
            assert name in vars(PrivateLoop), name


def test_threads_and_connections_fail_inside_a_workflow(loop):
    """asyncio's helpers would get around the refusal."""

    async def main():
        found = []
        for attempt in (asyncio.to_thread(print), asyncio.open_connection("localhost", 1)):
            try:
                await attempt
            except BlockingCall as error:
                found.append(error)
        return found

    assert len(rest(loop, main()).result()) == 2


def test_time_stands_still_between_outcomes(loop, timers):
    """A workflow would see the real clock, which replays differently."""

    async def main():
        first = loop.time()
        await asyncio.sleep(0)
        return first, loop.time()

    assert rest(loop, main()).result() == (5.0, 5.0)
    timers.time += 250_000
    assert loop.time() == 5.25


def test_timers_are_handed_over_and_fire_when_told(loop, timers):
    """asyncio.sleep in a workflow would wait by the real clock, or not at all."""

    async def main():
        await asyncio.sleep(2.5)
        return "awake"

    task = rest(loop, main())
    ((handle, at),) = timers.set.items()
    assert at == 7_500_000
    assert not task.done()
    loop.fire(handle)
    loop.run_to_rest()
    assert task.result() == "awake"


def test_a_cancelled_timer_is_given_back(loop, timers):
    """A timeout that was not needed would stay in the journal as due."""

    async def main():
        async with asyncio.timeout(10):
            await asyncio.sleep(0)
            return "in time"

    assert rest(loop, main()).result() == "in time"
    assert timers.set == {}


def test_a_timer_that_is_cancelled_after_it_fired_does_nothing(loop):
    """A callback would run although it was called off."""
    ran = []
    handle = loop.call_later(1, ran.append, 1)
    loop.fire(handle)
    handle.cancel()
    loop.run_to_rest()
    assert ran == []


def test_tasks_and_futures_hash_by_their_order(timers):
    """Sets of tasks would be walked in the order of memory addresses, another one on every replay."""

    def hashes(salt):
        loop = PrivateLoop(timers, salt)

        async def nothing():
            pass

        made = [loop.create_task(nothing()) for _ in range(50)] + [loop.create_future() for _ in range(50)]
        found = [hash(each) for each in made]
        loop.run_to_rest()
        loop.close()
        return found

    assert hashes(7) == hashes(7)
    assert hashes(7) == list(range(hashes(7)[0], hashes(7)[0] + 100))
    assert hashes(7) != hashes(8)


def test_two_futures_are_equal_only_to_themselves(loop):
    """A future would be found in a set in place of another one of the same hash."""
    one, other = loop.create_future(), loop.create_future()
    other.order = one.order
    assert one != other
    assert len({one, other}) == 2


@pytest.mark.parametrize("way", ["wait", "as_completed", "coroutines"])
def test_what_is_ready_together_comes_in_the_order_of_its_making(timers, way):
    """asyncio.wait and as_completed would take another branch on every replay (I7)."""

    async def value(place):
        return place

    async def main():
        if way == "coroutines":
            return [await each for each in asyncio.as_completed([value(place) for place in range(20)])]
        tasks = [asyncio.ensure_future(value(place)) for place in range(20)]
        if way == "wait":
            done, _ = await asyncio.wait(tasks)
            return [task.result() for task in done]
        return [await each for each in asyncio.as_completed(tasks)]

    found = set()
    for _ in range(5):
        loop = PrivateLoop(timers, 7)
        found.add(tuple(rest(loop, main()).result()))
        loop.close()
    assert len(found) == 1
    if way != "wait":
        assert found == {tuple(range(20))}


def test_keys_are_lineages(loop):
    """Two operations would share a journal key, or a key would depend on what other branches do."""
    keys = {}

    async def leaf(name):
        branch = asyncio.current_task().branch
        keys[name] = [branch.key("s"), branch.key("s"), branch.key("t")]

    async def inner():
        await asyncio.gather(leaf("1/1"), leaf("1/2"))

    async def main():
        await asyncio.gather(inner(), leaf("2"))
        await leaf("main")

    rest(loop, main())
    assert keys == {
        "1/1": ["~1/~1/s", "~1/~1/s#2", "~1/~1/t"],
        "1/2": ["~1/~2/s", "~1/~2/s#2", "~1/~2/t"],
        "2": ["~2/s", "~2/s#2", "~2/t"],
        "main": ["s", "s#2", "t"],
    }


def test_a_prefix_begins_all_keys(timers):
    """A history after continue_as_new would ask for the keys of the one before."""
    loop = PrivateLoop(timers, 7, "~from9/")

    async def main():
        return asyncio.current_task().branch.key("s")

    assert rest(loop, main()).result() == "~from9/s"
    loop.close()


def test_a_repeat_is_numbered_within_its_branch():
    """The second call of a step would be given the first one's outcome."""
    branch = Branch("~1/")
    assert [branch.key("a") for _ in range(3)] == ["~1/a", "~1/a#2", "~1/a#3"]
    assert branch.key("b") == "~1/b"


def test_a_cancelled_request_is_given_up_once(loop):
    """The driver would wait for a step that nobody wants, or give it up twice."""
    given_up = []
    future = loop.create_future()
    future.request, future.given_up = "request", given_up.append
    assert future.cancel()
    assert not future.cancel()
    assert given_up == ["request"]


def test_a_settled_request_is_not_given_up(loop):
    """A step that has ended would be cancelled afterwards."""
    given_up = []
    future = loop.create_future()
    future.request, future.given_up = "request", given_up.append
    future.set_result(1)
    assert not future.cancel()
    assert given_up == []


def test_context_variables_are_the_tasks_own(loop):
    """A variable set in one branch would be seen in another."""
    variable = contextvars.ContextVar("variable", default="unset")

    async def child():
        variable.set("child")

    async def main():
        await asyncio.ensure_future(child())
        return variable.get()

    assert rest(loop, main()).result() == "unset"


def test_a_closed_loop_runs_nothing_more(loop):
    """A run that was evicted would go on in memory while another worker drives it (I1)."""
    ran = []
    loop.call_soon(ran.append, 1)
    loop.close()
    loop.run_to_rest()
    assert ran == []
    assert loop.is_closed()


def test_forgotten_errors_are_told_unless_they_are_the_engines(loop, caplog):
    """A background task's failure would vanish, or each run that is let go would look like one."""
    with caplog.at_level(logging.WARNING, "perdure.workflow"):
        loop.call_exception_handler({"message": "lost", "exception": Halt()})
        loop.call_exception_handler({"message": "group", "exception": BaseExceptionGroup("g", [Halt()])})
        assert caplog.records == []
        loop.call_exception_handler({"message": "mine", "exception": ValueError("x")})
        loop.quiet = True
        loop.call_exception_handler({"message": "elsewhere", "exception": ValueError("x")})
    assert [record.getMessage() for record in caplog.records] == ["mine"]


def test_a_callback_that_is_cancelled_does_not_run_and_one_that_fails_is_told_of(loop, caplog):
    """asyncio.timeout cancels what it has planned, and a callback's error must not end the run's loop."""
    ran = []
    loop.call_soon(ran.append, "first").cancel()
    loop.call_soon(lambda: 1 / 0)
    kept = loop.call_soon(ran.append, "last")
    assert not kept.cancelled()
    loop.run_to_rest()
    assert ran == ["last"]
    assert "ZeroDivisionError" in caplog.text
