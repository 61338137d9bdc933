"""Group commit: a lone operation never waits, a crowd shares a commit, and nobody is answered before it is durable."""

import asyncio
import threading
from contextlib import closing

import apsw
import pytest
from storekit.database import line, start
from storekit.kinds import NOW, SqliteFile

from perdure.errors import OperationRefused, Overloaded, StoreBusy, StoreClosed, StoreFull
from perdure.model.limits import Limits
from perdure.model.run import End
from perdure.store import batch, commit, sqlite_commit
from perdure.store.operation import Operation


class Probe:
    """Counts commits, and can hold a transaction just before its end, on whichever thread it is made."""

    def __init__(self) -> None:
        self.batches = []
        self.threads = []
        self.reached = threading.Event()
        self.release = threading.Event()
        self.holding = False

    def __call__(self, moment, operations) -> None:
        if moment == "before_commit":
            self.batches.append(len(operations))
            self.threads.append(threading.current_thread())
            if self.holding:
                self.reached.set()
                assert self.release.wait(30), "nobody let the writer go on"


@pytest.fixture
def kind(tmp_path):
    return SqliteFile(tmp_path)


@pytest.fixture
def probe():
    return Probe()


def play(kind, probe, main, **options):
    """Run `main(store)` on a loop of its own, and close the store."""

    async def whole():
        store = kind.open(probe=probe, **options)
        try:
            return await main(store)
        finally:
            probe.release.set()
            await store.close()

    return asyncio.run(whole())


def slow(monkeypatch, seconds=1.0):
    """Let commits seem to take this long, so that the committer takes its thread."""
    now = [0.0]

    def elapsed():
        now[0] += seconds
        return now[0]

    monkeypatch.setattr(sqlite_commit, "elapsed", elapsed)


def runs(path):
    """The ids of the runs that another connection sees."""
    with closing(apsw.Connection(path)) as outside:
        outside.set_busy_timeout(1_000)
        return [run_id for (run_id,) in outside.execute("select id from perdure_runs order by number")]


