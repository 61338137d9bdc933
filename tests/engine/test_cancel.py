"""Cancellation and deadlines: asyncio's meaning, time to clean up, and an end in any case."""

import asyncio

import pytest

from perdure import Context, Limits, Retry
from perdure.codec.payload import Payloads
from perdure.engine.definition import Step, StepOptions
from perdure.errors import RunCancelled, RunFinished, RunNotFound, RunTimedOut
from perdure.store.base import BaseStore
from perdure.worker import claims


class Broken(Exception):
    pass


def cancel_at(lab, flow, seconds=10, *, others=(), options=None, settings=None, reason="enough", **start):
    """Start a run, cancel it after a while, see how it ends, and replay that."""

    async def main():
        workflow = (flow, options) if options else flow
        async with lab.worker(workflow, *others, **settings or {}) as app:
            await app.start("flow", id="r", **start)
            await asyncio.sleep(seconds)
            await app.cancel("r", reason)
            ended = await lab.ended(app, "r", "flow")
        async with lab.worker(workflow, *others, **settings or {}) as app:
            await lab.check_replay(app, ended, "flow")
        return ended

    return lab.play(main)


async def forever(ctx: Context) -> None:
    await ctx.sleep(1_000_000)


async def awaiting_signal(ctx: Context) -> None:
    await ctx.receive("never")


async def awaiting_retry(ctx: Context) -> None:
    def broken() -> None:
        raise Broken

    await ctx.step(broken_step(broken))


def broken_step(fn):
    return Step(fn, StepOptions(retry=Retry(delay=1000, cap=1000, jitter=0)))


async def awaiting_body(ctx: Context) -> None:
    await ctx.step("long", lambda: asyncio.sleep(1_000_000))


async def long_body() -> None:
    await asyncio.sleep(1_000_000)


async def claimed_for_long(ctx: Context) -> None:
    await ctx.sleep(10)
    await ctx.step(long_body)


def ended_soon(lab, monkeypatch, owner, name, late):
    """Whether a run ends soon that is cancelled while it is claimed: `late` stands for what that takes, then."""

    async def main():
        async with lab.worker(claimed_for_long) as app:
            await app.start("claimed_for_long", id="r")
            await lab.until(app, "r", "waiting")
            monkeypatch.setattr(owner, name, late(app))
            return (await lab.ended(app, "r")).seconds < 60

    return lab.play(main)


# -------------------------------------------------------------------------------------- what it ends
@pytest.mark.parametrize("what", [forever, awaiting_signal, awaiting_retry, awaiting_body])
def test_whatever_a_run_waits_for_it_can_be_cancelled(lab, what):
    """A sleeping, waiting, backing-off or working run would not end at its cancellation, or not say why."""

    async def flow(ctx: Context) -> None:
        await what(ctx)

    ended = cancel_at(lab, flow)
    assert (ended.status, ended.seconds, type(ended.error)) == ("cancelled", 10, RunCancelled)
    assert (ended.error.run_id, ended.error.reason) == ("r", "enough")
    assert ended.keys("cancel_requested") == [""]


def test_a_group_is_cancelled_as_a_whole(lab):
    """Tasks of a group would outlive their cancelled run."""

    async def flow(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.sleep(1_000_000))
            group.create_task(ctx.receive("never"))
            group.create_task(ctx.step("long", lambda: asyncio.sleep(1_000_000)))

    ended = cancel_at(lab, flow)
    assert (ended.status, ended.seconds, ended.keys("step_cancelled")) == ("cancelled", 10, ["~3/long"])


def test_the_body_that_runs_is_cancelled(lab):
    """A coroutine that works for a cancelled run would go on working."""
    seen = []

    async def body() -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            seen.append("told")
            raise

    async def flow(ctx: Context) -> None:
        await ctx.step(body)

    assert cancel_at(lab, flow).status == "cancelled"
    assert seen == ["told"]


