"""Supervised turns: work elsewhere that is attached to again, and the adapters that come with perdure."""

import asyncio
import sys

import pytest
from tests.turn.conftest import kept

from perdure import Retry
from perdure.errors import InvalidOption, SourceFailed, SourceGone
from perdure.store.operation import Operation
from perdure.testing import AdapterMismatch, check_adapter
from perdure.turn import (
    SpooledProcess,
    Supplied,
    Turn,
    TurnResult,
    follow,
    interrupt,
    regenerate,
    supervise,
)

COUNT = 12


class Works:
    """Works elsewhere: each goes on by itself once started, an event every virtual second."""

    def __init__(self, *, again=0, count=COUNT):
        self.started = []
        self.attached = []
        self.gone = False
        self.again = again
        self.count = count

    async def start(self, key):
        self.started.append(key)
        yield Supplied(handle={"work": len(self.started)})
        async for supplied in self._events(0):
            yield supplied

    async def attach(self, handle, after):
        self.attached.append((handle["work"], after))
        if self.gone:
            self.gone = False
            raise SourceGone("the work", "it was thrown away")
        async for supplied in self._events(max(0, int(after or 0) - self.again)):
            yield supplied

    async def _events(self, first):
        for n in range(first, self.count):
            await asyncio.sleep(1)
            yield Supplied(f"<{n + 1}>", str(n + 1))


WHOLE = [f"<{n + 1}>" for n in range(COUNT)]


def dying(stage, works, deaths):
    """A producer that follows a work, and whose process dies after some of its events."""

    async def producer(turn: Turn):
        async for event in supervise(turn, works):
            yield event
            if deaths and event.id == str(deaths[0]):
                deaths.pop(0)
                await asyncio.sleep(0.5)
                stage.die()
                await asyncio.sleep(100)

    return producer


def test_a_fresh_one_starts_the_work(stage):  # V2 V3 V8
    """Work would be attached to that is not there, or its events would be lost."""
    works = Works()
    told = [event for event, _ in stage.say(dying(stage, works, []), continues=True)]
    assert [event.value for event in told[:-1]] == WHOLE
    assert told[-1].value == TurnResult("".join(WHOLE), COUNT)
    assert (len(works.started), works.attached) == (1, [])


@pytest.mark.parametrize("again", [0, 1, 3], ids=["exact", "boundary again", "more again"])
def test_one_that_was_cut_off_is_attached_to(stage, again):  # V4 V5 V6
    """A second model would be started, an event lost or told twice."""
    works = Works(again=again)
    got, _ = stage.survive_turn(dying(stage, works, [3, 7, 12]), continues=True)
    assert [event.value for event in got[:-1]] == WHOLE
    assert (len(works.started), works.attached) == (1, [(1, "3"), (1, "7"), (1, "12")])


def test_one_that_is_over_asks_nobody(stage):  # V7
    """A reader of yesterday's answer would start the work again."""
    works = Works()

    async def main():
        async with stage.turning(dying(stage, works, []), continues=True) as (app, turn):
            run = await app.start(turn, id="t")
            await run.result()
            again = await app.start(turn, id="t")
            return [event.value async for event in follow(again)]

    assert stage.play(main)[:-1] == WHOLE
    assert len(works.started) == 1


def test_work_that_is_gone_is_started_again(stage):
    """A turn would wait for ever for a machine that was shut down."""
    works = Works()
    works.gone = True
    got, _ = stage.survive_turn(dying(stage, works, [3]), continues=True)
    assert [event.kind for event in got].count("void") == 1
    assert kept(got) == WHOLE
    assert len(works.started) == 2


def test_events_without_a_handle_are_void(stage):  # V14
    """The log would mix two executions, or a reader lose the beginning."""

    class Late(Works):
        async def start(self, key):
            self.started.append(key)
            first = len(self.started) == 1
            async for supplied in self._events(0):
                yield supplied._replace(value=f"{len(self.started)}{supplied.value}")
                if first and supplied.id == "2":
                    await asyncio.sleep(0.5)
                    stage.die()
                    await asyncio.sleep(100)

    works = Late()
    got, _ = stage.survive_turn(dying(stage, works, []), continues=True)
    assert kept(got) == [f"2{event}" for event in WHOLE]
    assert works.started == ["t/turn"] * 2


