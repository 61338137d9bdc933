"""Starting a run from a command line: its workflow by name, its input as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from perdure.client.view import WorkerInfo
from perdure.codec.canonical import canonical_json
from perdure.codec.value import ANY, TypeCodec
from perdure.engine.context import Context
from perdure.engine.definition import Workflow, WorkflowOptions
from perdure.errors import InvalidOption
from perdure.model.version import pin, recency, unpin


class _Given:
    """Stands where a workflow's own codec of its input does, and gives the text that was made already."""

    returns: TypeCodec = ANY  # a result is printed as the JSON that it is

    def __init__(self, text: str) -> None:
        self._text = text

    def encode(self, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> str:
        return self._text


def stand_in(workflow: str, text: str, options: WorkflowOptions) -> Workflow[[], None]:
    """What stands for a workflow so that it can be started with this input, and no other."""

    async def elsewhere(_ctx: Context) -> None:
        """Workers run the workflow, not this process."""

    made: Workflow[[], None] = Workflow(elsewhere, replace(options, name=workflow))
    made.__dict__["call"] = _Given(text)
    return made


def raw_input(values: Sequence[Any], named: dict[str, Any]) -> str:
    """
    The input's JSON text, as it was given.

    Raises:
        InvalidOption: There are values without a name, which only the workflow's code can name.
    """
    if values:
        option = "values"
        problem = (
            "which parameters they are for is known only with --app module:app; without it, name them: "
            "--input '{\"order\": …}'"
        )
        raise InvalidOption(option, problem)
    return canonical_json(named, "The input")


def newest_known(workflow: str, version: str | None, workers: Iterable[WorkerInfo]) -> str:
    """
    The version of a workflow to start: the one asked for, or the newest that workers have, live ones first.

    Raises:
        InvalidOption: No worker has ever had it.
    """
    alive, others = set[str](), set[str]()
    for worker in workers:
        (alive if worker.state == "alive" else others).update(worker.workflows)
    for names in (alive, others):
        found = [unpin(name)[1] for name in names if unpin(name)[0] == workflow]
        if version is None and found:
            return max(found, key=recency)
        if version is not None and version in found:
            return version
    known = sorted(alive | others)
    option = "workflow"
    problem = (
        f"no worker of this database has ever had one named {pin(workflow, version or '')!r} (known: "
        f"{', '.join(known) or 'none'}). Start a worker that has it, or name the app that defines it: --app module:app"
    )
    raise InvalidOption(option, problem)
