"""`perdure serve`: runs and streams over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli.command import Session
from perdure.cli.logs import Format, Level, configure
from perdure.errors import InvalidOption
from perdure.worker.stop import StopSignals

if TYPE_CHECKING:
    import uvicorn

    from perdure.stream.server import Authorize, StreamServer

PORT = 4437
"""Where clients of the Durable Streams protocol look if they are told nothing."""
BACKLOG = 2_048
KEEP_ALIVE_S = 75
"""Longer than proxies and clients keep a connection that they might use again."""
FAREWELL_S = 5
"""How long answers that are being sent may take when the server is to stop."""
log = logging.getLogger("perdure.cli")


async def serve(
    session: Session,
    *,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen at; 0 for any that is free.")] = PORT,
    authorize: Annotated[
        str | None,
        typer.Option(metavar="MODULE:FUNCTION", help="Asked before each request whether it may; see docs/streams.md."),
    ] = None,
    origin: Annotated[
        list[str] | None, typer.Option(help="Web pages from there may read and write; may be repeated, * for all.")
    ] = None,
    log_level: Annotated[Level, typer.Option(help="Least important log lines to print.")] = Level.INFO,
    log_format: Annotated[Format, typer.Option(help="Log lines for people, or as JSON objects.")] = Format.TEXT,
) -> None:
    """
    Serve runs and streams over HTTP, by the Durable Streams protocol, until SIGTERM or Ctrl-C.

    Runs are read at /v1/stream/runs/ID, and streams are read and written at /v1/stream/u/NAME. WITHOUT --authorize,
    EVERYBODY WHO CAN REACH THE PORT READS EVERY RUN AND WRITES EVERY STREAM. It drives no runs: `perdure worker` does.
    """
    configure(log_level, log_format, lambda: "", process="")
    uvicorn = _uvicorn()
    decides = None if authorize is None else _function(authorize)
    if decides is None and not _here_only(host):
        log.warning("everybody who can reach %s may read every run and write every stream: use --authorize", host)
    listening = _bound(host, port)
    async with session.connected(making=session.app is not None) as app:
        server = app.stream_server(authorize=decides, origins=origin or ())
        address = f"http://{host}:{listening.getsockname()[1]}"
        with StopSignals() as stop:
            serving = asyncio.ensure_future(_run(uvicorn, server, listening, stop))
            if session.out.as_json:
                session.out.line({"event": "ready", "url": address})
            else:
                session.out.text(f"Serving runs and streams at {address}/v1/stream/. Ctrl-C stops it.")
                sys.stdout.flush()
            await serving


async def _run(uvicorn: Any, server: StreamServer, listening: socket.socket, stop: StopSignals) -> None:
    config = uvicorn.Config(
        server,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=FAREWELL_S,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    web = _quiet(uvicorn)(config)
    serving = asyncio.ensure_future(web.serve(sockets=[listening]))
    told = asyncio.ensure_future(stop.told.wait())
    await asyncio.wait([serving, told], return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    # It waits for answers to end, and those of tails would not.
    server.stop()
    web.should_exit = True
    await serving


def _uvicorn() -> Any:
    try:
        import uvicorn  # noqa: PLC0415 - an extra
    except ImportError:
        option = "serve"
        raise InvalidOption(option, "it needs an extra: pip install 'perdure[server]'") from None
    return uvicorn


def _quiet(module: Any) -> type[uvicorn.Server]:
    """A server that leaves the signals to us."""

    class Server(module.Server):  # type: ignore[misc]  # it comes as Any
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return Server


def _bound(host: str, port: int) -> socket.socket:
    """
    A socket of the address, before anything is opened.

    Raises:
        InvalidOption: It cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(BACKLOG)  # who comes before the server has begun waits
    except OSError as error:
        made.close()
        option = "--port"
        raise InvalidOption(option, f"{host}:{port} cannot be had: {error.strerror or error}") from None
    return made


def _here_only(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _function(name: str) -> Authorize:
    """
    Import a function.

    Raises:
        InvalidOption: There is none.
    """
    module_name, _, attribute = name.partition(":")
    option = "--authorize"
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 - as for apps
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidOption(option, f"{name!r} cannot be imported: {error}") from None
    if not callable(found):
        raise InvalidOption(option, f"{name!r} is a {type(found).__name__}, not a function")
    checked: Authorize = found
    return checked