def test_an_orphan_is_finished_without_a_client(stage):  # H4 H5 H7 H8
    """Turns whose client and process are gone would stay half said."""
    works = [Works(), Works()]

    async def main():
        async def producer(turn: Turn, number: int):
            async for event in supervise(turn, works[number]):
                yield event

        async with stage.turning(producer, continues=True) as (app, turn):
            for number in (0, 1):
                await app.start(turn, number, id=f"t{number}")
            await asyncio.sleep(3.5)
            app.worker.kill()
        async with stage.turning(producer, continues=True) as (app, turn):
            await asyncio.sleep(300)
            return [(await app.handle(f"t{number}").info()).status for number in (0, 1)]

    assert stage.play(main) == ["completed"] * 2
    assert [(len(each.started), len(each.attached)) for each in works] == [(1, 1), (1, 1)]


def test_a_failed_one_goes_on_when_it_is_run_again(stage):  # V9 V13
    """An operator's retry would pay for all of it again."""
    works = Works()
    broken = [True]

    async def main():
        async def producer(turn: Turn):
            async for event in supervise(turn, works):
                yield event
                if event.id == "5" and broken:
                    raise OSError(broken.pop())

        async with stage.turning(producer, continues=True) as (app, turn):
            run = await app.start(turn, id="t")
            first = [event async for event in follow(run)]
            await app.client.rerun("t")
            return first, [event async for event in follow(run, after=first[-1].seq)]

    first, second = stage.play(main)
    assert first[-1].kind == "failed"
    assert [event.value for event in (*first[:-1], *second[:-1])] == WHOLE
    assert (len(works.started), works.attached) == (1, [(1, "5")])


class Fails(Works):
    """The first works fail behind three events, and say so."""

    def __init__(self, failures=1, over=True, count=COUNT):
        super().__init__(count=count)
        self.failures = failures
        self.over = over

    def _fails(self, work):
        return work <= self.failures

    async def start(self, key):
        self.started.append(key)
        work = len(self.started)
        yield Supplied(handle={"work": work})
        async for supplied in self._told(work, 0):
            yield supplied

    async def attach(self, handle, after):
        self.attached.append((handle["work"], after))
        async for supplied in self._told(handle["work"], int(after or 0)):
            yield supplied

    async def _told(self, work, first):
        async for supplied in self._events(first):
            if self._fails(work) and int(supplied.id) > 3:
                raise SourceFailed("the work", "it broke", over=self.over)
            yield supplied


def test_work_that_has_failed_is_started_anew_by_a_retry(stage):
    """The failed work would be asked three times how it ended, and none be done."""
    works = Fails(2)
    told = [
        event
        for event, _ in stage.say(
            dying(stage, works, []), continues=True, retry=Retry(max_attempts=3, delay=1, jitter=0)
        )
    ]
    assert [event.kind for event in told].count("void") == 2
    assert kept(told) == WHOLE
    assert (works.started, works.attached) == (["t/turn", "t/turn~2", "t/turn~3"], [])


def test_work_that_has_failed_is_started_anew_when_its_turn_is_said_again(stage):
    """A turn whose work has failed could never be said."""
    works = Fails(1)

    async def main():
        async with stage.turning(dying(stage, works, []), continues=True, retry=Retry(max_attempts=1)) as (app, turn):
            run = await app.start(turn, id="t")
            first = [event async for event in follow(run)]
            await regenerate(app.client, "t")
            return first, [event async for event in follow(run)]

    first, both = stage.play(main)
    assert (first[-1].kind, first[-1].value.over, kept(first)) == ("failed", True, WHOLE[:3])
    assert kept(both) == WHOLE
    assert (works.started, works.attached) == (["t/turn", "t/turn@2~2"], [])


def test_work_that_may_go_on_is_attached_to_by_a_retry(stage):
    """Work that is only out of reach would be done twice."""
    works = Fails(1, over=False)
    works._fails = lambda work: len(works.attached) < 2
    retry = Retry(max_attempts=3, delay=1, jitter=0)
    told = [event.value for event, _ in stage.say(dying(stage, works, []), continues=True, retry=retry)]
    assert told[:-1] == WHOLE
    assert (works.started, works.attached) == (["t/turn"], [(1, "3"), (1, "3")])


def test_a_turn_that_is_said_again_is_other_work(stage):
    """The service would give the old answer once more."""
    works = Works()

    async def main():
        async with stage.turning(dying(stage, works, []), continues=True) as (app, turn):
            run = await app.start(turn, id="t")
            await run.result()
            await regenerate(app.client, "t")
            return await run.result()

    assert stage.play(main).events == COUNT
    assert (works.started, works.attached) == (["t/turn", "t/turn@2"], [])


