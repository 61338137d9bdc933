"""What is stored forbids it."""

from __future__ import annotations

from perdure.errors.base import PerdureError


class StateError(PerdureError):
    """What is stored forbids it."""

    code = "state_error"
    http_status = 409
    exit_code = 3


class RunNotFound(StateError):
    """No run has this id."""

    code = "run_not_found"
    http_status = 404
    exit_code = 4
    run_id: str

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"There is no run with the id {run_id!r}. `perdure run list` shows those there are.", run_id=run_id
        )


class RunFinished(StateError):
    """The run has ended; nothing can be sent to it or asked of it any more."""

    code = "run_finished"
    run_id: str
    status: str

    def __init__(self, run_id: str, status: str) -> None:
        super().__init__(
            f"Run {run_id!r} is {status} already. Rerun or fork it to go on from one of its steps.",
            run_id=run_id,
            status=status,
        )


class StartConflict(StateError):
    """A run with this id exists, and it is another one: other workflow or other input."""

    code = "start_conflict"
    run_id: str
    problem: str

    def __init__(self, run_id: str, problem: str) -> None:
        super().__init__(
            f"A run with the id {run_id!r} exists, with {problem}. The same id means the same run; choose another id.",
            run_id=run_id,
            problem=problem,
        )


class ManifestMismatch(StartConflict):
    """
    A durable call with this id was made before, with another manifest.

    Attributes:
        recorded, given: The canonical hashes of the two manifests.
    """

    code = "manifest_mismatch"
    recorded: str
    given: str

    def __init__(self, run_id: str, recorded: str, given: str) -> None:
        super().__init__(run_id, f"another manifest (recorded {recorded[:12]}…, given {given[:12]}…)")
        self.recorded, self.given = recorded, given


class LeaseHeld(StateError):
    """
    Another process, or another call in this one, is executing the run.

    Attributes:
        holder: Id of its worker.
        until: When its lease ends unless it is extended, which it is while its process lives: ISO 8601, UTC.
    """

    code = "lease_held"
    run_id: str
    holder: str
    until: str

    def __init__(self, run_id: str, holder: str, until: str) -> None:
        super().__init__(
            f"Run {run_id!r} is being executed by worker {holder!r}, whose lease ends at {until} unless it is "
            "extended. Wait for it with wait=, or call again later.",
            run_id=run_id,
            holder=holder,
            until=until,
        )


class LeaseLost(StateError):
    """The run is no longer driven by this process: what its bodies do from now on is not recorded."""

    code = "lease_lost"
    run_id: str
    problem: str

    def __init__(self, run_id: str, problem: str) -> None:
        super().__init__(
            f"Run {run_id!r} is no longer driven here: {problem}. What it has done is recorded; call again to go on.",
            run_id=run_id,
            problem=problem,
        )


class RunPaused(StateError):
    """
    The run was put aside, and nobody goes on with it until somebody says so.

    Attributes:
        reason: Code of the reason, such as "operator" or "poison".
        problem: The reason.
    """

    code = "run_paused"
    run_id: str
    reason: str
    problem: str

    def __init__(self, run_id: str, reason: str, problem: str) -> None:
        super().__init__(
            f"Run {run_id!r} is paused ({reason}): {problem} Resume it: `perdure run resume {run_id}`.",
            run_id=run_id,
            reason=reason,
            problem=problem,
        )


class IllegalMove(StateError):
    """The run's status does not allow this."""

    code = "illegal_move"
    run_id: str
    status: str
    wanted: str

    def __init__(self, run_id: str, status: str, wanted: str) -> None:
        super().__init__(
            f"Run {run_id!r} is {status}; it cannot {wanted} now.", run_id=run_id, status=status, wanted=wanted
        )


class ArtifactNotFound(StateError):
    """The run keeps nothing under this name."""

    code = "artifact_not_found"
    http_status = 404
    exit_code = 4
    run_id: str
    name: str

    def __init__(self, run_id: str, name: str) -> None:
        super().__init__(
            f"Run {run_id!r} has no artifact {name!r}. `perdure run artifacts {run_id}` lists those it has.",
            run_id=run_id,
            name=name,
        )


class StepNotFound(StateError):
    """The run's journal has no outcome under this key."""

    code = "step_not_found"
    http_status = 404
    exit_code = 4
    run_id: str
    key: str

    def __init__(self, run_id: str, key: str) -> None:
        super().__init__(
            f"The journal of run {run_id!r} has no step with the key {key!r}. `perdure run show` lists the keys.",
            run_id=run_id,
            key=key,
        )


