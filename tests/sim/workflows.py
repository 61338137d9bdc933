"""
The workflows of the simulation: two interpreters, a coroutine and a plain function, of programs drawn from the seed.

A node of a program is a dict with "do". Every outcome that the workflow sees is counted, and every step is told the
count: if a replay took another order, the step's arguments would differ from the recorded ones (I7), and if a body
began too early, its journal would hold fewer outcomes (I2).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from tests.sim.process import Flaky

from perdure import (
    Batch,
    Context,
    Flow,
    Pending,
    Pipeline,
    Retry,
    StageContext,
    State,
    Step,
    SyncContext,
    Terminal,
    Transaction,
    current_step,
)
from perdure.errors import ChildFailed, ReceiveTimedOut, StartConflict, StepInterrupted, StepTimedOut, StoreError
from perdure.turn import Event, Turn, TurnResult
from perdure.turn.producer import produce

if TYPE_CHECKING:
    from tests.sim.process import Process

Node = dict[str, Any]
Spec = dict[str, Any]
TABLE = "create table sim_rows (run text, round integer, key text, value integer)"


def turn_body(process: Process) -> Callable[[Spec], Coroutine[Any, Any, int]]:
    """A step that is a turn: its producer goes on where another one stopped, or begins anew."""

    async def turn(spec: Spec) -> int:
        place = process.begin(spec | {"says": 0})

        async def producer(turn: Turn) -> AsyncIterator[Event]:
            for word in range(turn.events, spec["says"]):
                yield Event(word, str(word))
                await asyncio.sleep(spec["delay"] / spec["says"])

        def add(event: str, text: str) -> str:
            return f"{text}{event},"

        while True:
            try:
                result = await produce(producer, (), {}, accumulate=add, continues=spec["turn"] == "on")
            except StoreError:  # what was said before cannot be read as long as the disk is sick
                await asyncio.sleep(0.2)
            else:
                break
        process.world.turns[place[:3]] = spec["says"]
        wanted = "".join(f"{word}," for word in range(spec["says"]))
        if result != TurnResult(wanted, spec["says"]):
            process.world.wrong(f"{place} said {result} instead of {wanted}")
        return process.finish(place, spec)

    return turn


class Steps:
    """The bodies, made for one process: they tell it when they begin and end."""

    def __init__(self, process: Process) -> None:
        async def work(spec: Spec) -> int:
            place = process.begin(spec)
            for word in range(spec["says"]):
                current_step().emit("word", word)
                await asyncio.sleep(spec["delay"] / spec["says"])
            await asyncio.sleep(0 if spec["says"] else spec["delay"])
            return process.finish(place, spec)

        def threaded(spec: Spec) -> int:
            place = process.begin(spec)
            for word in range(spec["says"]):
                current_step().emit("word", word)
            return process.finish(place, spec)

        def insert(transaction: Transaction, spec: Spec) -> int:
            place = process.begin(spec)
            row = (current_step().run_id, spec["round"], place[2], spec["value"])
            transaction.execute("insert into sim_rows values (?, ?, ?, ?)", row)
            return process.finish(place, spec)

        async def echo(spec: Spec, value: str) -> str:
            process.finish(process.begin(spec), spec)
            return value

        async def undo(_result: int, spec: Spec) -> int:
            told = spec | {"fails": spec["undo"]["fails"], "once": False, "undo": None, "says": 0}
            place = process.begin(told)
            await asyncio.sleep(spec["undo"]["delay"])
            return process.finish(place, told)

        self.work, self.threaded, self.turn = Step(work), Step(threaded), Step(turn_body(process))
        self.undo = Step(undo).options(retry=Retry(max_attempts=4, delay=0.5, cap=20.0))
        self.insert, self.echo = Step(insert), Step(echo)

    def of(self, node: Node) -> Step[..., int]:
        """The step of a node, with its options."""
        step = self.threaded if node.get("thread") else self.turn if node.get("turn") else self.work
        options: dict[str, Any] = {}
        if node["tries"] > 1:
            options["retry"] = Retry(max_attempts=node["tries"], delay=node["pause"], cap=20.0)
        if node.get("once"):
            options["at_most_once"] = True
        if node.get("limit"):
            options["timeout"] = node["limit"]
        if node.get("undo"):
            options["compensate"] = self.undo
        return step.options(**options) if options else step


class Play:
    """
    One execution of a program by a coroutine.

    Attributes:
        seen: Outcomes that the workflow has seen in this round.
    """

    def __init__(self, ctx: Context, steps: Steps, job: dict[str, Any], version: int, child: Any) -> None:
        self.ctx = ctx
        self.steps = steps
        self.job = job
        self.version = version
        self.child = child
        self.seen = 0

    async def node(self, node: Node) -> Any:
        """Execute one node."""
        method: Callable[[Node], Coroutine[Any, Any, Any]] = getattr(self, f"do_{node['do']}")
        return await method(node)

    def spec(self, node: Node) -> Spec:
        """What a body is told."""
        return {
            "value": node["value"], "fails": node.get("fails", 0), "delay": node.get("delay", 0),
            "once": node.get("once", False), "seen": self.seen, "round": self.job["round"], "undo": node.get("undo"),
            "says": node.get("says", 0), "turn": node.get("turn", ""),
        }  # fmt: skip

    async def do_step(self, node: Node) -> Any:
        try:
            value = await self.ctx.step(self.steps.of(node), self.spec(node))
        except (Flaky, StepInterrupted, StepTimedOut) as error:
            self.seen += 1
            return f"{type(error).__name__}"
        self.seen += 1
        return value

    async def do_transaction(self, node: Node) -> Any:
        try:
            value = await self.ctx.transaction(self.steps.insert, self.spec(node))
        except Flaky:
            value = -1
        self.seen += 1
        return value

    async def do_chance(self, node: Node) -> Any:
        """What chance and the clock say must be the same on every replay: the arguments' fingerprint tells."""
        drawn = f"{self.ctx.uuid()} {self.ctx.random().random()} {self.ctx.now()}"
        value = await self.ctx.step(self.steps.echo, self.spec(node), drawn)
        self.seen += 1
        assert value == drawn
        return "chance"

    async def do_seq(self, node: Node) -> Any:
        return [await self.node(part) for part in node["parts"]]

    async def do_gather(self, node: Node) -> Any:
        return await asyncio.gather(*(self.node(part) for part in node["parts"]))

    async def do_group(self, node: Node) -> Any:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.node(part)) for part in node["parts"]]
        return [task.result() for task in tasks]

    async def do_first(self, node: Node) -> Any:
        tasks = {asyncio.create_task(self.node(part)): place for place, part in enumerate(node["parts"])}
        done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest)
        winner = done.pop()
        return [tasks[winner], winner.result()]

    async def do_each(self, node: Node) -> Any:
        # Tasks, because as_completed puts what it gets into a set, and coroutines hash by their address.
        tasks = [asyncio.create_task(self.node(part)) for part in node["parts"]]
        return [await done for done in asyncio.as_completed(tasks)]

    async def do_race(self, node: Node) -> Any:
        return list(await self.ctx.race(*(self.node(part) for part in node["parts"])))

    async def do_timeout(self, node: Node) -> Any:
        try:
            async with asyncio.timeout(node["seconds"]):
                return await self.node(node["part"])
        except TimeoutError:
            return "timeout"

    async def do_sleep(self, node: Node) -> Any:
        await (asyncio.sleep if node["plain"] else self.ctx.sleep)(node["seconds"])
        # asyncio.sleep(0) only lets others go first; it needs no timer.
        self.seen += bool(node["seconds"] or not node["plain"])
        return "slept"

    async def do_receive(self, node: Node) -> Any:
        try:
            value = await self.ctx.receive(node["name"], str, timeout=node["timeout"])
        except ReceiveTimedOut:
            value = "silence"
        self.seen += 1
        return value

    async def do_call(self, node: Node) -> Any:
        try:
            value = await self.ctx.call(self.child, {"part": node["part"], "round": 1, "rounds": 1})
        except ChildFailed as failed:
            value = f"child {failed.status}"
        self.seen += 1
        return value

    async def do_flow(self, node: Node) -> Any:
        try:
            value = await self.ctx.call("sim_pipeline" if node["pipeline"] else "sim_flow", node)
        except ChildFailed as failed:
            value = f"child {failed.status}"
        self.seen += 1
        return value

    async def do_spawn(self, node: Node) -> Any:
        job = {"part": node["part"], "round": 1, "rounds": 1}
        child = await self.ctx.start(self.child, job, detached=node["detached"])
        between = await self.node(node["between"])
        if not node["awaited"]:
            return ["not awaited", between]
        try:
            value = await child.result()
        except ChildFailed as failed:
            value = f"child {failed.status}"
        self.seen += 1
        return [value, between]

    async def do_twice(self, node: Node) -> Any:
        """Two calls of one child, or of two, under an id of the workflow's choice; a rerun finds the child that was."""
        job = {"part": node["part"], "round": 1, "rounds": 1}
        own = f"{self.ctx.run_id}/twice-{node['id']}-{self.job['round']}"
        first = await self.ctx.start(self.child, job, id=own)
        between = await self.node(node["between"])
        second = await self.ctx.start(self.child, {**job, "rounds": 2} if node["other"] else job, id=own)

        async def end(child: Any) -> Any:
            try:
                value = await child.result()
            except StartConflict:
                value = "conflict"
            except ChildFailed as failed:
                value = f"child {failed.status}"
            self.seen += 1
            return value

        if node["await"] == "both":
            ends = await asyncio.gather(end(first), end(second))
        elif node["await"] == "first":
            ends = [await end(first), await end(second)]
        else:
            ends = [await end(second), await end(first)][::-1]
        return [*ends, between]

    async def do_tell(self, node: Node) -> Any:
        await self.ctx.emit("news", node["value"])
        await self.ctx.annotate("remark", node["value"])
        return "told"

    async def do_map(self, node: Node) -> Any:
        items = [self.spec(item) | {"undo": None} for item in node["items"]]
        found = await self.ctx.map(self.steps.work, items, concurrency=node["at_a_time"], tolerate=node["tolerate"])
        self.seen += found.total if hasattr(found, "total") else len(found)
        return found.results if hasattr(found, "results") else found

    async def do_scope(self, node: Node) -> Any:
        with self.ctx.scope(node["name"]):
            return await self.node(node["part"])

    async def do_patched(self, node: Node) -> Any:
        new = self.version > 1 and self.ctx.patched(node["name"])
        return ["new" if new else "old", await self.node(node["new" if new else "old"])]

    async def do_tidy(self, node: Node) -> Any:
        """Clean up with a step, however it ends: also while the run is being cancelled."""
        try:
            return await self.node(node["part"])
        finally:
            await self.node(node["last"])

    async def do_fail(self, node: Node) -> Any:
        problem = f"meant to fail: {node['value']}"
        raise ValueError(problem)


