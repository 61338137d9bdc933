"""Flows: what a declared workflow does, by the statements of its acceptance list."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from pydantic import BaseModel

from perdure import App, Context, Entry, Flow, Retry, RunFilter, State, Terminal
from perdure.errors import (
    ChildFailed,
    DuplicateName,
    InvalidInput,
    InvalidName,
    InvalidOption,
    ReceiveTimedOut,
    RunNotFound,
    UnknownWorkflow,
)


class Log(list):
    """What bodies did, in order."""

    def step(self, name, value=None, fails=0):
        def body(state: State):
            self.append(name)
            if self.count(name) <= fails:
                raise ConnectionError(f"{name} failed")
            return name.upper() if value is None else value

        return body

    def undo(self, name):
        def undo(result):
            self.append(f"undo {name} of {result}")

        return undo


@pytest.fixture
def log():
    return Log()


def nothing(*_):
    return None


def yes(*_):
    return True


@App().workflow
async def child_run(ctx: Context) -> None: ...


# ------------------------------------------------------------------------------------------ builder
def test_all_kinds_in_order():  # B001
    """A flow forgets one of its nodes, or their order."""
    inner = Flow("inner").step("deep", nothing)
    flow = (
        Flow("all")
        .step("one", nothing)
        .parallel("two", {"left": nothing, "right": nothing})
        .route("three", nothing, {"a": nothing})
        .loop("four", nothing, max_iterations=2)
        .sleep("five", 1)
        .signal("six")
        .child("seven", "other")
        .step("eight", inner)
    )
    assert [(node.kind, node.name) for node in flow.nodes] == [
        ("step", "one"), ("parallel", "two"), ("route", "three"), ("loop", "four"), ("sleep", "five"),
        ("signal", "six"), ("child", "seven"), ("flow", "eight"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "again",
    [
        lambda flow: flow.step("twice", nothing),
        lambda flow: flow.sleep("twice", 1),
        lambda flow: flow.parallel("more", {"twice": nothing}),
        lambda flow: flow.parallel("twice", {"other": nothing}),
        lambda flow: flow.step("left", nothing),
        lambda flow: flow.parallel("same", {"same": nothing, "other": nothing}),
    ],
)
def test_names_are_unique(again):  # B002, W15
    """Two nodes or entries share a name, so one's result overwrites the other's."""
    flow = Flow("f").step("twice", nothing).parallel("both", {"left": nothing, "right": nothing})
    with pytest.raises(DuplicateName):
        again(flow)


@pytest.mark.parametrize("name", ["", "a#b", "pack#left", "~1", "a/b", "x\n", 5])
def test_names_fit_into_keys(name):  # W15
    """A name is accepted that makes journal keys ambiguous."""
    for build in (Flow("f").step, Flow("f").sleep):
        with pytest.raises(InvalidName):
            build(name, nothing if build == Flow("f").step else 1)
    with pytest.raises(InvalidName):
        Flow("f").parallel("p", {name: nothing})


@pytest.mark.parametrize(
    "build",
    [
        lambda flow: flow.parallel("p", {}),
        lambda flow: flow.route("r", nothing, {}),
        lambda flow: flow.step("s", "charge"),
        lambda flow: flow.step("s", lambda a, b: 1),
        lambda flow: flow.step("s", nothing, tries=5),
        lambda flow: flow.step("s", nothing, given=lambda: 1),
        lambda flow: flow.step("s", nothing, when=lambda a, b: 1),
        lambda flow: flow.step("s", Flow("inner"), compensate=nothing),
        lambda flow: flow.step("s", Flow("inner"), timeout=5),
        lambda flow: flow.step("s", child_run, retry=Retry()),
        lambda flow: flow.parallel("p", {"c": Entry(child_run, timeout=5)}),
        lambda flow: flow.parallel("p", {"c": child_run}, tries=5),
        lambda flow: flow.step("s", child_run, compensate="refund"),
        lambda flow: flow.child("c", "other", compensate="refund"),
        lambda flow: flow.loop("l", nothing, max_iterations=-1),
        lambda flow: flow.loop("l", nothing, max_iterations=1, until=lambda a, b, c: 1),
        lambda flow: flow.loop("l", Flow("inner"), max_iterations=1),
        lambda flow: flow.route("r", Flow("inner"), {"a": nothing}),
        lambda flow: flow.signal("s", default=1),
        lambda flow: flow.sleep("s", -1),
        lambda flow: flow.child("c", 5),
        lambda flow: Flow("f", output=lambda: 1),
    ],
)
def test_mistakes_are_found_when_it_is_built(build):  # B003
    """A flow that cannot work is found out by its first run."""
    with pytest.raises(InvalidOption):
        build(Flow("f"))


def test_a_flow_does_not_change():
    """Two flows that begin alike share their ends as well."""
    beginning = Flow("f").step("one", nothing)
    assert len(beginning.step("two", nothing).nodes) == 2
    assert len(beginning.nodes) == 1


def test_own_options_count_before_those_for_all():
    """An entry loses its own options to those for all, or a child run is refused for what only steps can have."""
    flow = Flow("f").parallel(
        "p", {"a": nothing, "b": Entry(nothing, timeout=5), "c": child_run}, timeout=9, compensate=yes
    )
    a, b, c = flow.nodes[0].entries
    assert [a.step.settings.timeout, b.step.settings.timeout] == [9, 5]
    assert {a.undone_by, b.undone_by, c.undone_by} == {yes}


def test_default_attempts(lab, log):  # B004, B053
    """A step of a flow is tried once, or for ever, or its own policy is ignored."""
    flow = (
        Flow("f")
        .step("default", log.step("default", fails=2))
        .step("own", App().step(retry=Retry(max_attempts=2, delay=1))(log.step("own", fails=1)))
        .step("once", log.step("once", fails=1), retry=Retry(max_attempts=1))
    )
    ended = lab.finish(flow)
    assert (ended.status, str(ended.error)) == ("failed", "once failed")
    assert [log.count(name) for name in ("default", "own", "once")] == [3, 2, 1]


def test_unknown_children_are_found_at_registration():  # B005, W04
    """A child's name is checked by nobody, and its parent waits for ever."""
    app = App("sqlite://")
    with pytest.raises(UnknownWorkflow):
        app.flow(Flow("f").child("c", "nowhere"))
    with pytest.raises(UnknownWorkflow):
        app.flow(Flow("f").parallel("p", {"in": Flow("inner").child("c", "nowhere")}))
    app.flow(Flow("f").child("again", "f"))
    with pytest.raises(DuplicateName):
        app.flow(Flow("f"))


