"""
Sagas: what undoes the steps of a run that does not end well.

A step or child that is asked for with a compensation leaves it here when it succeeds. Nothing of that is stored:
the outcome's own entry says that it succeeded, and the code, when it is replayed, with what it is undone. When
the workflow fails, its compensations are ordinary steps of the same run, behind everything else.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from asyncio import CancelledError, Future
from collections.abc import Callable
from typing import Any, NamedTuple

from perdure.codec.canonical import fingerprint
from perdure.codec.failure import message_of
from perdure.engine.child import Child
from perdure.engine.definition import Registry, Step, StepOptions, WorkflowOptions
from perdure.engine.loop import RunFuture
from perdure.engine.machine import Machine
from perdure.engine.outcome import cancel_request
from perdure.engine.request import StepRequest
from perdure.errors import EngineSignal, InvalidOption
from perdure.model.entry import Kind
from perdure.model.retry import NO_RETRY, Retry

SUFFIX = "#compensate"
"""What the key of a compensation ends in, behind the key of what it undoes."""
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Undo(NamedTuple):
    """A compensation to be run, with its arguments."""

    key: str
    step: Step[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Saga:
    """
    The compensations of one run.

    Args:
        settings: The workflow's: in which order, and whether after a cancellation too.
    """

    def __init__(self, machine: Machine, registry: Registry, settings: WorkflowOptions) -> None:
        self._machine = machine
        self._registry = registry
        self._settings = settings
        self._pending: dict[str, StepRequest | None] = {}
        self._futures: dict[str, RunFuture] = {}

    # -------------------------------------------------------------------------------- remembering
    def step(self, request: StepRequest, compensation: Any) -> Future[Any]:
        """
        Remember this step's compensation when it has succeeded.

        Returns:
            What the workflow is to await. When that is cancelled, the step goes on: it may have had its effect,
            and only its outcome tells whether there is something to undo.
        """
        call = _Call(request.key, self._undoing(compensation), request.args, request.kwargs)
        return asyncio.shield(self._watch(call, request.future, lambda value: value, request))

    async def child(self, child: Child[Any], compensation: Any, args: tuple[Any, ...]) -> Any:
        """Wait for a child, and remember its compensation when it has completed. Giving up cancels the child."""
        call = _Call(child.key, self._undoing(compensation), args, {})
        end = self._watch(call, child.wait(), child.decoded, None)
        try:
            await asyncio.shield(end)
        except CancelledError:
            if not end.done():
                # It is asked to end; if it completes all the same, there is something to undo.
                end.cancel()
                _ = self._watch(call, child.wait(again=True), child.decoded, None)
            raise
        return await child.result()

    def _undoing(self, compensation: Any) -> Step[..., Any]:
        if hasattr(compensation, "__name__"):
            return self._registry.step_of(compensation)
        return Step(compensation, StepOptions(name="compensation"))  # a partial, or an object that can be called

    def withdraw(self, key: str) -> None:
        """Forget how to undo the steps of this key, and of repeats of it."""
        undos = self._machine.undos
        undos[:] = [undo for undo in undos if undo.key != key and not undo.key.startswith(f"{key}#")]

    def _watch(
        self, call: _Call, future: RunFuture, decode: Callable[[Any], Any], request: StepRequest | None
    ) -> RunFuture:
        self._pending[call.key] = request
        self._futures[call.key] = future

        def ended(future: Future[Any]) -> None:
            if future.cancelled():
                return
            del self._pending[call.key], self._futures[call.key]
            if future.exception() is None:
                self._machine.undos.append(call.undo(decode(future.result())))

        future.add_done_callback(ended)
        return future

    # ------------------------------------------------------------------------------------ undoing
    def main_ended(self, main: Future[Any]) -> None:
        """The workflow function has ended; if that makes it necessary, the run goes on with undoing what it did."""
        machine = self._machine
        if not (machine.undos or self._pending) or not machine.live:
            return
        failure = CancelledError() if main.cancelled() else outermost(main.exception())
        if failure is not None and self._needed(failure):
            machine.compensating = True
            machine.main = machine.loop.create_main(self._roll_back(failure))

    def _needed(self, failure: BaseException) -> bool:
        if isinstance(failure, EngineSignal | KeyboardInterrupt | SystemExit):
            return False
        return not isinstance(failure, CancelledError) or to_compensate(self._machine, self._settings)

    async def _roll_back(self, failure: BaseException) -> None:
        """
        Undo what the workflow did.

        Raises:
            BaseException: What the workflow raised, when that is done.
        """
        machine = self._machine
        await self._come_to_rest()
        undos = machine.undos[::-1]
        if undos:
            what = {"error": f"{type(failure).__name__}: {message_of(failure)}", "steps": [undo.key for undo in undos]}
            plan = machine.payloads.seal(json.dumps(what), "The plan of a compensation", limited=False)
            machine.note(Kind.COMPENSATING, "compensate", plan)
        if undos and self._settings.compensate_in_parallel:
            await asyncio.wait([self._undo(undo) for undo in undos])
        else:
            for undo in undos:
                await self._undo(undo)
        raise failure

    async def _come_to_rest(self) -> None:
        """Nothing else of the workflow may go on: its other tasks end, and what has a compensation has its outcome."""
        others = self._machine.loop.beside
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others)
        while self._pending:
            for request in self._pending.values():
                if request is not None:
                    request.last = True
            await asyncio.wait(list(self._futures.values()))

    def _undo(self, undo: Undo) -> RunFuture:
        machine, step, stand_in = self._machine, undo.step, self._registry.stand_in
        if step.settings.retry is NO_RETRY:
            step = step.options(retry=Retry())
        request = StepRequest(
            undo.key + SUFFIX, machine.loop.create_future(), step if stand_in is None else stand_in(step), undo.args,
            undo.kwargs, returns=step.returns, transactional=False,
            fingerprint=fingerprint(undo.args, undo.kwargs) if step.settings.fingerprint else None,
        )  # fmt: skip
        request.compensation = True
        machine.request(request)
        return request.future


class _Call:
    """
    A call that can be undone: of its result and its arguments, the compensation gets as many as it takes.

    Raises:
        InvalidOption: It needs others; the step is not begun then.
    """

    def __init__(self, key: str, step: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.key = key
        self._step = step
        self._args = args
        try:
            signature = inspect.signature(step.fn)
        except ValueError:  # a builtin may not tell
            self._most: int | None = 1
            self._kwargs: dict[str, Any] = {}
            return
        kinds = {name: parameter.kind for name, parameter in signature.parameters.items()}
        names = [name for name, kind in kinds.items() if kind in _POSITIONAL]
        self._most = None if inspect.Parameter.VAR_POSITIONAL in kinds.values() else len(names)
        given = (None, *args)[: self._most]
        takes_all = inspect.Parameter.VAR_KEYWORD in kinds.values()
        self._kwargs = {
            name: value
            for name, value in kwargs.items()
            if name not in names[: len(given)] and (name in kinds or takes_all)
        }
        try:
            signature.bind(*given, **self._kwargs)
        except TypeError as error:
            option = "compensate"
            problem = f"{step.name} would be called with the result of {key!r} and then its arguments, but {error}"
            raise InvalidOption(option, problem) from None

    def undo(self, result: Any) -> Undo:
        """What undoes the call, which had this result."""
        return Undo(self.key, self._step, (result, *self._args)[: self._most], self._kwargs)


def to_compensate(machine: Machine, settings: WorkflowOptions) -> bool:
    """Whether a run that was cancelled is to be compensated: because of its deadline, or when asked to."""
    return machine.timed_out or settings.compensate_on_cancel or machine.cancel_compensates


def cancel_again(machine: Machine, now: int) -> tuple[Kind, str, int, str | None]:
    """The outcome that interrupts the clean-up of a run that was cancelled."""
    if machine.timed_out:
        return Kind.DEADLINE_REACHED, "", now, None
    request = cancel_request(machine.cancel_reason or "", compensate=machine.cancel_compensates)
    return Kind.CANCEL_REQUESTED, "", now, machine.payloads.seal(request, "A reason", limited=False)


def outermost(error: BaseException | None) -> BaseException | None:
    """The error that counts: a group that a task with the engine's own control flow was in is looked into."""
    while isinstance(error, BaseExceptionGroup):
        others = error.split(EngineSignal)[1]
        if others is not None:
            return others
        error = error.exceptions[0]
    return error
