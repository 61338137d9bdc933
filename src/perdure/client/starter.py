"""Start runs and send signals: what is asked of a store, or of a caller's open transaction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Generic, Never, Protocol, TypeVar

from perdure import ids
from perdure.client.enqueue import Start, add_beside, enqueue
from perdure.clock import Clock, micros, some_micros
from perdure.codec.canonical import same_json
from perdure.codec.payload import Payloads
from perdure.codec.value import TypeCodec, codec_for
from perdure.engine.definition import Registry, Workflow
from perdure.engine.ledger import first_remarks
from perdure.engine.observer import Observer
from perdure.engine.request import signal_topic
from perdure.errors import InvalidOption, RunFinished, StartConflict
from perdure.model.check import check_number
from perdure.model.ledger import Remarks
from perdure.model.limits import Limits
from perdure.model.queue import Queue
from perdure.model.run import Claimed, RunRow
from perdure.model.start import Debounce, Dedupe
from perdure.model.status import Status
from perdure.model.version import unpin
from perdure.store.load import load_first_input, load_run
from perdure.store.operation import Operation, Row
from perdure.store.record import shelve
from perdure.store.store import Database

H = TypeVar("H")
"""What a start gives: a handle on the run."""


class Adopter(Protocol):
    """A worker in this process that can drive a new run without anybody claiming it first."""

    def reserve(self) -> int | None:
        """Its number, if it can take one more run; `adopt` or `unreserve` follows."""

    def adopt(self, run: Claimed) -> None:
        """Drive this run, which was inserted as claimed by it."""

    def unreserve(self) -> None:
        """The run was not inserted after all."""

    def drives(self, number: int) -> bool:
        """Whether it drives this run, so that its end, if it comes, comes from here."""


class Starter(ABC, Generic[H]):
    """
    Starts runs, and sends signals.

    Args:
        store: Where they go: what is done is durable when it returns, or with the caller's transaction.
    """

    store: Database
    adopter: Adopter | None = None

    def __init__(
        self,
        store: Database,
        *,
        clock: Clock,
        payloads: Payloads,
        registry: Registry,
        limits: Limits,
        observer: Observer | None = None,
    ) -> None:
        self.store = store
        self.payloads = payloads
        self._clock = clock
        self._registry = registry
        self._limits = limits
        self._observer = observer

    @abstractmethod
    def _started(self, run_id: str, returns: TypeCodec, number: int | None = None) -> H:
        """What is given for a run that was started; its number if it is new."""

    @abstractmethod
    async def _insert(self, operation: Operation, run: tuple[Any, ...] | None, trace: str | None) -> list[Row]:
        """
        Insert a run.

        Args:
            run: The run as claimed, without its number, when the worker here is to drive it.
            trace: What is kept with it.
        """

    async def start(
        self,
        workflow: Workflow[..., Any] | str,
        args: tuple[Any, ...],
        *,
        id: str | None = None,
        tags: Iterable[str] = (),
        timeout: float | timedelta | None = None,
        delay: float | timedelta = 0,
        queue: Queue | str | None = None,
        key: str = "",
        priority: int = 0,
        weight: int = 1,
        dedupe: Dedupe | str | None = None,
        debounce: Debounce | None = None,
        version: str | None = None,
        annotations: Remarks = (),
        **unknown: Never,
    ) -> H:
        """
        Start a run; it is durable when this returns.

        Args:
            workflow: A name, whose newest version is taken; or what the decorator returned, which is taken itself.
            id: The run's id, 1 to 200 characters; made up when left out. Starting again with the same id,
                workflow and input gives a handle on the same run.
            tags: To find it by.
            timeout: Seconds or timedelta from now to its deadline; the workflow's own when left out.
            delay: Seconds or timedelta to wait before it begins, or stands in line.
            queue: The queue that it goes through; the workflow's own when left out, none when "".
            key: Whose line of the queue it stands in, such as a tenant's; the keys take turns.
            priority: Levels before others of its key, or behind them; see `Queue.ageing`.
            weight: What it counts for in the queue's rates, 1 or more.
            dedupe: Tells it from its repetition; a text is short for Dedupe(text).
            debounce: Start once for a flood of starts, with the last input.
            version: Which version of the workflow to begin with, and so to stay with; "" for the one without.
            annotations: Remarks about the run, stored in its commit: a mapping of keys to values, or `Remark` objects.
                A start that finds its run there, or joins another, makes none.
            unknown: There are no others; the input has no names.

        Raises:
            InvalidOption: An option that there is not, or that is wrong.
            UnknownQueue: There is no such queue; nothing was stored.
            QueueDraining: The queue takes no more runs; nothing was stored.
            DuplicateRun: Dedupe(then="reject"), and another run has the key; nothing was stored.
            UnknownWorkflow: It is not registered here.
            InvalidInput: The input does not fit the workflow's parameters; nothing was stored.
            StartConflict: The id belongs to a run of another workflow or with other input.
        """
        if unknown:
            option = ", ".join(sorted(unknown))
            raise InvalidOption(option, "a start has no such option; the workflow's input is positional")
        definition = self._registry.pick(workflow, version)
        what = f"The input of {definition.name}"
        text = definition.call.encode(args, {})
        payload = self.payloads.seal(text, what)
        now = self._clock.now()
        run_id = ids.run_id(now) if id is None else ids.check_id("run id", id)
        limit = timeout if timeout is not None else definition.settings.timeout
        deadline = None if limit is None else now + some_micros(limit, "timeout")
        due_at = now + micros(delay, "delay")
        labels = ids.check_tags(tags)
        remarks = first_remarks(self.payloads, annotations)
        trace = None if self._observer is None else self._observer.starting(definition.stored_as, run_id)
        terms = definition.terms(queue, key, priority, weight)
        if terms.queue or dedupe is not None or debounce is not None:
            dedupe = Dedupe(dedupe) if isinstance(dedupe, str) else dedupe
            _check_names(dedupe, debounce)
            if debounce is not None:
                due_at = now + micros(debounce.wait)
            start = Start(
                run_id, definition.stored_as, payload, ids.seed(), now, due_at, deadline, terms, tuple(labels),
                dedupe, debounce, trace=trace, remarks=remarks,
            )  # fmt: skip
            return await self._enqueue(start, definition, text, version)
        owner = self.adopter.reserve() if self.adopter and due_at == now else None
        operation = Operation(makes_due=owner is None)
        stored = shelve(operation, run_id, payload) if len(payload) > self._limits.inline_bytes else payload
        seed = ids.seed()
        operation.add("start", run_id, definition.stored_as, *_begun(owner, due_at, now), stored, seed, now,
                      None if owner is None else now, deadline, None)  # fmt: skip
        add_beside(operation, (run_id, seed, now), labels, trace, remarks)
        run = (run_id, definition.stored_as, Status.RUNNING, 1, 1, None, payload, seed, now, deadline, None)
        rows = await self._insert(operation, run if owner is not None else None, trace)
        if not rows:
            await self._check_same(run_id, definition, text, version)
        return self._started(run_id, definition.call.returns, rows[0][1] if rows else None)

    async def batch(
        self,
        workflow: Workflow[..., Any] | str,
        item: Any,
        *,
        size: int,
        wait: float | timedelta,
        key: str = "",
        queue: Queue | str | None = None,
    ) -> H:
        """
        Hand an item to a run that takes many at once: a workflow whose input is one list.

        The first item of a batch makes its run, which begins when it has `size` items, or `wait` after the first.
        The item is durable when this returns. In the rates of a queue a batch weighs as many as it has items.

        Args:
            size: Most items of one run, 2 or more.
            wait: Seconds or timedelta.
            key: Items with different keys go to different runs; it is the queue's key as well.
            queue: As for `start`.

        Returns:
            A handle on the run that has the item.

        Raises:
            InvalidInput: The item does not fit; nothing was stored.
            UnknownQueue, QueueDraining: As for `start`.
        """
        check_number("size", size, 2)  # a batch of one is a start
        definition = self._registry.pick(workflow)
        text = definition.call.encode(([item],), {})
        now = self._clock.now()
        deadline = None if definition.settings.timeout is None else now + micros(definition.settings.timeout, "timeout")
        terms = definition.terms(queue)
        if terms.queue and key:
            terms = definition.terms(terms.queue, key)
        run_id = ids.run_id(now)
        trace = None if self._observer is None else self._observer.starting(definition.stored_as, run_id)
        start = Start(
            run_id, definition.stored_as, self.payloads.seal(text, f"The input of {definition.name}"),
            ids.seed(), now, now + micros(wait, "wait"), deadline, terms, batch=(key, size), trace=trace,
        )  # fmt: skip
        return await self._enqueue(start, definition, text)

    async def _enqueue(self, start: Start, definition: Workflow[..., Any], text: str, version: str | None = None) -> H:
        found = await enqueue(self.store, start, self._limits.inline_bytes)
        if found is None:
            await self._check_same(start.id, definition, text, version)
        return self._started(found or start.id, definition.call.returns)

    async def _check_same(self, run_id: str, definition: Workflow[..., Any], text: str, version: str | None) -> None:
        """
        The same start once more is the same run; another one under its id is a mistake.

        A newer version that has become the one for new runs meanwhile makes no difference; one that was asked for does.
        """
        row = await self.row(run_id)
        there, wanted = row.workflow, definition.stored_as
        if there != wanted and (version is not None or unpin(there)[0] != definition.name):
            raise StartConflict(run_id, f"the workflow {there!r} instead of {wanted!r}")
        if not same_json(self.payloads.open(await load_first_input(self.store, row)), text):
            problem = "other input"
            raise StartConflict(run_id, problem)

    async def signal(self, run_id: str, name: str, data: Any = None, *, key: str | None = None) -> bool:
        """
        Send a signal to a run, whether it waits for it yet or not. It is durable when this returns.

        Args:
            name: What the run receives it as.
            data: Any value that can be stored as JSON.
            key: Deduplication: of several signals with the same name and key only the first counts; 1 to 200
                characters.

        Returns:
            Whether it was accepted: False when one with this key came before.

        Raises:
            RunNotFound: There is no such run.
            RunFinished: It has ended.
        """
        if key is not None:
            ids.check_id("signal key", key)
        operation = Operation(makes_due=True)
        self._send(operation, run_id, name, key, data)
        rows = await self.store.apply(operation)
        if rows:
            return True
        row = await self.row(run_id)
        if row.finished:
            raise RunFinished(run_id, row.status)
        return False

    def _send(self, operation: Operation, run_id: str, name: str, key: str | None, data: Any) -> None:
        """Add a signal to what an operation does."""
        what = f"The payload of signal {name!r}"
        payload = self.payloads.seal(codec_for(Any).encode(data, what), what)
        now, topic = self._clock.now(), signal_topic(ids.check_name("signal name", name))
        if len(payload) > self._limits.inline_bytes:
            payload = shelve(operation, run_id, payload)
        operation.add("send", run_id, topic, key, payload, now)
        operation.add("wake_id", run_id, topic, now)

    async def row(self, run_id: str) -> RunRow:
        """
        A run as it is stored.

        Raises:
            RunNotFound: There is no such run.
        """
        return await load_run(self.store, run_id)


def _check_names(dedupe: object, debounce: object) -> None:
    """
    Check what a start may have instead of an id.

    Raises:
        InvalidOption: One is something else, or there are both.
    """
    for option, given, kind in (("dedupe", dedupe, Dedupe), ("debounce", debounce, Debounce)):
        if given is not None and not isinstance(given, kind):
            raise InvalidOption(option, f"{given!r} is no {kind.__name__}(…)")
    if dedupe is not None and debounce is not None:
        option = "debounce"
        raise InvalidOption(option, "it excludes dedupe")


def _begun(owner: int | None, due_at: int, now: int) -> tuple[Any, ...]:
    """Status, owner, epoch and due time of a new run: claimed by a worker here, or to be claimed."""
    return ("running", owner, 1, None) if owner is not None else ("queued", None, 0, max(due_at, now))
