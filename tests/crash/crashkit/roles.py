"""
What the processes of the crash tests do.

A role is a coroutine function of its `Session`. Its configuration, a plain dict:

    url, folder, log, life          set by `Place`; life counts the test's processes from 0
    worker                          options of the worker
    kill                            see `Killer`
    machine                         where it runs, to the other workers: what they know of its process
    patience_ms                     how long SQLite waits for another process's lock
"""

import asyncio
import faulthandler
import logging
import os
import random
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from crashkit import diary, flows
from perdure import App, Debounce, Dedupe, PerdureError, Queue, RunHandle, Status, WorkerOptions, ids
from perdure.errors import RunFinished
from perdure.store import batch, pulse, sqlite
from perdure.store.operation import Guarded, Operation

Role = Callable[["Session"], Awaitable[None]]


class Killer:
    """
    A probe that sends this process a signal at a named point.

    Args:
        moment: "before_commit" or "after_commit".
        statement: The commit contains this statement; any commit when empty.
        nth: At which such commit, from 1.
        signal: SIGKILL unless given.
    """

    def __init__(self, moment: str, statement: str, nth: int, number: int = signal.SIGKILL) -> None:
        self._moment = moment
        self._statement = statement
        self._left = nth
        self._signal = number

    def __call__(self, moment: str, operations: Sequence[Operation]) -> None:
        if moment != self._moment:
            return
        if self._statement and not any(self._statement in names(operation) for operation in operations):
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._signal)


class Recorder:
    """A probe that notes which statements were committed."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, moment: str, operations: Sequence[Operation]) -> None:
        if moment == "after_commit":
            for operation in operations:
                self.seen |= names(operation)


def names(operation: Operation) -> set[str]:
    """The statements of an operation."""
    found = {name for name, _ in operation.lines}
    if operation.body is None:
        return found
    if isinstance(operation.body, Guarded):
        return found | {name for name, _ in operation.body.lines}
    return found | {"transaction"}


class Session:
    """The role's side: its configuration, its app, and the pipe to the test."""

    def __init__(self, pipe: Connection, config: dict[str, Any]) -> None:
        self.pipe = pipe
        self.config = config
        self.recorder = Recorder()
        self.app = flows.app.variant(
            url=config["url"],
            worker=WorkerOptions(**({"hold": flows.HOLD_S, "retention": None} | config.get("worker", {}))),
            probe=Killer(*config["kill"]) if "kill" in config else self.recorder,
        )

    def say(self, what: str, value: Any = None) -> None:
        """Send a message to the test."""
        self.pipe.send((what, value))

    async def command(self) -> tuple[Any, ...]:
        """Wait for the test's next command."""
        loop = asyncio.get_running_loop()
        there = asyncio.Event()
        loop.add_reader(self.pipe.fileno(), there.set)
        try:
            await there.wait()
        finally:
            loop.remove_reader(self.pipe.fileno())
        received: tuple[Any, ...] = self.pipe.recv()
        return received