# --------------------------------------------------------------------------------------- sequential
def test_in_order(lab):  # B010, B016
    """Steps run in another order, do not see what was before, or a result gets lost."""
    flow = (
        Flow("f")
        .step("first", lambda state: state.input["x"] + 1)
        .step("second", lambda state: state["first"] * 10)
        .step("third", lambda state: dict(state.results))
    )
    ended = lab.finish(flow, {"x": 1})
    assert ended.value == {"first": 2, "second": 20, "third": {"first": 2, "second": 20}}
    assert ended.keys("step_completed") == ["first", "second", "third"]


def test_nothing_to_do(lab):  # B017
    """A flow without nodes fails or never ends."""
    assert lab.finish(Flow("f")).value == {}


def test_start_returns_at_once(lab, log):  # B011
    """Starting a run waits for it."""

    async def main():
        app = lab.app(Flow("f").step("one", log.step("one")))
        async with app.connected():
            run = await app.start("f", {}, id="r")
            assert ((await run.info()).status, log) == ("queued", [])

    lab.play(main)


def test_each_body_runs_once_across_a_stop(lab, log):  # B012
    """A worker that takes over repeats what was done."""
    flow = Flow("f")
    for number in range(6):
        flow = flow.step(f"s{number}", log.step(f"s{number}"))
        if number == 2:
            flow = flow.sleep("nap", 60)

    async def main():
        async with lab.worker(flow) as app:
            await app.start("f", None, id="r")
            await lab.until(app, "r", "waiting")
        assert log == ["s0", "s1", "s2"]
        async with lab.worker(flow) as app:
            ended = await lab.ended(app, "r", "f")
            assert ended.keys("step_completed") == [f"s{number}" for number in range(6)]

    lab.play(main)
    assert log == [f"s{number}" for number in range(6)]


