"""
Start processes, kill them, and read what they left.

The processes come from multiprocessing's fork server, which has imported perdure once: they are as real as
any other (own pid, own connections, gone at SIGKILL), but start in hundredths of a second.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import apsw

from crashkit import roles
from crashkit.check import SETUP, check, check_deeds
from crashkit.diary import Deed, read
from perdure import Rate
from perdure.clock import SystemClock
from perdure.model.limits import Limits
from perdure.store.sqlite import SqliteStore

T = TypeVar("T")
PATIENCE_S = 30.0
LOOK_S = 0.01
_context = multiprocessing.get_context("forkserver")


def _start_server() -> None:
    """Start the fork server with the modules that its children need."""
    _context.set_forkserver_preload(["crashkit.roles", "perdure.store.pg.store"])
    before = os.environ.get("PYTHONPATH")
    # Before Python 3.13 the server did not take over sys.path, so it could not find what it is to import.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [before])])
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


class Child:
    """
    One process of a test.

    Attributes:
        log: The file that takes its log and whatever else it prints.
    """

    def __init__(self, place: "Place", role: Callable[..., Any], config: dict[str, Any]) -> None:
        _start_server()
        self.log = Path(config["log"])
        self._place = place
        self._pipe, theirs = _context.Pipe()
        self._process = _context.Process(target=roles.run, args=(role, theirs, config))
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def sentinel(self) -> int:
        return self._process.sentinel

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def __str__(self) -> str:
        code = self._process.exitcode
        state = "runs" if code is None else f"has ended with {code}"
        text = self.log.read_text(errors="replace")[-6000:] if self.log.exists() else ""
        return f"process {self.pid} {state}\n{text}"

    def tell(self, *message: Any) -> None:
        """Send a command to the role."""
        self._pipe.send(message)

    def expect(self, what: str, seconds: float = PATIENCE_S) -> Any:
        """Wait for its next message, which must be this one; returns what came with it."""
        assert self._pipe.poll(seconds), f"no {what!r} within {seconds} s: {self}"
        try:
            name, value = self._pipe.recv()
        except EOFError:
            self._process.join(PATIENCE_S)
            message = f"ended without {what!r}: {self}"
            raise AssertionError(message) from None
        assert name == what, f"{name!r} ({value!r}) instead of {what!r}: {self}"
        return value

    def ask(self, *message: Any, seconds: float = PATIENCE_S) -> Any:
        """Send a command, and return its answer."""
        self.tell(*message)
        return self.expect("answer", seconds)

    def says_something(self, seconds: float) -> bool:
        """Whether a message comes within this time."""
        return self._pipe.poll(seconds)

    def logged(self) -> str:
        """All that it has logged so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def join(self, seconds: float = PATIENCE_S) -> int:
        """Wait for its end; returns its exit code, negative for a signal."""
        self._process.join(seconds)
        code = self._process.exitcode
        assert code is not None, f"it does not end: {self}"
        return code

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self.join()

    def terminate(self) -> None:
        """SIGTERM, as a deploy sends it."""
        self._process.terminate()

    def stop(self) -> None:
        """SIGSTOP, and wait until it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        self.stopped()

    def stopped(self) -> None:
        """Wait until it stands still."""
        self._place.until(lambda: _state(self.pid) == "T", f"the stop of {self.pid}")

    def wake(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def clear(self) -> None:
        """Make an end of it, in whatever state it is."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()


class Held(NamedTuple):
    """Slots of a queue: altogether, under one key, by one worker."""

    in_all: int
    of_key: int
    of_worker: int


