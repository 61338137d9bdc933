"""What the functions of stages are given."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from copy import copy
from typing import Any, Generic, NamedTuple, TypeVar, overload

from perdure.codec.value import TypeCodec, codec_for, dump_plain
from perdure.engine.artifact import Artifacts
from perdure.engine.current import current_step
from perdure.errors import MissingOutput, Overloaded, TooManyEntries
from perdure.model.check import check_number
from perdure.pipeline.types import NONE, converted

I_co = TypeVar("I_co", covariant=True)
C_co = TypeVar("C_co", covariant=True)
T = TypeVar("T")
Given = Callable[[TypeCodec, str], Any]
"""Gives a stage's input as a type; the text is what errors call it."""


PROGRESS, LOG = "progress", "log"
"""The topics that stages tell of themselves under."""
log = logging.getLogger("perdure.run")


class StageLog(NamedTuple):
    """
    Takes log lines of a stage: into the run's journal, where they stay, and to the logger "perdure.run".

    A line that an attempt has logged is there again, with the attempt's number, when the next one logs it too. What is
    more than a run may keep, see `Limits`, goes to the logger only: logging does not fail a stage.
    """

    stage: str

    def debug(self, message: str, **fields: Any) -> None:
        """Log what only its author wants to know."""
        self._tell(logging.DEBUG, message, fields)

    def info(self, message: str, **fields: Any) -> None:
        """Log what went as it should."""
        self._tell(logging.INFO, message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        """Log what somebody should look at."""
        self._tell(logging.WARNING, message, fields)

    def error(self, message: str, **fields: Any) -> None:
        """Log what went wrong."""
        self._tell(logging.ERROR, message, fields)

    def _tell(self, level: int, message: str, fields: dict[str, Any]) -> None:
        step = current_step()
        told = {"stage": self.stage, "level": logging.getLevelName(level).lower(), "message": message}
        _emit(LOG, told | ({"fields": fields} if fields else {}))
        known = {"run_id": step.run_id, "workflow": step.workflow, "stage": self.stage}
        log.log(level, "%s", message, extra=known)


def _emit(topic: str, told: dict[str, Any]) -> None:
    with suppress(Overloaded, TooManyEntries):
        current_step().emit(topic, told)


class StageContext(Generic[I_co, C_co]):
    """
    A stage of a run of a pipeline, as its function sees it: ``StageContext[Input, Config]``.

    Input is what the group before gave: the output of its stage, or of several a dict of them by their ids; for the
    first group it is the run's input. None as Input is for a stage that takes no input, as Config for one without.

    Attributes:
        run_id: The run's id; of a distributed stage, that of its child run.
        id: The stage's id.
        outputs: What the stages of earlier groups gave, by their ids; read only. Of these, a distributed stage sees
            those of the group before, and those that it depends on.
        notice: Of a batch's check: what the signal that brought it about said; None when it was its time.
    """

    __slots__ = ("_config", "_given", "_parsed", "_types", "id", "notice", "outputs", "run_id")

    def __init__(
        self,
        run_id: str,
        stage: str,
        *,
        types: tuple[Any, Any],
        given: Given,
        config: Any,
        outputs: Mapping[str, Any],
    ) -> None:
        self.run_id = run_id
        self.id = stage
        self.outputs = outputs
        self.notice: Any = None
        self._types = types
        self._given = given
        self._config = config
        self._parsed: dict[str, Any] = {}

    def fresh(self, notice: Any = None) -> StageContext[I_co, C_co]:
        """
        The same for another attempt, with input and config read and checked.

        Raises:
            InvalidInput: One of them is not what the stage declares.
        """
        other = copy(self)
        other._parsed = {}  # noqa: SLF001 - of this class
        other.notice = notice
        _ = other.input, other.config
        return other

    @property
    def input(self) -> I_co:
        """What the stage works on."""
        if "input" not in self._parsed:
            wanted = self._types[0]
            what = f"The input of stage {self.id!r}"
            self._parsed["input"] = None if wanted is NONE else self._given(codec_for(wanted), what)
        value: I_co = self._parsed["input"]
        return value

    @property
    def config(self) -> C_co:
        """How the run is to do it: what it was started with, and the defaults of today for the rest."""
        if "config" not in self._parsed:
            wanted = self._types[1]
            what = f"The config of stage {self.id!r}"
            text = dump_plain(self._config).decode()
            self._parsed["config"] = None if wanted is NONE else codec_for(wanted).decode(text, what)
        value: C_co = self._parsed["config"]
        return value

    @overload
    def require(self, stage: str) -> Any: ...
    @overload
    def require(self, stage: str, type: type[T]) -> T: ...
    def require(self, stage: str, type: Any = Any) -> Any:
        """
        What an earlier stage gave.

        Args:
            type: To have it as this type; as it is when left out.

        Raises:
            MissingOutput: No earlier stage of this id has given anything.
            InvalidInput: It does not have the type.
        """
        if stage not in self.outputs:
            raise MissingOutput(self.id, stage, list(self.outputs))
        return converted(self.outputs[stage], codec_for(Any), codec_for(type), f"The output of stage {stage!r}")

    @overload
    def optional(self, stage: str) -> Any: ...
    @overload
    def optional(self, stage: str, type: type[T]) -> T | None: ...
    def optional(self, stage: str, type: Any = Any) -> Any:
        """What an earlier stage gave; None if there is none."""
        return self.require(stage, type) if stage in self.outputs else None

    @property
    def attempt(self) -> int:
        """The running attempt of the stage, from 1."""
        return current_step().attempt

    @property
    def idempotency_key(self) -> str:
        """See `StepInfo.idempotency_key`: the same for every attempt, another one when the run is done again."""
        return current_step().idempotency_key

    @property
    def cancelled(self) -> bool:
        """Whether the outcome counts no more: the run was cancelled, a sibling has failed, or time is up."""
        return current_step().cancelled

    @property
    def artifacts(self) -> Artifacts:
        """What the run keeps under names, for all of its stages: ``await stage.artifacts.save("page.txt", text)``."""
        return current_step().artifacts

    def wait(self, awaitable: Awaitable[T]) -> T:
        """See `CurrentStep.wait`: for plain functions, such as ``stage.wait(stage.artifacts.load("page.txt"))``."""
        return current_step().wait(awaitable)

    # ------------------------------------------------------------------------------------ telling
    def progress(self, done: float, message: str = "", **details: Any) -> None:
        """
        Tell how far the stage is; whoever watches the run sees it while the stage runs, a few milliseconds later.

        What is more than a run may keep, see `Limits`, is left out.

        Args:
            done: From 0 to 1.
            details: Any values that can be stored as JSON.
        """
        check_number("progress", done, 0, 1, whole=False)
        told: dict[str, Any] = {"stage": self.id, "progress": done, "message": message}
        _emit(PROGRESS, told | ({"details": details} if details else {}))

    def annotate(self, key: str | Mapping[str, Any], value: Any = None, **options: Any) -> None:
        """Make a remark about the run, of this stage: see `CurrentStep.annotate`, which has the options."""
        current_step().annotate(key, value, **options)

    def usage(self, model: str = "", **counts: Any) -> None:
        """Record what a call of this stage has used: see `CurrentStep.usage`, which has the counts."""
        current_step().usage(model, **counts)

    @property
    def log(self) -> StageLog:
        """Log lines of the stage, kept in the run's journal: ``stage.log.info("read", pages=7)``."""
        return StageLog(self.id)

    def __repr__(self) -> str:
        return f"<stage {self.id!r} of {self.run_id!r}>"
