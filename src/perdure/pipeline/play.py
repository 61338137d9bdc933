"""Run a pipeline: its groups, one after another, as operations of the engine's context."""

from __future__ import annotations

import asyncio
from types import MappingProxyType
from typing import Any

from typing_extensions import TypedDict  # of typing, pydantic takes it from Python 3.12 on

from perdure.codec.value import ANY, TypeCodec, codec_for
from perdure.declared.part import enter, left_to_do, prefix_here
from perdure.engine.context import Context
from perdure.engine.definition import Workflow, WorkflowOptions
from perdure.errors import ChildFailed
from perdure.model.status import Status
from perdure.pipeline.builder import Group, Pipeline
from perdure.pipeline.config import RunCodec
from perdure.pipeline.context import StageContext
from perdure.pipeline.stage import Work
from perdure.pipeline.types import converted

CHILD = ".stage"
"""What the workflow of a pipeline's distributed stages is called, behind the pipeline's name."""
Config = dict[str, Any]


class Play:
    """
    One run of a pipeline, or of one of its stages in a child run.

    Args:
        child: What runs the stages that are distributed.

    Attributes:
        outputs: What the stages have given, by their ids.
    """

    __slots__ = ("_child", "_config", "_ctx", "_input", "_pipeline", "_view", "outputs")

    def __init__(
        self, pipeline: Pipeline, ctx: Context, input: Any, config: Config | None,
        child: Workflow[..., Any] | None = None,
    ) -> None:  # fmt: skip
        self._pipeline = pipeline
        self._child = child
        self._ctx = ctx
        self._input = input
        self._config = config or {}
        self.outputs: dict[str, Any] = {}
        self._view = MappingProxyType(self.outputs)

    async def run(self) -> Any:
        """Do all groups; returns the output of the last one."""
        before: Group | None = None
        for group in left_to_do(self._pipeline.groups, self._ctx):
            if len(group.works) == 1 and not group.distribute:
                (work,) = group.works
                self.outputs[work.id] = await work.done(self._ctx, self._context(work, before))
            else:
                self.outputs.update(await self._at_once(group, before))
            before = group
        if before is None:
            return None
        if len(before.works) == 1:
            return self.outputs[before.name]
        return {name: self.outputs[name] for name in before.names}

    async def alone(self, work: Work, before: Group | None) -> Any:
        """Do one stage, whose earlier outputs are there."""
        return await work.done(self._ctx, self._context(work, before))

    # --------------------------------------------------------------------------------------- stages
    def _context(self, work: Work, before: Group | None) -> StageContext[Any, Any]:
        def given(wanted: TypeCodec, what: str) -> Any:
            return self._given(before, wanted, what)

        return StageContext(
            self._ctx.run_id, work.id, types=(work.stage.input, work.stage.config), given=given,
            config=self._config.get(work.id, {}), outputs=self._view,
        )  # fmt: skip

    def _given(self, before: Group | None, wanted: TypeCodec, what: str) -> Any:
        """What a group gets as its input."""
        if before is None:
            return converted(self._input, codec_for(self._pipeline.input), wanted, what)
        if len(before.works) == 1:
            (work,) = before.works
            return converted(self.outputs[work.id], work.stage.returns, wanted, what)
        if wanted.annotation is Any:
            return {name: self.outputs[name] for name in before.names}
        parts = [
            f"{ANY.encode(work.id, what)}:{work.stage.returns.encode(self.outputs[work.id], what)}"
            for work in before.works
        ]
        return wanted.decode(f"{{{','.join(parts)}}}", what)

    async def _at_once(self, group: Group, before: Group | None) -> dict[str, Any]:
        """Do the stages of a group; the first that fails for good cancels the others, and gives the error."""
        prefix = prefix_here()

        async def one(work: Work) -> Any:
            enter(prefix)
            if group.distribute:
                return await self._elsewhere(work, group, before)
            return await work.done(self._ctx, self._context(work, before))

        tasks = [asyncio.ensure_future(one(work)) for work in group.works]
        try:
            return dict(zip(group.names, await asyncio.gather(*tasks), strict=True))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _elsewhere(self, work: Work, group: Group, before: Group | None) -> Any:
        """Do a stage in a child run, which may be driven by any worker."""
        wanted = {*(before.names if before else ()), *work.stage.dependencies}
        seen = {
            name: ANY.settle(self.outputs[name], f"The output of stage {name!r}")[1]
            for name in self.outputs if name in wanted
        }  # fmt: skip
        given = None if before else converted(self._input, codec_for(self._pipeline.input), ANY, "The input")
        child: Any = self._child
        try:
            with self._ctx.scope(work.id):
                value = await self._ctx.call(
                    child, work.id, given, self._config.get(work.id, {}), seen,
                    queue=group.queue or None,
                )  # fmt: skip
        except ChildFailed as failed:
            raise (failed.cause if failed.status == Status.FAILED else failed) from failed
        return work.stage.returns.decode(ANY.encode(value, work.id), f"The output of stage {work.id!r}")


def compiled(pipeline: Pipeline, options: WorkflowOptions) -> list[Workflow[..., Any]]:
    """The workflow that runs a pipeline; and with it, if any stages are distributed, the one that runs these."""
    distributed = any(group.distribute for group in pipeline.groups)
    child = _stage_workflow(pipeline, options.version) if distributed else None

    async def run(ctx: Context, input: Any = None, config: Config | None = None) -> Any:
        return await Play(pipeline, ctx, input, config, child).run()

    run.__name__ = run.__qualname__ = pipeline.name
    run.__doc__ = f"The pipeline {pipeline.name}."
    run.__annotations__ = {
        "ctx": Context, "input": pipeline.input, "config": dict[str, Any] | None, "return": _output(pipeline),
    }  # fmt: skip
    if pipeline.input is not Any:
        run.__defaults__ = (None,)
    workflow: Workflow[..., Any] = Workflow(run, options)
    codec = RunCodec(run, skip=1)
    codec.configs = {work.id: work.stage.config for group in pipeline.groups for work in group.works}
    workflow.__dict__["call"] = codec
    workflow.declared = pipeline
    workflow.parts = {name: frozenset(group.names) for group in pipeline.groups for name in group.names}
    return [workflow] if child is None else [workflow, child]


def _stage_workflow(pipeline: Pipeline, version: str) -> Workflow[..., Any]:
    """What runs a distributed stage as a child run."""

    async def run(ctx: Context, stage: str, input: Any, config: Any, outputs: dict[str, Any]) -> Any:
        play = Play(pipeline, ctx, input, {stage: config})
        group = pipeline.group_of(stage)
        for name, value in outputs.items():
            known = pipeline.get(name)
            codec = ANY if known is None else known.returns
            play.outputs[name] = codec.decode(ANY.encode(value, name), f"The output of stage {name!r}")
        before = pipeline.groups[group.number - 2] if group.number > 1 else None
        (work,) = (work for work in group.works if work.id == stage)
        return await play.alone(work, before)

    run.__name__ = run.__qualname__ = f"{pipeline.name}{CHILD}"
    run.__doc__ = f"A distributed stage of the pipeline {pipeline.name}."
    return Workflow(run, WorkflowOptions(name=run.__name__, version=version))


def _output(pipeline: Pipeline) -> Any:
    """The type of a run's result: that of the last stage, or a dict of the last stages'."""
    if not pipeline.groups:
        return None
    works = pipeline.groups[-1].works
    if len(works) == 1:
        return works[0].stage.output
    return TypedDict(f"{pipeline.name} output", {work.id: work.stage.output for work in works})  # type: ignore[operator]  # its fields are known at run time only
