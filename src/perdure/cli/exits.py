"""Exit codes: the one table of what each of them means."""

from __future__ import annotations

from collections.abc import Iterator

from perdure.errors import PerdureError
from perdure.worker.stop import NOT_DRAINED

DONE = 0
UNEXPECTED = 1
USAGE = 2
UNHEALTHY = 8
KEEP_DYING = 10
INTERRUPTED = 130
PIPE_CLOSED = 141

MEANINGS: dict[int, str] = {
    DONE: "Done.",
    UNEXPECTED: "An error that perdure does not know: a bug, of perdure or of the app.",
    USAGE: "The call cannot be right, whatever is stored: options, names, input.",
    3: "What is stored forbids it: the run's status, its id, its code.",
    4: "There is no such run, or no such step in it.",
    5: "The run that was waited for has failed.",
    6: "The run that was waited for was cancelled.",
    7: "The database refused or failed.",
    UNHEALTHY: "The doctor has found something to act on.",
    NOT_DRAINED: "The worker was told a second time to stop, and left without waiting for its steps.",
    KEEP_DYING: "A worker process died at once again and again, so they were not started any more.",
    INTERRUPTED: "Interrupted by Ctrl-C.",
    PIPE_CLOSED: "Whoever read the output has stopped reading.",
}


def error_classes() -> list[type[PerdureError]]:
    """Every class of error that perdure itself defines, bases first."""

    def walk(cls: type[PerdureError]) -> Iterator[type[PerdureError]]:
        yield cls
        for sub in cls.__subclasses__():
            if sub.__module__.startswith("perdure."):
                yield from walk(sub)

    return list(dict.fromkeys(walk(PerdureError)))


def table() -> list[tuple[int, str, list[str]]]:
    """Each exit code, what it means, and the codes of the errors that end with it."""
    codes: dict[int, list[str]] = {code: [] for code in MEANINGS}
    for cls in error_classes():
        codes[cls.exit_code].append(cls.code)
    return [(code, meaning, sorted(codes[code])) for code, meaning in MEANINGS.items()]