class NoIds(Works):
    async def _events(self, first):
        async for supplied in super()._events(first):
            yield supplied._replace(id=None) if supplied.id == "5" else supplied


def test_an_event_without_an_id_is_told(stage):
    """It would be missing from the answer, and nobody would know."""
    retry = Retry(max_attempts=1)
    told = [event for event, _ in stage.say(dying(stage, NoIds(), []), continues=True, retry=retry)]
    assert [event.value for event in told[:-1]] == WHOLE[:4]
    assert isinstance(told[-1].value, SourceFailed)
    assert "with the id None" in str(told[-1].value)


def test_a_turn_that_does_not_continue_is_told(stage):
    """Every take-over would start the work once more, in silence."""
    told = [event for event, _ in stage.say(dying(stage, Works(), []))]
    assert isinstance(told[-1].value, InvalidOption)
    assert "continues=True" in str(told[-1].value)


# ------------------------------------------------------------------------------------- conformance
@pytest.fixture
def quick(stage):
    """Run it where a second takes none."""
    return stage.play


def test_a_good_adapter_conforms(quick):  # V1
    """The kit would refuse what is right."""
    works = Works()
    options = {"begun": lambda: len(works.started), "fails": Fails, "cuts": Cuts}
    events = quick(lambda: check_adapter(lambda: works, **options))
    assert [event.value for event in events] == WHOLE


class NoHandle(Works):
    async def start(self, key):
        async for supplied in self._events(0):
            yield supplied


class LateHandle(Works):
    async def start(self, key):
        async for supplied in self._events(0):
            yield supplied._replace(handle={"work": 1} if supplied.id == "4" else None)


class SameIds(Works):
    async def _events(self, first):
        async for supplied in super()._events(first):
            yield supplied._replace(id="7")


class Loses(Works):
    async def attach(self, handle, after):
        async for supplied in self._events(int(after or 0) + 1):
            yield supplied


class FromTheTop(Works):
    async def attach(self, handle, after):
        async for supplied in self._events(0):
            yield supplied


class Cuts(Works):
    """What it follows it over breaks every five events; work that is over is not taken for that."""

    error = SourceFailed("the way to it", "it broke")

    async def _events(self, first):
        async for supplied in super()._events(first):
            if int(supplied.id) > first + 5:
                if self.error is None:
                    return
                raise self.error
            yield supplied


class CutIsEnd(Cuts):
    error = None


class CutIsFailure(Cuts):
    error = SourceFailed("the way to it", "it broke", over=True)


class OneForAll(Works):
    async def start(self, key):
        if self.started:
            yield Supplied(handle={"work": 1})
            async for supplied in self.attach({"work": 1}, None):
                yield supplied
        else:
            async for supplied in super().start(key):
                yield supplied


class BeginsAgain(Works):
    async def attach(self, handle, after):
        self.started.append("attached")
        async for supplied in super().attach(handle, after):
            yield supplied


class FailsInSilence(Fails):
    async def _told(self, work, first):
        try:
            async for supplied in super()._told(work, first):
                yield supplied
        except SourceFailed:
            return


class FailsForEver(Fails):
    def _fails(self, work):
        return True


def refused(wrong, **faults):
    """An adapter, and the options of the check that is to find what is wrong with it."""
    works = wrong()
    return (lambda: works), {"begun": lambda: len(works.started), **faults}


@pytest.mark.parametrize(
    ("wrong", "faults", "problem"),
    [
        (NoHandle, {}, "told no handle"), (LateHandle, {}, "no handle had come before event 1"),
        (SameIds, {}, "not unique"), (Loses, {}, "behind None"), (FromTheTop, {}, "behind '1'"),
        (NoIds, {}, "have no id that is a text, .*'<5>'"), (OneForAll, {}, "said again .* 0 works were begun, and 1"),
        (BeginsAgain, {}, "finished work behind None: 1 works were begun, and 0"),
        (Works, {"fails": Works}, "the work failed: it ended as if"),
        (Works, {"fails": FailsInSilence}, "to failed work behind '3': it ended as if"),
        (Works, {"fails": lambda: Fails(1, over=False)}, "without over=True"),
        (Works, {"fails": FailsForEver}, "started anew after a failure, .* SourceFailed: .*it broke"),
        (Works, {"cuts": CutIsEnd}, r"was cut: it supplied \['1', .*'5'\], and should"),
        (Works, {"cuts": CutIsFailure}, "was cut: it ended with SourceFailed"),
    ],
)  # fmt: skip
def test_a_bad_adapter_is_found(quick, wrong, faults, problem):  # V1
    """An adapter that loses events, repeats them or does the work twice would be found in production."""
    make, options = refused(wrong, **faults)
    with pytest.raises(AdapterMismatch, match=problem):
        quick(lambda: check_adapter(make, **options))