async def turns(count=5):
    """Let the loop turn; no time passes."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_lone_operation_commits_on_the_next_turn_of_the_loop(kind, probe):
    """A step would wait for company that never comes."""

    async def main(store):
        answers = []
        store.submit(Operation([start("a")]), lambda rows, error: answers.append((rows, error)))
        assert answers == [], "not before the caller goes on"
        await turns(1)
        assert len(answers) == 1
        assert runs(kind.path) == ["a"]

    play(kind, probe, main)
    assert probe.batches == [1]
    assert probe.threads == [threading.main_thread()]


def test_a_crowd_shares_one_commit(kind, probe):
    """A hundred runs would wait for a hundred writes to the disk."""

    async def main(store):
        before = store.commits
        await asyncio.gather(*[store.apply(Operation([start(f"r{place}")])) for place in range(100)])
        assert store.commits == before + 1

    play(kind, probe, main)
    assert probe.batches == [100]


def test_an_answer_that_fails_stops_nobody_else(kind, probe, caplog):
    """One mistake in what follows a commit, and nothing would ever be committed again in this process."""

    async def main(store):
        def fail(*_):
            raise RuntimeError("a mistake of ours")

        def fail_on_news(_elsewhere):
            raise RuntimeError("another one")

        heard = []
        store.changes.on_due(fail_on_news)
        store.changes.on_due(heard.append)
        store.submit(Operation([start("a")]), fail)
        async with asyncio.timeout(30):
            await store.apply(Operation([start("b")], makes_due=True))
            await store.apply(Operation([start("c")]))
        assert heard == [False]

    play(kind, probe, main)
    assert [str(record.exc_info[1]) for record in caplog.records] == ["a mistake of ours", "another one"]


def test_what_is_submitted_during_an_answer_is_the_next_commit(kind, probe):
    """Drivers that go on at once would each pay for a commit of their own, or never get one."""

    async def main(store):
        done = asyncio.Event()

        def again(round_, place):
            if round_ == 3:
                done.set()
            else:
                store.submit(Operation([start(f"r{round_}/{place}")]), lambda *_: again(round_ + 1, place))

        for place in range(10):
            again(0, place)
        await done.wait()

    play(kind, probe, main)
    assert probe.batches == [10, 10, 10]


def test_a_crowd_beyond_the_limit_of_a_commit_is_committed_in_parts(kind, probe, monkeypatch):
    """One commit would hold the loop and the file without bound (I10)."""
    monkeypatch.setattr(commit, "MOST_PER_COMMIT", 30)

    async def main(store):
        await asyncio.gather(*[store.apply(Operation([start(f"r{place}")])) for place in range(100)])

    play(kind, probe, main)
    assert probe.batches == [30, 30, 30, 10]


def test_flush_commits_a_complete_crowd_at_once(kind, probe):
    """A worker that knows that nobody else will come would wait for another turn of the loop."""

    async def main(store):
        answers = []
        for run_id in "ab":
            store.submit(Operation([start(run_id)]), lambda rows, error: answers.append(error))
        store.flush()
        assert answers == [None, None]
        store.flush()
        await turns()
        assert len(answers) == 2

    play(kind, probe, main)
    assert probe.batches == [2]


@pytest.mark.parametrize("threaded", [False, True])
def test_answers_come_after_durability_and_in_order(kind, probe, monkeypatch, threaded):
    """A caller would act on what a crash takes back (I2), or before one who came first."""
    if threaded:
        slow(monkeypatch)

    async def main(store):
        if threaded:
            await store.apply(Operation())
        answers, seen = [], []

        def done(place, error):
            answers.append((place, error))
            seen.append(runs(kind.path))

        for place in range(5):
            store.submit(Operation([start(f"r{place}")]), lambda _rows, error, place=place: done(place, error))
        await store.apply(Operation())
        assert answers == [(place, None) for place in range(5)]
        assert seen == [["r0", "r1", "r2", "r3", "r4"]] * 5

    play(kind, probe, main)
    assert (probe.threads[-1] is not threading.main_thread()) == threaded


@pytest.mark.parametrize("threaded", [False, True])
def test_a_refused_operation_is_told_so_and_the_others_are_not(kind, probe, monkeypatch, threaded):
    """A typed error would get lost on its way from the database to its caller."""
    if threaded:
        slow(monkeypatch)

    async def main(store):
        await store.apply(Operation())
        operations = [Operation([start("a")]), Operation([start("b", status="failed")]), Operation([start("c")])]
        found = await asyncio.gather(*[store.apply(operation) for operation in operations], return_exceptions=True)
        assert [type(answer) for answer in found] == [list, OperationRefused, list]
        assert runs(kind.path) == ["a", "c"]

    play(kind, probe, main)


def test_slow_commits_are_made_by_a_thread_while_the_loop_goes_on(kind, probe, monkeypatch):
    """A slow disk would stop every workflow, timer and heartbeat of the process."""
    slow(monkeypatch)

    async def main(store):
        await store.apply(Operation([start("first")]))
        probe.holding = True
        answer = asyncio.ensure_future(store.apply(Operation([start("held")])))
        await asyncio.to_thread(probe.reached.wait, 30)
        ticks = 0
        for _ in range(100):
            await asyncio.sleep(0)
            ticks += 1
        assert ticks == 100
        assert not answer.done()
        assert runs(kind.path) == ["first"]
        waiting = [asyncio.ensure_future(store.apply(Operation([start(f"r{place}")]))) for place in range(7)]
        await turns()
        store.flush()
        assert not any(future.done() for future in waiting), "the loop never writes while the thread does"
        probe.release.set()
        assert len(await answer) == 1
        await asyncio.gather(*waiting)

    play(kind, probe, main)
    assert probe.batches == [1, 1, 7], "what came meanwhile is one commit"
    assert probe.threads[0] is threading.main_thread()
    assert threading.main_thread() not in probe.threads[1:]


def test_commits_come_back_to_the_loops_thread_when_the_disk_is_quick_again(kind, probe, monkeypatch):
    """One slow moment would make every later step pay for handing it over."""
    slow(monkeypatch)

    async def main(store):
        for _ in range(3):
            await store.apply(Operation())
        slow(monkeypatch, 0.0001)
        for _ in range(60):
            await store.apply(Operation())

    play(kind, probe, main)
    assert probe.threads[0] is threading.main_thread()
    assert threading.main_thread() not in probe.threads[1:10]
    assert probe.threads[-1] is threading.main_thread()


def test_user_code_never_runs_on_the_loops_thread(kind, probe):
    """A transactional step that takes its time would block the loop."""

    async def main(store):
        ran = []
        await store.apply(Operation(body=lambda _transaction: ran.append(threading.current_thread()) or []))
        assert ran[0] is not threading.main_thread()

    play(kind, probe, main)


def test_a_simulation_never_uses_a_thread(kind, probe, monkeypatch):
    """Two simulations of one seed would differ."""
    slow(monkeypatch)

    async def main(store):
        ran = []
        for _ in range(3):
            await store.apply(Operation(body=lambda _transaction: ran.append(threading.current_thread()) or []))
        assert set(ran) == {threading.main_thread()}
        with closing(apsw.Connection(kind.path)) as outside:
            outside.execute("begin immediate")
            with pytest.raises(StoreBusy):
                await store.apply(Operation())

    play(kind, probe, main, inline_only=True)
    assert set(probe.threads) == {threading.main_thread()}


def test_a_busy_file_is_waited_for_in_the_thread(kind, probe):
    """Another process's write would fail our operations, or stop our loop until it has ended."""

    async def main(store):
        with closing(apsw.Connection(kind.path)) as outside:
            outside.execute("begin immediate")
            answer = asyncio.ensure_future(store.apply(Operation([start("a")])))
            await turns(50)
            assert not answer.done()
            outside.execute("rollback")
            assert len(await answer) == 1

    play(kind, probe, main)
    assert probe.threads[0] is not threading.main_thread()
    assert runs(kind.path) == ["a"]