def test_a_cancellation_while_the_journal_is_read(lab, monkeypatch):
    """A message after the inbox of a claimed run was read, and before it is driven, would be heard at its next rest."""
    real = claims.load_journals

    def late(app):
        async def load_journals(store, runs):
            read = await real(store, runs)
            if read:
                await app.cancel("r")
                await asyncio.sleep(1)
            return read

        return load_journals

    assert ended_soon(lab, monkeypatch, claims, "load_journals", late)


def test_a_cancellation_before_a_claim_is_answered(lab, monkeypatch):
    """What a claim says of an inbox is out of date when it is heard; the message itself was heard of too early."""
    real = BaseStore.submit

    def late(app):
        def submit(store, operation, done):
            def answered(rows, error):
                if not rows:
                    done(rows, error)
                    return
                cancelling = asyncio.get_running_loop().create_task(app.cancel("r"))
                cancelling.add_done_callback(lambda _: done(rows, error))

            asks = any(name == "claim" for name, _ in operation.lines)
            real(store, operation, answered if asks else done)

        return submit

    assert ended_soon(lab, monkeypatch, BaseStore, "submit", late)


def test_a_body_that_swallows_its_cancellation(lab):
    """A body that goes on in spite of its cancellation would hold its run, or have its late result recorded."""
    seen = []

    async def body() -> str:
        while len(seen) < 3:
            try:
                await asyncio.sleep(100)
                seen.append("slept")
            except asyncio.CancelledError:
                seen.append("swallowed")
        return "late"

    async def flow(ctx: Context) -> None:
        await ctx.step(body)

    ended = cancel_at(lab, flow)
    assert (ended.status, ended.seconds, ended.keys("step_completed")) == ("cancelled", 10, [])
    assert seen[0] == "swallowed"


def test_a_run_that_has_not_begun(lab):
    """Cancelling a queued run would be lost, or its steps run before it ends."""
    ran = []

    async def flow(ctx: Context) -> None:
        await ctx.step("never", lambda: ran.append(1))

    async def main():
        async with lab.app(flow).connected() as app:
            await app.start("flow", id="r")
            await app.start("flow", id="later", delay=1000)
            await app.cancel("r", "changed my mind")
            await app.cancel("later")
            assert (await app.handle("r").info()).status == "cancelling"
        async with lab.worker(flow) as app:
            ended = await lab.ended(app, "r")
            assert (ended.status, str(ended.error)) == ("cancelled", "Run 'r' was cancelled: changed my mind.")
            assert ((await lab.ended(app, "later")).seconds, ran) == (0, [])

    lab.play(main)


def test_a_paused_run(lab):
    """A run that an operator put aside could not be ended without resuming it."""

    async def flow(ctx: Context) -> None:
        await ctx.sleep(1000)

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", id="r")
            await lab.until(app, "r", "waiting")
            await app.client.pause("r", "wait")
            await lab.until(app, "r", "paused")
            await app.cancel("r")
            assert (await lab.ended(app, "r")).status == "cancelled"

    lab.play(main)


def test_a_diverged_run(lab):
    """A run whose code no longer fits could never be ended."""
    names = iter("abcdefgh")

    async def flow(ctx: Context) -> None:
        await ctx.step(next(names), lambda: None)
        await ctx.sleep(10)

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", id="r")
            await lab.until(app, "r", "paused")
            await app.cancel("r", "hopeless")
            ended = await lab.ended(app, "r")
            assert (ended.status, ended.error.reason) == ("cancelled", "hopeless")

    lab.play(main)


def test_cancelling_in_vain(lab):
    """Cancelling nobody, or a run that has ended, would succeed silently; asking twice would do harm."""

    async def flow(ctx: Context) -> str:
        try:
            await ctx.sleep(100)
        finally:
            await ctx.step("clean", lambda: asyncio.sleep(5))

    async def main():
        async with lab.worker(flow) as app:
            with pytest.raises(RunNotFound):
                await app.cancel("nobody")
            await app.start("flow", id="r")
            await asyncio.sleep(1)
            for reason in ("first", "second"):
                await app.cancel("r", reason)
                await asyncio.sleep(1)
            ended = await lab.ended(app, "r")
            assert (ended.error.reason, ended.seconds, ended.keys("cancel_requested")) == ("first", 6, [""])
            with pytest.raises(RunFinished):
                await app.cancel("r")

    lab.play(main)


