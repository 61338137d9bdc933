"""Durable turns: what a reader gets, whatever becomes of the producer's process."""

import asyncio

import pytest
from tests.turn.conftest import kept

from perdure import Limits, Retry, RunCancelled, StartConflict, Transaction, current_step
from perdure.errors import InvalidOption
from perdure.turn import Event, Turn, TurnResult, follow, interrupt, regenerate

WORDS = [f"word {n} " for n in range(50)]


async def speak(turn: Turn, subject: str):
    for word in ("a ", "poem ", "about ", subject):
        yield word
        await asyncio.sleep(1)


def test_a_fresh_turn_streams_and_ends_with_its_text(stage):  # T1
    """A reader would wait for the whole answer, or never learn that it is complete."""
    told = stage.say(speak, "cats")
    assert [event.value for event, _ in told[:-1]] == ["a ", "poem ", "about ", "cats"]
    assert [round(at, 1) for _, at in told[:-1]] == [0, 1, 2, 3]
    end = told[-1][0]
    assert (end.kind, end.value) == ("completed", TurnResult("a poem about cats", 4))
    assert [event.seq for event, _ in told[:-1]] == [1, 2, 3, 4]


def test_the_producers_own_text_comes_first(stage):  # T2
    """What the model says of its answer would be overruled by what we have added up."""

    async def own(turn: Turn):
        yield "draft"
        turn.finish("final")

    assert stage.say(own)[-1][0].value == TurnResult("final", 1)


def test_events_add_up_as_told(stage):  # T3 C7
    """An answer made of parts would be kept as something else than what the reader saw."""

    async def parts(turn: Turn):
        yield {"type": "message.started", "data": {"messageId": "m"}}
        yield {"type": "message.part.updated", "data": {"delta": "to be"}}
        yield {"type": "message.part.updated", "data": {"part": {"type": "text", "text": "to be or"}, "delta": ""}}
        yield {"type": "message.part.updated", "data": {"part": {"type": "tool"}}}
        yield {"type": "message.part.updated", "data": {"delta": " not"}}

    assert stage.say(parts)[-1][0].value.text == "to be or not"


@pytest.mark.parametrize(
    ("events", "accumulate", "text"),
    [
        (["x", {"type": "result", "data": {"finalText": "the whole"}}], None, "the whole"),
        ([{"n": 1}, {"n": 0}, {"n": 2}], lambda event, text: text + str(event["n"]) if event["n"] else None, "12"),
        ([{"type": "message.part.updated", "data": 3}, {"data": {}}, 7, None], None, ""),
    ],
    ids=["result", "own", "unknown"],
)
def test_how_the_text_grows(stage, events, accumulate, text):  # T3 C7
    """A producer with a vocabulary of its own would have no text."""

    async def given(turn: Turn):
        for event in events:
            yield event

    options = {"accumulate": accumulate} if accumulate else {}
    assert stage.say(given, **options)[-1][0].value.text == text


def test_a_second_start_follows_the_first_turn(stage):  # T4 T7 V7
    """A client that asks again would pay for a second answer, or be refused."""
    begun = []

    async def counted(turn: Turn, subject: str):
        begun.append(1)
        async for word in speak(turn, subject):
            yield word

    async def main():
        async with stage.turning(counted) as (app, turn):
            first = await app.start(turn, "cats", id="t")
            await asyncio.sleep(1.5)
            second = await app.start(turn, "cats", id="t")
            told = await asyncio.gather(_all(first), _all(second))
            third = await _all(await app.start(turn, "cats", id="t"))
            with pytest.raises(StartConflict):
                await app.start(turn, "dogs", id="t")
            return [*told, third]

    first, second, third = stage.play(main)
    assert first == second == third
    assert (len(first), len(begun)) == (5, 1)


async def _all(run, after=0):
    return [event async for event in follow(run, after=after)]


