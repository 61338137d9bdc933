"""What the sources of supervised turns may say."""

from __future__ import annotations

from perdure.errors.run import RunError


class SourceFailed(RunError):
    """
    The work that a turn follows has failed.

    Attributes:
        over: The work has ended: a retry starts it anew. Otherwise a retry attaches to it again.
    """

    code = "source_failed"
    http_status = 502
    source: str
    problem: str
    over: bool

    def __init__(self, source: str, problem: str, *, over: bool = False) -> None:
        super().__init__(f"{source!r} has failed: {problem}.", source=source, problem=problem, over=over)


class SourceGone(RunError):
    """The work that a turn followed cannot be attached to any more; `supervise` starts it again."""

    code = "source_gone"
    http_status = 502
    source: str
    problem: str

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(f"There is nothing of {source!r} to attach to: {problem}.", source=source, problem=problem)