def test_cancelled_in_a_body(lab, log):  # B015
    """The result of a body during which the run was cancelled is kept, and the run goes on."""

    async def slow(state):
        log.append("begins")
        await asyncio.sleep(60)

    async def main():
        async with lab.worker(Flow("f").step("slow", slow).step("next", log.step("next"))) as app:
            await app.start("f", None, id="r")
            await asyncio.sleep(1)
            await app.cancel("r")
            ended = await lab.ended(app, "r", "f")
            assert (ended.status, log) == ("cancelled", ["begins"])

    lab.play(main)


class Order(BaseModel):
    item: str
    count: int = 1


@dataclass
class Receipt:
    total: int


def test_types(lab):
    """Input is not checked, or results are not what the functions declare."""

    def price(state: State[Order]) -> Receipt:
        return Receipt(total=state.input.count * 5)

    async def book(item: str, total: int) -> str:
        return f"{item} for {total}"

    flow = (
        Flow("f", input=Order, output=lambda state: state["booked"])
        .step("price", price)
        .step("booked", book, given=lambda state: (state.input.item, state["price"].total))
        .step("named", book, given=lambda state: {"item": "x", "total": 1})
        .step("single", len, given=lambda state: state["named"])
    )
    assert lab.finish(flow, {"item": "chair", "count": 2}).value == "chair for 10"

    async def main():
        async with lab.worker(flow) as app:
            with pytest.raises(InvalidInput):
                await app.start("f", {"count": 2})
            assert len((await app.client.runs(RunFilter()))[0]) == 1

    lab.play(main)


def test_conditions(lab, log):
    """A node is done although its condition does not hold, or leaves a result."""
    flow = (
        Flow("f")
        .step("a", log.step("a"), when=lambda state: state.input > 1)
        .sleep("b", 1e6, when=lambda state: "a" in state.results)
        .step("c", log.step("c"), when=lambda state: "a" not in state.results)
    )
    assert lab.finish(flow, 1).value == {"c": "C"}


def test_sub_flow(lab, log):
    """A flow inside another one does not see its own input and results, or its keys collide with the outer ones."""
    inner = Flow("inner", output=lambda state: f"{state.input} {state['a']}").step("a", log.step("a", "in"))
    flow = (
        Flow("outer")
        .step("a", log.step("a", "out"))
        .step("first", inner, given=lambda state: state["a"])
        .parallel("both", {"second": inner, "third": Entry(inner, given=lambda state: "3")})
    )
    ended = lab.finish(flow, "x")
    assert ended.value == {"a": "out", "first": "out in", "second": "x in", "third": "3 in"}
    assert ended.keys("step_completed") == ["a", "first/a", "both#second/a", "both#third/a"]


# ----------------------------------------------------------------------------------------- parallel
def test_parallel(lab):  # B020, B023
    """Entries run one after another, or their results are elsewhere."""

    async def slow(state):
        await asyncio.sleep(10)
        return state.node

    ended = lab.finish(Flow("f").parallel("p", dict.fromkeys("xyz", slow)))
    assert ended.value == dict.fromkeys("xyz", "p")
    assert sorted(ended.keys("step_completed")) == ["p#x", "p#y", "p#z"]  # who wakes first at one time is open
    assert ended.seconds == 10


def test_only_the_failed_entry_again(lab, log):  # B021, W14
    """An entry that failed makes the others run again, or uses up their attempts."""
    flow = Flow("f").parallel(
        "p", {name: log.step(name, fails=fails) for name, fails in (("x", 0), ("y", 2), ("z", 2))}
    )
    assert lab.finish(flow).status == "completed"
    assert {name: log.count(name) for name in "xyz"} == {"x": 1, "y": 3, "z": 3}