def test_a_file_that_stays_busy_is_an_error_that_can_be_tried_again(kind, probe, monkeypatch):
    """A driver would wait for ever, or give up a run that could go on in a moment."""
    monkeypatch.setattr(batch, "BUSY_MILLISECONDS", 1)

    async def main(store):
        with closing(apsw.Connection(kind.path)) as outside:
            outside.execute("begin immediate")
            answers = await asyncio.gather(
                *[store.apply(Operation([start(run_id)])) for run_id in "ab"], return_exceptions=True
            )
            assert [type(answer) for answer in answers] == [StoreBusy, StoreBusy]
            assert all(answer.retryable for answer in answers)
        await store.apply(Operation([start("c")]))

    play(kind, probe, main)
    assert runs(kind.path) == ["c"]


def test_a_full_disk_loses_nothing_and_is_told(kind, probe):
    """A driver would go on as if its outcome were stored, or the store would not recover."""

    async def main(store):
        await store.apply(Operation([start("a")]))
        pages = store._writer.execute("pragma page_count").get
        store._writer.execute(f"pragma max_page_count = {pages}")
        large = Operation([line("add_blob", hash="h", size=1, data='"' + "x" * 200_000 + '"')])
        answers = await asyncio.gather(store.apply(Operation([start("b")])), store.apply(large), return_exceptions=True)
        assert [type(answer) for answer in answers] == [StoreFull, StoreFull]
        assert all(answer.retryable for answer in answers)
        assert runs(kind.path) == ["a"]
        store._writer.execute("pragma max_page_count = 1000000")
        await asyncio.gather(store.apply(Operation([start("b")])), store.apply(large))

    play(kind, probe, main)
    assert runs(kind.path) == ["a", "b"]


def test_a_full_queue_refuses_and_keeps_what_it_has(kind, probe):
    """Memory would grow without bound while the disk is slow (I10), or the refused would be stored after all."""

    async def main(store):
        answers = []

        def submit(run_id):
            store.submit(Operation([start(run_id)]), lambda rows, error: answers.append((run_id, error)))

        for run_id in "abc":
            submit(run_id)
        with pytest.raises(Overloaded) as problem:
            submit("refused")
        assert problem.value.limit == 3
        await turns()
        assert answers == [("a", None), ("b", None), ("c", None)]
        submit("d")
        await turns()

    play(kind, probe, main, limits=Limits(queued_operations=3))
    assert runs(kind.path) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("threaded", [False, True])
