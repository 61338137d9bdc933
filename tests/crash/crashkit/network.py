"""The network between the processes of a test and Postgres."""

import asyncio
import shutil
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

from postgreskit.proxy import Proxy

from crashkit.harness import PATIENCE_S
from crashkit.pgplace import PostgresPlace


class Network:
    """
    A proxy in a thread of its own, between the processes of a test and Postgres.

    Attributes:
        url: Leads through it.
    """

    def __init__(self, place: PostgresPlace) -> None:
        # A socket's path must be short.
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        here, there = (quote(str(folder), safe="") for folder in (self._folder, place.server.socket))
        self.url = place.url.replace(there, here)
        self._loop = asyncio.new_event_loop()
        self._proxy = Proxy(self._folder, place.server.socket)
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._proxy.start(), self._loop).result(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._proxy.stop(), self._loop).result(PATIENCE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def cuts(self) -> int:
        """Connections that `cut_next` has cut."""
        return self._proxy.cuts

    def cut_next(self, kind: str) -> None:
        """See `Proxy.cut`."""
        self._proxy.cut = kind

    def cut_all(self) -> None:
        """Cut every connection, whatever is on its way."""
        self._loop.call_soon_threadsafe(self._proxy.cut_all)