def test_a_superseded_beginning_is_void(stage):  # T5
    """A client would show the beginning of the answer twice."""
    begun = []

    async def dying(turn: Turn):
        begun.append(turn.attempt)
        for n in range(5):
            yield f"{len(begun)}.{n}"
            if len(begun) == 1 and n == 2:
                await asyncio.sleep(1)  # the reader has it
                stage.die()
                await asyncio.sleep(100)

    got, _ = stage.survive_turn(dying)
    assert [(event.kind, event.value) for event in got[:-1]] == [
        ("event", "1.0"), ("event", "1.1"), ("event", "1.2"), ("void", 1),
        *[("event", f"2.{n}") for n in range(5)],
    ]  # fmt: skip
    assert kept(got) == [f"2.{n}" for n in range(5)]
    assert got[-1].value == TurnResult("2.02.12.22.32.4", 5)


@pytest.mark.parametrize("continues", [False, True])
def test_killed_at_every_event_of_fifty(stage, continues):  # T5 V4 V6
    """Some place of death would lose an event, tell one twice, or mix two executions."""
    deaths = iter(range(50))
    die_at = [next(deaths)]

    async def fifty(turn: Turn):
        for n in range(turn.events, 50):
            yield Event(WORDS[n], str(n))
            if n == die_at[0]:
                die_at[0] = next(deaths, None)
                await asyncio.sleep(0.5)
                stage.die()
                await asyncio.sleep(100)

    patient = {"options": {"most_takeovers": 100}}
    got, journal = stage.survive_turn(fifty, continues=continues, settings=patient)
    assert die_at == [None]
    assert kept(got) == WORDS
    assert got[-1].value == TurnResult("".join(WORDS), 50)
    assert len({event.seq for event in got[:-1]}) == len(got) - 1
    if continues:
        assert [event.id for event in got[:-1]] == [str(n) for n in range(50)]
    assert sum(event.kind == "step_completed" for event in journal) == 1


def test_poison_is_said_to_the_reader(stage):
    """A turn that keeps killing its workers would look as if it went on for ever."""

    async def deadly(turn: Turn):
        yield "x"
        await asyncio.sleep(0.5)
        stage.die()
        await asyncio.sleep(100)

    async def main():
        got = []
        for _ in range(12):
            async with stage.turning(deadly) as (app, turn):
                stage.working, stage.dead = app, asyncio.Event()
                run = await app.start(turn, id="t")
                reader = asyncio.ensure_future(_first_pause(run))
                dead = asyncio.ensure_future(stage.dead.wait())
                await asyncio.wait({reader, dead}, return_when=asyncio.FIRST_COMPLETED)
                if reader.done():
                    dead.cancel()
                    return reader.result()
                reader.cancel()
        return got

    async def _first_pause(run):
        async for event in follow(run):
            if event.kind == "paused":
                return event.value["code"]
        return None

    assert stage.play(main) == "poison"


def test_a_producer_that_raises_fails_the_turn(stage):  # T6 C5
    """A reader would wait for the end of an answer that has broken off."""
    tries = []

    async def broken(turn: Turn):
        tries.append(turn.attempt)
        yield "half"
        raise OSError("the model is gone")

    told = [event for event, _ in stage.say(broken)]
    assert [event.kind for event in told] == ["event", "failed"]
    assert (type(told[1].value), str(told[1].value), tries) == (OSError, "the model is gone", [1])


def test_a_retry_says_it_anew(stage):  # T6
    """A second attempt's words would be taken for the rest of the first one's."""

    async def flaky(turn: Turn):
        yield f"try {turn.attempt}"
        if turn.attempt == 1:
            raise OSError("cut")

    told = [event for event, _ in stage.say(flaky, retry=Retry(max_attempts=2, delay=1))]
    assert [(event.kind, event.value) for event in told[:-1]] == [("event", "try 1"), ("void", 1), ("event", "try 2")]
    assert told[-1].value == TurnResult("try 2", 1)


def test_a_long_silence_costs_nothing(stage):  # T8 V10
    """A model that thinks for longer than a lease would be called a second time."""
    begun = []

    async def silent(turn: Turn):
        begun.append(1)
        yield "hm"
        await asyncio.sleep(10_000)
        yield "42"

    told = stage.say(silent)
    assert (told[-1][0].value.text, begun) == ("hm42", [1])


def test_a_reader_that_leaves_ends_nothing(stage):  # T9 V12 C19
    """An answer would be lost because a browser was closed."""

    async def main():
        async with stage.turning(speak) as (app, turn):
            run = await app.start(turn, "cats", id="t")
            async for event in follow(run):
                if event.value == "poem ":
                    break
            await asyncio.sleep(60)
            return await _all(run, after=event.seq)

    assert [event.value for event in stage.play(main)[:-1]] == ["about ", "cats"]


