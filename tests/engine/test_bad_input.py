"""What users get wrong: each a clear typed error, nothing lost, and the worker goes on."""

import asyncio
import gc
import os
import threading
import warnings
from functools import partial
from typing import Any

import apsw
import pytest
from postgreskit.server import ON_POSTGRES

import perdure
from perdure import App, Context, Limits, Retry, Step, SyncContext, WorkerOptions, current_step
from perdure.errors import (
    BlockingCall,
    DuplicateName,
    InvalidName,
    InvalidOption,
    NotInWorkflow,
    NotSerializable,
    PerdureError,
    RecordedError,
    RunFailed,
    StartConflict,
    StoreClosed,
    UnknownWorkflow,
    UsageError,
)


async def healthy(ctx: Context) -> str:
    return await ctx.step("x", lambda: "alive")


async def alive(app) -> bool:
    """Whether the worker still takes up and drives new runs."""
    return await (await app.start("healthy")).result() == "alive"


# ------------------------------------------------------------------------------------------ definitions
@pytest.mark.parametrize(
    "define",
    [
        lambda app: app.workflow(7), lambda app: app.workflow(lambda: None), lambda app: app.workflow(print),
        lambda app: app.workflow(name="a/b")(healthy), lambda app: app.workflow(timeout=-1)(healthy),
        lambda app: app.workflow(timeout=0)(healthy), lambda app: app.workflow(grace="soon")(healthy),
        lambda app: app.workflow(retries=3)(healthy), lambda app: app.step(7), lambda app: app.step(retry=3)(print),
        lambda app: app.step(timeout=0)(print), lambda app: app.step(timeout="1")(print),
        lambda app: app.step(nme="x")(print),
        lambda app: app.step(name="a#3")(print), lambda app: app.step(name=7)(print),
        lambda app: Retry(max_attempts=0), lambda app: Retry(backoff=0.5), lambda app: Retry(jitter=2),
        lambda app: Retry(delay=-1),
        lambda app: Retry(cap="x"), lambda app: Limits(payload_bytes=0), lambda app: WorkerOptions(concurrency=0),
        lambda app: WorkerOptions(lease=0.01), lambda app: App("mysql://x"), lambda app: App("orders.db"),
    ],
)  # fmt: skip
def test_definitions_that_cannot_be(lab, define):
    """A mistake in a definition would show only when the first run hits it."""
    with pytest.raises((InvalidOption, InvalidName)):
        define(lab.app())


def plain(ctx: "Context") -> None:
    """Declares the context of the other kind."""


async def coroutine(ctx: "SyncContext") -> None:
    """The same."""


async def dotted(ctx: "perdure.SyncContext") -> None:
    """The same."""


async def only_for_checkers(ctx: "elsewhere.SyncContext") -> None:  # noqa: F821 - as with an import under TYPE_CHECKING
    """The same."""


class Mine(SyncContext):
    """A context of the user's."""


async def derived(ctx: Mine) -> None:
    """The same."""


@pytest.mark.parametrize("fn", [plain, coroutine, dotted, only_for_checkers, derived], ids=lambda fn: fn.__name__)
def test_the_other_kinds_context(lab, fn):
    """A workflow that was written for the other context would fail in its first run, with a riddle."""
    with pytest.raises(UsageError, match=r"write `ctx: (Sync)?Context`, or make it") as problem:
        lab.app(fn)
    assert problem.value.code == "invalid_option"
    assert f"{fn.__name__} is {'plain' if fn is plain else 'async'}" in str(problem.value)


def test_contexts_that_fit(lab):
    """A definition would be refused though its context is right, or is not declared."""

    async def undeclared(ctx) -> None: ...
    async def anything(ctx: Any) -> None: ...
    async def text(ctx: "Context") -> None: ...
    def sync(ctx: "Mine") -> None: ...
    def unknown(ctx: "no.such.Thing") -> None: ...  # noqa: F821 - what is tested

    lab.app(undeclared, anything, text, sync, unknown)


def test_one_name_twice(lab):
    """Two workflows of one name would replace each other silently."""
    app = lab.app(healthy)
    with pytest.raises(DuplicateName) as caught:
        app.workflow(healthy)
    assert caught.value.name == "healthy"


