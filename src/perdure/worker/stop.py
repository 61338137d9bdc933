"""Hear that the process is to stop: SIGTERM and SIGINT (Ctrl-C)."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Self

from perdure.errors import InvalidOption

NOT_DRAINED = 9
"""Exit code of a process that was told a second time, and left without waiting for its steps."""


class StopSignals:
    """
    ``with StopSignals() as stop: await stop.told.wait()``: the first signal is told, the second ends the process.

    What the signals did before is put back at the end of the block.

    Args:
        at_once: Called before the second signal ends the process, from the signal's handler.

    Attributes:
        told: Set at the first one.
        by: Its name, such as "SIGTERM"; empty before.

    Raises:
        InvalidOption: Not the main thread, which alone hears signals.
    """

    def __init__(self, at_once: Callable[[], None] | None = None) -> None:
        if threading.current_thread() is not threading.main_thread():
            option = "serve()"
            raise InvalidOption(
                option, "only the main thread hears signals; here use `async with app:`, and end the block yourself"
            )
        self.told = asyncio.Event()
        self.by = ""
        self._at_once = at_once
        self._loop = asyncio.get_running_loop()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Not through the loop, which may be blocked by the very thing that somebody wants to stop.
        self._before = {number: signal.signal(number, self._hear) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if self.by:
            with suppress(OSError):
                os.write(2, b"Stopped at once. What was running is run again by others.\n")
            if self._at_once:
                self._at_once()
            os._exit(NOT_DRAINED)
        self.tell(signal.Signals(number).name)

    def tell(self, by: str) -> None:
        """As if a signal had come: whoever waits for one goes on."""
        self.by = by
        self._loop.call_soon_threadsafe(self.told.set)
