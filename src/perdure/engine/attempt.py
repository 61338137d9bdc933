"""One attempt of one step: its body on the process's ordinary loop, or in a thread."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from perdure.clock import SECOND, micros
from perdure.codec.payload import Payloads
from perdure.engine.artifact import Artifacts
from perdure.engine.current import Emission, StepInfo, running_step, wait_in_thread
from perdure.engine.emitted import read_emitted
from perdure.engine.ledger import Rider
from perdure.engine.request import StepRequest
from perdure.errors import EngineSignal, RecordedError, StepOver, StepTimedOut
from perdure.model.run import Claimed

if TYPE_CHECKING:
    from perdure.engine.host import Host
    from perdure.engine.live import Live
    from perdure.engine.observer import Observer

T = TypeVar("T")
Ended = Callable[["Attempt", str, Any, BaseException | None], None]


class Keeper(Protocol):
    """Who keeps a run's attempts."""

    def tell(self, finish: Callable[..., None], *outcome: Any) -> None:
        """Call it, at once or soon, in the worker's own context: a body has ended."""

    def ride(self, rider: Rider) -> None:
        """Let it commit with what the run writes next; callable from any thread."""

    @property
    def live(self) -> Live:
        """Takes what bodies emit; made when the first one does."""


class Attempt:
    """
    A running body.

    Args:
        ended: Called on the loop with the sealed result and its decoded form, or with the error.
        context: What the body runs in; a copy of the present one when left out.

    Attributes:
        over: Its outcome no longer counts: it has timed out or was cancelled.
    """

    __slots__ = ("_ended", "_host", "_keeper", "_run", "_task", "_timer", "over", "request", "started_at")

    def __init__(  # noqa: PLR0917 - one per part; made for every step, and keywords take time
        self,
        host: Host,
        run: Claimed,
        request: StepRequest,
        ended: Ended,
        keeper: Keeper,
        context: contextvars.Context | None = None,
    ) -> None:
        self.request = request
        self.started_at = host.clock.now()
        self.over = False
        self._host = host
        self._run = run
        self._ended = ended
        self._keeper = keeper
        self._timer: asyncio.TimerHandle | None = None
        # None once it is over: its context leads back here, and a circle waits for a garbage collection.
        self._task: asyncio.Task[None] | None = asyncio.Task(
            self._body(), loop=host.loop, name=request.key, context=context
        )
        if request.step.limited:
            at, error = self._limit()
            self._timer = host.loop.call_later(max(0, at - self.started_at) / SECOND, self._expire, error)

    @property
    def info(self) -> StepInfo:
        """What the body may know about itself."""
        run, request = self._run, self.request
        return StepInfo(run.id, run.workflow, request.key, request.attempt, run.generation, run.epoch)

    def emit(self, topic: str, value: Any) -> None:
        """See `CurrentStep.emit`."""
        if self.over:
            raise StepOver(self.request.key)
        self._keeper.live.emit(self.request, topic, value)

    def record(self, statement: str, *values: Any) -> None:
        """See `Running.record`."""
        if self.over:
            raise StepOver(self.request.key)
        self._keeper.ride(Rider(statement, values, self.request.attempt))

    @property
    def payloads(self) -> Payloads:
        """Seals what is recorded."""
        return self._host.payloads

    @property
    def now(self) -> int:
        """Microseconds since 1970."""
        return self._host.clock.now()

    async def flush(self) -> None:
        """See `CurrentStep.flush`."""
        if self.over:
            raise StepOver(self.request.key)
        await self._keeper.live.flush()

    async def emitted(self, key: str) -> list[Emission]:
        """See `CurrentStep.emitted`."""
        return await read_emitted(self._host.store, self._host.payloads, self._run.number, key)

    @property
    def artifacts(self) -> Artifacts:
        """See `CurrentStep.artifacts`."""
        return Artifacts(self._host, self._run, self.request.key)

    def wait(self, awaitable: Awaitable[T]) -> T:
        """See `CurrentStep.wait`."""
        return wait_in_thread(awaitable, self._host.loop)

    def cancel(self, error: BaseException | None = None) -> None:
        """Stop it: its outcome does not matter any more, or is this error."""
        self._close(error or asyncio.CancelledError())
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _close(self, _error: BaseException | None) -> None:
        self.over = True
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _limit(self) -> tuple[int, StepTimedOut]:
        """The earlier of the attempt's and the step's end of time; there is one."""
        options = self.request.step.settings
        limits = []
        if options.timeout is not None:
            span = micros(options.timeout)
            limits.append((self.started_at + span, StepTimedOut(self.request.key, span / SECOND, "attempt")))
        if options.total_timeout is not None:
            span = micros(options.total_timeout)
            begun = self.request.first_started_at or self.started_at
            limits.append((begun + span, StepTimedOut(self.request.key, span / SECOND, "total")))
        return min(limits, key=lambda limit: limit[0])

    def _expire(self, error: StepTimedOut) -> None:
        if not self.over:
            self.cancel(error)
            self._ended(self, "", None, error)

    async def _body(self) -> None:
        request = self.request
        text, decoded = "", None
        error: BaseException | None = None
        try:
            running_step.set(self)
            if request.step.is_async:
                value = await request.step.fn(*request.args, **request.kwargs)
            else:
                value = await self._in_thread()
            what = f"The result of step {request.key!r}"
            # The workflow gets what a replay would get, on the first execution too (I5).
            text, decoded = request.returns.settle(value, what)
            text = self._host.payloads.seal(text, what)
        except KeyboardInterrupt:
            raise
        except (asyncio.CancelledError, EngineSignal) as odd:
            error = own_signal(odd)
        except BaseException as raised:  # noqa: BLE001 - a body may raise anything, and all of it is an outcome
            error = raised
        if not self.over:
            self._keeper.tell(self._finish, text, decoded, error)

    async def _in_thread(self) -> Any:
        request = self.request
        context = contextvars.copy_context()
        value = await self._host.loop.run_in_executor(
            self._host.threads, lambda: context.run(plain_call, request.step.fn, *request.args, **request.kwargs)
        )
        return await value if inspect.isawaitable(value) else value

    def _finish(self, text: str, decoded: Any, error: BaseException | None) -> None:
        if not self.over:
            self._close(error)
            self._task = None
            self._ended(self, text, decoded, error)