# --------------------------------------------------------------------------------------------- starting
def test_starts_that_cannot_be(lab):
    """A start with a mistake would store something, or lose the worker's place for it."""

    async def flow(ctx: Context, n: int) -> int:
        return n

    async def main():
        async with lab.worker(flow, healthy, options={"concurrency": 2}) as app:
            for start, error in (
                (lambda: app.start("nobody"), UnknownWorkflow),
                (lambda: app.start(7), UnknownWorkflow),
                (lambda: app.start("flow", 1, id=""), InvalidName),
                (lambda: app.start("flow", 1, id="x" * 201), InvalidName),
                (lambda: app.start("flow", 1, id="a\nb"), InvalidName),
                (lambda: app.start("flow", 1, id=5), InvalidName),
                (lambda: app.start("flow", 1, tags=["ok", ""]), InvalidName),
                (lambda: app.start("flow", 1, tags=[7]), InvalidName),
                (lambda: app.start("flow", 1, tags="abc"), InvalidName),
                (lambda: app.start("flow", 1, timeout=-5), InvalidOption),
                (lambda: app.start("flow", 1, delay="x"), InvalidOption),
                (lambda: app.start("flow", "x"), PerdureError),
                (lambda: app.start("flow"), PerdureError),
                (lambda: app.start("flow", 1, 2), PerdureError),
                (lambda: app.start("flow", object()), PerdureError),
            ):
                with pytest.raises(error):
                    await start()
            with pytest.raises(InvalidOption, match=r"flow is a plain function; put @app\.workflow above it"):
                await app.start(flow, 1)
            assert await lab.sql(app, "select count(*) from perdure_runs") == [(0,)]
            for _ in range(3):
                assert await alive(app)

    lab.play(main)


def test_the_same_id_again(lab):
    """Starting twice would run twice, or give other input the first run's result."""
    ran = []

    async def flow(ctx: Context, n: dict) -> int:
        ran.append(n)
        return n["n"]

    async def main():
        async with lab.worker(flow, healthy) as app:
            handles = [
                await app.start("flow", {"n": 1, "m": 2}, id="r"),
                await app.start("flow", {"m": 2, "n": 1}, id="r"),
            ]
            assert [await handle.result() for handle in handles] == [1, 1]
            assert await (await app.start("flow", {"n": 1, "m": 2}, id="r")).result() == 1
            for start in (lambda: app.start("flow", {"n": 2, "m": 2}, id="r"), lambda: app.start("healthy", id="r")):
                with pytest.raises(StartConflict):
                    await start()
            assert len(ran) == 1

    lab.play(main)


def test_a_run_whose_workflow_nobody_knows(lab):
    """A run of a workflow that no worker has would be claimed, failed or lost instead of waiting for one."""

    async def main():
        async with lab.app(healthy).connected() as app:
            await app.start("healthy", id="r")

        async def other(ctx: Context) -> None:
            return None

        async with lab.worker(other) as app:
            await asyncio.sleep(100)
            assert (await app.handle("r").info()).status == "queued"
        async with lab.worker(healthy) as app:
            assert (await lab.ended(app, "r")).value == "alive"

    lab.play(main)


def test_a_workflow_that_is_registered_late(lab):
    """A worker would never claim the runs of a workflow that was registered after the app was opened."""

    async def late(ctx: Context) -> str:
        return "late"

    async def main():
        async with lab.app(late).connected() as app:
            await app.start("late", id="r")
        async with lab.worker(healthy) as app:
            await asyncio.sleep(10)
            assert (await app.handle("r").info()).status == "queued"
            app.workflow(late)
            assert (await lab.ended(app, "r")).value == "late"
            await app.start("late", id="delayed", delay=60)
            assert (await lab.ended(app, "delayed")).value == "late"
            (worker,) = [worker for worker in await app.client.workers() if worker.state == "alive"]
            assert worker.workflows == ["healthy", "late"]
            worker = app.worker
        app.workflow(name="later")(late)
        assert worker._workflows == '["healthy", "late"]'  # it has left

    lab.play(main)


def test_an_app_that_is_not_open(lab):
    """Using an app outside its block would hang or crash somewhere inside."""

    async def main():
        app = lab.app(healthy)
        with pytest.raises(StoreClosed):
            await app.start("healthy")
        async with app:
            assert await alive(app)
            with pytest.raises(InvalidOption):
                async with app:
                    pass
            handle = await app.start("healthy")
        for use in (handle.info, handle.result, handle.cancel, lambda: handle.signal("x")):
            with pytest.raises(StoreClosed):
                await use()
        async with app:
            assert await alive(app), "an app may be opened again"

    lab.play(main)


# --------------------------------------------------------------------------------- steps that misbehave
async def swallows() -> None:
    for _ in range(3):
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            continue


async def cancels_itself() -> None:
    asyncio.current_task().cancel()
    await asyncio.sleep(1)