def test_all_entries_are_awaited(lab, log):  # B022, W26
    """A failed entry lets the run fail before the others have ended, or the wrong error is told."""

    def entry(name, seconds, error=None):
        async def body(state):
            await asyncio.sleep(seconds)
            log.append(name)
            if error:
                raise Terminal(error)

        return body

    flow = Flow("f").parallel("p", {"a": entry("a", 9), "b": entry("b", 5, "late"), "c": entry("c", 1, "early")})
    assert str(lab.finish(flow).error) == "late"
    assert log == ["c", "b", "a"]


# -------------------------------------------------------------------------------------------- route
def test_route(lab, log):  # B030
    """The wrong branch is taken, or its result is elsewhere."""

    async def choose(state):
        return state.input

    flow = Flow("f").route("r", choose, {"a": log.step("a"), "b": log.step("b")})
    ended = lab.finish(flow, "b")
    assert (ended.value, log) == ({"r": "B"}, ["b"])
    assert ended.keys("step_completed") == ["r#route", "r"]


@pytest.mark.parametrize("otherwise", [False, True])
def test_unknown_route(lab, log, otherwise):  # B031
    """An unknown branch fails the run, or leaves a result."""
    more = {"otherwise": log.step("else")} if otherwise else {}
    flow = Flow("f").route("r", lambda: "?", {"a": log.step("a")}, **more).step("later", log.step("later"))
    assert lab.finish(flow).value == ({"r": "ELSE"} if otherwise else {}) | {"later": "LATER"}


def test_recorded_route(lab, log):  # B032
    """A branch that is tried again is chosen anew."""
    choices = iter("ab")
    flow = Flow("f").route("r", lambda: next(choices), {"a": log.step("a", fails=1), "b": log.step("b")})
    assert lab.finish(flow).value == {"r": "A"}
    assert log == ["a", "a"]


# --------------------------------------------------------------------------------------------- loop
def test_loop_until(lab):  # B040
    """A loop counts from elsewhere, goes on too long, or gives another result than its last."""
    seen = []

    def until(result, iteration):
        seen.append(iteration)
        return result >= 3

    flow = Flow("f").loop(
        "l", lambda value: value + 1, max_iterations=99, until=until, feedback=lambda result: result, first=lambda s: 0
    )
    ended = lab.finish(flow)
    assert ended.value == {"l": 3}
    assert ended.keys("step_completed") == ["l#iter0", "l#iter1", "l#iter2"]
    assert seen[:3] == [1, 2, 3]


def test_loop_of_so_many(lab):  # B041
    """A loop ignores its bound, the flow's input or what was before."""
    flow = (
        Flow("f")
        .step("by", lambda: 10)
        .loop("l", lambda value, state: value + state["by"], max_iterations=4, feedback=lambda result: result)
    )
    assert lab.finish(flow, 2).value == {"by": 10, "l": 42}


def test_iterations_fail_alone(lab, log):  # B042, W14
    """A failing iteration repeats earlier ones, uses up the attempts of others, or changes its input."""
    fails = iter([0, 1, 1, 0, 0, 1, 1, 0])

    def body(value):
        log.append(value)
        if next(fails):
            raise ConnectionError
        return len(log)

    ended = lab.finish(Flow("f").loop("l", body, max_iterations=4), "same")
    assert ended.status == "completed"
    assert log == ["same"] * 8


def test_loop_of_none(lab):  # B043
    """A loop that may not run at all fails or leaves a result."""
    assert lab.finish(Flow("f").loop("l", nothing, max_iterations=0)).value == {}


def test_wrong_callbacks_fail_the_run(lab, log):  # W13
    """A mistake in what decides about a loop leaves its run going for ever, and undone."""
    flow = (
        Flow("f")
        .step("a", log.step("a"), compensate=log.undo("a"))
        .loop("l", nothing, max_iterations=3, until=lambda result: result.missing)
    )
    ended = lab.finish(flow)
    assert isinstance(ended.error, AttributeError)
    assert log == ["a", "undo a of A"]


# -------------------------------------------------------------------------------------------- retry
def test_attempts_are_told(lab):  # B050
    """A body does not know which attempt it is."""
    attempts = []

    def body(state):
        attempts.append(state.attempt)
        if state.attempt < 3:
            raise ConnectionError
        return "well"

    ended = lab.finish(Flow("f").step("s", body))
    assert (ended.value, attempts) == ({"s": "well"}, [1, 2, 3])
    assert "compensating" not in [event.kind for event in ended.events]


