"""Idempotent commands: what a handler does to runs, and its result, are stored together, once per key."""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, TypeVarTuple, Unpack, cast

from perdure import ids
from perdure.client.handle import RunHandle
from perdure.clock import SECOND, Clock, micros
from perdure.codec.call import CallCodec
from perdure.codec.canonical import canonical_json
from perdure.codec.payload import Payloads
from perdure.engine.attempt import plain_call
from perdure.errors import (
    CommandConflict,
    CommandInProgress,
    CommandOvertaken,
    InvalidOption,
    StoreBusy,
    StoreError,
)
from perdure.store.load import find_run
from perdure.store.operation import Guarded, Line, Operation, Row, is_stale
from perdure.store.store import Store
from perdure.store.transaction import Transaction

if TYPE_CHECKING:
    from perdure.client.client import Client

R = TypeVar("R")
Ts = TypeVarTuple("Ts")
STALE_AFTER_S = 600.0
KEEP = timedelta(days=30)
TRIES = 50
"""How often what a command does is decided again because its runs have changed meanwhile."""
_QUEUE = 7  # the place of the queue among the parameters of `enqueue`


class CommandOptions(TypedDict, total=False):
    """What a command may be given beside its handler and its input; see `Commands.command`."""

    name: str | None
    stale_after: float | timedelta
    keep: float | timedelta | None


class Commands:
    """The part of the client that does something once per key."""

    store: Store
    payloads: Payloads
    _clock: Clock

    async def command(
        self,
        key: str,
        fn: Callable[[Command, Unpack[Ts]], Awaitable[R]],
        /,
        *args: *Ts,
        name: str | None = None,
        stale_after: float | timedelta = STALE_AFTER_S,
        keep: float | timedelta | None = KEEP,
    ) -> R:
        """
        Do something once, however often it is asked for under this key; later callers get the same result.

        The handler is a coroutine function. What it does through the `Command` that it is given takes effect, and is
        durable, together with its result when this returns; nothing of it has when this raises. A handler that raises
        frees the key, and so does one that is cancelled.

        Args:
            key: What repetitions have in common, such as the id of a request.
            fn: Called with the command, then `args`.
            args: The input. It must have a JSON form, as it is compared with the first one's.
            name: Keys of different names have nothing to do with each other; the function's name when left out.
            stale_after: Seconds or timedelta after which a handler that has not ended is taken for dead, so that
                another caller may try.
            keep: How long the result is kept, seconds or timedelta; None for ever. After that the key is free.

        Returns:
            What the handler returned, as its declared type.

        Raises:
            CommandConflict: The key was used with other input.
            CommandInProgress: Somebody else is at it.
            CommandOvertaken: It took longer than `stale_after` and somebody else began; nothing was changed.
            InvalidOption: `fn` is no coroutine function, or an option is wrong.
        """
        if not inspect.iscoroutinefunction(fn):
            option = "fn"
            raise InvalidOption(option, f"{fn!r} is not a coroutine function (async def)")
        named = ids.check_name("command name", getattr(fn, "__name__", "") if name is None else name)
        codec, stale = CallCodec(fn, skip=1), micros(stale_after, "stale_after")
        text = canonical_json(json.loads(codec.encode(args, {})), f"The input of {named}")
        command = Command(cast("Client", self), named, ids.check_id("command key", key))
        found = await self._acquire(command, blake2b(text.encode(), digest_size=16).hexdigest(), stale)
        what = f"The result of {named}"
        value: R
        if found is not None:
            value = codec.returns.decode(self.payloads.open(found), what)
            return value
        try:
            result, decoded = codec.returns.settle(await fn(command, *args), what)
            until = None if keep is None else self._clock.now() + micros(keep, "keep")
            await command.settle(self.payloads.seal(result, what), until)
            value = decoded
        except BaseException:
            # If this fails too, the key is free when it is stale.
            with suppress(StoreError):
                await asyncio.shield(self.store.apply(Operation([("free_command", command.mark)])))
            raise
        return value

    async def _acquire(self, command: Command, fingerprint: str, stale: int) -> str | None:
        """
        Begin an attempt.

        Returns:
            The result of an earlier one, as stored; None when this one is to go on.
        """
        for _ in range(TRIES):
            now = self._clock.now()
            line: Line = ("acquire_command", (*command.place, fingerprint, command.token, now, now + stale))
            if await self.store.apply(Operation([line])):
                return None
            for theirs, _token, until, result in await self.store.rows("command", *command.place):
                if theirs != fingerprint:
                    raise CommandConflict(*command.place)
                if result is not None:
                    return str(result)
                raise CommandInProgress(*command.place, max(0, until - now) / SECOND)
            # It was given up just now.
        raise command.changing()


