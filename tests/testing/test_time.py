import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from perdure.testing.time import START, Deadlock, run_virtual

YEAR = 365 * 86_400


def test_sleeping_passes_time_and_nothing_else():
    """Every test with a long sleep would take that long, or time would be off by the time that tests take."""

    async def main(clock):
        await asyncio.sleep(10 * YEAR)
        return clock.now()

    assert run_virtual(main) == START + 10 * YEAR * 1_000_000


def test_time_begins_where_asked():
    """A kit could not go on where it stopped."""

    async def main(clock):
        return clock.now()

    assert run_virtual(main, start=5) == 5


def test_timers_fire_in_the_order_of_their_times():
    """A timeout could be overtaken by what it should stop."""
    fired = []

    async def main(clock):
        async with asyncio.TaskGroup() as group:
            for delay in (3.0, 1.0, 2.0):
                group.create_task(after(delay))

    async def after(delay):
        await asyncio.sleep(delay)
        fired.append(delay)

    run_virtual(main)
    assert fired == [1.0, 2.0, 3.0]


def test_waiting_for_ever_is_an_error():
    """A test that waits for what never comes would hang."""

    async def main(clock):
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock):
        run_virtual(main)


def test_time_stands_still_while_a_thread_works():
    """A timeout would beat any step that runs in a thread."""
    gate = threading.Event()

    async def main(clock):
        asyncio.get_running_loop().call_soon(gate.set)
        async with asyncio.timeout(0.001):
            await asyncio.to_thread(gate.wait)
        return clock.now()

    assert run_virtual(main) == START


def test_threads_are_answered_in_the_order_they_were_begun():
    """Steps in threads would end in another order from run to run, and so would the journal."""
    gate = threading.Event()

    async def main(clock):
        ended = []

        async def call(name, fn):
            await asyncio.to_thread(fn)
            ended.append(name)

        async with asyncio.TaskGroup() as group:
            group.create_task(call("slow", gate.wait))
            group.create_task(call("quick", gate.set))
        return ended

    assert run_virtual(main) == ["slow", "quick"]


def test_a_thread_may_wait_for_what_follows_another(monkeypatch):
    """Threads that wait for each other through the loop would hang for ever."""
    monkeypatch.setattr("perdure.testing.time.OLDEST_S", 0.01)
    gate = threading.Event()

    async def main(clock):
        async def other():
            await asyncio.to_thread(int)
            gate.set()

        await asyncio.gather(asyncio.to_thread(gate.wait), other())
        return True

    assert run_virtual(main)


def test_a_call_that_was_given_up_does_not_stop_time():
    """After a step's timeout the run would wait for the thread that nobody can stop."""
    gate = threading.Event()

    async def main(clock):
        with ThreadPoolExecutor(1) as pool:
            call = asyncio.get_running_loop().run_in_executor(pool, gate.wait)
            call.cancel()
            await asyncio.sleep(3600)
            gate.set()
        return clock.now()

    assert run_virtual(main) == START + 3600 * 1_000_000


def test_errors_of_threads_arrive():
    """A step that fails in a thread would look as if it hung."""

    def fail():
        raise LookupError("gone")

    async def main(clock):
        await asyncio.to_thread(fail)

    with pytest.raises(LookupError, match="gone"):
        run_virtual(main)
