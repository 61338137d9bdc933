"""The streams of an open app: what is written by name, what runs do, and who waits for either."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from perdure.clock import Clock
from perdure.codec.payload import Payloads
from perdure.model.limits import Limits
from perdure.store.load import load_run
from perdure.store.store import Store
from perdure.stream.content import BYTES, JSON
from perdure.stream.handle import Stream
from perdure.stream.source import NamedSource, RunSource
from perdure.stream.streams import Streams
from perdure.stream.tails import Tails


class Hub:
    """
    One per open app.

    Attributes:
        streams: Those that are written by name.
        tails: Who waits in this process, as Python code does.
        served: Who waits at a server, which may be stopped while the app goes on.
    """

    def __init__(self, store: Store, clock: Clock, payloads: Payloads, limits: Limits) -> None:
        self.store = store
        self.clock = clock
        self.payloads = payloads
        self.limits = limits
        self.streams = Streams(store, clock, payloads, limits)
        self.tails = Tails(store)
        self.served = Tails(store)

    def handle(self, name: str, of: Any, media_type: str | None) -> Stream[Any]:
        """A stream by its name, see `App.stream`."""
        return Stream(self.streams, self.tails, name, of, media_type or (BYTES if of is bytes else JSON))

    def close(self) -> None:
        """Nobody waits any more: the app is being closed."""
        self.tails.stop()
        self.served.stop()

    async def named(self, name: str) -> NamedSource:
        """
        A stream that was written by name, to read.

        Raises:
            StreamNotFound, StreamGone: It is not there.
        """
        return NamedSource(self.streams, await self.streams.find(name))

    async def run(self, run_id: str, kinds: Collection[str] = ()) -> RunSource:
        """
        A run's journal, to read.

        Args:
            kinds: Only entries of these kinds; all when empty.

        Raises:
            RunNotFound: There is no such run.
        """
        return RunSource(self.store, self.payloads, await load_run(self.store, run_id), kinds)