def test_close_commits_what_is_queued_and_refuses_more(kind, probe, monkeypatch, threaded):
    """What was submitted before the end would be lost, or something would be accepted that is never stored."""
    if threaded:
        slow(monkeypatch)

    async def main(store):
        await store.apply(Operation())
        answers = []
        for place in range(5):
            store.submit(Operation([start(f"r{place}")]), lambda rows, error: answers.append(error))
        await store.close()
        assert answers == [None] * 5
        with pytest.raises(StoreClosed):
            store.submit(Operation([start("late")]), lambda rows, error: None)
        with pytest.raises(StoreClosed):
            await store.apply(Operation([start("late")]))
        with pytest.raises(StoreClosed):
            await store.rows("counts")
        await store.close()

    play(kind, probe, main)
    assert len(runs(kind.path)) == 5


def test_close_waits_for_the_commit_under_way(kind, probe, monkeypatch):
    """The file would be closed under the writer's hands."""
    slow(monkeypatch)

    async def main(store):
        await store.apply(Operation())
        probe.holding = True
        answer = asyncio.ensure_future(store.apply(Operation([start("held")])))
        await asyncio.to_thread(probe.reached.wait, 30)
        late = asyncio.ensure_future(store.apply(Operation([start("queued")])))
        closing_down = asyncio.ensure_future(store.close())
        await turns(20)
        assert not closing_down.done()
        probe.release.set()
        await closing_down
        assert answer.done()
        assert late.done()

    play(kind, probe, main)
    assert runs(kind.path) == ["held", "queued"]


def test_a_store_that_is_not_open_says_so(kind):
    """A call before the start would end in an error about nothing."""

    async def main():
        store = kind.open()
        await store.close()
        unopened = type(store)(kind.path, clock=store.clock, limits=Limits())
        with pytest.raises(StoreClosed):
            unopened.submit(Operation(), lambda rows, error: None)
        with pytest.raises(StoreClosed):
            await unopened.rows("counts")
        with pytest.raises(StoreClosed):
            await unopened.backup(kind.path + ".copy")
        assert unopened.commits == 0
        await unopened.close()

    asyncio.run(main())


def test_a_caller_that_gave_up_does_not_disturb_the_others(kind, probe):
    """Cancelling one that waits for a commit would break the answers of the rest."""

    async def main(store):
        tasks = [asyncio.ensure_future(store.apply(Operation([start(run_id)]))) for run_id in "abc"]
        await turns(1)
        tasks[1].cancel()
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [False, True, False]
        assert store.commits == 1

    play(kind, probe, main)
    assert runs(kind.path) == ["a", "b", "c"]


def test_those_who_watch_are_told_after_the_commit(kind, probe):
    """A waiter would look before there is anything to see, and then never again."""

    async def main(store):
        ((_, number),) = await store.apply(Operation([start("a")]))
        told = []
        store.changes.on_due(lambda _: told.append(("due", runs(kind.path))))
        store.changes.on_mail(lambda numbers: told.append(("mail", numbers)))
        follower, ender = store.changes.follow(number), store.changes.watch(number)
        send = line("send", run_id="a", topic="signal:x", key=None, data="1", now=NOW)
        await store.apply(Operation([send, start("b")], changed=[number], makes_due=True))
        assert told == [("due", ["a", "b"]), ("mail", {number})]
        assert await follower.behind(0) == [], "it looks"
        assert not ender.done()
        refused = Operation([start("c", status="failed")], changed=[number], makes_due=True)
        told.clear()
        with pytest.raises(OperationRefused):
            await store.apply(refused)
        assert told == []
        last = Operation(changed=[number])
        last.end = End("completed", "1", None)
        await store.apply(last)
        assert ender.result() == last.end

    play(kind, probe, main)