def test_an_interrupted_turn_keeps_what_was_said(stage):
    """Who presses stop would lose what was read already, or go on paying."""
    ended = []

    async def main():
        async def noted(turn: Turn, subject: str):
            try:
                async for word in speak(turn, subject):
                    yield word
            finally:
                ended.append(stage.seconds())

        async with stage.turning(noted) as (app, turn):
            run = await app.start(turn, "cats", id="t")
            await asyncio.sleep(1.5)
            await interrupt(run)
            told = await _all(run)
            await regenerate(app.client, "t")
            again = await _all(run, after=told[-1].seq)
            return told, again, (await run.info()).status

    told, again, status = stage.play(main)
    assert [event.value for event in told] == ["a ", "poem ", TurnResult("a poem ", 2, interrupted=True)]
    assert ended[0] == 1.5
    assert [event.value for event in again] == [1, "a ", "poem ", "about ", "cats", TurnResult("a poem about cats", 4)]
    assert again[0].kind == "void"
    assert status == "completed"


def test_what_is_said_again_is_stored_and_asked_for_anew(stage):
    """A storage, or a model's service, that knows keys would take the new answer for the old one."""
    stored, asked = {}, []

    async def version(turn: Turn):
        asked.append(turn.key)
        yield f"version {len(asked)}"

    async def persist(result):
        stored.setdefault(current_step().idempotency_key, result.text)

    async def main():
        async with stage.turning(version, persist=persist) as (app, turn):
            run = await app.start(turn, id="t")
            await run.result()
            await regenerate(app.client, "t")
            return (await run.result()).text

    assert stage.play(main) == "version 2"
    assert stored == {"t/persist": "version 1", "t/persist@2": "version 2"}
    assert asked == ["t/turn", "t/turn@2"]


def lengthy(entered, name, begun=lambda: None):
    """A hook that takes long; a transaction fails the first time, so that the turn waits for the second one."""

    def transact(transaction, result, subject):
        entered.append(result.text)
        begun()
        if len(entered) == 1:
            raise OSError("try again")

    async def slow(result, subject):
        entered.append(result.text)
        begun()
        await asyncio.sleep(100)  # longer than the grace
        return result.text

    return transact if name == "transact" else slow


@pytest.mark.parametrize("hook", ["transform", "transact", "persist", "complete"])
def test_an_answer_that_is_said_is_kept_whoever_stops_it(stage, hook):
    """Stop pressed behind the last word, or a page closed there, would throw the whole answer away."""
    entered = []

    async def main():
        loop, begun = asyncio.get_running_loop(), asyncio.Event()
        hooks = {hook: lengthy(entered, hook, lambda: loop.call_soon_threadsafe(begun.set))}
        async with stage.turning(speak, **hooks) as (app, turn):
            run = await app.start(turn, "cats", id="t")
            await begun.wait()
            for _ in range(2):
                await interrupt(run)
            return await run.result(), await stage.journal(app, "t")

    result, journal = stage.play(main)
    assert result == TurnResult("a poem about cats", 4)
    assert entered == ["a poem about cats"] * (2 if hook == "transact" else 1)
    kinds = [entry.kind for entry in journal]
    assert (kinds.count("cancel_requested"), kinds[-1]) == (2, "completed")


def test_what_was_said_is_stored_however_long_that_takes(stage):
    """What was read before stop was pressed would be lost, as the storage takes longer than a clean-up may."""
    stored = []

    async def persist(result, subject):
        await asyncio.sleep(100)
        stored.append(result.text)

    async def main():
        async with stage.turning(speak, persist=persist) as (app, turn):
            run = await app.start(turn, "cats", id="t")
            await asyncio.sleep(1.5)
            await interrupt(run)
            return await run.result()

    assert stage.play(main) == TurnResult("a poem ", 2, interrupted=True)
    assert stored == ["a poem "]