def raising(error: BaseException):
    async def body() -> None:
        raise error

    return body


LEAKED = []


async def leaks_a_task() -> str:
    LEAKED.append(asyncio.create_task(asyncio.sleep(10)))
    return "ended"


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (swallows, "StepTimedOut"), (cancels_itself, "RecordedError"), (raising(SystemExit(3)), "SystemExit"),
        (raising(GeneratorExit()), "GeneratorExit"), (raising(asyncio.CancelledError("by hand")), "RecordedError"),
        (leaks_a_task, "ended"),
    ],
)  # fmt: skip
def test_bodies_that_misbehave(lab, body, outcome):
    """A body that swallows or raises what ends processes would take the worker down, or hang its run."""

    async def flow(ctx: Context) -> str:
        try:
            return await ctx.step("odd", body, timeout=10)
        except BaseException as error:  # noqa: BLE001 - an outcome of the step, whatever the class
            await ctx.step("after", lambda: 1)
            return type(error).__name__

    async def main():
        async with lab.worker(flow, healthy) as app:
            ended = await lab.ended(app, (await app.start("flow")).id, "flow")
            assert ended.value == outcome
            assert await alive(app)
            await lab.check_replay(app, ended, "flow")

    lab.play(main)


@pytest.mark.parametrize(
    "error", [SystemExit(3), GeneratorExit(), StopIteration(1), StopAsyncIteration(), BaseException("odd")]
)
def test_workflows_that_raise_odd_things(lab, error):
    """A workflow that raises what ends processes or generators would take the worker down, or hang its run."""

    async def flow(ctx: Context) -> None:
        await ctx.step("x", lambda: 1)
        raise error

    async def main():
        async with lab.worker(flow, healthy) as app:
            ended = await lab.ended(app, (await app.start("flow")).id, "flow")
            assert ended.status == "failed"
            assert await alive(app)
            await lab.check_replay(app, ended, "flow")

    lab.play(main)


def test_a_coroutine_that_is_never_awaited(lab):
    """A forgotten await would be taken for a durable step that has happened."""

    async def flow(ctx: Context) -> str:
        ctx.step("forgotten", lambda: "never")
        gc.collect()
        return await ctx.step("awaited", lambda: "done")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        ended = lab.finish(flow)
    assert (ended.value, ended.keys("step_completed")) == ("done", ["awaited"])


def test_misused_calls(lab):
    """Mistakes in a call on the context would be internal errors, or run something else."""

    async def flow(ctx: Context) -> list[str]:
        out = []
        for call in (
            lambda: ctx.step(7), lambda: ctx.step("name"), lambda: ctx.step("name", 7), lambda: ctx.step("a/b", print),
            lambda: ctx.step("name", print, "argument"), lambda: ctx.step("name", print, retries=3),
            lambda: ctx.step(None),
            lambda: ctx.step("name", print, name="other"), lambda: ctx.step("", print),
            lambda: ctx.transaction(7),
            lambda: ctx.step("name", print, timeout=-1), lambda: ctx.step("name", print, returns="hello"),
            lambda: ctx.step(partial(print, 1)), lambda: ctx.map(healthy, None), lambda: ctx.call("flow", timeout=0),
            lambda: ctx.receive("signal", type="hello"), lambda: ctx.receive("signal", type=5),
        ):  # fmt: skip
            try:
                await call()
                out.append("went through")
            except UsageError as error:
                out.append(error.code)
        return out

    ended = lab.finish(flow)
    assert ended.value == [
        "invalid_option", "invalid_option", "invalid_option", "invalid_name", "invalid_option", "invalid_option",
        "invalid_option", "invalid_option", "invalid_name", "invalid_option", "invalid_option",
        *["invalid_option"] * 6,
    ]  # fmt: skip


def test_an_option_among_the_arguments_of_a_step(lab):
    """Its body would be called with it, again and again, and fail with a TypeError that does not say where it goes."""

    def book(flight: str) -> str:
        return flight

    def named(name: str) -> str:
        return name

    def anything(**given: int) -> dict[str, int]:
        return given

    async def flow(ctx: Context) -> list[Any]:
        for step in (book, Step(book)):
            with pytest.raises(InvalidOption, match=r"^compensate: .* ctx\.step\(book\.options\(compensate=…\), …\)"):
                await ctx.step(step, "LH400", compensate=print)
        return [await ctx.step(named, name="ada"), await ctx.step(anything, timeout=5)]

    ended = lab.finish(flow)
    assert ended.value == ["ada", {"timeout": 5}]
    assert [entry.key for entry in ended.events if entry.kind == "step_completed"] == ["named", "anything"]


