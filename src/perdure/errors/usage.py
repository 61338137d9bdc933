"""The call cannot be right, whatever is stored."""

from __future__ import annotations

from perdure.errors.base import PerdureError


class UsageError(PerdureError):
    """The call cannot be right, whatever is stored."""

    code = "usage_error"
    http_status = 400
    exit_code = 2


class DuplicateName(UsageError):
    """A workflow, step or worker of this name is there already."""

    code = "duplicate_name"
    what: str
    name: str

    def __init__(self, what: str, name: str) -> None:
        super().__init__(
            f"There is already a {what} named {name!r}. Give one of them another name=.", what=what, name=name
        )


class UnknownWorkflow(UsageError):
    """No workflow of this name is registered in this app."""

    code = "unknown_workflow"
    http_status = 404
    name: str
    known: list[str]

    def __init__(self, name: str, known: list[str]) -> None:
        there = ", ".join(known) or "none"
        super().__init__(
            f"No workflow is named {name!r} in this app (registered: {there}). "
            "Import the module that defines it before the app starts.",
            name=name,
            known=known,
        )


class UnknownQueue(UsageError):
    """There is no queue of this name in the database."""

    code = "unknown_queue"
    http_status = 404
    name: str
    known: list[str]

    def __init__(self, name: str, known: list[str]) -> None:
        there = ", ".join(known) or "none"
        super().__init__(
            f"There is no queue {name!r} (there are: {there}). Declare it with app.queue({name!r}, …) before the app "
            "is opened, or make it with `perdure queue set`.",
            name=name,
            known=known,
        )


class UnknownSink(UsageError):
    """There is no sink of this name in the database."""

    code = "unknown_sink"
    http_status = 404
    name: str
    known: list[str]

    def __init__(self, name: str, known: list[str]) -> None:
        there = ", ".join(known) or "none"
        super().__init__(
            f"There is no sink {name!r} (there are: {there}). One is made when an app that declares it is opened.",
            name=name,
            known=known,
        )


class InvalidName(UsageError):
    """A name or id that cannot be stored or would make journal keys ambiguous."""

    code = "invalid_name"
    what: str
    name: str
    problem: str

    def __init__(self, what: str, name: str, problem: str) -> None:
        super().__init__(f"{name!r} cannot be a {what}: {problem}.", what=what, name=name, problem=problem)


class InvalidOption(UsageError):
    """An option is outside its range, or two options exclude each other."""

    code = "invalid_option"
    option: str
    problem: str

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(f"{option}: {problem}.", option=option, problem=problem)


class InvalidInput(UsageError):
    """A value does not have the type that its receiver declares."""

    code = "invalid_input"
    http_status = 422
    what: str
    problem: str

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(f"{what} does not have its declared type: {problem}", what=what, problem=problem)


class InvalidConfig(UsageError):
    """
    The config of a pipeline's run does not fit its stages.

    Attributes:
        problems: All there are, each as "stage.field: problem".
    """

    code = "invalid_config"
    http_status = 422
    pipeline: str
    problems: list[str]

    def __init__(self, pipeline: str, problems: list[str]) -> None:
        shown = "".join(f"\n    {problem}" for problem in problems)
        super().__init__(
            f"The config does not fit the pipeline {pipeline!r}, so nothing was started:{shown}",
            pipeline=pipeline,
            problems=problems,
        )


class MissingOutput(UsageError):
    """A stage requires the output of one that has given none before it."""

    code = "missing_output"
    stage: str
    wanted: str
    there: list[str]

    def __init__(self, stage: str, wanted: str, there: list[str]) -> None:
        known = ", ".join(there) or "none"
        super().__init__(
            f"Stage {stage!r} requires the output of {wanted!r}, and sees those of: {known}. Name it among the "
            "dependencies of the stage, or ask with optional().",
            stage=stage,
            wanted=wanted,
            there=there,
        )


class NotSerializable(UsageError):
    """A value cannot be written as JSON."""

    code = "not_serializable"
    what: str
    problem: str

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(
            f"{what} cannot be stored as JSON: {problem}. Return plain data, a dataclass or a pydantic model.",
            what=what,
            problem=problem,
        )


class PayloadTooLarge(UsageError):
    """A value is larger than the limit for one payload."""

    code = "payload_too_large"
    http_status = 413
    what: str
    size: int
    limit: int

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(
            f"{what} takes {size:,} bytes, and the limit is {limit:,}. Store it elsewhere and pass a "
            "reference, or raise Limits(payload_bytes=…).",
            what=what,
            size=size,
            limit=limit,
        )


class HistoryTooLong(UsageError):
    """A run has more journal entries than the limit."""

    code = "history_too_long"
    run_id: str
    limit: int

    def __init__(self, run_id: str, limit: int) -> None:
        super().__init__(
            f"Run {run_id!r} has reached {limit:,} journal entries. Split the work into child runs, or "
            "end the run with ctx.continue_as_new(…) now and then.",
            run_id=run_id,
            limit=limit,
        )


class TooManyEntries(UsageError):
    """The steps of a run have emitted more entries than the limit."""

    code = "too_many_entries"
    run_id: str
    limit: int

    def __init__(self, run_id: str, limit: int) -> None:
        super().__init__(
            f"The steps of run {run_id!r} have emitted {limit:,} entries. Emit larger pieces, split the work into "
            "child runs, or raise Limits(emitted_entries=…).",
            run_id=run_id,
            limit=limit,
        )


class NotInWorkflow(UsageError):
    """The context was used where no workflow is being driven."""

    code = "not_in_workflow"
    problem: str

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"The workflow context cannot be used here: {problem}. Use it only from the workflow function "
            "and the tasks it starts, while the run is going on.",
            problem=problem,
        )


class BlockingCall(UsageError):
    """A workflow asked its private event loop for I/O, a thread or a process."""

    code = "blocking_call"
    what: str

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} is not available inside a workflow, whose code must be repeatable. Do it in a step: "
            "await ctx.step(fn, …).",
            what=what,
        )


class Stalled(UsageError):
    """A workflow waits for something that nobody will ever deliver."""

    code = "stalled"
    run_id: str

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"Run {run_id!r} waits, but for no step, timer, signal or child: it would wait for ever. Look for "
            "an asyncio.Event, Queue or Future that nothing sets.",
            run_id=run_id,
        )