def run(role: Role, pipe: Connection, config: dict[str, Any]) -> None:
    """Where a process begins."""
    log = os.open(config["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    faulthandler.enable()
    diary.begin(config["folder"], config["life"], config["url"])
    if "machine" in config:
        ids.process_place = lambda: config["machine"]
    if "patience_ms" in config:
        for module in (batch, pulse, sqlite):
            module.BUSY_MILLISECONDS = config["patience_ms"]
    asyncio.run(role(Session(pipe, config)))


async def family(session: Session) -> None:
    """
    Start every run of the family, send what they wait for, wait for all their ends.

    All of it may be done again by the next process: ids and keys make it the same.
    """
    app = session.app
    async with app:
        handles = [
            await app.start("order", 1, id="order-1", tags=["first"]),
            await app.start("order", 2, id="order-2", delay=0.05),
            await app.start("gate", id="gate"),
            await app.start("rounds", 1, id="rounds"),
            await app.start("doomed", id="doomed"),
            await app.start("failing", id="failing"),
            await app.start("plain", 3, id="plain"),
            await app.start("racing", id="racing"),
        ]
        for run_id in ("order-1", "order-2"):
            await _send(app.signal(run_id, "approval", f"yes, {run_id}", key="approval"))
        gate, doomed = handles[2], handles[4]
        await _until(gate, "waiting", "completed")
        await _open(gate)
        await _until(doomed, "waiting", "cancelling", "cancelled")
        await _send(doomed.cancel("no longer wanted"))
        ends = {handle.id: await _end(handle.result()) for handle in handles}
    session.say("ended", (ends, session.recorder.seen))


async def operator(session: Session) -> None:
    """
    Pause, resume, fork, rerun and prune runs.

    Whoever was killed does not know whether the last thing was done, so an operator looks first.
    """
    async with session.app as app:
        ends = [await _restart_gate(app), await _restart_order(app), await _pause_running(app)]
        await app.start("forever", id="pruned")
        await _send(app.cancel("pruned"))
        await _end(app.handle("pruned").result())
        await app.client.prune(older_than=0, statuses=[Status.CANCELLED])
    session.say("ended", (ends, session.recorder.seen))


async def _restart_gate(app: App) -> list[Any]:
    """Pause and resume a run that waits, fork it, and do it again from its first signal."""
    gate = await app.start("gate", id="gate")
    if not await _did(gate, "paused"):
        await _until(gate, "waiting")
        await app.client.pause("gate", "have a look")
    if (await gate.info()).status == "paused":
        await app.client.resume("gate")
    await _open(gate)
    ends = [await gate.result()]
    if (await gate.info()).generation == 1:
        await app.client.rerun("gate", before="open")
    ends.append(await gate.result())
    fork = await app.client.fork("gate", before="open", id="gate-fork")
    await _open(fork)
    return [*ends, await fork.result()]


async def _open(gate: RunHandle[Any]) -> None:
    for name in ("open", "right", "left"):
        await _send(gate.signal(name, name, key=name))


async def _restart_order(app: App) -> list[Any]:
    """Fork an order, and do it again, from where it waits for its child: the fork gets a child of its own."""
    order = await app.start("order", 1, id="order")
    await _send(order.signal("approval", "yes", key="approval"))
    ends = [await order.result()]
    if (await order.info()).generation == 1:
        await app.client.fork("order", before="invoice", id="order-fork")
    fork = app.handle("order-fork", "order")
    await _send(fork.signal("approval", "yes", key="approval"))
    ends.append(await fork.result())
    if (await order.info()).generation == 1:
        await app.client.rerun("order", before="invoice")
    return [*ends, await order.result()]


async def _pause_running(app: App) -> Any:
    """Pause a run whose body runs, which may end first."""
    run = await app.start("waits_for_file", "go", id="working")
    folder = diary.folder()
    if not await _did(run, "paused"):
        begun = folder / f"go-begun-{diary.life()}"
        over = {"paused", "completed"}
        while not begun.exists() and (await run.info()).status not in over:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.002)
        await _send(app.client.pause("working", "have a look"))
    (folder / "go").touch()
    await _until(run, "paused", "completed")
    if (await run.info()).status == "paused":
        await app.client.resume("working")
    return await run.result()


async def _until(run: RunHandle[Any], *statuses: str) -> None:
    while (await run.info()).status not in statuses:  # noqa: ASYNC110 - no event tells of a park
        await asyncio.sleep(0.002)


async def _did(run: RunHandle[Any], kind: str) -> bool:
    return kind in [entry.kind async for entry in run.events(follow=False)]


async def _send(sending: Awaitable[Any]) -> None:
    try:
        await sending
    except RunFinished:
        return


async def _end(result: Awaitable[Any]) -> Any:
    try:
        return await result
    except PerdureError as error:
        return repr(error)


async def mixed_load(session: Session) -> None:
    """Start many `mixed` runs without driving any, send what they wait for, and say how they ended."""
    app, chance = session.app, random.Random(session.config["seed"])
    async with app.connected():
        runs = range(session.config["runs"])
        handles = await asyncio.gather(*[app.start("mixed", i, id=f"mixed-{i}", delay=chance.random()) for i in runs])
        session.say("begun")
        for i in chance.sample(runs[::3], len(runs[::3])):
            await handles[i].signal("word", f"word {i}")
        session.say("ended", {handle.id: await handle.result() for handle in handles})


async def queue_load(session: Session) -> None:
    """Make a queue with these limits, start `job` runs on it for several keys, and say how they ended."""
    app, config = session.app, session.config
    async with app.connected():
        await app.client.set_queue(Queue("narrow", **config["limits"]))
        handles = await asyncio.gather(
            *[
                app.start(
                    "job", i, id=f"job-{i}", queue="narrow", key=f"key {i % config['keys']}", priority=i % 3,
                    weight=1 + i % 4,
                )
                for i in range(config["runs"])
            ]
        )  # fmt: skip
        session.say("begun")
        session.say("ended", {handle.id: await handle.result() for handle in handles})


async def joint_load(session: Session) -> None:
    """
    Start runs that belong together: once at a time, once a day, as batches, debounced.

    Says what it has asked for as soon as that is confirmed. It may be killed; then another one goes on where it stood.
    """
    app, who = session.app, session.config["who"]
    async with app.connected():
        for queue in (Queue("alone"), Queue("day"), Queue("together", rate=session.config["rate"])):
            await app.client.set_queue(queue)
        for i in range(session.config["first"], session.config["runs"]):
            key, day, item = f"key {i % 3}", f"day {i // 9}", f"{diary.life()}.{i}"
            _, of_day, *_ = await asyncio.gather(
                app.start("alone", i, queue="alone", key=key, dedupe=Dedupe(key)),
                app.start("alone", 0, queue="day", dedupe=Dedupe(day, ttl=86_400)),
                app.batch("together", item, size=5, wait=0.2, queue="together"),
                app.start("typed", who, i, debounce=Debounce(f"typed by {who}", wait=0.05, longest=0.3)),
            )
            session.say("asked", (i, day, of_day.id, item))
    session.say("asked", None)


def mixed_result(i: int) -> list[Any]:
    """What the `mixed` run number i returns."""
    labels = [f"{i}.{j}" for j in range(3)]
    return [labels, list(range(i % 3)), f"{i}" if i % 2 else "", f"word {i}" if i % 3 == 0 else "", f"{i}.last"]


async def worker(session: Session) -> None:
    """
    Drive runs until SIGTERM; do as the test says meanwhile.

    The handler is what `perdure worker` installs: leave `async with app`, which drains.
    """
    leave = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave.set)
    async with session.app as app:
        assert app.worker is not None
        session.say("ready", app.worker.number)
        listening = asyncio.create_task(_listen(session))
        await leave.wait()
        session.say("leaving")
        listening.cancel()
    session.say("left")