class Divergence(StateError):
    """
    The workflow's code no longer does what its journal says it did (I12).

    Attributes:
        seq: Position in the journal of the entry that does not fit; 0 when the journal is at its end.
        recorded: What the journal holds there.
        requested: What the code asks for instead.
    """

    code = "divergence"
    run_id: str
    seq: int
    recorded: str
    requested: list[str]

    def __init__(self, run_id: str, seq: int, recorded: str, requested: list[str]) -> None:
        wanted = "\n".join(f"    + {item}" for item in requested) or "    + nothing"
        super().__init__(
            f"Run {run_id!r} and its workflow's code disagree at journal entry {seq}.\n"
            f"    - {recorded}\n{wanted}\n"
            "(- recorded, + asked for by the code now). Restore the old behaviour, guard the change with "
            "ctx.patched(…), or fork or rerun the run from an earlier step; then resume it.",
            run_id=run_id,
            seq=seq,
            recorded=recorded,
            requested=requested,
        )


class ArgumentsChanged(Divergence):
    """The workflow's code asks for a step that its journal holds, with other arguments (I12)."""

    code = "arguments_changed"


class DuplicateRun(StateError):
    """Another run has the deduplication key, and the start was to be refused then."""

    code = "duplicate_run"
    key: str
    run_id: str

    def __init__(self, key: str, run_id: str) -> None:
        super().__init__(
            f"Run {run_id!r} has the deduplication key {key!r}. Wait for its end, or start with "
            "Dedupe(…, then='existing') or then='replace'.",
            key=key,
            run_id=run_id,
        )


class CommandConflict(StateError):
    """A command with this key was given, and with other input."""

    code = "command_conflict"
    name: str
    key: str

    def __init__(self, name: str, key: str) -> None:
        super().__init__(
            f"The command {name!r} was given the key {key!r} before, with other input. The same key means the same "
            "command; choose another key.",
            name=name,
            key=key,
        )


class CommandInProgress(StateError):
    """The same command is under way elsewhere; its result is not known yet."""

    code = "command_in_progress"
    name: str
    key: str
    wait_s: float

    def __init__(self, name: str, key: str, wait_s: float) -> None:
        super().__init__(
            f"The command {name!r} with the key {key!r} is under way. Try again in a moment for its result; if whoever "
            f"runs it has died, another attempt may begin in {wait_s:.0f} s.",
            name=name,
            key=key,
            wait_s=wait_s,
        )


class CommandOvertaken(StateError):
    """The command took so long that another attempt has begun meanwhile; this one has stored nothing."""

    code = "command_overtaken"
    name: str
    key: str

    def __init__(self, name: str, key: str) -> None:
        super().__init__(
            f"The command {name!r} with the key {key!r} took longer than its stale_after, and another attempt has "
            "begun since. This one has changed nothing; give it again for the result, and a larger stale_after.",
            name=name,
            key=key,
        )


class QueueDraining(StateError):
    """The queue takes no more runs."""

    code = "queue_draining"
    http_status = 503
    name: str

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Queue {name!r} is being drained: it finishes what it has and takes no more. "
            f"`perdure queue resume {name}` opens it again.",
            name=name,
        )


class QueueInUse(StateError):
    """A queue that runs go through cannot be removed."""

    code = "queue_in_use"
    name: str

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Runs that have not ended go through queue {name!r}. Drain it first: `perdure queue drain {name}`.",
            name=name,
        )


class Overloaded(StateError):
    """A bounded queue is full; nothing was stored."""

    code = "overloaded"
    http_status = 503
    what: str
    limit: int

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"{what} is full ({limit:,}). Slow down and try again.", what=what, limit=limit)


class DeliveryFailed(StateError):
    """An event did not reach its receiver; the sink's policy says when it is tried again."""

    code = "delivery_failed"
    http_status = 502
    host: str
    problem: str

    def __init__(self, host: str, problem: str) -> None:
        super().__init__(f"The event could not be delivered to {host}: {problem}.", host=host, problem=problem)


class InvalidSignature(StateError):
    """A webhook was not sent by somebody who has the secret, or not just now."""

    code = "invalid_signature"
    http_status = 401
    problem: str

    def __init__(self, problem: str) -> None:
        super().__init__(f"The webhook is not to be trusted: {problem}.", problem=problem)