# ------------------------------------------------------------------------------------------ clean-up
def test_clean_up_in_finally(lab):
    """Steps in `finally` would not run when the run is cancelled, or run again when their worker dies."""
    ran = []

    async def flow(ctx: Context) -> None:
        await ctx.step("reserve", lambda: ran.append("reserve"))
        try:
            await ctx.sleep(1000)
        finally:
            await ctx.step("refund", lambda: ran.append("refund"))
            await ctx.sleep(5)
            await ctx.step("mail", lambda: ran.append("mail"))

    ended = cancel_at(lab, flow)
    assert (ended.status, ended.seconds, ran) == ("cancelled", 15, ["reserve", "refund", "mail"])


def test_clean_up_has_a_grace(lab):
    """A clean-up that never ends would keep a cancelled run alive for ever."""
    ran = []

    async def flow(ctx: Context) -> None:
        try:
            await ctx.sleep(1000)
        finally:
            for _ in range(100):
                await ctx.step("clean", lambda: ran.append(1))
                await ctx.sleep(4)

    ended = cancel_at(lab, flow, options={"grace": 10})
    assert (ended.status, ended.seconds, len(ran)) == ("cancelled", 20, 3)
    assert (ended.error.reason, ended.events[-1].kind) == ("enough", "cancelled")


def test_the_default_grace(lab):
    """A workflow that says nothing about clean-up would have another grace than 30 s."""

    async def flow(ctx: Context) -> None:
        try:
            await ctx.sleep(1000)
        finally:
            await ctx.receive("never")

    assert cancel_at(lab, flow).seconds == 40


def test_no_grace(lab):
    """grace=0 would still let clean-up steps run, or hang the run."""
    ran = []

    async def flow(ctx: Context) -> None:
        try:
            await ctx.sleep(1000)
        finally:
            await ctx.sleep(1)
            await ctx.step("clean", lambda: ran.append(1))

    ended = cancel_at(lab, flow, options={"grace": 0})
    assert (ended.status, ended.seconds, ran) == ("cancelled", 10, [])


def test_swallowing_the_cancellation_completes(lab):
    """A workflow that catches its cancellation and returns would be cancelled against its will."""

    async def flow(ctx: Context) -> str:
        try:
            await ctx.sleep(1000)
        except asyncio.CancelledError:
            return await ctx.step("partial", lambda: "what there was")

    ended = cancel_at(lab, flow)
    assert (ended.value, ended.status, ended.seconds) == ("what there was", "completed", 10)


def test_failing_in_the_clean_up(lab):
    """An error raised while cleaning up would be hidden by the cancellation."""

    async def flow(ctx: Context) -> None:
        try:
            await ctx.sleep(1000)
        finally:
            raise Broken("while cleaning up")

    ended = cancel_at(lab, flow)
    assert (ended.status, str(ended.error)) == ("failed", "while cleaning up")


def test_a_worker_dies_during_the_clean_up(lab):
    """A clean-up interrupted by a crash would not go on, or begin anew."""
    ran = []

    async def die_once() -> None:
        ran.append("die")
        if ran.count("die") == 1:
            lab.die()

    async def canceller(ctx: Context) -> None:
        await ctx.step("cancel", lambda: lab.working.cancel("r", "x"))

    async def flow(ctx: Context) -> None:
        await ctx.start("canceller", detached=True)
        try:
            await ctx.sleep(10_000)
        finally:
            await ctx.step("first", lambda: ran.append("first"))
            await ctx.step("die", die_once)
            await ctx.step("last", lambda: ran.append("last"))

    ended = lab.survive((flow, {"grace": 3600}), others=[canceller])
    assert (ended.status, ran) == ("cancelled", ["first", "die", "die", "last"])