class SyncPlay:
    """The same by a plain function, for the nodes that make sense there."""

    def __init__(self, ctx: SyncContext, steps: Steps, job: dict[str, Any], version: int, child: Any) -> None:
        self.ctx = ctx
        self.steps = steps
        self.job = job
        self.version = version
        self.child = child
        self.seen = 0

    spec = Play.spec

    def node(self, node: Node) -> Any:
        """Execute one node."""
        ctx, do = self.ctx, node["do"]
        if do == "seq":
            return [self.node(part) for part in node["parts"]]
        if do == "fail":
            problem = f"meant to fail: {node['value']}"
            raise ValueError(problem)
        if do == "tell":
            ctx.emit("news", node["value"])
            ctx.annotate("remark", node["value"])
            return "told"
        if do == "scope":
            with ctx.scope(node["name"]):
                return self.node(node["part"])
        value = self.outcome(node)
        self.seen += 1
        return value

    def outcome(self, node: Node) -> Any:  # noqa: PLR0911 - one for each kind of node
        """The nodes that end in exactly one outcome."""
        ctx, do = self.ctx, node["do"]
        try:
            if do == "step":
                return ctx.step(self.steps.of(node), self.spec(node))
            if do == "transaction":
                return ctx.transaction(self.steps.insert, self.spec(node))
            if do == "sleep":
                ctx.sleep(node["seconds"])
                return "slept"
            if do == "receive":
                return ctx.receive(node["name"], str, timeout=node["timeout"])
            if do == "chance":
                drawn = f"{ctx.uuid()} {ctx.random().random()} {ctx.now()}"
                assert ctx.step(self.steps.echo, self.spec(node), drawn) == drawn
                return "chance"
            return ctx.call(self.child, {"part": node["part"], "round": 1, "rounds": 1})
        except ChildFailed as failed:
            return f"child {failed.status}"
        except ReceiveTimedOut:
            return "silence"
        except (Flaky, StepInterrupted, StepTimedOut) as error:
            return -1 if do == "transaction" else type(error).__name__


