"""An observer of one's own: when it is told of what, and that it can do no harm."""

import logging

import pytest

from perdure import Context, Observer, Retry
from perdure.errors import RunFailed


class Diary(Observer):
    """Keeps what it is told, a word for each."""

    def __init__(self) -> None:
        self.lines = []

    def driving(self, run, at):
        self.lines.append(f"{'begin' if run.epoch == 1 else 'go on'} {run.workflow}")

    def left(self, run, how, error, at):
        self.lines.append(f"{how} {run.workflow}" + (f": {error}" if error else ""))

    def attempt_begins(self, run, step, at):
        self.lines.append(f"{step.key} {step.attempt}?")

    def attempt_ended(self, run, step, error, begun, at):
        self.lines.append(f"{step.key} {step.attempt}: {error or 'fine'}")

    def step_ended(self, run, step, error, at):
        self.lines.append(f"{step.key}: {error or 'fine'}")


class Saboteur(Observer):
    """Fails whatever it is told."""

    def starting(self, workflow, run_id):
        raise ValueError

    driving = left = attempt_begins = attempt_ended = step_ended = starting
    working = stopped = claimed = lined_up = took_over = committed = starting_child = starting


async def flow(ctx: Context) -> str:
    tries = []

    def brew() -> str:
        tries.append(1)
        if len(tries) < 3:
            problem = f"no water {len(tries)}"
            raise OSError(problem)
        return "tea"

    tea = await ctx.step("brew", brew, retry=Retry(max_attempts=3, delay=1))
    await ctx.sleep(3600)
    return await ctx.step("pour", lambda: tea)


async def doomed(ctx: Context) -> None:
    def fail() -> None:
        problem = "no tea"
        raise ValueError(problem)

    await ctx.step("fail", fail, retry=Retry(max_attempts=1))


WHOLE = [
    "begin flow",
    "brew 1?", "brew 1: no water 1", "brew 2?", "brew 2: no water 2", "brew 3?", "brew 3: fine", "brew: fine",
    "parked flow", "go on flow",
    "pour 1?", "pour 1: fine", "pour: fine",
    "completed flow",
]  # fmt: skip


async def drunk(app):
    return await (await app.start("flow", id="r")).result(), [event.kind async for event in app.handle("r").events()]


def test_what_an_observer_is_told(play):
    """10-1, 10-2, 10-3, 10-6: whoever mirrors runs elsewhere would miss a stretch, an attempt or a step, or get one twice."""
    diary = Diary()
    value, _ = play(drunk, flow, observers=[diary], worker={"hold": 10})
    assert value == "tea"
    assert diary.lines == WHOLE


def test_two_observers_are_told_the_same(play):
    """10-5: the second plugin would be told nothing, or only what the first one left."""
    first, second = Diary(), Diary()
    play(drunk, flow, observers=[first, second], worker={"hold": 10})
    assert first.lines == second.lines == WHOLE


def test_an_observer_that_fails_changes_nothing(play, caplog):
    """10-4: a bug in somebody's plugin would fail runs, or keep the others from being told."""
    diary = Diary()
    with caplog.at_level(logging.CRITICAL, "perdure"):
        value, kinds = play(drunk, flow, observers=[Saboteur(), diary], worker={"hold": 10})
    assert value == "tea"
    assert diary.lines == WHOLE
    assert kinds == [
        *["attempt_failed"] * 2,
        "step_completed",
        "timer_set",
        "timer_fired",
        "step_completed",
        "completed",
    ]


def test_an_observer_is_told_that_a_run_has_failed(play):
    """10-7: whoever pages people at failures would page nobody."""
    diary = Diary()

    async def main(app):
        with pytest.raises(RunFailed):
            await (await app.start("doomed")).result()

    play(main, doomed, observers=[diary])
    assert diary.lines[-1] == "failed doomed: no tea"