class Command:
    """
    What the handler of a command does to runs, in one transaction with its result.

    Its methods are those of `App` and `Client`, and refuse what they refuse; what they ask for happens when the
    handler has returned, and only then. Whatever else the handler does happens at once, and again in another attempt.

    Attributes:
        name, key: Which command this is.
    """

    def __init__(self, client: Client, name: str, key: str) -> None:
        self.name = name
        self.key = key
        self.token = ids.seed()
        self._client = client
        self._draft = _Draft(client.store)
        self._asked: list[Callable[[Client], Coroutine[Any, Any, Any]]] = []
        self._bodies: list[Callable[[Transaction], Any]] = []

    @property
    def place(self) -> tuple[str, str]:
        """What names the command."""
        return self.name, self.key

    @property
    def mark(self) -> tuple[str, str, int]:
        """What names this attempt at it."""
        return self.name, self.key, self.token

    async def start(self, workflow: Any, /, *args: Any, **options: Any) -> RunHandle[Any]:
        """
        Start a run, see `Client.start`. Its result cannot be waited for in here: it begins when the handler is over.

        Args:
            options: As for `Client.start`, without `dedupe` and `debounce`, which the command's key makes superfluous.
        """
        chosen = options.pop("id", None) or ids.run_id(self._client._clock.now())  # noqa: SLF001 - the other half of a client
        await self._ask(lambda client: client.start(workflow, args, id=chosen, **options))
        return self._client.handle(chosen, workflow)

    async def signal(self, run_id: str, name: str, data: Any = None, *, key: str | None = None) -> None:
        """Send a signal, see `Client.signal`."""
        await self._ask(lambda client: client.signal(run_id, name, data, key=key))

    async def cancel(self, run_id: str, reason: str = "", *, compensate: bool = False) -> None:
        """Ask a run to end, see `Client.cancel`."""
        await self._ask(lambda client: client.cancel(run_id, reason, compensate=compensate))

    async def rerun(self, run_id: str, *, before: str | None = "") -> None:
        """Do a run again in place, see `Client.rerun`."""
        await self._ask(lambda client: client.rerun(run_id, before=before))

    async def fork(self, run_id: str, *, before: str | None = None, id: str | None = None) -> RunHandle[Any]:
        """Start a run that has already done what another one did, see `Client.fork`."""
        chosen = id or ids.run_id(self._client._clock.now())  # noqa: SLF001 - as above
        await self._ask(lambda client: client.fork(run_id, before=before, id=chosen))
        row = await self._client.row(run_id)
        return self._client.handle(chosen, self._client._registry.known(row.workflow))  # noqa: SLF001 - as above

    async def pause(self, run_id: str, reason: str = "") -> None:
        """Put a run aside, see `Client.pause`."""
        await self._ask(lambda client: client.pause(run_id, reason))

    async def resume(self, run_id: str, *, skip: bool = False) -> None:
        """Let a paused run go on, see `Client.resume`."""
        await self._ask(lambda client: client.resume(run_id, skip=skip))

    async def annotate(self, run_id: str, key: str | Mapping[str, Any], value: Any = None, **options: Any) -> None:
        """Make a remark about a run, also one that this command starts; see `Client.annotate`."""
        await self._ask(lambda client: client.annotate(run_id, key, value, **options))

    def transaction(self, fn: Callable[..., Any], /, *args: Any) -> None:
        """
        Let a plain function change rows of your own in the same commit.

        It is called when the handler has returned, with the open `Transaction` and `args`, perhaps more than once of
        which the last counts. What it raises undoes everything, frees the key and is raised by the command.

        Raises:
            InvalidOption: It is no plain function.
        """
        given: object = fn
        if not callable(given) or inspect.iscoroutinefunction(fn):
            option = "transaction"
            raise InvalidOption(option, f"{fn!r} is not a plain function (def)")
        self._bodies.append(lambda transaction: _called(fn, transaction, *args))

    async def _ask(self, call: Callable[[Client], Coroutine[Any, Any, Any]]) -> None:
        await call(self._drafting())
        self._asked.append(call)

    def _drafting(self) -> Client:
        client = copy.copy(self._client)
        client.store, client.adopter = cast("Store", self._draft), None
        return client

    async def settle(self, result: str, until: int | None) -> None:
        """
        Store what was asked for, with the result.

        Raises:
            CommandOvertaken: Another attempt has begun.
            PerdureError: As for what was asked for: a run has changed since, so that it is refused now.
        """
        for _ in range(TRIES):
            rows = await self._client.store.apply(self._operation(result, until))
            if not is_stale(rows):
                return
            ours = [row for row in await self._client.store.rows("command", *self.place) if row[1] == self.token]
            if not ours:
                raise CommandOvertaken(*self.place)
            # A run is no longer what it was when the handler asked: each call decides anew.
            self._draft = _Draft(self._client.store)
            for call in self._asked:
                await call(self._drafting())
        raise self.changing()

    def _operation(self, result: str, until: int | None) -> Operation:
        draft, bodies = self._draft, self._bodies
        settle: Line = ("settle_command", (*self.mark, result, until))

        def body(transaction: Transaction) -> list[Line]:
            for each in bodies:
                each(transaction)
            return [*draft.lines, settle]

        return Operation(
            [("guard_command", self.mark), *draft.guards], changed=draft.changed, makes_due=draft.makes_due, body=body
        )

    def changing(self) -> StoreBusy:
        """What it was about changed each time."""
        return StoreBusy(f"What the command {self.key!r} is about changed each time it was to be stored; try again.")


