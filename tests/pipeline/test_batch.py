"""Batch stages: submitted once, asked for until they are ready, by the statements of the acceptance list."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from perdure import Batch, Pending, Pipeline, Retry, RunFilter, Stage, StageContext, Terminal
from perdure.errors import BatchTimedOut, InvalidInput
from perdure.pipeline.batch import Item, items_of

HOUR = 3600


class Service:
    """A batch service: what was submitted, asked and given up, and when."""

    def __init__(self, lab, ready_at: float = 100, answer: Any = 7) -> None:
        self.lab, self.ready_at, self.answer = lab, ready_at, answer
        self.keys: list[str] = []
        self.checks: list[float] = []
        self.given_up: list[str] = []
        self.fails: dict[int, Exception] = {}
        self.notices: list[Any] = []

    def submit(self, stage: StageContext[Any, None]) -> dict[str, str]:
        self.keys.append(stage.idempotency_key)
        return {"batch": f"b{len(self.keys)}"}

    def check(self, stage: StageContext[Any, None], batch: dict[str, str]) -> int | Pending:
        self.checks.append(round(self.lab.seconds(), 1))
        self.notices.append(stage.notice)
        if problem := self.fails.get(len(self.checks)):
            raise problem
        return self.answer if self.lab.seconds() >= self.ready_at else Pending()

    def cancel(self, stage: StageContext[Any, None], batch: dict[str, str]) -> None:
        self.given_up.append(batch["batch"])

    def pipeline(self, **options: Any) -> Pipeline:
        return Pipeline("p").stage("b", Batch(self.submit, self.check, cancel=self.cancel, **options))


def test_defaults(lab):  # A051
    """A batch is asked for all the time, or for ever."""
    service = Service(lab)
    batch = Batch(service.submit, service.check)
    assert (batch.every, batch.first, batch.deadline) == (30_000_000, 30_000_000, 24 * HOUR * 1_000_000)
    assert (batch.output, batch.input) == (int, Any)
    assert Batch(service.submit, service.check, every=5, first=0).first == 0


def test_submit_and_ask(lab):  # A050 A052 A053 A058
    """A batch is asked for too early or too late, or what it gave is lost."""
    service = Service(lab)
    ended = lab.finish(service.pipeline())
    assert (ended.value, len(service.keys)) == (7, 1)
    assert service.checks == [30, 60, 90, 120]
    assert service.keys == [f"{ended.info.id}/b#submit"]
    assert ended.keys("step_completed") == ["b#submit", "b#check", "b#check#2", "b#check#3", "b#check#4"]
    assert service.given_up == []


def test_a_waiting_batch_costs_a_row(lab):  # A050 W02
    """A run whose batch takes hours keeps a worker, or is taken for stuck; or its state cannot be seen."""

    async def main():
        service = Service(lab, ready_at=20 * HOUR)
        async with lab.worker(service.pipeline(every=timedelta(hours=1), first=0)) as app:
            await app.start("p", id="r")
            info = await lab.waits_for(app, "r", "signal:b")
            due = lab.seconds() + (info.due_at - lab.clock_time()).total_seconds()
            return info.status, due, await lab.ended(app, "r"), service

    status, due, ended, service = lab.play(main)
    assert status == "waiting"
    assert due == pytest.approx(HOUR, abs=5)
    assert (ended.value, len(service.keys), len(service.checks)) == (7, 1, 21)


def test_next_check_in(lab):  # A052
    """A service that says when to come again is asked at other times."""
    times = []

    def check(stage: StageContext[Any, None], batch: str) -> list[int] | Pending:
        times.append(round(lab.seconds()))
        return Pending(next_check_in=timedelta(minutes=5), progress="1 of 2") if len(times) < 3 else [1, 2]

    ended = lab.finish(Pipeline("p").stage("b", Batch(lambda: "x", check, first=1)))
    assert (ended.value, times) == ([1, 2], [1, 301, 601])


def test_a_signal_brings_the_check_about(lab):
    """A webhook cannot tell that a batch is ready, or is heard when it came before the wait only."""

    async def main():
        service = Service(lab, ready_at=10)
        async with lab.worker(service.pipeline(every=HOUR)) as app:
            handle = await app.start("p", id="r")
            await handle.signal("b", {"early": True})
            await asyncio.sleep(20)
            await handle.signal("b", {"done": True})
            return await lab.ended(app, "r"), service

    ended, service = lab.play(main)
    assert (ended.value, service.notices) == (7, [{"early": True}, {"done": True}])
    assert service.checks[1] == pytest.approx(20, abs=1)


def test_a_transient_failure_is_tried_again(lab):  # W06
    """One failed request loses a batch that is paid for."""
    service = Service(lab, ready_at=0)
    service.fails = {n: ConnectionError("no network") for n in range(1, 8)}
    ended = lab.finish(service.pipeline())
    assert (ended.value, len(service.keys), len(service.checks)) == (7, 1, 8)
    assert ended.keys("attempt_failed") == ["b#check"] * 7


@pytest.mark.parametrize("problem", [Terminal("rejected"), ConnectionError("gone")])
def test_a_final_failure_fails_the_run(lab, problem):  # A055
    """A batch that has failed is asked for until its deadline."""
    service = Service(lab)
    service.fails = {2: problem, 3: problem}
    ended = lab.finish(service.pipeline(check_retry=Retry(max_attempts=2, delay=1)))
    assert (ended.status, str(ended.error)) == ("failed", str(problem))
    assert service.given_up == ["b1"]
    assert ended.seconds < 100


def test_deadline(lab):  # A055
    """A batch that never becomes ready is waited for for ever."""
    service = Service(lab, ready_at=99 * HOUR)
    ended = lab.finish(service.pipeline(every=40, deadline=100))
    assert isinstance(ended.error, BatchTimedOut)
    assert (ended.error.stage, ended.error.seconds) == ("b", 100)
    assert service.checks == [40, 80, 100]
    assert service.given_up == ["b1"]


def test_ready_beats_the_deadline(lab):  # A055
    """A batch that is ready counts as late because nobody looked in time."""

    async def main():
        service = Service(lab, ready_at=50)
        async with lab.worker(service.pipeline(every=1000, first=1000, deadline=HOUR)) as app:
            await app.start("p", id="r")
            await lab.waits_for(app, "r", "signal:b")
        await asyncio.sleep(9 * HOUR)
        async with lab.worker(service.pipeline(every=1000, first=1000, deadline=HOUR)) as app:
            return await lab.ended(app, "r"), service

    ended, service = lab.play(main)
    assert (ended.value, len(service.checks)) == (7, 1)


def test_output_that_does_not_fit(lab):  # A054
    """What a batch gives is passed on although it is not what the stage declares."""
    ended = lab.finish(Service(lab, answer="seven").pipeline())
    assert isinstance(ended.error, InvalidInput)
    assert ended.keys("step_failed") == ["b#check#4"]


def test_output_of_none(lab):  # A053
    """A batch that has no output never completes."""
    ended = lab.finish(Pipeline("p").stage("b", Batch(lambda: 1, lambda stage, batch: None, first=0)))
    assert (ended.status, ended.value) == ("completed", None)


def test_cancelled_while_it_waits(lab):  # A056 A060
    """The run ends, and the service goes on with what nobody waits for."""

    async def main():
        service = Service(lab, ready_at=HOUR)
        async with lab.worker(service.pipeline()) as app:
            handle = await app.start("p", id="r")
            await asyncio.sleep(70)
            await handle.cancel()
            return await lab.ended(app, "r"), service

    ended, service = lab.play(main)
    assert (ended.status, service.given_up, len(service.checks)) == ("cancelled", ["b1"], 2)
    assert ended.keys("step_completed")[-1] == "b#cancel"


def test_cancelled_beside_others(lab):  # A056 A060
    """Of several batches that wait, a cancelled run gives up one only, or gives it up twice."""

    async def main():
        services = [Service(lab, ready_at=HOUR) for _ in range(3)]
        batches = {f"b{n}": Batch(one.submit, one.check, cancel=one.cancel) for n, one in enumerate(services)}
        async with lab.worker(Pipeline("p").parallel(batches)) as app:
            handle = await app.start("p", id="r")
            await asyncio.sleep(70)
            await handle.cancel()
            return await lab.ended(app, "r"), services

    ended, services = lab.play(main)
    assert (ended.status, [service.given_up for service in services]) == ("cancelled", [["b1"]] * 3)


def test_failed_sibling(lab):  # W29
    """A batch goes on, and is paid for, when its run has failed."""
    service = Service(lab, ready_at=HOUR)

    async def fail() -> None:
        await asyncio.sleep(50)
        raise Terminal("no")

    batch = Batch(service.submit, service.check, cancel=service.cancel)
    ended = lab.finish(Pipeline("p").parallel({"b": batch, "f": fail}))
    assert (str(ended.error), service.given_up, len(service.checks)) == ("no", ["b1"], 1)


def test_several_batches(lab):  # A057
    """Batches in a row or side by side are mixed up, or the group goes on without one of them."""
    one, two, three = Service(lab, 100, 1), Service(lab, 200, 2), Service(lab, 300, 3)
    batches = [Batch(service.submit, service.check) for service in (one, two, three)]
    total = Stage(lambda stage: stage.input["x"] + stage.input["y"])
    ended = lab.finish(
        Pipeline("p").parallel({"x": batches[0], "y": batches[1]}).stage("t", total).stage("z", batches[2])
    )
    assert ended.value == 3
    assert [len(service.keys) for service in (one, two, three)] == [1, 1, 1]
    assert ended.seconds == pytest.approx(300, abs=31)


def test_many_runs_ask_at_once(lab):  # W12
    """Batches are asked for one after another, or by two workers at once."""
    asked = []

    async def check(stage: StageContext[Any, None], batch: str) -> int | Pending:
        asked.append((stage.run_id, round(lab.seconds())))
        await asyncio.sleep(20)
        return 1

    async def main():
        pipeline = Pipeline("p").stage("b", Batch(lambda: "b", check))
        async with lab.worker(pipeline) as app, lab.worker(pipeline):
            handles = [await app.start("p", id=f"r{n}") for n in range(20)]
            for handle in handles:
                await handle.result()

    lab.play(main)
    assert len(asked) == len({run for run, _ in asked}) == 20
    assert {at for _, at in asked} <= {30, 31}


@pytest.mark.parametrize("times", [1, 3])
def test_killed_between_submission_and_record(lab, times):  # W09
    """A second batch is paid for when the worker dies before the first one is recorded."""
    service = Service(lab, 0)

    async def submit(stage: StageContext[Any, None]) -> dict[str, str]:
        found = service.submit(stage)
        if len(service.keys) <= times:
            lab.die()
            await asyncio.sleep(HOUR)
        return found

    ended = lab.survive(Pipeline("p").stage("b", Batch(submit, service.check)))
    assert ended.value == 7
    assert (len(service.keys), set(service.keys)) == (times + 1, {"r/b#submit"})


def test_killed_while_it_waits(lab):  # A025 W09
    """A batch that has been submitted is submitted again by the next worker."""
    service = Service(lab, 200)

    async def check(stage: StageContext[Any, None], batch: dict[str, str]) -> int | Pending:
        answer = service.check(stage, batch)
        if len(service.checks) in {1, 3}:
            lab.die()
            await asyncio.sleep(HOUR)
        return answer

    ended = lab.survive(Pipeline("p").stage("b", Batch(service.submit, check)))
    assert (ended.value, len(service.keys)) == (7, 1)


def test_at_most_once(lab):  # W09
    """A service without idempotency keys is paid twice."""
    service = Service(lab)

    async def submit(stage: StageContext[Any, None]) -> dict[str, str]:
        service.submit(stage)
        lab.die()
        await asyncio.sleep(HOUR)
        return {}

    once = Batch(submit, service.check, at_most_once=True, retry=Retry(max_attempts=1))
    ended = lab.survive(Pipeline("p").stage("b", once))
    assert (ended.status, len(service.keys)) == ("failed", 1)


def test_distributed_batch(lab):
    """A batch in a child run cannot wait there."""
    service = Service(lab, 100)

    async def main():
        pipeline = Pipeline("p").parallel({"b": Batch(service.submit, service.check), "c": lambda: 1}, distribute=True)
        async with lab.worker(pipeline) as app:
            await app.start("p", id="r")
            ended = await lab.ended(app, "r")
            children, _ = await app.client.runs(RunFilter(parent="r"))
            return ended, len(children)

    ended, children = lab.play(main)
    assert (ended.value, children, service.keys) == ({"b": 7, "c": 1}, 2, ["r/b/p.stage/b#submit"])


def test_items():
    """One bad answer of a batch spoils the others, or goes unseen."""
    answers = {"a": {"n": 1}, "b": {"n": "x"}, "c": ValueError("refused"), "d": KeyError()}
    items = items_of(dict[str, int], answers, asked=["a", "e"])
    assert [(item.id, item.ok, item.value) for item in items] == [
        ("a", True, {"n": 1}), ("b", False, None), ("c", False, None), ("d", False, None), ("e", False, None),
    ]  # fmt: skip
    assert [item.error for item in items][2:] == ["refused", "KeyError", "the batch has no answer for it"]
    assert "n: Input should be a valid integer" in items[1].error


def test_items_are_stored(lab):
    """What became of a batch's items is lost in the journal."""
    items = [Item("a", value=1), Item("b", error="no")]
    batch = Batch(lambda: 0, lambda stage, batch: items, first=0, output=list[Item[int]])

    async def main():
        async with lab.worker(Pipeline("p").stage("b", batch).stage("c", Stage(ok, input=list[Item[int]]))) as app:
            return await (await app.start("p")).result()

    def ok(stage):
        return [item.id for item in stage.input if item.ok]

    assert lab.play(main) == ["a"]
