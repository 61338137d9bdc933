"""Signals: answers from outside, before, during and after the wait, in any order, with any outcome."""

import asyncio
from dataclasses import dataclass
from datetime import date
from typing import Literal

import pytest
from pydantic import BaseModel

from perdure import Context, Retry
from perdure.errors import InvalidInput, ReceiveTimedOut, RunFinished, RunNotFound
from perdure.worker import mail


class Approval(BaseModel):
    ok: bool
    when: date | None = None


@dataclass
class Beat:
    kind: Literal["beat", "answer", "failure"]
    value: str = ""
    error: str = ""


class Refused(Exception):
    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


async def answer(ctx: Context, name: str, **options) -> str:
    """What the scenarios call a callback that may fail: the failure is data, and raised here."""
    came = await ctx.receive(name, Beat, **options)
    if came.kind == "failure":
        raise Refused(came.error, came.value)
    return came.value


async def with_heartbeat(ctx: Context, name: str, seconds: float) -> str:
    """What the scenarios call a heartbeat timeout: each beat begins the wait anew."""
    while (came := await ctx.receive(name, Beat, timeout=seconds)).kind == "beat":
        pass
    return came.value


def send(lab, flow, *script, args=(), workers=1):
    """Run a workflow while signals are sent: (second, name, data, key)."""

    async def main():
        async with lab.worker(flow) as app:
            handle = await app.start("flow", *args, id="r")
            for at, name, data, *key in script:
                await asyncio.sleep(at - lab.seconds())
                await app.signal("r", name, data, key=key[0] if key else None)
            ended = await lab.ended(app, handle.id, "flow")
        async with lab.worker(flow) as app:
            await lab.check_replay(app, ended, "flow")
        return ended

    return lab.play(main)


# ------------------------------------------------------------------------------------------- success
def test_a_signal_ends_the_wait(lab):
    """4-1, 4-2: what was sent to a waiting run would not reach it, or not under its name."""

    async def flow(ctx: Context) -> str:
        return await ctx.receive("approval", str)

    ended = send(lab, flow, (7, "approval", "granted"))
    assert (ended.value, ended.seconds) == ("granted", 7)
    assert [event.kind for event in ended.events] == ["receive_started", "signal_received", "completed"]
    assert ended.keys("signal_received") == ["approval"]


def test_a_waiting_run_says_what_it_waits_for(lab):
    """An operator could not see why a run does not go on."""

    async def flow(ctx: Context) -> list[str]:
        return await asyncio.gather(ctx.receive("a", str), ctx.receive("b", str, timeout=100))

    async def main():
        async with lab.worker(flow) as app:
            handle = await app.start("flow")
            info = await lab.until(app, handle.id, "waiting")
            assert sorted(info.waiting_for) == ["signal:a", "signal:b"]
            assert info.due_at.timestamp() == lab.clock.now() / 1e6 + 100 - lab.seconds()

    lab.play(main)


def test_a_signal_before_the_wait_is_kept(lab):
    """I9: a signal sent before the run waits for it would be lost."""

    async def flow(ctx: Context) -> str:
        await ctx.sleep(100)
        return await ctx.receive("early", str)

    ended = send(lab, flow, (5, "early", "bird"))
    assert (ended.value, ended.seconds) == ("bird", 100)


def test_a_signal_to_a_run_that_has_not_begun(lab):
    """I9: a signal to a run that is still queued would be refused or lost."""

    async def flow(ctx: Context) -> str:
        return await ctx.receive("early", str)

    async def main():
        async with lab.app(flow).connected() as app:
            await app.start("flow", id="r")
            await app.signal("r", "early", "bird")
        async with lab.worker(flow) as app:
            assert (await lab.ended(app, "r")).value == "bird"

    lab.play(main)


def test_signals_of_one_name_arrive_once_each_in_order(lab):
    """I9: several signals of one name would overtake each other, arrive twice, or be merged."""

    async def flow(ctx: Context) -> list[int]:
        await ctx.sleep(10)
        got = [await ctx.receive("n", int) for _ in range(3)]
        await ctx.sleep(10)
        return [*got, await ctx.receive("n", int)]

    assert send(lab, flow, *[(at, "n", at) for at in (1, 2, 3, 15)]).value == [1, 2, 3, 15]