def test_a_cancellation_ends_the_storage_too(stage):
    """A turn that was interrupted, and whose storage hangs, could not be ended by anybody."""
    entered = []

    async def main():
        async with stage.turning(speak, persist=lengthy(entered, "persist")) as (app, turn):
            run = await app.start(turn, "cats", id="t")
            await asyncio.sleep(5)
            await interrupt(run)
            await asyncio.sleep(1)
            await run.cancel("never mind")
            told = await _all(run)
            return told[-1], stage.seconds()

    end, at = stage.play(main)
    assert (end.kind, str(end.value).count("never mind"), entered) == ("cancelled", 1, ["a poem about cats"])
    assert at < 10


def test_a_crash_behind_an_interrupt_that_came_too_late(stage):
    """The next worker would take the interrupt for one that ends the turn, or pause it as diverged."""
    entered = []

    async def persist(result, subject: str):
        entered.append(result.text)
        if len(entered) == 1:
            await interrupt(stage.working.handle("t"))
            await asyncio.sleep(1)
            stage.die()
            await asyncio.sleep(100)

    got, journal = stage.survive_turn(speak, "cats", persist=persist)
    assert got[-1].value == TurnResult("a poem about cats", 4)
    assert entered == ["a poem about cats"] * 2
    assert [entry.kind for entry in journal].count("cancel_requested") == 1


@pytest.mark.parametrize("queued", [True, False])
def test_a_turn_that_has_said_nothing_is_cancelled_by_an_interrupt(stage, queued):
    """An empty answer would be stored."""
    stored, stopped = [], []

    async def silent(turn: Turn, subject: str):
        await turn.keep({"job": subject})
        await asyncio.sleep(10)
        yield subject

    async def persist(result, subject):
        stored.append(result.text)

    async def stop(result, handle, subject):
        stopped.append(handle)

    async def main():
        async with stage.turning(silent, queue="chat", persist=persist, stop=stop) as (app, turn):
            app.queue("chat", per_key=1)
            await app.client.declare_queues(app.registry.queues.values(), app.registry.queue_names())
            first = await app.start(turn, "one", key="s") if queued else None
            run = await app.start(turn, "two", key="s")
            await asyncio.sleep(1)
            assert (await run.info()).status == ("queued" if queued else "running")
            await interrupt(run)
            told = await _all(run)
            if first is not None:
                await first.result()
            return told

    assert [event.kind for event in stage.play(main)] == ["cancelled"]
    assert (stored, stopped) == (["one"], [None]) if queued else ([], [{"job": "two"}])


def test_a_cancelled_turn_has_no_result(stage):
    """A turn that nobody wants any more would be kept as an answer."""

    async def main():
        async with stage.turning(speak) as (app, turn):
            run = await app.start(turn, "cats", id="t")
            await asyncio.sleep(1.5)
            await run.cancel("never mind")
            return await _all(run)

    told = stage.play(main)
    assert [event.kind for event in told] == ["event", "event", "cancelled"]
    assert isinstance(told[-1].value, RunCancelled)


def test_work_elsewhere_is_stopped_with_the_turn(stage):
    """An agent on another machine would go on after its answer was stopped."""
    stopped = []

    async def remote(turn: Turn, task: str):
        await turn.keep({"job": 7})
        yield "working"
        await asyncio.sleep(1_000)

    async def stop(result, handle, task):
        stopped.append((result.text, handle, task))

    async def main():
        async with stage.turning(remote, stop=stop) as (app, turn):
            for run_id, end in (("a", interrupt), ("b", lambda run: run.cancel())):
                run = await app.start(turn, "dig", id=run_id)
                await asyncio.sleep(1)
                await end(run)
                await _all(run)

    stage.play(main)
    assert stopped == [("working", {"job": 7}, "dig")] * 2


def test_a_new_turn_supersedes_the_one_of_its_session(stage):
    """Two answers to one session would run and be billed at once."""
    from perdure import Dedupe  # noqa: PLC0415

    async def main():
        async with stage.turning(speak) as (app, turn):
            old = await app.start(turn, "cats", id="s:1", dedupe=Dedupe("s", then="replace"))
            await asyncio.sleep(1.5)
            new = await app.start(turn, "dogs", id="s:2", dedupe=Dedupe("s", then="replace"))
            return await _all(old), await _all(new)

    old, new = stage.play(main)
    assert [event.kind for event in old] == ["event", "event", "cancelled"]
    assert new[-1].value.text == "a poem about dogs"