def test_back_off(lab, log):  # B051
    """Attempts follow each other at once."""
    ended = lab.finish(Flow("f").step("s", log.step("s", fails=2)))
    first, second = ended.times("attempt_failed")
    assert first == 0
    assert 1 <= second <= 2
    assert second + 2 <= ended.seconds <= second + 4


def test_exhausted(lab, log):  # B052
    """The last failure is not recorded with its text and number."""
    ended = lab.finish(Flow("f").step("s", log.step("s", fails=9)))
    (failed,) = [event for event in ended.events if event.kind == "step_failed"]
    assert (failed.key, failed.attempt, failed.data["message"]) == ("s", 3, "s failed")


# -------------------------------------------------------------------------------- sleep and signals
def test_sleep(lab, log):  # B060, W17
    """A sleeping run looks like a running one, or is not due when it should be."""
    flow = Flow("f").step("a", log.step("a")).sleep("s", 3600).step("b", log.step("b"))

    async def main():
        async with lab.worker(flow) as app:
            await app.start("f", None, id="r")
            info = await lab.until(app, "r", "waiting")
            assert (info.due_at - info.created_at).total_seconds() == 3600
            assert (await lab.ended(app, "r", "f")).seconds == 3600

    lab.play(main)


@pytest.mark.parametrize("until", [datetime(2001, 1, 1, tzinfo=UTC), lambda state: 0])
def test_sleep_until_the_past(lab, until):  # B061
    """A time that is over keeps the run waiting."""
    assert lab.finish(Flow("f").sleep("s", until)).seconds == 0


def test_signal(lab):  # B070, B071, B073
    """A waiting run holds a worker, does not say what it waits for, or goes on for something else."""

    async def main():
        async with lab.worker(Flow("f").signal("approval", "approve").signal("more")) as app:
            run = await app.start("f", None, id="r")
            info = await lab.until(app, "r", "waiting")
            assert (info.waiting_for, info.due_at, info.owner) == (["signal:approve"], None, None)
            assert not await run.answer("other")
            assert (await run.info()) == info
            answers = await asyncio.gather(*(run.answer("approve", number) for number in range(5)))
            assert sorted(answers) == [False] * 4 + [True]
            await lab.waits_for(app, "r", "signal:more")
            assert await run.answer("more")
            ended = await lab.ended(app, "r", "f")
            assert ended.value == {"approval": answers.index(True), "more": None}
            assert not await run.answer("more")  # B072
            with pytest.raises(RunNotFound):
                await app.client.answer("nobody", "more")

    lab.play(main)


def test_answers_after_a_cancellation(lab):  # B072
    """A run that was cancelled takes an answer."""

    async def main():
        async with lab.worker(Flow("f").signal("approval")) as app:
            run = await app.start("f", None, id="r")
            await lab.until(app, "r", "waiting")
            await run.cancel()
            await lab.ended(app, "r", "f")
            assert not await run.answer("approval", 1)

    lab.play(main)


@pytest.mark.parametrize("default", [False, True])
def test_signal_timeout(lab, default):  # B074, W02
    """A wait is unbounded, or its end says nothing."""
    more = {"default": "nobody came"} if default else {}
    ended = lab.finish(Flow("f").signal("s", timeout=60, **more).step("after", nothing))
    assert ended.seconds == 60
    if default:
        assert ended.value == {"s": "nobody came", "after": None}
    else:
        assert isinstance(ended.error, ReceiveTimedOut)


def test_early_signal(lab):  # B075, W03
    """A signal that was sent before the run waits for it is lost."""

    async def main():
        async with lab.worker(Flow("f").sleep("nap", 60).signal("s", type=int)) as app:
            run = await app.start("f", None, id="r")
            assert await run.signal("s", 7)
            assert (await lab.ended(app, "r", "f")).value == {"s": 7}

    lab.play(main)