def sim_flow(process: Process) -> Flow:
    """A flow whose nodes do what its input, a node of a program, says."""

    async def work(state: State[Node]) -> int:
        spec = state.input | {"once": False, "seen": 0, "round": 1, "says": 0}
        place = process.begin(spec)
        await asyncio.sleep(spec["delay"])
        return process.finish(place, spec)

    async def again(_value: Any, state: State[Node]) -> int:
        return await work(state)

    async def undo(_result: int, *told: Any) -> None:
        how = told[-1].input["undo"]
        spec = told[-1].input | {"fails": how["fails"], "undo": None, "once": False, "seen": 0, "round": 1, "says": 0}
        place = process.begin(spec)
        await asyncio.sleep(how["delay"])
        process.finish(place, spec)

    def last(state: State[Node]) -> None:
        if state.input["fail"]:
            problem = "meant to fail"
            raise Terminal(problem)

    undoing = {"compensate": Step(undo).options(retry=Retry(max_attempts=3, delay=0.5)), "retry": Retry(max_attempts=3)}
    return (
        Flow("sim_flow", output=lambda state: [state[name] for name in ("left", "right", "way", "again")])
        .parallel("fan", {"left": work, "right": work}, **undoing)
        .route("way", lambda state: state.input["way"], {"a": work, "b": work}, **undoing)
        .sleep("nap", lambda state: state.input["nap"])
        .loop("again", again, max_iterations=3, **undoing)
        .step("last", last)
    )