def test_turns_of_a_session_go_one_after_the_other(stage):
    """The answers of one conversation would be written at once, each without the other."""

    async def main():
        async with stage.turning(speak, queue="chat") as (app, turn):
            app.queue("chat", per_key=1)
            await app.client.declare_queues(app.registry.queues.values(), app.registry.queue_names())
            runs = [await app.start(turn, f"{n}", id=f"s:{n}", key="s") for n in range(3)]
            other = await app.start(turn, "other", id="o:1", key="o")
            ends = {}
            for run in (*runs, other):
                await run.result()
                ends[run.id] = round(
                    ((await run.info()).finished_at - (await runs[0].info()).created_at).total_seconds()
                )
            return ends

    assert stage.play(main) == {"s:0": 4, "s:1": 8, "s:2": 12, "o:1": 4}


def test_a_producer_faster_than_the_disk_is_slowed_down(stage):
    """The events of a fast model would fill the memory, or fail the turn."""

    async def fast(turn: Turn):
        for n in range(500):
            yield n

    told = stage.say(fast, settings={"limits": Limits(emitted_waiting=20)})
    assert [event.value for event, _ in told[:-1]] == list(range(500))


def test_the_hooks_come_in_their_order_and_once(stage):  # C8 C9 C10 C13
    """A message would be stored before it was cleaned, told of before it was stored, or stored again on replay."""
    calls = []

    async def main():
        async def transform(result, subject: str):
            calls.append(("transform", result.text, subject))
            return result.text.upper()

        def transact(transaction: Transaction, result, subject):
            transaction.execute("create table if not exists messages (text text)")
            transaction.execute(f"insert into messages values ('{result.text}')")

        async def persist(result, subject: str):
            calls.append(("persist", result.text))

        def complete(result, subject: str):
            calls.append(("complete", result.text))
            raise OSError("nobody cares")

        options = {"transform": transform, "transact": transact, "persist": persist, "complete": complete}
        async with stage.turning(speak, **options) as (app, turn):
            for _ in range(2):
                told = await _all(await app.start(turn, "cats", id="t"))
            return told, await stage.sql(app, "select text from messages")

    told, rows = stage.play(main)
    assert told[0].value == "a "
    assert told[-1].value.text == "A POEM ABOUT CATS"
    assert rows == [("A POEM ABOUT CATS",)]
    assert calls == [
        ("transform", "a poem about cats", "cats"), ("persist", "A POEM ABOUT CATS"), ("complete", "A POEM ABOUT CATS"),
    ]  # fmt: skip


@pytest.mark.parametrize("hook", ["transform", "persist", "transact"])
def test_a_hook_that_raises_fails_the_turn(stage, hook):  # C9 C10
    """A message would be lost in silence."""
    from perdure import Terminal  # noqa: PLC0415

    told = []

    def raising(*args):
        raise Terminal("no")

    async def complete(*args):
        told.append(args)

    events = [event for event, _ in stage.say(speak, "cats", complete=complete, **{hook: raising})]
    assert (events[-1].kind, str(events[-1].value), told) == ("failed", "no", [])


def test_a_crash_between_the_answer_and_its_storage(stage):  # C13
    """A message would be lost for ever when the process dies between the two, or stored twice."""
    calls = []

    async def persist(result, subject: str):
        calls.append((result.text, current_step().idempotency_key))
        if len(calls) == 1:
            stage.die()
            await asyncio.sleep(100)

    got, _ = stage.survive_turn(speak, "cats", persist=persist)
    assert calls == [("a poem about cats", "t/persist")] * 2
    assert [event.kind for event in got] == ["event"] * 4 + ["completed"]


def test_what_cannot_be_a_turn_is_refused(stage):
    """A mistake in a decorator would show at the first message of a customer."""
    app = stage.app()

    async def no_generator(turn: Turn): ...

    for wrong in (no_generator, lambda turn: None):
        with pytest.raises(InvalidOption, match="async generator"):
            app.turn(wrong)
    with pytest.raises(InvalidOption, match="there is no colour"):
        app.turn(colour="red")(speak)