def suspended(text):
    return {"status": "suspended", "state": {"text": text}, "pendingToolCalls": [{"name": "pay"}]}


def test_suspended_agent(lab):  # B080, B081, B082
    """A suspended agent is taken for a result, is not entered again, or keeps its resumption for others."""
    resumptions = []

    def agent(state):
        resumptions.append(state.resumption)
        if state.resumption is None:
            return suspended("first")
        assert state.results["agent"]["status"] == "suspended"
        if state.resumption == "once more":
            return suspended("second")
        return f"done with {state.resumption}"

    flow = Flow("f").step("agent", agent).step("after", lambda state: state.resumption)

    async def main():
        async with lab.worker(flow) as app:
            run = await app.start("f", None, id="r")
            info = await lab.until(app, "r", "waiting")
            assert info.waiting_for == ["signal:agent"]
            events = await lab.journal(app, "r")
            assert next(event.data for event in events if event.kind == "step_completed") == suspended("first")
            assert await run.answer("agent", "once more")
            await asyncio.sleep(1)
            await lab.waits_for(app, "r", "signal:agent")
            assert await run.answer("agent", {"approved": True})
            ended = await lab.ended(app, "r", "f")
            assert ended.value == {"agent": "done with {'approved': True}", "after": None}
            await lab.check_replay(app, ended, "f")

    lab.play(main)
    assert resumptions == [None, "once more", {"approved": True}]


def test_only_steps_are_suspended(lab):  # B080
    """An entry or iteration that looks like a suspended agent parks the run for ever."""
    flow = Flow("f").parallel("p", {"a": lambda: suspended("a")}).loop("l", lambda: suspended("l"), max_iterations=1)
    assert lab.finish(flow).value == {"a": suspended("a"), "l": suspended("l")}


# --------------------------------------------------------------------------------------------- saga
def test_undone_in_reverse(lab, log):  # B090, B091, B094, B130, B131, B132
    """A flow that fails does not undo what it did, or in the wrong order, or tells another error."""
    flow = (
        Flow("f")
        .step("a", log.step("a"), compensate=log.undo("a"))
        .step("b", log.step("b"))
        .step("c", log.step("c"), compensate=lambda result, state: log.append(f"{result} {state.input} {state['b']}"))
        .step("d", log.step("d", fails=9), compensate=log.undo("d"), retry=Retry(max_attempts=1))
        .step("e", log.step("e"), compensate=log.undo("e"))
    )
    ended = lab.finish(flow, "in")
    assert (ended.status, str(ended.error)) == ("failed", "d failed")
    assert log == ["a", "b", "c", "d", "C in B", "undo a of A"]
    assert ended.keys("step_completed")[3:] == ["c#compensate", "a#compensate"]


def test_every_kind_is_undone(lab, log):  # W06
    """Entries of a failed parallel node, branches, iterations or children stay done."""

    async def child(ctx: Context, text: str) -> str:
        return f"child {text}"

    flow = (
        Flow("f")
        .parallel("p", {"x": Entry(log.step("x"), compensate=log.undo("x")), "y": log.step("y")})
        .route("r", lambda: "b", {"b": log.step("b")}, compensate=log.undo("b"))
        .loop("l", lambda: 1, max_iterations=2, compensate=log.undo("l"))
        .child("c", "child", given=lambda state: "in", compensate=log.undo("c"))
        .step("s", Flow("inner").step("deep", log.step("deep"), compensate=log.undo("deep")))
        .parallel(
            "q",
            {"good": Entry(log.step("good"), compensate=log.undo("good")), "bad": log.step("bad", fails=9)},
            retry=Retry(max_attempts=1),
        )
    )
    ended = lab.finish(flow, others=(child,))
    assert ended.status == "failed"
    assert log[log.index("bad") + 1 :] == [
        "undo good of GOOD", "undo deep of DEEP", "undo c of child in", "undo l of 1", "undo l of 1", "undo b of B",
        "undo x of X",
    ]  # fmt: skip
    assert ended.keys("step_completed")[-7:-4] == ["q#good#compensate", "s/deep#compensate", "c/child#compensate"]