def test_children_are_told_and_may_clean_up(lab):
    """A cancelled parent would end its children without their clean-up."""
    ran = []

    async def child(ctx: Context) -> None:
        try:
            await ctx.sleep(10_000)
        finally:
            await ctx.step("child's", lambda: ran.append("child"))

    async def flow(ctx: Context) -> None:
        try:
            await ctx.call("child", id="c")
        finally:
            await ctx.step("parent's", lambda: ran.append("parent"))

    async def main():
        async with lab.worker(flow, child) as app:
            await app.start("flow", id="r")
            await lab.until(app, "r", "waiting")
            await app.cancel("r")
            assert (await lab.ended(app, "r")).status == "cancelled"
            assert (await lab.ended(app, "c")).status == "cancelled"
            assert sorted(ran) == ["child", "parent"]

    lab.play(main)


def test_a_workflow_that_cancels_itself(lab):
    """A CancelledError of the workflow's own would look like a request, or hang the run."""

    async def flow(ctx: Context) -> None:
        await ctx.sleep(1)
        raise asyncio.CancelledError

    ended = lab.finish(flow)
    assert (ended.status, ended.error.reason) == ("cancelled", "the workflow cancelled itself")


def test_cancelling_a_task_is_not_cancelling_the_run(lab):
    """task.cancel() inside a workflow would cancel the run, or not be seen in the same place on replay."""

    async def flow(ctx: Context) -> list:
        task = asyncio.create_task(ctx.sleep(1000))
        await ctx.sleep(10)
        task.cancel("no longer")
        try:
            await task
        except asyncio.CancelledError as error:
            seen = error.args
        await ctx.sleep(10)
        return [list(seen), task.cancelled()]

    ended = lab.finish(flow)
    assert (ended.value, ended.seconds) == ([["no longer"], True], 20)


def test_a_step_given_up_and_asked_for_again(lab):
    """A step cancelled by a timeout would block its name, or hand its late result to the next one."""
    ran = []

    async def body() -> str:
        ran.append(1)
        await asyncio.sleep(100 if len(ran) == 1 else 1)
        return f"result {len(ran)}"

    async def flow(ctx: Context) -> str:
        while True:
            try:
                async with asyncio.timeout(10):
                    return await ctx.step(body)
            except TimeoutError:
                await ctx.sleep(200)

    ended = lab.finish(flow)
    assert (ended.value, ended.seconds) == ("result 2", 211)
    assert (ended.keys("step_cancelled"), ended.keys("step_completed")) == (["body"], ["body#2"])


# ----------------------------------------------------------------------------------------- deadlines
@pytest.mark.parametrize("where", ["start", "workflow"])
def test_a_deadline_ends_the_run_after_its_clean_up(lab, where):
    """A run could take longer than its timeout, or would not clean up, or not fail with an error of its own."""
    ran = []

    async def flow(ctx: Context) -> None:
        try:
            await ctx.sleep(1000)
        finally:
            await ctx.step("clean", lambda: ran.append(1))

    workflow, options = (flow, {"timeout": 60}) if where == "start" else ((flow, {"timeout": 60, "name": "flow"}), {})
    ended = lab.finish(workflow, **options)
    assert (ended.status, ended.seconds, ran) == ("failed", 60, [1])
    assert type(ended.error) is RunTimedOut
    assert isinstance(ended.error, TimeoutError)
    assert [event.kind for event in ended.events][-3:] == ["deadline_reached", "step_completed", "failed"]


def test_a_deadline_while_a_body_runs(lab):
    """A deadline would wait for the step that runs."""

    async def flow(ctx: Context) -> None:
        await ctx.step("long", lambda: asyncio.sleep(1000))

    assert lab.finish(flow, timeout=60).seconds == 60


def test_a_deadline_with_a_grace(lab):
    """Clean-up behind a deadline could take for ever."""

    async def flow(ctx: Context) -> None:
        try:
            await ctx.sleep(1000)
        finally:
            await ctx.sleep(1000)

    ended = lab.finish((flow, {"name": "flow", "grace": 5}), timeout=60)
    assert (ended.status, ended.seconds, type(ended.error)) == ("failed", 65, RunTimedOut)


