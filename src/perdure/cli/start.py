"""Starting a run from a command line: its workflow by name, its input as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from perdure.app import App
from perdure.codec.canonical import canonical_json
from perdure.codec.value import ANY, TypeCodec
from perdure.engine.context import Context
from perdure.engine.definition import Registry, Workflow, WorkflowOptions
from perdure.errors import InvalidOption


class _Given:
    """Stands where a workflow's own codec of its input does, and gives the text that was made already."""

    returns: TypeCodec = ANY  # a result is printed as the JSON that it is

    def __init__(self, text: str) -> None:
        self._text = text

    def encode(self, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> str:
        return self._text


def only(workflow: str, text: str, options: WorkflowOptions) -> Registry:
    """A registry by which one workflow can be started, with this input and no other."""

    async def elsewhere(_ctx: Context) -> None:
        """Workers run the workflow, not this process."""

    stand_in: Workflow[[], None] = Workflow(elsewhere, replace(options, name=workflow))
    stand_in.__dict__["call"] = _Given(text)
    registry = Registry()
    registry.add(stand_in)
    return registry


def checked_input(app: App, workflow: str, values: Sequence[Any], named: dict[str, Any]) -> str:
    """
    The input's JSON text, checked and coerced by the workflow's own types.

    Raises:
        UnknownWorkflow: The app has none of this name.
        InvalidInput: The input does not fit its parameters.
    """
    return app.registry.get(workflow).call.from_json(values, named)


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


def check_known(workflow: str, known: Iterable[str]) -> None:
    """
    Refuse a workflow that no worker has ever had.

    Raises:
        InvalidOption: None of the known workflows has this name.
    """
    names = sorted(set(known))
    if workflow not in names:
        option = "workflow"
        problem = (
            f"no worker of this database has ever had one named {workflow!r} (known: {', '.join(names) or 'none'}). "
            "Start a worker that has it, or name the app that defines it: --app module:app"
        )
        raise InvalidOption(option, problem)
