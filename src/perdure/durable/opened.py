"""The database that a call names: an app that is open, or a URL that all calls of this process share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

from perdure.app import App
from perdure.errors import InvalidOption
from perdure.store.choose import in_memory
from perdure.worker.options import WorkerOptions


class Shared:
    """
    An app on a URL, open while calls use it.

    It removes no finished runs: a script should not decide that for whoever else uses the database.
    """

    def __init__(self, url: str) -> None:
        self.app = App(url, worker=WorkerOptions(retention=None))
        self.users = 0
        self.opening = asyncio.Lock()
        self.open = False


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Shared]] = WeakKeyDictionary()
"""
By event loop and URL, only while calls are under way: a hundred calls at once share one connection and one worker.

There is no other place for it, as nothing but the URL is common to those calls.
"""


@asynccontextmanager
async def opened(store: App | str) -> AsyncIterator[App]:
    """
    An open app with a worker in this process.

    Raises:
        InvalidOption: The app has no worker here, or the URL is of a database in memory.
        StoreClosed: The app is not open.
        StoreError: The database cannot be opened.
    """
    option = "store"
    if isinstance(store, App):
        _ = store.client  # raises when it is not open
        if store.worker is None:
            raise InvalidOption(option, "the app is open without a worker; use `async with app:`")
        yield store
        return
    if in_memory(store):
        problem = "a database in memory would be gone with the call: open App('sqlite://') around it and pass the app"
        raise InvalidOption(option, problem)
    all_shared = _shared.setdefault(asyncio.get_running_loop(), {})
    shared = all_shared.get(store)
    if shared is None:
        shared = all_shared[store] = Shared(store)
    shared.users += 1
    try:
        async with shared.opening:
            if not shared.open:
                await shared.app.__aenter__()
                shared.open = True
        yield shared.app
    finally:
        shared.users -= 1
        if not shared.users:
            # Whoever comes from now on opens it anew.
            del all_shared[store]
            if shared.open:
                await shared.app.__aexit__(None, None, None)


@asynccontextmanager
async def reachable(store: App | str) -> AsyncIterator[App]:
    """
    An open app, with or without a worker.

    Raises:
        StoreClosed: The app is not open.
        StoreError: The database cannot be opened.
    """
    if isinstance(store, App):
        yield store
    elif store in _shared.get(asyncio.get_running_loop(), {}):
        async with opened(store) as app:
            yield app
    else:
        async with App(store).connected() as app:
            yield app