def test_a_signal_that_was_read_before_the_run_took_it(lab, monkeypatch):
    """Of two readings of the inbox, the answer to the first comes last: the run would receive the signal again."""
    real, slow = mail.load_messages, []

    async def load_messages(store, numbers):
        found = await real(store, numbers)
        if slow:
            await asyncio.sleep(slow.pop())
        return found

    async def twice(ctx: Context) -> list[int]:
        await ctx.step(asyncio.sleep, 5)
        first = await ctx.receive("x", int)
        await ctx.sleep(10)
        await ctx.step(asyncio.sleep, 100)
        return [first, await ctx.receive("x", int)]

    async def main():
        monkeypatch.setattr(mail, "load_messages", load_messages)
        async with lab.worker(twice) as app:
            await app.start("twice", id="r")
            await asyncio.sleep(1)
            slow.append(30)  # by then it has parked, has taken the signal, has slept, and is in its second step
            await app.signal("r", "x", 1)
            await asyncio.sleep(60)
            await app.signal("r", "x", 2)
            assert (await lab.ended(app, "r")).value == [1, 2]

    lab.play(main)


def test_only_the_first_signal_under_a_key_counts(lab):
    """I9: a sender that repeats itself after a lost answer would be heard twice."""

    async def flow(ctx: Context) -> list:
        return [await ctx.receive("pay", int), await ctx.receive("pay", int, timeout=50, default=None)]

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", id="r")
            accepted = [await app.signal("r", "pay", n, key="invoice-7") for n in (1, 2)]
            await lab.until(app, "r", "waiting")
            accepted.append(await app.signal("r", "pay", 3, key="invoice-7"))
            assert accepted == [True, False, False]
            assert (await lab.ended(app, "r")).value == [1, None]

    lab.play(main)


def test_payloads_become_what_the_receiver_declares(lab):
    """4-15, 4-16, 7-11: a typed object with a date, or a number, would arrive as bare JSON."""

    async def flow(ctx: Context) -> list:
        approval = await ctx.receive("approval", Approval)
        number = await ctx.receive("number", float)
        anything = await ctx.receive("anything")
        return [type(approval).__name__, approval.when.year, number / 2, anything["field"]]

    ended = send(
        lab,
        flow,
        (1, "approval", Approval(ok=True, when=date(2031, 2, 3))),
        (1, "number", 5),
        (1, "anything", {"field": [1]}),
    )
    assert ended.value == ["Approval", 2031, 2.5, [1]]


def test_a_signal_without_payload_gives_none(lab):
    """7-15: an answer that carries nothing would count as no answer, or as a timeout."""

    async def flow(ctx: Context) -> str:
        return repr(await ctx.receive("go", timeout=100, default="timed out"))

    assert send(lab, flow, (1, "go", None)).value == "None"


def test_a_received_signal_survives_later_waits(lab):
    """4-12: a signal received before a wait would be received again, or be gone, on resume."""

    async def flow(ctx: Context) -> str:
        first = await ctx.receive("answer", str)
        await ctx.sleep(10)
        await ctx.sleep(10)
        return first

    ended = send(lab, flow, (3, "answer", "x"))
    assert (ended.value, ended.seconds, ended.keys("signal_received")) == ("x", 23, ["answer"])


# --------------------------------------------------------------------------------- timeouts, failures
def test_nobody_answers(lab):
    """4-3, 7-5: a receive with a timeout would wait for ever, or end without an error of its own class."""

    async def flow(ctx: Context) -> str:
        return await ctx.receive("approval", str, timeout=5)

    ended = send(lab, flow)
    assert (ended.status, ended.seconds, type(ended.error)) == ("failed", 5, ReceiveTimedOut)
    assert isinstance(ended.error, TimeoutError)
    assert (ended.error.name, ended.error.seconds) == ("approval", 5)


def test_a_timeout_may_have_a_default_or_be_caught(lab):
    """4-14, 7-14: the chosen outcome would not be used, or be forgotten by the wait behind it."""

    async def flow(ctx: Context) -> list:
        got = [await ctx.receive("a", str, timeout=5, default=None)]
        try:
            await ctx.receive("a", str, timeout=5)
        except ReceiveTimedOut:
            got.append("caught")
        await ctx.sleep(10)
        return got

    ended = send(lab, flow)
    assert (ended.value, ended.seconds) == ([None, "caught"], 20)


def test_a_signal_after_the_timeout_is_kept_for_the_next_wait(lab):
    """I9: an answer that came too late for one wait would be lost for the next."""

    async def flow(ctx: Context) -> list:
        first = await ctx.receive("a", str, timeout=5, default="late")
        await ctx.sleep(100)
        return [first, await ctx.receive("a", str)]

    assert send(lab, flow, (6, "a", "here")).value == ["late", "here"]


def test_heartbeats_keep_a_wait_alive(lab):
    """4-4, 4-5, 7-12, 7-13: beats would not begin the timeout anew, or silence would not end the wait."""

    async def flow(ctx: Context) -> str:
        return await with_heartbeat(ctx, "work", 5)

    beat = Beat("beat")
    ended = send(lab, flow, (4, "work", beat), (8, "work", beat), (12, "work", Beat("answer", "done")))
    assert (ended.value, ended.seconds) == ("done", 12)


