"""A process that makes durable calls, as the test says."""

import asyncio
from collections.abc import Callable
from typing import Any

from crashkit import diary
from crashkit.roles import Session
from perdure import App, Context, PerdureError, emit_event, run_durable


async def _noted(value: int) -> int:
    diary.note()
    return value


async def _file(name: str) -> str:
    """Say that the body has begun, and wait for a file."""
    diary.note()
    folder = diary.folder()
    (folder / f"{name}-begun-{diary.life()}").touch()
    while not (folder / name).exists():  # noqa: ASYNC110 - no event tells of a file
        await asyncio.sleep(0.005)
    return name


async def many(ctx: Context) -> int:
    """A hundred steps."""
    return sum([await ctx.step("one", lambda n=n: _noted(n)) for n in range(100)])


async def slow(ctx: Context) -> str:
    """A step that waits for a file, between two others."""
    first = await ctx.step("first", lambda: _noted(1))
    name = await ctx.step("slow", lambda: _file("go"))
    last = await ctx.step("last", lambda: _noted(2))
    return f"{first} {name} {last}"


async def listener(ctx: Context) -> Any:
    """Waits for an event, for an hour at most."""
    return await ctx.receive("news", timeout=3600)


FUNCTIONS: dict[str, Callable[[Context], Any]] = {"many": many, "slow": slow, "listener": listener}


async def caller(session: Session) -> None:
    """Make the calls that the test asks for, all on one open app, and say how they ended."""
    async with session.app as app:
        assert app.worker is not None
        session.say("ready", app.worker.id)
        await _serve(session, app)


async def by_url(session: Session) -> None:
    """The same without an app: each call opens the database by its URL."""
    session.say("ready")
    await _serve(session, session.config["url"])


async def _serve(session: Session, store: App | str) -> None:
    tasks: set[asyncio.Task[None]] = set()
    while True:
        name, *arguments = await session.command()
        task = asyncio.create_task(_one(session, store, name, arguments))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _one(session: Session, store: App | str, name: str, arguments: list[Any]) -> None:
    try:
        if name == "emit":
            run_id, event, data = arguments
            answer: Any = (await emit_event(run_id, event, data, store=store)).data
        else:
            run_id, options = arguments
            ended = await run_durable(run_id, FUNCTIONS[name], store=store, **options)
            answer = ended.result if hasattr(ended, "result") else ("Suspended", ended.waiting_for)
    except PerdureError as error:
        answer = (type(error).__name__, str(error), getattr(error, "holder", None))
    session.say("answer", answer)