# --------------------------------------------------------------------------------------- processes
TALK = """
import sys, time
for n in range(int(sys.argv[1])):
    print(f'{{"n": {n}}}', flush=True)
    time.sleep(float(sys.argv[2]))
print('last', end='')
sys.stderr.write('what went wrong')
sys.exit(int(sys.argv[3]))
"""


def talk(folder, count=5, pause=0.01, code=0, **options):
    return SpooledProcess([sys.executable, "-c", TALK, str(count), str(pause), str(code)], folder, **options)


FLAKY = """
import os, sys
before = os.path.getsize(sys.argv[1]) if os.path.exists(sys.argv[1]) else 0
open(sys.argv[1], 'a').write('x')
print('began'); print(f'ended {"well" if sys.argv[2] == "same" else before}')
sys.exit(0 if before >= int(sys.argv[3]) else 3)
"""


def flaky(folder, count, text="same", failures=0, **options):
    """A program that notes in a file that it was begun, and fails the first so many times."""
    return SpooledProcess([sys.executable, "-c", FLAKY, str(count), text, str(failures)], folder, **options)


def begun(count):
    return count.stat().st_size if count.exists() else 0


def test_a_process_conforms(tmp_path):
    """Lines would be lost or repeated when a worker that follows a program dies, or a program not begun again."""
    count = tmp_path / "count"
    adapter = flaky(tmp_path / "a", count)
    fails = flaky(tmp_path / "b", tmp_path / "failed", failures=1)
    events = asyncio.run(check_adapter(lambda: adapter, begun=lambda: begun(count), fails=lambda: fails))
    assert [event.value for event in events] == ["began", "ended well"]
    events = asyncio.run(check_adapter(lambda: talk(tmp_path)))
    assert [event.value for event in events] == [*[f'{{"n": {n}}}' for n in range(5)], "last"]


def test_a_process_that_has_failed_is_begun_again(stage, tmp_path):
    """A program would have one attempt, whatever its turn's retry says; and none when the turn is said again."""
    count = tmp_path / "count"

    async def main():
        async def producer(turn: Turn):
            async for event in supervise(turn, flaky(tmp_path / "spool", count, "counted", 2)):
                yield event

        retry = Retry(max_attempts=3, delay=0.01)
        async with stage.turning(producer, continues=True, retry=retry) as (app, turn):
            run = await app.start(turn, id="t")
            first = [event async for event in follow(run)]
            await regenerate(app.client, "t")
            return first, await run.result()

    first, again = stage.play_on_real_clock(main)
    assert kept(first) == ["began", "ended 2"]
    assert again.text == "beganended 3"
    assert begun(count) == 4


def test_a_long_line_keeps_nobody_waiting(tmp_path):
    """All runs of a worker would stand still while one program's output is read."""
    program = [sys.executable, "-c", "print('short'); print('x' * 4_000_000)"]

    async def main():
        adapter = SpooledProcess(program, tmp_path, event_bytes=4_000_000)
        await drained(adapter.start("k"))
        turns = 0

        async def others():
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        task = asyncio.ensure_future(others())
        events = await drained(adapter.start("k"))
        task.cancel()
        return [len(event.value or "") for event in events], turns

    sizes, turns = asyncio.run(main())
    assert sizes == [0, 5, 4_000_000]
    assert turns >= 4_000_000 // 65_536


@pytest.mark.parametrize("end", ["", ", end=''"])
def test_a_line_has_a_limit(tmp_path, end):
    """A program that forgets its line ends would take all memory."""
    program = [sys.executable, "-c", f"print('short'); print('x' * 200{end})"]

    async def main():
        got = []
        with pytest.raises(SourceFailed, match=r"more than 199 bytes.*event_bytes="):
            async for supplied in SpooledProcess(program, tmp_path, event_bytes=199).start("k"):
                got.append(supplied.value)
        return got

    assert asyncio.run(main()) == [None, "short"]
    with pytest.raises(InvalidOption, match="event_bytes"):
        SpooledProcess(program, tmp_path, event_bytes=0)