async def refused(session: Session) -> None:
    """Try to use a database without the rights of root, and say how it went."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(session.config["user"])
        os.setuid(session.config["user"])
    for way, opened in (("as a worker", session.app), ("as a client", session.app.connected())):
        try:
            async with opened:
                session.say(way, ("no problem", ""))
        except PerdureError as error:
            session.say(way, (type(error).__name__, str(error)))


async def _listen(session: Session) -> None:
    while True:
        name, *arguments = await session.command()
        try:
            answer = await COMMANDS[name](session.app, *arguments)
        except Exception as error:  # noqa: BLE001 - the test judges it
            answer = (type(error).__name__, str(error))
        session.say("answer", answer)


async def hammer(session: Session) -> None:
    """Start parents and send them their signals as fast as they are taken, then wait for all."""
    app = session.app
    parents, children = range(session.config["parents"]), session.config["children"]

    async def one(i: int) -> tuple[str, Any]:
        handle = await app.start("parent", children, id=f"parent-{i}")
        await handle.signal("end", f"end {i}")
        return handle.id, await handle.result()

    async with app.connected():
        session.say("ended", dict(await asyncio.gather(*map(one, parents))))


async def client(session: Session) -> None:
    """Do as the test says, without a worker."""
    async with session.app.connected():
        session.say("ready")
        await _listen(session)


async def _start(app: App, workflow: str, arguments: list[Any], run_id: str) -> str:
    return (await app.start(workflow, *arguments, id=run_id)).id


async def _result(app: App, run_id: str) -> Any:
    return await app.handle(run_id).result()


async def _pages(app: App, more: int | None) -> int:
    """Let the file grow by so many pages only; without a limit when None."""
    writer = app.client.store._writer
    assert writer is not None
    most = 2**32 - 2 if more is None else int(writer.execute("pragma page_count").get) + more
    return int(writer.execute(f"pragma max_page_count = {most}").get)


async def _file_size(app: App, most: int) -> None:
    """Let no file grow beyond so many bytes; without a limit when -1. A write beyond it fails with EFBIG."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


async def _statistics(app: App) -> dict[str, int]:
    assert app.worker is not None
    return app.worker.statistics


COMMANDS: dict[str, Callable[..., Awaitable[Any]]] = {
    "start": _start,
    "result": _result,
    "pages": _pages,
    "file_size": _file_size,
    "statistics": _statistics,
}