def test_arguments_that_do_not_fit_the_body(lab):
    """Wrong arguments of a step would kill the run instead of failing the step."""

    def body(a: int, *, b: int) -> int:
        return a + b

    async def flow(ctx: Context) -> str:
        try:
            return str(await ctx.step(body, 1))
        except TypeError as error:
            return str(error)

    assert "missing 1 required keyword-only argument: 'b'" in lab.finish(flow).value


# ------------------------------------------------------------------------------------ the context misused
def test_the_context_from_a_foreign_thread(lab):
    """A thread that uses the context would race with the workflow."""
    seen = []

    async def flow(ctx: Context) -> str:
        def elsewhere() -> None:
            for use in (
                ctx.now,
                ctx.uuid,
                lambda: asyncio.run(ctx.sleep(1)),
                lambda: asyncio.run(ctx.step("x", print)),
            ):
                try:
                    use()
                except NotInWorkflow as error:
                    seen.append(error.code)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return await ctx.step("fine", lambda: "fine")

    ended = lab.finish(flow)
    assert (ended.value, len(ended.events)) == ("fine", 2)
    assert seen[:4] == ["not_in_workflow"] * 4


def test_the_context_after_the_end(lab):
    """A context kept beyond its run could write into an ended journal."""
    kept = []

    async def flow(ctx: Context) -> str:
        kept.append(ctx)
        return "done"

    async def main():
        async with lab.worker(flow, healthy) as app:
            await (await app.start("flow", id="r")).result()
            for use in (lambda: kept[0].step("late", print), lambda: kept[0].sleep(1), lambda: kept[0].emit("late")):
                with pytest.raises(NotInWorkflow):
                    await use()
            with pytest.raises(NotInWorkflow):
                kept[0].now()
            assert [event.kind for event in await lab.journal(app, "r")] == ["completed"]
            assert await alive(app)

    lab.play(main)


def test_the_context_of_another_run(lab):
    """One run that uses another one's context would write into its journal."""
    contexts = {}

    async def flow(ctx: Context, name: str) -> str:
        contexts[name] = ctx
        if name == "first":
            await ctx.receive("end", timeout=50, default=None)
            return "first"
        try:
            await contexts["first"].step("intruder", lambda: 1)
        except NotInWorkflow as error:
            return error.code

    async def main():
        async with lab.worker(flow, cached_runs=10) as app:
            first = await app.start("flow", "first")
            await lab.until(app, first.id, "waiting")
            assert await (await app.start("flow", "second")).result() == "not_in_workflow"
            ended = await lab.ended(app, first.id)
            assert (ended.value, ended.keys("step_completed")) == ("first", [])

    lab.play(main)


def test_futures_of_the_engine_cancelled_by_hand(lab):
    """A cancelled future of a durable operation would leave it running, or break the replay."""
    ran = []

    async def slow(n: int) -> int:
        await asyncio.sleep(n)
        ran.append(n)
        return n

    async def flow(ctx: Context) -> list:
        futures = [asyncio.ensure_future(ctx.step(slow, n)) for n in (10, 20, 30)]
        await ctx.sleep(15)
        cancelled = [future.cancel() for future in futures]
        results = await asyncio.gather(*futures, return_exceptions=True)
        await ctx.sleep(60)
        return [cancelled, [type(result).__name__ for result in results]]

    ended = lab.finish(flow)
    assert ended.value == [[False, True, True], ["int", "CancelledError", "CancelledError"]]
    assert (ran, len(ended.keys("step_cancelled"))) == ([10], 2)


@pytest.mark.parametrize("body", [healthy, abs])
def test_a_step_that_a_workflow_calls_as_a_function_is_refused(lab, body):
    """Its body would run in the workflow, unrecorded, and again on each replay."""
    step = Step(body)

    async def flow(ctx: Context) -> str:
        try:
            return str(step(-1))
        except BlockingCall as error:
            return error.code

    assert lab.finish(flow).value == "blocking_call"


@pytest.mark.parametrize("what", ["to_thread", "open_connection", "subprocess", "new loop"])
def test_blocking_calls_say_what_to_do(lab, what):
    """I/O in a workflow would work until the first replay, and then twice."""

    async def flow(ctx: Context) -> str:
        try:
            if what == "to_thread":
                await asyncio.to_thread(os.getpid)
            elif what == "open_connection":
                await asyncio.open_connection("localhost", 1)
            elif what == "subprocess":
                await asyncio.create_subprocess_shell("true")
            else:
                asyncio.run(healthy(ctx))
        except (BlockingCall, RuntimeError) as error:
            name = type(error).__name__
            return await ctx.step("x", lambda: name)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        ended = lab.finish(flow)
    assert ended.value == ("RuntimeError" if what == "new loop" else "BlockingCall")