# ----------------------------------------------------------------------------------------- children
def test_child(lab):  # B100, B102, W15
    """A child gets other input, or its result is elsewhere."""

    async def echo(ctx: Context, text: str) -> str:
        return text * 2

    flow = (
        Flow("f")
        .child("same", "echo")
        .child("mapped", "echo", given=lambda state: state["same"])
        .step("after", lambda state: state["mapped"])
    )
    ended = lab.finish(flow, "x", others=(echo,), id="r")
    assert ended.value == {"same": "xx", "mapped": "xxxx", "after": "xxxx"}
    assert ended.keys("child_started") == ["same/echo", "mapped/echo"]


def test_failed_child(lab, log):  # B101, B103, B105
    """A child that fails leaves something done, in itself or above."""
    leaf = Flow("leaf").step("l", log.step("l"), compensate=log.undo("l")).step("x", log.step("x", fails=9))
    middle = Flow("middle").step("m", log.step("m"), compensate=log.undo("m")).child("c", "leaf")
    root = Flow("root").step("r", log.step("r"), compensate=log.undo("r")).child("c", "middle")
    ended = lab.finish(root, others=(leaf, middle))
    assert isinstance(ended.error, ChildFailed)
    assert log == ["r", "m", "l", "x", "x", "x", "undo l of L", "undo m of M", "undo r of R"]


def test_cancel_reaches_children(lab):  # B104
    """The children of a cancelled run go on, or one that has ended changes."""
    quick, slow = Flow("quick"), Flow("slow").sleep("long", 1e6)
    flow = Flow("f").child("a", "quick").child("b", "slow")

    async def main():
        async with lab.worker(quick, slow, flow) as app:
            await app.start("f", None, id="r")
            await lab.until(app, "r", "waiting")
            await asyncio.sleep(60)
            await app.cancel("r")
            assert (await lab.ended(app, "r", "f")).status == "cancelled"
            await lab.ended(app, "r/b/slow", "slow")
            children = (await app.client.runs(RunFilter(parent="r", oldest_first=True)))[0]
            assert [str(child.status) for child in children] == ["completed", "cancelled"]

    lab.play(main)


# --------------------------------------------------------------------------------------- versions
def test_insertion_does_not_shift_running_ones(lab, log):  # W08
    """A deploy that puts a node into a flow stops the runs that have passed its place, or sends them elsewhere."""
    old = Flow("f").step("a", log.step("a")).sleep("nap", 60).step("c", log.step("c"))
    new = (
        Flow("f")
        .step("zero", log.step("zero"))
        .step("a", log.step("a"))
        .step("between", log.step("between"))
        .sleep("nap", 60)
        .step("ahead", log.step("ahead"))
        .step("c", log.step("c"))
        .step("last", log.step("last"))
    )

    async def main():
        async with lab.worker(old) as app:
            await app.start("f", None, id="r")
            await lab.until(app, "r", "waiting")
        async with lab.worker(new) as app:
            ended = await lab.ended(app, "r", "f")
            assert list(ended.value) == ["a", "ahead", "c", "last"]
            await lab.check_replay(app, ended, "f")
            fresh = await lab.ended(app, (await app.start("f", None)).id, "f")
            assert list(fresh.value) == ["zero", "a", "between", "ahead", "c", "last"]

    lab.play(main)


def test_checkpoints_inside_survive_a_crash(lab, log):  # W01, W12
    """A crash in a loop or a parallel node repeats what its other iterations or entries have done."""
    deaths = ["l", "p"]

    async def body(value, state):
        log.append(state.node)
        if log.count("l") == 7 and "l" in deaths:
            deaths.remove("l")
            lab.die()
        return 1

    async def quick(state):
        log.append("quick")

    async def slow(state):
        await asyncio.sleep(60)
        log.append("slow")
        if "p" in deaths:
            deaths.remove("p")
            lab.die()

    flow = Flow("f").loop("l", body, max_iterations=10)
    flow = flow.parallel("p", {"quick": quick, "slow": slow})
    assert lab.survive(flow, None).status == "completed"
    assert (log.count("l"), log.count("quick"), log.count("slow")) == (11, 1, 2)