class Place:
    """
    A test's folder: the database, the diary of step bodies, and the processes.

    Args:
        disk: Where the database is to be, if not in the folder.

    Attributes:
        url: Of the database.
        database: The SQLite file; it exists, with perdure's schema and `check.SETUP`.
        diary: One line per body that was begun.
    """

    def __init__(self, folder: Path, disk: Path | None = None) -> None:
        self.folder = folder
        self.diary = folder / "diary"
        self.children: list[Child] = []
        self.diary.touch()
        self._prepare(disk)

    def _prepare(self, disk: Path | None) -> None:
        self.database = (disk or self.folder) / "perdure.db"
        self.url = f"sqlite:///{self.database}"
        store = SqliteStore(str(self.database), clock=SystemClock(), limits=Limits())
        store.open()
        store.abandon()
        with self.read() as database:
            database.execute(SETUP)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.clear()

    def start(self, role: Callable[..., Any], **config: Any) -> Child:
        """
        Start a process.

        Args:
            role: One of `crashkit.roles`.
            config: See `roles.Config`.
        """
        common = {
            "url": self.url, "folder": str(self.folder), "life": len(self.children),
            "log": str(self.folder / f"log-{len(self.children)}"),
        }  # fmt: skip
        child = Child(self, role, common | config)
        self.children.append(child)
        return child

    def until(self, condition: Callable[[], T], what: str, seconds: float = PATIENCE_S) -> T:
        """
        Look again and again until a condition holds.

        Returns:
            What the condition returned, which is true.
        """
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > deadline:
                logs = "\n".join(map(str, self.children[-4:]))
                message = f"waited {seconds} s for {what}\n{logs}"
                raise AssertionError(message)
            connection.wait([child.sentinel for child in self.children if child.alive], LOOK_S)
        return value

    @contextlib.contextmanager
    def read(self) -> Iterator[apsw.Connection]:
        """A connection to the database, as any other process would open one."""
        database = apsw.Connection(str(self.database))
        database.set_busy_timeout(10_000)
        try:
            yield database
        finally:
            database.close()

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of one query."""
        with self.read() as database:
            return list(database.execute(sql, parameters))

    def value(self, sql: str, *parameters: Any) -> Any:
        """The first column of a query's only row."""
        ((value,),) = self.rows(sql, *parameters)
        return value

    def check(self) -> None:
        """See `check.check`."""
        with self.read() as database:
            check(database)

    def check_all_ended(self) -> None:
        """See `check`, and no run is left."""
        self.check()
        left = self.rows("select id, status, reason from perdure_runs where finished_at is null limit 10")
        assert not left, left

    def check_deeds(self, *, most: int) -> None:
        """See `check.check_deeds`."""
        with self.read() as database:
            check_deeds(database, self.deeds(), most=most)

    def most_held(self, queue: str) -> Held:
        """The most slots of a queue that were held when one was given out."""
        return Held(*self.rows("select max(in_all), max(of_key), max(of_worker) from held where queue = ?", queue)[0])

    def most_spent(self, queue: str, rate: Rate) -> int:
        """The most weight that got slots in one full window of a rate."""
        windows: Counter[tuple[int, str]] = Counter()
        got = "select slot_at, queue_key, weight from perdure_runs where queue = ? and slot_at is not null"
        for at, key, weight in self.rows(got, queue):
            windows[at // rate.period, key if rate.per_key else ""] += min(weight, rate.limit)
        return max(windows.values())

    def all_leave(self, workers: Iterable[Child]) -> None:
        """Let workers go, as a deploy does."""
        for child in workers:
            child.expect("ready")  # one that is just starting does not hear SIGTERM yet
            child.terminate()
        for child in workers:
            assert child.join() == 0, str(child)
        assert self.rows("select 1 from perdure_workers where state = 'alive'") == []

    @contextlib.contextmanager
    def scene(self) -> Iterator[apsw.Connection]:
        """
        A copy of the database as dead processes left it.

        Looking at the file itself would recover its log and so tidy up what the next process is to find.
        """
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            for file in self.database.parent.glob("perdure.db*"):
                if not file.name.endswith("-shm"):
                    shutil.copy(file, folder)
            database = apsw.Connection(f"{folder}/perdure.db")
            try:
                yield database
            finally:
                database.close()

    def deeds(self) -> list[Deed]:
        """The bodies that were begun, in order."""
        return read(self.diary)


def _state(pid: int) -> str:
    """The kernel's letter for a process's state."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123 - a file of the kernel
        return file.read().rpartition(")")[2].split()[0]
