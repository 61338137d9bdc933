"""What an engine has to give for workflow functions to run on it: do, sleep, wait for an event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from perdure.clock import Clock
from perdure.model.retry import Retry


class BodyFailed(Exception):
    """
    How a body says that its attempt has failed, and how `Platform.do` says that the step has.

    Attributes:
        text: The error, to be kept as it is.
        retry_in: Seconds after which the body is to be called again; None when the step has failed for good.
    """

    def __init__(self, text: str, retry_in: float | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.retry_in = retry_in


class Platform(Protocol):
    """
    One run on another engine, made by that engine's adapter for each execution of the function.

    Every name is used once per execution, and is the same on each: "<workflow>/<key>". An answer under a name is kept
    for ever: the same call on a later execution gives it again. Several calls may wait at once; one whose outcome is
    not needed any more is cancelled, as all are when the execution ends before them. All texts are the caller's, and
    are kept as they are.
    `perdure.testing.platform` has an adapter in memory to read, and the cases that every adapter must pass.

    Attributes:
        run_id: The run's id; the same on every execution.
        clock: Tells the time; asked inside bodies only, so that its answers are kept.
    """

    @property
    def run_id(self) -> str:
        """The run's id; the same on every execution."""

    @property
    def clock(self) -> Clock:
        """Tells the time: mostly a `SystemClock`."""

    async def do(self, name: str, body: Callable[[int], Awaitable[str]], *, retry: Retry, timeout: float | None) -> str:
        """
        Call a body until it returns, and keep what it returned before giving it back.

        Args:
            body: Called with the number of the attempt, from 1 (always 1 where the engine does not count); at least
                once, and never again when its text is kept. If it raises `BodyFailed` with a delay, it is called again
                after that many seconds; without one, the error is kept, and raised now and on each later execution.
            retry, timeout: The step's policy, and seconds for one attempt, for engines that apply them by themselves.
                The body has applied them already when it says after how long to call it again.

        Raises:
            BodyFailed: With the text that the body gave, and no delay.
        """

    async def sleep(self, name: str, seconds: float) -> None:
        """Wait until so long after the first call under this name, through any number of executions."""

    async def wait_for_event(self, name: str, event: str, timeout: float | None) -> str | None:
        """
        Wait for an event from outside, which may have come already.

        Args:
            event: What its sender calls it. Each event is given to one wait, in the order in which they were sent.
            timeout: Seconds from the first call under this name; None for ever.

        Returns:
            Its payload as JSON; None when the time is over.
        """
