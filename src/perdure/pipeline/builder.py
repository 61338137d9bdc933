"""Declare a pipeline, group by group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from perdure.declared.call import must_name
from perdure.declared.part import check_part_name
from perdure.engine.definition import Step
from perdure.errors import DuplicateName, InvalidOption
from perdure.ids import check_name
from perdure.model.queue import Queue, name_of
from perdure.pipeline.config import ConfigProblem, config_defaults, config_problems
from perdure.pipeline.stage import Stage, Work

Target = Callable[..., Any] | Stage
"""What is put under an id: a function or a step, or a `Stage` or `Batch` where it has options."""


@dataclass(frozen=True, slots=True)
class Group:
    """
    Stages that run at once, when those of the group before are done.

    Attributes:
        number: From 1.
        works: Its stages, in the order of declaration.
        distribute: Whether each runs as a child run of its own, on any worker.
        queue: The queue that these go through; "" for none.
    """

    number: int
    works: tuple[Work, ...]
    distribute: bool = False
    queue: str = ""

    @property
    def name(self) -> str:
        """What tells it from the other groups: the id of its first stage."""
        return self.works[0].id

    @property
    def names(self) -> tuple[str, ...]:
        """The ids of its stages."""
        return tuple(work.id for work in self.works)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """
    Typed stages in groups, done one group after another; declared as data.

    A pipeline does not change; each method returns a new one with one more group. Each function is a step, whose
    key in the journal is the stage's id. What is wrong with the order, the ids or the types' annotations is told here,
    what is wrong with a run's input or config when it is started.

    Args:
        name: What it is registered as.
        input: The type of a run's input; anything when left out.
        description: Shown where the pipeline is.

    Attributes:
        groups: In the order that they are done in.
    """

    name: str
    input: Any = Any
    description: str = ""
    groups: tuple[Group, ...] = ()

    def __post_init__(self) -> None:
        check_name("pipeline name", self.name)

    # -------------------------------------------------------------------------------------- stages
    def stage(self, id: str, target: Target, **options: Any) -> Pipeline:
        """
        Add a group of one stage. Its output is the input of the next group.

        Args:
            target: A function or step, a `Stage` or a `Batch`.
            options: As for `Stage`, if it is a function.

        Raises:
            InvalidName, DuplicateName: The id cannot be one, or is another stage's.
            InvalidOption: A dependency is not in an earlier group, or an option is wrong.
        """
        return self._with({id: target}, options, distribute=False, queue="")

    def parallel(
        self,
        stages: Mapping[str, Target],
        *,
        distribute: bool = False,
        queue: str | Queue = "",
        **options: Any,
    ) -> Pipeline:
        """
        Add a group of stages that run at once. Their outputs, in a dict by their ids, are the input of the next group.

        When one fails for good, the others are cancelled and the run fails with its error.

        Args:
            stages: By id.
            distribute: Run each as a child run, which any worker may take. It gets the output of the group before and
                those of its dependencies with it.
            queue: The queue that these child runs go through.
            options: As for `Stage`, for those that are functions.

        Raises:
            InvalidName, DuplicateName: An id cannot be one, or is another stage's.
            InvalidOption: There are no stages, a dependency is not in an earlier group, or an option is wrong.
        """
        must_name(f"group {len(self.groups) + 1} of pipeline {self.name!r}", "stages", stages)
        return self._with(stages, options, distribute=distribute, queue=name_of(queue))

    def _with(self, stages: Mapping[str, Target], options: dict[str, Any], *, distribute: bool, queue: str) -> Pipeline:
        if queue and not distribute:
            option, problem = "queue", "it is for stages that are distributed"
            raise InvalidOption(option, problem)
        if options and all(isinstance(target, Stage) for target in stages.values()):
            raise InvalidOption(", ".join(options), "it is for functions; a Stage or Batch has its own options")
        earlier = set(self.ids)
        works: list[Work] = []
        for name, target in stages.items():
            check_part_name("stage of a pipeline", name)
            if name in earlier or name in {work.id for work in works}:
                what = f"stage of pipeline {self.name!r}"
                raise DuplicateName(what, name)
            stage = _stage(name, target, options)
            if missing := [wanted for wanted in stage.dependencies if wanted not in earlier]:
                option = f"stage {name!r} of pipeline {self.name!r}"
                there = ", ".join(self.ids) or "none"
                raise InvalidOption(
                    option, f"it depends on {', '.join(map(repr, missing))}, not in an earlier group (there: {there})"
                )
            if distribute and stage.options.compensate is not None:
                option = f"stage {name!r}"
                raise InvalidOption(option, "a distributed stage cannot have compensate; undo it in a stage of its own")
            works.append(stage.work(name))
        group = Group(len(self.groups) + 1, tuple(works), distribute, queue)
        return replace(self, groups=(*self.groups, group))

    # --------------------------------------------------------------------------------- introspection
    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all stages, in order."""
        return tuple(name for group in self.groups for name in group.names)

    def get(self, id: str) -> Stage | None:
        """The stage of this id; None when there is none."""
        return next((work.stage for group in self.groups for work in group.works if work.id == id), None)

    def group_of(self, id: str) -> Group:
        """
        The group that a stage is in.

        Raises:
            InvalidOption: There is no such stage.
        """
        for group in self.groups:
            if id in group.names:
                return group
        option = f"stage {id!r}"
        raise InvalidOption(option, f"pipeline {self.name!r} has {', '.join(self.ids) or 'no stages'}")

    def before(self, id: str) -> tuple[str, ...]:
        """The ids of the group whose output a stage gets; none for the first group."""
        number = self.group_of(id).number
        return () if number == 1 else self.groups[number - 2].names

    @property
    def order(self) -> str:
        """The stages in their order, for people: "read → words + links → report"."""
        return " → ".join(" + ".join(group.names) for group in self.groups)

    @property
    def default_config(self) -> dict[str, dict[str, Any]]:
        """What a run is configured with that says nothing: the defaults of every stage that has a config, as data."""
        configs = {work.id: work.stage.config for group in self.groups for work in group.works}
        return config_defaults(configs)

    def validate_config(self, config: Mapping[str, Any] | None) -> list[ConfigProblem]:
        """Everything that is wrong with a run's config, by stage and field; nothing when it is right."""
        configs = {work.id: work.stage.config for group in self.groups for work in group.works}
        return config_problems(configs, config or {})


def _stage(id: str, target: Target, options: dict[str, Any]) -> Stage:
    if isinstance(target, Stage):
        return target
    named: object = target
    if not (callable(named) or isinstance(named, Step)):
        option = f"stage {id!r}"
        raise InvalidOption(option, f"{target!r} is neither a function nor a Stage")
    return Stage(target, **options)