def sim_pipeline(process: Process) -> Pipeline:
    """A pipeline whose stages do what its input, a node of a program, says; with a batch and distributed stages."""

    def told(stage: StageContext[Any, None]) -> Node:
        round_ = current_step().generation
        return stage.require("spec") | {"once": False, "seen": 0, "round": round_, "says": 0, "undo": None}

    def spec(stage: StageContext[Node, None]) -> Node:
        return stage.input

    async def work(stage: StageContext[Any, None]) -> int:
        node = told(stage)
        place = process.begin(node)
        await asyncio.sleep(node["delay"])
        return process.finish(place, node)

    async def submit(stage: StageContext[Any, None]) -> str:
        await work(stage)
        return stage.idempotency_key

    async def check(stage: StageContext[Any, None], batch: str) -> int | Pending:
        value = await work(stage)
        generation = current_step().generation
        if batch != f"{stage.run_id}/batch#submit{'' if generation == 1 else f'@{generation}'}":
            process.world.wrong(f"{stage.run_id} asks for the batch {batch!r}")
        process.world.asked[batch] += 1
        return value if process.world.asked[batch] >= told(stage)["asks"] else Pending(1.5)

    def last(stage: StageContext[int, None]) -> list[int]:
        if told(stage)["fail"]:
            problem = "meant to fail"
            raise Terminal(problem)
        return [*(stage.require(name) for name in ("left", "right", "near", "far")), stage.input]

    retry = Retry(max_attempts=3, delay=0.5)
    return (
        Pipeline("sim_pipeline")
        .stage("spec", spec)
        .parallel({"left": work, "right": work}, retry=retry)
        .parallel({"near": work, "far": work}, retry=retry, dependencies=["spec"], distribute=True)
        .stage("batch", Batch(submit, check, every=1.0, check_retry=retry, retry=retry))
        .stage("last", last)
    )


def register(process: Process) -> dict[str, Any]:
    """Define the workflows anew, as a freshly started process does; returns them by name."""
    app, version, steps = process.app, process.version, Steps(process)

    @app.workflow(compensate_on_cancel=True)
    async def play(ctx: Context, job: dict[str, Any]) -> Any:
        value = await Play(ctx, steps, job, version, play).node(job["part"])
        if job["round"] < job["rounds"]:
            ctx.continue_as_new({**job, "round": job["round"] + 1})
        return value

    @app.workflow(compensate_in_parallel=True)
    def sync_play(ctx: SyncContext, job: dict[str, Any]) -> Any:
        value = SyncPlay(ctx, steps, job, version, play).node(job["part"])
        if job["round"] < job["rounds"]:
            ctx.continue_as_new({**job, "round": job["round"] + 1})
        return value

    app.flow(sim_flow(process))
    app.pipeline(sim_pipeline(process))
    return {"play": play, "sync_play": sync_play}
