"""Say that the worker is alive, from a thread of its own, and notice when its loop is blocked."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from asyncio import events
from collections.abc import Callable
from types import FrameType

from perdure.clock import SECOND, Clock, elapsed
from perdure.errors import StoreError
from perdure.store.store import Pulse

log = logging.getLogger("perdure.worker")


class Heartbeat:
    """
    Beats three times per lease.

    A blocked event loop does not stop it: the worker keeps its runs, and the stack that blocks the loop is
    logged. What stops it is the end of the process.

    Args:
        open_pulse: Opens the connection, in the thread.
        lease: Microseconds.
        blocked: Microseconds that the loop may take to answer.
        declared_dead: Called on the loop when others have declared the worker dead.
    """

    def __init__(
        self,
        open_pulse: Callable[[], Pulse],
        clock: Clock,
        worker: int,
        *,
        lease: int,
        blocked: int,
        declared_dead: Callable[[], None],
    ) -> None:
        self._open = open_pulse
        self._clock = clock
        self._worker = worker
        self._lease = lease
        self._patience_s = blocked / SECOND
        self._declared_dead = declared_dead
        self._stop = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._answered = threading.Event()
        self._reported = False
        self._thread = threading.Thread(target=self._run, name="perdure-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the lease runs out unless the worker leaves."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        pulse = None
        interval = self._lease / 3 / SECOND
        next_beat = elapsed() + interval
        try:
            while not self._stop.wait(max(0.0, min(next_beat - elapsed(), self._patience_s))):
                self._watch()
                if elapsed() < next_beat:
                    continue
                next_beat = elapsed() + interval
                try:
                    pulse = pulse or self._open()
                    now = self._clock.now()
                    alive = pulse.beat(self._worker, now, now + self._lease)
                except Exception as error:
                    # The next beat comes before the lease ends, twice. A worker whose heart has stopped would be taken
                    # for dead and not hear of it, so no mistake may end this thread.
                    mistake = not isinstance(error, StoreError)
                    log.warning("the heartbeat could not be stored: %s", error, exc_info=mistake)
                    continue
                if not alive:
                    self._loop.call_soon_threadsafe(self._declared_dead)
                    return
        except RuntimeError:
            if not self._loop.is_closed():
                raise
            # It was closed without stopping the worker: the process is ending.
        finally:
            if pulse is not None:
                pulse.close()

    def _watch(self) -> None:
        """Ask the loop for an answer; report the stack it is stuck in when none comes in time."""
        if self._answered.is_set():
            self._reported = False  # it has answered since, if late: what blocks it now is something else
        self._answered.clear()
        self._loop.call_soon_threadsafe(self._answered.set)
        if self._answered.wait(self._patience_s) or self._stop.is_set():
            self._reported = False
            return
        if self._reported:
            # Once is enough, however long it takes.
            return
        self._reported = True
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - the only way to see another thread's stack
        log.warning(
            "the event loop has been blocked for more than %g s; the worker keeps its runs, but nothing moves. "
            "Move this into a step that is a plain function:\n%s",
            self._patience_s,
            _stack(frame) if frame else "",
        )


def _stack(frame: FrameType) -> str:
    """Where a thread stands, from what its loop has called last: how the process came to its loop is known."""
    frames = traceback.extract_stack(frame)
    calls = [place for place, each in enumerate(frames) if each.filename == events.__file__]
    return "".join(traceback.format_list(frames[calls[-1] + 1 :] if calls else frames))