def test_silence_between_heartbeats(lab):
    """4-4, 7-12: a worker outside that stops beating would be waited for without end."""

    async def flow(ctx: Context) -> str:
        return await with_heartbeat(ctx, "work", 5)

    ended = send(lab, flow, (4, "work", Beat("beat")))
    assert (ended.status, type(ended.error), ended.seconds) == ("failed", ReceiveTimedOut, 9)


@pytest.mark.parametrize("caught", [False, True])
def test_an_answer_may_be_a_failure(lab, caught):
    """4-6, 4-13, 7-4, 7-6: a failure sent by the outside could not be raised, caught, or kept with its fields."""

    async def flow(ctx: Context) -> str:
        try:
            return await answer(ctx, "pay")
        except Refused as error:
            if not caught:
                raise
            await ctx.sleep(10)
            return f"recovered from {error.kind}"

    ended = send(lab, flow, (1, "pay", Beat("failure", "no funds", "Declined")))
    if caught:
        assert ended.value == "recovered from Declined"
    else:
        assert (ended.status, str(ended.error), ended.error.kind) == ("failed", "no funds", "Declined")


# ------------------------------------------------------------------------------- while something else goes on
async def opened(ctx: Context, name: str, **options):
    """A wait that begins now and is awaited later."""
    task = asyncio.create_task(answer(ctx, name, **options))
    await asyncio.sleep(0)
    return task


def test_a_failure_that_comes_while_the_run_sleeps(lab):
    """4-7, 4-10: an answer that came during another wait would not be there when it is awaited."""
    ran = []

    async def flow(ctx: Context) -> str:
        wait = await opened(ctx, "pay")
        await ctx.step("meanwhile", lambda: ran.append(1))
        await ctx.sleep(10)
        return await wait

    ended = send(lab, flow, (4, "pay", Beat("failure", "no", "X")))
    assert (ended.status, str(ended.error), ended.seconds, ran) == ("failed", "no", 10, [1])


def test_a_timeout_counts_from_the_beginning_of_the_wait(lab):
    """4-8, 4-11: a wait opened before a sleep would time out counted from its end, or raise before it is awaited."""

    async def flow(ctx: Context) -> list:
        wait = await opened(ctx, "pay", timeout=3)
        await ctx.step("meanwhile", lambda: 1)
        await ctx.sleep(6)
        try:
            await wait
        except ReceiveTimedOut:
            return [ctx.now().second]

    ended = send(lab, flow)
    assert (ended.value, ended.seconds) == ([46], 6)
    assert ended.times("timer_fired") == [3, 6]


def test_an_answer_in_the_middle_of_a_sleep(lab):
    """4-9: the answer would end the sleep, or be seen only after it."""
    woke = []

    async def flow(ctx: Context) -> str:
        wait = await opened(ctx, "pay")
        wait.add_done_callback(lambda task: woke.append(ctx.now().second))
        await ctx.sleep(10)
        return await wait

    ended = send(lab, flow, (4, "pay", Beat("answer", "ok")))
    assert (ended.value, ended.seconds) == ("ok", 10)
    assert ended.times("signal_received") == [4]
    assert set(woke) == {44}


def test_one_wait_after_the_other(lab):
    """4-17, 7-9: a second wait would get what belongs to the first."""

    async def flow(ctx: Context) -> list[str]:
        return [await ctx.receive("a", str), await ctx.receive("b", str)]

    assert send(lab, flow, (1, "b", "B"), (2, "a", "A")).value == ["A", "B"]


@pytest.mark.parametrize("first", ["a", "b"])
def test_two_open_waits(lab, first):
    """4-18, 4-19: two open waits, awaited or answered in any order, would mix up their answers."""

    async def flow(ctx: Context) -> list[str]:
        waits = {name: await opened(ctx, name) for name in "ab"}
        other = "b" if first == "a" else "a"
        return [await waits[first], await waits[other]]

    for script in (("a", "b"), ("b", "a")):
        run = send(lab, flow, *[(at, name, Beat("answer", name.upper())) for at, name in enumerate(script, 1)])
        assert run.value == [first.upper(), "AB".replace(first.upper(), "")]
        lab.path = lab.path.with_suffix(".2")


def test_two_waits_for_one_name(lab):
    """Two tasks that wait for one name would both get the first signal, or not in the order of their waits."""

    async def flow(ctx: Context) -> list[int]:
        return await asyncio.gather(*[ctx.receive("n", int) for _ in range(3)])

    assert send(lab, flow, (1, "n", 10), (2, "n", 20), (2, "n", 30)).value == [10, 20, 30]