class ObservedAttempt(Attempt):
    """An attempt that an observer is told of."""

    __slots__ = ("_observer",)

    def __init__(self, host: Host, run: Claimed, request: StepRequest, ended: Ended, keeper: Keeper) -> None:
        assert host.observer is not None  # noqa: S101 - chosen for this
        self._observer = host.observer
        context = contextvars.copy_context()
        context.run(self._observer.attempt_begins, run, request, host.clock.now())
        super().__init__(host, run, request, ended, keeper, context)

    def _close(self, error: BaseException | None) -> None:
        if not self.over:
            tell_end(self._observer, self._run, self.request, error, self.started_at, self._host.clock.now())
        super()._close(error)


def tell_end(  # noqa: PLR0917 - what there is to tell
    observer: Observer, run: Claimed, request: StepRequest, error: BaseException | None, begun: int, now: int
) -> None:
    """Tell of the end of an attempt, and of its step where that follows; after an error it may be tried again."""
    observer.attempt_ended(run, request, error, begun, now)
    if error is None or isinstance(error, asyncio.CancelledError):
        observer.step_ended(run, request, error, now)


def own_signal(odd: BaseException, whose: str = "the step's own body") -> RecordedError:
    """An ordinary error for one that a body raised itself, and that would be taken for the engine's or for Ctrl-C."""
    return RecordedError(f"{type(odd).__module__}:{type(odd).__qualname__}", f"raised by {whose}", {})


def plain_call(fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """
    Call a body that is no coroutine, with a coroutine's rule for StopIteration, which no future can hold.

    Raises:
        RuntimeError: It raised StopIteration.
        RecordedError: It raised KeyboardInterrupt; nobody has pressed a key, as that reaches the main thread only.
    """
    try:
        return fn(*args, **kwargs)
    except KeyboardInterrupt as odd:
        raise own_signal(odd) from None
    except StopIteration as error:
        problem = "the step raised StopIteration"
        raise RuntimeError(problem) from error
