"""The stages of a pipeline: what they are declared as, and how one is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, ClassVar

from perdure.codec.value import TypeCodec, codec_for
from perdure.declared.call import takes
from perdure.declared.part import DEFAULT_RETRY
from perdure.engine.context import Context
from perdure.engine.definition import Step, StepOptions
from perdure.errors import InvalidOption
from perdure.model.retry import NO_RETRY
from perdure.pipeline.context import StageContext
from perdure.pipeline.types import declared_types


@dataclass(frozen=True, slots=True, init=False)
class Stage:
    """
    A stage, with options: what `Pipeline.stage` and `Pipeline.parallel` put under an id.

    Its types are those of its annotations, ``def read(stage: StageContext[Folder, Reading]) -> list[Page]``; input,
    output and config say otherwise. Input and output are checked when it runs, config when a run is started.

    Attributes:
        fn: Called with the `StageContext`, or with nothing if it has no parameters. It is a step: it runs at
            least once, and what it returns is kept.
        dependencies: Ids of stages that must be in earlier groups.
        description: Shown where the pipeline is.
        options: Fields of `StepOptions`: retry, timeout, compensate, …. Without a retry policy of its own it has
            three attempts. A compensation gets the output, then the `StageContext`.
    """

    kind: ClassVar[str] = "stage"
    fn: Callable[..., Any]
    dependencies: tuple[str, ...]
    description: str
    input: Any
    config: Any
    output: Any
    options: StepOptions

    def __init__(
        self, fn: Callable[..., Any], *, dependencies: Iterable[str] = (), description: str = "", **options: Any
    ) -> None:
        if isinstance(dependencies, str):
            option, problem = "dependencies", f"write [{dependencies!r}]"
            raise InvalidOption(option, problem)
        base = fn.settings if isinstance(fn, Step) else StepOptions()
        plain = fn.fn if isinstance(fn, Step) else fn
        takes(f"stage {getattr(plain, '__name__', plain)}", plain, "stage")
        types = declared_types(plain, StageContext, options)
        retry = DEFAULT_RETRY if base.retry is NO_RETRY else base.retry
        settings = base.changed(**{"retry": retry, **options, "fingerprint": False})
        told = description or (plain.__doc__ or "").strip().partition("\n")[0]
        for name, value in zip(
            ("fn", "dependencies", "description", "input", "config", "output", "options"),
            (plain, tuple(dependencies), told, *types, settings),
            strict=True,
        ):
            object.__setattr__(self, name, value)

    @property
    def returns(self) -> TypeCodec:
        """How its output is stored."""
        return codec_for(self.output)

    @property
    def target(self) -> str:
        """The name of its function."""
        return str(getattr(self.fn, "__name__", self.fn))

    def work(self, name: str) -> Work:
        """How it is done under this id."""
        return Work(name, self, step_of(self.fn, self.options.changed(name=name), self.returns))


def step_of(
    fn: Callable[..., Any],
    options: StepOptions,
    returns: TypeCodec,
    told: Callable[[Any], Any] = lambda value: value,
) -> Step[..., Any]:
    """
    The step that runs a function of a stage.

    It gets the stage's context, made anew for each attempt, and of a batch what it is known by.

    Args:
        told: Makes what is recorded of what the function returned.
    """
    many = takes(f"stage {options.name!r}", fn, "stage", "batch")

    def arguments(stage: StageContext[Any, Any], batch: tuple[Any, ...], notice: Any) -> tuple[Any, ...]:
        return (stage.fresh(notice), *batch)[:many]

    async def awaited(stage: StageContext[Any, Any], *batch: Any, notice: Any = None) -> Any:
        return told(await fn(*arguments(stage, batch, notice)))

    def called(stage: StageContext[Any, Any], *batch: Any, notice: Any = None) -> Any:
        return told(fn(*arguments(stage, batch, notice)))

    step: Step[..., Any] = Step(awaited if iscoroutinefunction(fn) else called, options)
    step.__dict__["returns"] = returns
    return step


@dataclass(frozen=True, slots=True)
class Work:
    """
    A stage in its place: what is done under its id.

    Attributes:
        step: What runs its function; of a batch, the one that submits it.
    """

    id: str
    stage: Stage
    step: Step[..., Any]

    async def done(self, ctx: Context, stage: StageContext[Any, Any]) -> Any:
        """Do it; gives the stage's output."""
        return await ctx.step(self.step, stage)