def test_a_program_that_does_not_end_by_itself_is_killed(tmp_path):
    """A program that does not care would go on, and cost, after its turn was stopped."""
    deaf = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile 1: print(1, flush=True); time.sleep(.01)"

    async def main():
        adapter = SpooledProcess([sys.executable, "-c", deaf], tmp_path, grace=0.05)
        await adapter.stop(None)
        source = adapter.start("k")
        handle = (await anext(source)).handle
        assert (await anext(source)).value == "1"
        await adapter.stop(handle)
        async with asyncio.timeout(20):
            with pytest.raises(SourceGone, match="was killed"):
                await drained(source)

    asyncio.run(main())


def test_a_process_outlives_its_worker_and_is_followed_by_the_next(stage, tmp_path):  # V4
    """The program would be run twice, or end with the worker that began it."""
    begun = tmp_path / "begun"
    program = f"open({str(begun)!r}, 'a').write('x')\n{TALK}"
    deaths = [2]

    async def main():
        lost = asyncio.Event()

        async def producer(turn: Turn):
            adapter = SpooledProcess([sys.executable, "-c", program, "8", "0.1", "0"], tmp_path / "spool")
            async for event in supervise(turn, adapter):
                yield event
                if deaths and turn.events == deaths[0]:
                    deaths.pop()
                    dead = Operation([("declare_dead", (stage.working.worker.number, 0))])
                    await stage.working.client.store.apply(dead)
                    try:
                        await asyncio.sleep(100)
                    finally:
                        lost.set()

        got = []
        async with stage.turning(producer, continues=True) as (first, turn):
            stage.working = first
            await first.start(turn, id="t")
            async with stage.turning(producer, continues=True) as (second, turn):
                async for event in follow(second.handle("t", turn)):
                    got.append(event)
        assert lost.is_set()
        return got

    got = stage.play_on_real_clock(main)
    assert [event.value for event in got[:-1]] == [*[f'{{"n": {n}}}' for n in range(8)], "last"]
    assert begun.read_text() == "x"


async def drained(source):
    return [supplied async for supplied in source]


def test_a_process_that_fails_says_why(tmp_path):
    """A turn would complete with half an answer."""
    with pytest.raises(SourceFailed, match="exit code 3: what went wrong"):
        asyncio.run(drained(talk(tmp_path, 2, code=3).start("k")))


def test_a_process_that_was_killed_is_gone(tmp_path):
    """A reader would wait for ever for a program that a reboot ended."""

    async def main():
        adapter = talk(tmp_path, 1000, 0.05)
        source = adapter.start("k")
        handle = (await anext(source)).handle
        assert (await anext(source)).value == '{"n": 0}'
        await source.aclose()
        await adapter.stop(handle)
        with pytest.raises(SourceGone, match="was killed"):
            await drained(adapter.attach(handle, None))
        again = adapter.start("k")
        assert [(await anext(again)).value for _ in range(2)] == [None, '{"n": 0}']
        await adapter.stop(handle)
        await again.aclose()
        with pytest.raises(SourceGone, match="not there"):
            await drained(adapter.attach({"spool": str(tmp_path / "nothing")}, None))

    asyncio.run(main())


def test_started_twice_under_one_key_it_runs_once(tmp_path):  # V14
    """A crash before the handle was kept would start a second program."""

    async def main():
        adapter = talk(tmp_path, 5, 0.05)
        first = adapter.start("k")
        await anext(first)
        both = await asyncio.gather(drained(first), drained(talk(tmp_path, 5, 0.05).start("k")))
        later = await drained(talk(tmp_path, 5, 0.05).start("k"))
        return both[0], both[1][1:], later[1:]

    first, second, later = asyncio.run(main())
    assert first == second == later
    assert len(first) == 6


def test_interrupting_a_turn_stops_its_program(stage, tmp_path):
    """A program would go on, and cost, after its answer was stopped."""
    handles = []

    async def main():
        adapter = talk(tmp_path, 1000, 0.05)

        async def producer(turn: Turn):
            async for event in supervise(turn, adapter):
                yield event

        async def stop(result, handle):
            handles.append(handle)
            await adapter.stop(handle)

        async with stage.turning(producer, continues=True, stop=stop) as (app, turn):
            run = await app.start(turn, id="t")
            async for event in follow(run):
                if event.kind == "event":
                    await interrupt(run)
                    break
            result = await run.result()
            with pytest.raises(SourceGone):
                await drained(adapter.attach(handles[0], None))
            return result

    assert stage.play_on_real_clock(main).interrupted