def _called(fn: Callable[..., Any], /, *args: Any) -> None:
    """
    Call a function that writes rows.

    Raises:
        InvalidOption: It is a coroutine function behind something, so that it has written nothing.
    """
    answer = plain_call(fn, *args)
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        option = "transaction"
        raise InvalidOption(option, f"{fn!r} is not a plain function (def): it returned something to be awaited")


class _Draft:
    """
    A store that notes what is to be written, and how what was read for it must still stand then.

    Args:
        store: Where everything is read.

    Attributes:
        guards: Statements that give a row when something has changed since.
        lines: What is to be written.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._started: set[str] = set()
        self.guards: list[Line] = []
        self.lines: list[Line] = []
        self.changed: set[int] = set()
        self.makes_due = False

    def __getattr__(self, name: str) -> Any:
        """All that only reads."""
        return getattr(self._store, name)

    async def apply(self, operation: Operation) -> list[Row]:
        """Note an operation, if it would do something; returns a row then, as the database would."""
        body = operation.body
        guards, lines = (operation.lines, body.lines) if isinstance(body, Guarded) else ([], operation.lines)
        for name, parameters in lines:
            row, guard = await self._answer(name, parameters)
            if not row:
                return []
            guards = [*guards, *guard]
        self.guards += guards
        self.lines += lines
        self._started |= {parameters[0] for name, parameters in lines if name in _STARTS}
        self.changed |= operation.changed
        self.makes_due = self.makes_due or operation.makes_due
        return [("started", 0)]

    async def _answer(self, name: str, parameters: tuple[Any, ...]) -> tuple[bool, list[Line]]:
        """Whether a statement would do something, and what must still hold for that when it does."""
        if name == "take_name":
            option = "dedupe, debounce"
            raise InvalidOption(option, "a command's key takes their place")
        if name in _STARTS:
            free = parameters[0] not in self._started and await find_run(self._store, parameters[0]) is None
            queue = parameters[_QUEUE] if name == "enqueue" else None
            guards: list[Line] = [("guard_vacant", (parameters[0],))]
            if queue is not None:
                open_ = {row[0] for row in await self._store.rows("queues") if row[1] != "draining"}
                return free and queue in open_, [*guards, ("guard_queue", (queue,))]
            return free, guards
        if name == "send" and parameters[0] not in self._started:
            run = await find_run(self._store, parameters[0])
            return run is not None and not run.finished, [("guard_open", (parameters[0],))]
        if name == "attach" and parameters[0] not in self._started:
            return await find_run(self._store, parameters[0]) is not None, []
        return True, []


_STARTS = {"start", "enqueue"}