def test_a_run_that_ends_in_time(lab):
    """A deadline would touch a run that ended before it."""

    async def flow(ctx: Context) -> str:
        await ctx.sleep(59)
        return "in time"

    assert lab.finish(flow, timeout=60).value == "in time"


def test_a_deadline_that_passed_before_the_run_began(lab):
    """A run that nobody took up in time would still do its work, too late."""
    ran = []

    async def flow(ctx: Context) -> None:
        await ctx.step("too late", lambda: ran.append(1))

    async def main():
        async with lab.app(flow).connected() as app:
            await app.start("flow", id="r", timeout=10)
        await asyncio.sleep(100)
        async with lab.worker(flow) as app:
            ended = await lab.ended(app, "r")
            assert (ended.status, type(ended.error), ran) == ("failed", RunTimedOut, [])

    lab.play(main)


def test_a_deadline_across_restarts(lab):
    """A restart would begin the deadline anew."""

    async def flow(ctx: Context) -> None:
        await ctx.receive("never")

    async def main():
        for moment in (20, 40):
            async with lab.worker(flow) as app:
                await app.start("flow", id="r", timeout=60)
                await asyncio.sleep(moment - lab.seconds())
        async with lab.worker(flow) as app:
            assert (await lab.ended(app, "r")).seconds == 60

    lab.play(main)


def test_cancelling_behind_the_deadline(lab):
    """A cancellation during the clean-up behind a deadline would turn the timeout into a cancellation."""

    async def flow(ctx: Context) -> None:
        try:
            await ctx.sleep(1000)
        finally:
            await ctx.sleep(10)

    ended = cancel_at(lab, flow, 15, timeout=10)
    assert (ended.status, type(ended.error), ended.seconds) == ("failed", RunTimedOut, 20)


def test_a_signal_and_a_cancellation_at_once(lab):
    """Of a signal and a cancellation that come together, live run and replay would see another one first."""

    async def flow(ctx: Context) -> str:
        try:
            return await ctx.receive("go", str)
        except asyncio.CancelledError:
            return await ctx.receive("go", str)

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", id="r")
            await lab.until(app, "r", "waiting")
        async with lab.app(flow).connected() as app:
            await app.cancel("r")
            await app.signal("r", "go", "kept")
        async with lab.worker(flow) as app:
            ended = await lab.ended(app, "r", "flow")
            assert ended.value == "kept"
            await lab.check_replay(app, ended, "flow")

    lab.play(main)


class Backwards:
    name = "backwards"

    @staticmethod
    def encode(data):
        return data[::-1]

    decode = encode


def test_the_reason_of_a_cancellation_is_sealed_like_everything_else(lab):
    """With a codec that encrypts, why a run was cancelled would lie in the file in plain text."""
    stored = []

    async def main():
        async with lab.worker(forever, codec=Backwards()) as app:
            await app.start("forever", id="r")
            await asyncio.sleep(10)
            await app.cancel("r", "the customer's cat")
            stored.extend(await app.client.store.select("select data from perdure_inbox"))
            with pytest.raises(RunCancelled, match="the customer's cat"):
                await app.handle("r").result()
            stored.extend(await app.client.store.select("select data from perdure_journal"))

    lab.play(main)
    assert stored
    assert not [data for (data,) in stored if data and "customer" in data]


def test_a_run_whose_reason_cannot_be_read_is_cancelled_all_the_same(lab):
    """A run would go on, or be paused, because somebody with another codec has cancelled it."""

    async def main():
        async with lab.worker(forever) as app:
            await app.start("forever", id="r")
            await asyncio.sleep(10)
            app.client.payloads = Payloads(Backwards(), Limits())
            await app.cancel("r", "enough")
            with pytest.raises(RunCancelled, match="cannot be read"):
                await app.handle("r").result()

    lab.play(main)