def test_a_cancelled_wait_takes_no_signal(lab):
    """I9: a wait that was given up would swallow the signal that another one waits for."""

    async def flow(ctx: Context) -> str:
        try:
            async with asyncio.timeout(5):
                await ctx.receive("a", str)
        except TimeoutError:
            pass
        return await ctx.receive("a", str)

    assert send(lab, flow, (9, "a", "kept")).value == "kept"


# ------------------------------------------------------------------------- ask somebody, then wait for the answer
def asking(lab, answers, *, fail=0):
    """A step that hands out the run's id, as one would print it on a button; then the wait."""
    asked = []

    async def ask(run_id: str, topic: str) -> None:
        asked.append((run_id, topic))
        if len(asked) <= fail:
            raise ConnectionError("mail server down")
        for at, name, data in answers:
            if name == topic:
                asyncio.get_running_loop().call_later(
                    at,
                    lambda data=data: lab.tasks.append(asyncio.ensure_future(lab.working.signal(run_id, topic, data))),
                )

    return ask, asked


def ask_and_finish(lab, flow):
    async def main():
        lab.tasks = []
        async with lab.worker(flow) as app:
            lab.working = app
            ended = await lab.ended(app, (await app.start("flow")).id, "flow")
            await asyncio.gather(*lab.tasks)
        async with lab.worker(flow) as app:
            await lab.check_replay(app, ended, "flow")
            return ended

    return lab.play(main)


def test_submit_then_wait(lab):
    """7-1, 7-2, 7-3: the one who is asked would not learn where to answer, or be asked twice."""
    ask, asked = asking(lab, [(3, "review", "fine")])

    async def flow(ctx: Context) -> str:
        await ctx.step(ask, ctx.run_id, "review")
        return await ctx.receive("review", str)

    ended = ask_and_finish(lab, flow)
    assert (ended.value, ended.seconds) == ("fine", 3)
    assert asked == [(ended.info.id, "review")]


def test_submit_fails_before_any_answer(lab):
    """7-7: a run that could not even ask would wait for the answer."""
    ask, asked = asking(lab, [], fail=2)

    async def flow(ctx: Context) -> str:
        await ctx.step("ask", lambda: ask(ctx.run_id, "x"), retry=Retry(max_attempts=2, delay=1))
        return await ctx.receive("x", str)

    ended = ask_and_finish(lab, flow)
    assert (ended.status, str(ended.error), len(asked)) == ("failed", "mail server down", 2)
    assert ended.keys("receive_started") == []


def test_ask_in_a_scope_after_other_work_and_twice(lab):
    """7-8, 7-9, 7-10: inside a scope, after a wait and a step, or for the second time, asking would go astray."""
    ask, asked = asking(lab, [(2, "one", "1"), (2, "two", "2")])

    async def flow(ctx: Context) -> str:
        await ctx.sleep(5)
        await ctx.step("before", lambda: None)
        answers = ""
        for name in ("one", "two"):
            with ctx.scope(f"ask {name}"):
                await ctx.step(ask, ctx.run_id, name)
                answers += await ctx.receive(name, str)
        return answers

    ended = ask_and_finish(lab, flow)
    assert (ended.value, ended.seconds, len(asked)) == ("12", 9, 2)
    assert ended.keys("signal_received") == ["ask one/one", "ask two/two"]


# ------------------------------------------------------------------------------------------- bad input
def test_a_payload_of_another_type(lab):
    """A payload that does not fit would kill the worker, or arrive unchecked; the next one must be receivable."""

    async def flow(ctx: Context) -> str:
        try:
            await ctx.receive("n", int)
        except InvalidInput as error:
            return f"{error.code} {await ctx.receive('n', int)}"

    assert send(lab, flow, (1, "n", "not a number"), (2, "n", 7)).value == "invalid_input 7"


def test_signals_that_cannot_be_sent(lab):
    """A signal to nobody, to the dead, without a form or under a bad name would vanish silently."""

    async def flow(ctx: Context) -> None:
        return None

    async def main():
        async with lab.worker(flow) as app:
            ended = await lab.ended(app, (await app.start("flow")).id)
            refused = []
            for run_id, name, data in (
                ("nobody", "x", 1), (ended.info.id, "x", 1), (ended.info.id, "x", object()), (ended.info.id, "a/b", 1),
                (ended.info.id, "", 1), (ended.info.id, "x", float),
            ):  # fmt: skip
                with pytest.raises(Exception) as caught:  # noqa: PT011 - the classes are compared below
                    await app.signal(run_id, name, data)
                refused.append(caught.type.__name__)
            assert refused == [
                RunNotFound.__name__, RunFinished.__name__, "NotSerializable", "InvalidName", "InvalidName",
                "NotSerializable",
            ]  # fmt: skip

    lab.play(main)