# ------------------------------------------------------------------------------------ rows that are broken
CORRUPT = {
    "a result that is no JSON": "update perdure_journal set data = '{broken' where kind = 'step_completed'",
    "a result of another type": "update perdure_journal set data = '[1]' where kind = 'step_completed'",
    "a result without data": "update perdure_journal set data = null where kind = 'step_completed'",
    "an unknown kind": "update perdure_journal set kind = 'nonsense' where kind = 'step_completed'",
    "a timer that is no number": "update perdure_journal set data = 'x' where kind = 'timer_set'",
    "a failed attempt that is no JSON": "update perdure_journal set data = '{x' where kind = 'attempt_failed'",
    "a failure that is no error": "update perdure_journal set data = '7' where kind = 'step_failed'",
    "a child that is no JSON": "update perdure_journal set data = 'x' where kind = 'child_started'",
    "a sealed payload of an unknown codec": "update perdure_journal set data = '~x:AAAA' where kind = 'step_completed'",
    "a blob that is gone": "update perdure_journal set data = '@0000' where kind = 'step_completed'",
    "a missing entry": "delete from perdure_journal where kind = 'step_completed'",
    "input that is no JSON": "update perdure_runs set input = 'x' where id = 'r'",
    "a signal that is no JSON": "update perdure_inbox set data = '{x'",
}


@pytest.mark.skipif(ON_POSTGRES, reason="it spoils a file behind perdure's back")
@pytest.mark.parametrize("what", CORRUPT)
def test_corrupt_rows(lab, what):
    """One broken row would take the worker down, be retried for ever, or leave its run owned and driven by nobody."""

    def broken() -> None:
        raise ValueError(current_step().attempt)

    async def child(ctx: Context) -> None:
        return None

    async def flow(ctx: Context) -> str:
        text: str = await ctx.step("text", lambda: "x", returns=str)
        await ctx.start("child")
        try:
            await ctx.step("fails", broken, retry=Retry(max_attempts=2, delay=0))
        except ValueError:
            await ctx.sleep(100)
        return text + await ctx.receive("more", str)

    async def main():
        async with lab.worker(flow, child) as app:
            await app.start("flow", id="r")
            await app.signal("r", "more", "y")
            await lab.until(app, "r", "waiting")
        with apsw.Connection(str(lab.path)) as connection:
            connection.execute(CORRUPT[what])
            assert connection.changes()
        async with lab.worker(flow, child, healthy) as app:
            info = await lab.until(app, "r", "paused", "failed")
            assert info.due_at is None
            if info.status == "paused":
                assert info.reason["code"] == "divergence"
            else:
                with pytest.raises(RunFailed):
                    await app.handle("r").result()
            assert await alive(app)

    lab.play(main)


# ------------------------------------------------------------------------------------ a codec that fails
class Moody:
    """Refuses to write one word: what a codec does whose key service is down."""

    name = "moody"

    def encode(self, data: bytes) -> bytes:
        if b"poison" in data:
            raise ConnectionError("no key")
        return data

    def decode(self, data: bytes) -> bytes:
        return data


@pytest.mark.parametrize("where", ["step", "result", "event", "child", "error"])
def test_a_codec_that_fails(lab, where):
    """A codec that raises would leave a run owned and driven by nobody, instead of failing what was to be stored."""
    word = "poi" + "son"

    async def child(ctx: Context, text: str) -> None:
        return None

    async def flow(ctx: Context) -> str:
        if where == "step":
            await ctx.step("s", lambda: word)
        elif where == "event":
            await ctx.emit("e", word)
        elif where == "child":
            await ctx.call("child", word)
        elif where == "error":
            raise ValueError(word)
        return word if where == "result" else "not reached"

    async def main():
        async with lab.worker(flow, child, healthy, codec=Moody()) as app:
            await app.start("flow", id="r")
            info = await lab.until(app, "r", "failed", "paused")
            if where != "error":
                assert info.status == "failed"
                with pytest.raises(RunFailed) as caught:
                    await app.handle("r").result()
                assert type(caught.value.cause) in {ConnectionError, RecordedError, NotSerializable}
            assert await alive(app)

    lab.play(main)
